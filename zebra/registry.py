"""Finding members by name: through entry points, ours exactly as a third party's.

An entry point names a module and is called after the first part of its members' names: `network.loss` is looked up
in the module that the entry point `network` of the group `zebra.faults` names, and only that module is imported.
"""

from __future__ import annotations

from difflib import get_close_matches
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from types import ModuleType
from typing import Literal

from zebra.errors import ConfigError, PluginError

Group = Literal["targets", "faults", "invariants", "reporters", "substrates", "agents"]


@cache
def members(group: Group) -> dict[str, EntryPoint]:
    """The entry points of a group, by name."""
    return {point.name: point for point in sorted(entry_points(group=f"zebra.{group}"), key=lambda point: point.name)}


def load(group: Group, name: str) -> ModuleType:
    """The module of a name's family; raises ConfigError for an unknown one, with the nearest known name,
    and PluginError for one that cannot be imported."""
    known = members(group)
    family = name.partition(".")[0]
    if family not in known:
        close = get_close_matches(family, known, n=1)
        hint = f"did you mean {close[0]}?" if close else f"known are {', '.join(known) or 'none'}"
        raise ConfigError(f"{group[:-1]} {name!r} is unknown, {hint}")
    try:
        return import_module(known[family].value)
    except ImportError as error:
        raise PluginError(
            f"{group[:-1]} {family!r}: its entry point {known[family].value} cannot be imported: {error}", family
        ) from error
