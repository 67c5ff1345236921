"""Profiles, and what a person adds to a space: values, exclusions, constraints; in code and from a file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zebra.errors import ConfigError
from zebra.params import Param, Profile, Space, configs, validate
from zebra.params.assignment import values_for
from zebra.params.rules import Constraint, Rules
from zebra.params.rules_file import read_rules
from zebra.topology import Topology


class Config(msgspec.Struct, frozen=True, kw_only=True):
    policy: Literal["HTTP", "HTTPS", "BOTH"] = "HTTP"
    address: Annotated[str, Param(why="an address")] = ""
    retries: Annotated[int, Param("3", "0", minimum=0)] = 1
    heartbeat: Annotated[float, Param(unit="s")] = 1.0
    timeout: Annotated[float, Param(unit="s")] = 5.0


SLOW = Profile(
    "app.pace", {"usual": {}, "slow": {"app.heartbeat": "2s", "app.timeout": 10.0}, "odd": {"app.timeout": 3}}
)
SPACE = Space("app", Config, [SLOW])
PLACES = Topology(counts={"server": 3}).places()
SECURE = Constraint("app.policy", ("HTTPS", "BOTH"), {"app.address": "0.0.0.0:8443"})


# -- profiles -----------------------------------------------------------------------------------------------------


def test_a_profile_is_a_parameter_whose_values_set_several() -> None:
    pace = SPACE["app.pace"]
    assert (pace.default, pace.alternatives(), pace.members) == (
        "usual", ("slow", "odd"), ("app.heartbeat", "app.timeout"),
    )  # fmt: skip
    assert "app.pace" in SPACE.matching() and list(SPACE)[-1] == "app.pace"


def test_each_node_gets_the_settings_of_its_own_value() -> None:
    assignment = validate({"app.pace": {"*": "usual", "server:odd": "slow"}}, SPACE, PLACES)
    held: Any = configs(assignment, SPACE, PLACES)
    assert [(held[f"server-{i}"].heartbeat, held[f"server-{i}"].timeout) for i in (1, 2, 3)] == [
        (2.0, 10.0), (1.0, 5.0), (2.0, 10.0),
    ]  # fmt: skip


def test_a_value_that_leaves_a_member_out_means_its_default_and_overrules_the_single_one() -> None:
    config: Any = SPACE.replace(Config(), {"app.pace": "odd", "app.heartbeat": 7.0})
    assert (config.heartbeat, config.timeout) == (1.0, 3.0)


@pytest.mark.parametrize("value", ["usual", "slow", "odd"])
def test_the_value_of_a_profile_is_read_back_from_a_configuration(value: str) -> None:
    assert SPACE.get_value(SPACE.replace(Config(), {"app.pace": value}), "app.pace") == value


def test_a_configuration_that_fits_no_value_of_a_profile_has_none() -> None:
    assert SPACE.get_value(SPACE.replace(Config(), {"app.timeout": 4.0}), "app.pace") == ""


@pytest.mark.parametrize(
    ("profile", "message"),
    [
        (Profile("app.x", {"on": {}}), "expected two values at least"),
        (
            Profile("app.x", {"a": {"app.timeout": 1}, "b": {"app.timeout": 2}}),
            "must leave all at their defaults, none",
        ),
        (Profile("app.x", {"a": {}, "b": {}}), "must leave all at their defaults, a and b do"),
        (Profile("app.timeout", {"a": {}, "b": {}}), "a parameter of this name already"),
        (Profile("x", {"a": {}, "b": {"app.timeout": 2}}), r"must begin with app\."),
        (Profile("app.x", {"a": {}, "b": {"app.pace": "slow"}}), "is a profile itself"),
        (Profile("app.x", {"a": {}, "b": {"app.timeot": 2}}), "did you mean app.timeout"),
        (Profile("app.x", {"a": {}, "b": {"app.policy": "FTP"}}), "'FTP' is not one of"),
    ],
)
def test_a_profile_that_does_not_fit_is_refused(profile: Profile, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Space("app", Config, [SLOW, profile])


# -- values and exclusions ------------------------------------------------------------------------------------------


def test_values_are_added_and_left_out_with_a_reason() -> None:
    space = Rules(values={"app.retries": ("9", 3)}, exclude_values={"app.retries": {"0": "turns it off"}}).applied(
        SPACE
    )
    assert space["app.retries"].alternatives() == (3, 9)
    assert space["app.retries"].without == {0: "turns it off"}
    assert SPACE["app.retries"].alternatives() == (3, 0)


def test_an_excluded_parameter_has_no_alternatives_and_says_why() -> None:
    space = Rules(exclude={"app.*t": "under review"}).applied(SPACE)
    assert space["app.timeout"].alternatives() == () and space["app.timeout"].why == "excluded: under review"
    assert space["app.retries"].alternatives()


def test_values_that_a_person_gives_are_tried_where_a_target_knows_none() -> None:
    space = Rules(values={"app.address": ("a", "b")}).applied(SPACE)
    assert space["app.address"].alternatives() == ("a", "b") and space["app.address"].why == ""


# -- constraints ----------------------------------------------------------------------------------------------------


def lowered(rules: Rules, assignment: Any, known: Space = SPACE) -> Any:
    space = rules.applied(known)
    return rules.lowered(assignment, space, known, {name: space[name].default for name in space})


def test_a_constraint_sets_more_on_just_the_nodes_that_are_given_the_value() -> None:
    found = lowered(Rules(constraints=(SECURE,)), {"app.policy": {"*": "HTTP", "server:odd": "HTTPS"}})
    assert found["app.address"] == {"*": "", "server:odd": "0.0.0.0:8443"}
    found = lowered(Rules(constraints=(SECURE,)), {"app.policy": {"*": "BOTH", "server-2": "HTTP"}})
    assert found["app.address"] == {"*": "0.0.0.0:8443", "server-2": ""}


def test_what_is_usual_needs_nothing() -> None:
    rules = Rules(constraints=(Constraint("app.policy", ("HTTP",), {"app.address": "x"}),))
    assert lowered(rules, {"app.policy": {"*": "HTTP", "server-1": "HTTPS"}}) == {
        "app.policy": {"*": "HTTP", "server-1": "HTTPS"}
    }


def test_a_profile_that_the_target_does_not_know_becomes_its_members() -> None:
    known = Space("app", Config)
    found = lowered(Rules(profiles=(SLOW,)), {"app.pace": {"*": "usual", "server-1": "slow"}}, known)
    assert found == {"app.heartbeat": {"*": 1.0, "server-1": 2.0}, "app.timeout": {"*": 5.0, "server-1": 10.0}}


def test_a_constraint_on_a_member_holds_for_the_profile_that_sets_it() -> None:
    rules = Rules(constraints=(Constraint("app.timeout", (10,), {"app.retries": 0}),))
    found = lowered(rules, {"app.pace": {"*": "usual", "server-1": "slow"}})
    assert found["app.retries"] == {"*": 1, "server-1": 0} and "app.pace" in found
    assert rules.touches("app.pace", SPACE) == {"app.pace", "app.heartbeat", "app.timeout", "app.retries"}


def test_a_node_that_changes_back_gives_up_what_the_constraint_demanded() -> None:
    rules = Rules(constraints=(SECURE,))
    usual = {name: SPACE[name].default for name in SPACE}
    assert rules.changes({"app.policy": "HTTPS"}, SPACE, SPACE, usual) == {
        "app.policy": "HTTPS", "app.address": "0.0.0.0:8443",
    }  # fmt: skip
    assert rules.changes({"app.policy": "HTTP"}, SPACE, SPACE, usual) == {"app.policy": "HTTP", "app.address": ""}


WHO = st.sampled_from(["*", "server", "server:odd", "server:even", "server-1", "server-2", "server-3"])


@settings(deadline=None)
@given(st.dictionaries(WHO, st.sampled_from(["HTTP", "HTTPS", "BOTH"])))
def test_every_node_has_the_address_exactly_if_its_own_policy_needs_it(shares: dict[str, Any]) -> None:
    found = lowered(Rules(constraints=(SECURE,)), {"app.policy": {"*": "HTTP", **shares}})
    for place in PLACES:
        values = values_for(found, place)
        assert bool(values.get("app.address")) == (values["app.policy"] != "HTTP")


# -- the file -------------------------------------------------------------------------------------------------------

FILE = """\
values:
  app.retries: [7, 8]
exclude:
  app.heart*: not now
  app.timeout: {2.5s: too short}
constraints:
  - when: {app.policy: [HTTPS, BOTH]}
    set: {app.address: "0.0.0.0:8443"}
profiles:
  app.tls:
    off: {}
    on: {app.policy: HTTPS, app.address: x}
"""


def test_a_file_says_all_that_code_can(tmp_path: Path) -> None:
    (tmp_path / "rules.yaml").write_text(FILE)
    space = read_rules(tmp_path / "rules.yaml", SPACE).applied(SPACE)
    assert space["app.retries"].alternatives() == (3, 0, 7, 8)
    assert space["app.heartbeat"].excluded == "not now"
    assert space["app.timeout"].alternatives() == (10.0,)
    assert space["app.tls"].alternatives() == ("on",)
    assert read_rules(tmp_path / "rules.yaml", SPACE).constraints[0].values == ("HTTPS", "BOTH")


def test_an_empty_file_is_no_rules(tmp_path: Path) -> None:
    (tmp_path / "rules.yaml").write_text("# nothing\n")
    assert not read_rules(tmp_path / "rules.yaml", SPACE)


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("valeus:\n  app.retries: [7]\n", 1, "unknown section 'valeus', known are values, exclude"),
        ("values:\n  app.retrys: [7]\n", 2, "did you mean app.retries"),
        ("values:\n  app.retries: [7, many]\n", 2, "'many'"),
        ("values:\n  app.retries: {}\n", 2, "expected one value"),
        ("values:\n  app.retries: []\n", 2, "expected a value at least"),
        ("exclude:\n  app.retries:\n", 2, "say the reason"),
        ("exclude:\n  other.*: no\n", 2, "no parameter of app matches 'other.*'"),
        ("exclude: [app.retries]\n", 1, "expected `name: …` pairs"),
        ("\nconstraints:\n  - when: {app.policy: HTTPS}\n", 3, "this one has when"),
        ("constraints:\n  - when: {app.policy: FTP}\n    set: {app.address: x}\n", 2, "'FTP' is not one of"),
        (
            "constraints:\n  - when: {app.policy: HTTPS, app.retries: 3}\n    set: {app.address: x}\n",
            2,
            "one parameter",
        ),
        ("constraints:\n  - when: {app.retries: 3}\n    set: {app.retries: 0}\n", 2, "cannot set itself"),
        ("profiles:\n  app.x: {on: {app.retries: 3}}\n", 2, "expected two values at least"),
        ("profiles:\n  app.x:\n    off: {}\n    off: {app.retries: 3}\n", 4, "stands here twice"),
        ("values: [\n", 2, "not YAML"),
        ("values: *nobody\n", 1, "not YAML"),
        ("a: !!python/object:os.system x\n", 1, "unknown section"),
        ("just text\n", 1, "expected `name: …` pairs"),
    ],
)
def test_an_error_is_one_line_with_file_and_line(tmp_path: Path, text: str, line: int, message: str) -> None:
    path = tmp_path / "rules.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as raised:
        read_rules(path, SPACE)
    assert str(raised.value).startswith(f"{path}:{line}: ") and message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    for name in ("missing.yaml", "binary", "."):
        with pytest.raises(ConfigError, match="cannot read"):
            read_rules(tmp_path / name, SPACE)
    (tmp_path / "control").write_text("a: \x01\n")
    with pytest.raises(ConfigError, match="not YAML"):
        read_rules(tmp_path / "control", SPACE)
