"""Configurations that note what is read from them: the agent of a pre-run for typed configurations."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable, Iterable
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

import msgspec

from zebra.params.parameter import Space, Value
from zebra.topology import Place

C = TypeVar("C", bound=msgspec.Struct)


class Read(msgspec.Struct, frozen=True, order=True):
    """One parameter, read by a node of a role, and the value it saw. `site` is where, `path:line`, "" if nobody knows;
    `node` the node's name where the topology is not known beforehand."""

    role: str
    parameter: str
    value: bool | int | float | str
    node: str = ""
    site: str = ""


def places_seen(reads: Iterable[Read]) -> tuple[Place, ...]:
    """The nodes that read anything, each on a host of its own: the topology of tests that do not declare one."""
    nodes = {(read.role, int(read.node.rpartition("-")[2])) for read in reads if read.node}
    return tuple(
        Place(node=name, role=role, host=f"{name}-host", rack="rack1", dc="dc1", region="r1")
        for role, number in sorted(nodes)
        for name in [f"{role}-{number}"]
    )


def values_seen(reads: Iterable[Read], space: Space) -> dict[str, dict[str, Value]]:
    """The assignment of what was read and is not the default, as far as there is something else to try: what a test has
    by its own doing."""
    own = [read for read in reads if read.value != space[read.parameter].default]
    return {read.parameter: {"*": read.value} for read in own if space[read.parameter].alternatives(read.value)}


def _site(frame: FrameType) -> str:
    """Where code runs, by its package: the same from any directory."""
    package = str(frame.f_globals.get("__package__") or "").replace(".", "/")
    return f"{package}/{Path(frame.f_code.co_filename).name}:{frame.f_lineno}".lstrip("/")


def recording(config: C, prefix: str, note: Callable[[str, Any, str], None]) -> C:
    """The same configuration, of the same type, calling `note(parameter, value, site)` whenever a parameter is read."""
    base = type(config)
    names = dict(zip(base.__struct_fields__, base.__struct_encode_fields__, strict=True))
    inner = {
        name: recording(value, f"{prefix}.{names[name]}", note) if isinstance(value, msgspec.Struct) else value
        for name in names
        for value in [getattr(config, name)]
    }
    leaves = frozenset(name for name, value in inner.items() if not isinstance(value, msgspec.Struct))

    def read(self: Any, name: str) -> Any:
        value = object.__getattribute__(self, name)
        if name in leaves:
            note(f"{prefix}.{names[name]}", value, _site(sys._getframe(1)))
        return value

    members = {"__getattribute__": read, "__module__": base.__module__}
    recorded = types.new_class(base.__name__, (base,), {"frozen": True}, lambda body: body.update(members))
    return recorded(**inner)  # type: ignore[no-any-return]
