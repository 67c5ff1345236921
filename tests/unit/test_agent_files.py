"""Rendering of values into files and command lines: what is written is read back the same."""

from __future__ import annotations

import argparse
import configparser
import re

import msgspec
import pytest
import yaml
from hypothesis import given as drawn
from hypothesis import strategies as st

from zebra.agent.adapters.files import conf, flags, given, ini, nested_yaml
from zebra.errors import ConfigError
from zebra.params import Assignment, Space
from zebra.topology import Topology

NAMES = st.from_regex(r"[a-z][a-z0-9-]{0,8}", fullmatch=True)
LINES = st.text(st.characters(exclude_categories=("C", "Zl", "Zp")), max_size=20)
VALUES = st.one_of(st.booleans(), st.integers(-(10**9), 10**9), LINES)


def stripped(value: bool | int | str) -> bool | int | str:
    return value.strip() if isinstance(value, str) else value


def words_of(line: str) -> list[str]:
    """A line split as servers of this kind do: at blanks, double quotes with backslashes."""
    return [re.sub(r"\\(.)", r"\1", q) if q or not p else p for q, p in re.findall(r'"((?:[^"\\]|\\.)*)"|(\S+)', line)]


@drawn(st.dictionaries(NAMES, VALUES, max_size=5))
def test_conf_lines_are_read_back(values: dict[str, bool | int | str]) -> None:
    read = [words_of(line) for line in conf(values, words=("yes", "no")).split("\n")[:-1]]
    shown = {True: "yes", False: "no"}
    assert read == [[n, shown[v] if isinstance(v, bool) else str(v)] for n, v in values.items()]


@drawn(st.dictionaries(st.tuples(NAMES, NAMES).map(".".join), VALUES.map(stripped)))
def test_ini_is_read_back(values: dict[str, bool | int | str]) -> None:
    parser = configparser.RawConfigParser(delimiters=("=",), comment_prefixes=(), strict=True)
    parser.read_string(ini(values))
    for name, value in values.items():
        section, _, option = name.rpartition(".")
        assert parser.get(section, option) == (str(value).lower() if isinstance(value, bool) else str(value))


def test_ini_refuses_what_it_cannot_hold() -> None:
    with pytest.raises(ConfigError, match=r"a\.b: ' x' begins or ends with a blank"):
        ini({"a.b": " x"})
    assert ini({"plain": 1}) == "[DEFAULT]\nplain = 1\n"


@drawn(st.dictionaries(st.tuples(st.sampled_from("abc"), NAMES, NAMES).map(".".join), VALUES, max_size=6))
def test_yaml_is_read_back(values: dict[str, bool | int | str]) -> None:
    tree = yaml.safe_load(nested_yaml(values))
    for name, value in values.items():
        found = tree
        for step in name.split("."):
            found = found[step]
        assert found == value and type(found) is type(value)


def test_yaml_refuses_a_name_that_is_a_value_and_a_branch() -> None:
    for values in ({"a": 1, "a.b": 2}, {"a.b": 2, "a": 1}):
        with pytest.raises(ConfigError, match=r"values? of (its|their) own"):
            nested_yaml(values)


@drawn(st.dictionaries(NAMES, VALUES, max_size=5))
def test_flags_are_read_back(values: dict[str, bool | int | str]) -> None:
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for name in values:
        parser.add_argument(f"--{name}", dest=name)
    found = vars(parser.parse_args(flags(values)))
    assert found == {n: str(v).lower() if isinstance(v, bool) else str(v) for n, v in values.items()}


@pytest.mark.parametrize("render", [conf, ini, flags])
def test_text_of_several_lines_is_refused(render: object) -> None:
    with pytest.raises(ConfigError, match="does not fit on one line"):
        render({"s.a": "1\nrequirepass x"})  # type: ignore[operator]


class Config(msgspec.Struct, frozen=True, kw_only=True):
    size: int = 8
    tls: bool = False


def test_a_node_gets_what_the_assignment_says_for_it() -> None:
    space, places = Space("app", Config), Topology(counts={"server": 2}).places()
    assignment: Assignment = {"app.size": {"*": 8, "server:odd": 4}}
    assert [given(space, assignment, place) for place in places] == [{"size": 4}, {"size": 8}]
