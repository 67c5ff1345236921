"""Configurations that note what is read from them: the agent of a pre-run for typed configurations."""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any, TypeVar

import msgspec

C = TypeVar("C", bound=msgspec.Struct)


class Read(msgspec.Struct, frozen=True, order=True):
    """One parameter, read by a node of a role, and the value it saw."""

    role: str
    parameter: str
    value: bool | int | float | str


def recording(config: C, prefix: str, note: Callable[[str, Any], None]) -> C:
    """The same configuration, of the same type, calling `note(parameter, value)` whenever a parameter is read."""
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
            note(f"{prefix}.{names[name]}", value)
        return value

    members = {"__getattribute__": read, "__module__": base.__module__}
    recorded = types.new_class(base.__name__, (base,), {"frozen": True}, lambda body: body.update(members))
    return recorded(**inner)  # type: ignore[no-any-return]
