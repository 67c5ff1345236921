"""Configuration files and command lines: what an external server is given in place of intercepted reads.

A role of an external target renders its node's values into the server's own form:

    values = given(space, assignment, place)      # {"repl.timeout": 60, "tls": False}
    (directory / "server.conf").write_text(conf(values, words=("yes", "no")))
    await start("server", *flags(values))

`ini` and `nested_yaml` take the dots of a name as levels, `conf` and `flags` as part of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from zebra.errors import ConfigError
from zebra.params import Assignment, Space
from zebra.params.assignment import values_for
from zebra.params.parameter import Value
from zebra.topology import Place

Words = tuple[str, str]
"""What true and false are called."""

TRUE_FALSE: Words = ("true", "false")


def given(space: Space, assignment: Assignment, place: Place) -> dict[str, Value]:
    """What an assignment gives to a node, by names without the space's prefix."""
    values = values_for(assignment, place)
    return {name.removeprefix(f"{space.prefix}."): space[name].parse(value) for name, value in values.items()}


def text(value: Value, words: Words = TRUE_FALSE) -> str:
    """A value as text. Raises ConfigError for text of several lines, which no line can hold."""
    if isinstance(value, bool):
        return words[0] if value else words[1]
    if isinstance(value, str) and any(mark in value for mark in "\n\r\0"):
        raise ConfigError(f"value {value!r} does not fit on one line")
    return str(value)


def conf(values: Mapping[str, Value], words: Words = TRUE_FALSE) -> str:
    """`name value` lines; text with blanks, quotes or nothing in it stands in double quotes, with backslashes."""
    return "".join(f"{name} {_quoted(text(value, words))}\n" for name, value in values.items())


def ini(values: Mapping[str, Value], words: Words = TRUE_FALSE) -> str:
    """`option = value` lines in the sections that the names say; what has no section stands in `[DEFAULT]`.

    For readers without interpolation: a percent sign stands for itself. Raises ConfigError for text that begins or ends
    with a blank, as such files cannot hold it.
    """
    sections: dict[str, list[str]] = {}
    for name, value in values.items():
        section, _, option = name.rpartition(".")
        shown = text(value, words)
        if shown != shown.strip():
            raise ConfigError(f"{name}: {value!r} begins or ends with a blank, which an ini file cannot hold")
        sections.setdefault(section or "DEFAULT", []).append(f"{option} = {shown}\n")
    return "\n".join(f"[{section}]\n{''.join(lines)}" for section, lines in sections.items())


def nested_yaml(values: Mapping[str, Value]) -> str:
    """A tree of mappings. Raises ConfigError where one name is a value and a branch."""
    tree: dict[str, Any] = {}
    for name, value in values.items():
        *path, last = name.split(".")
        branch = tree
        for step in path:
            branch = branch.setdefault(step, {})
            if not isinstance(branch, dict):
                raise ConfigError(f"{name}: a name above it has a value of its own")
        if last in branch:
            raise ConfigError(f"{name}: names below it have values of their own")
        branch[last] = value
    return str(yaml.safe_dump(tree, sort_keys=False, allow_unicode=True))


def flags(values: Mapping[str, Value], words: Words = TRUE_FALSE, prefix: str = "--") -> list[str]:
    """`--name=value` arguments, for a process that is started without a shell."""
    return [f"{prefix}{name}={text(value, words)}" for name, value in values.items()]


def _quoted(shown: str) -> str:
    if shown and not any(mark.isspace() or mark in "\"'#\\" for mark in shown):
        return shown
    return '"{}"'.format(shown.replace("\\", "\\\\").replace('"', '\\"'))
