"""What the ledger says of a run's faults: each is written down, phase by phase, before anything acts.

On sim there is no ledger, as nothing outlives the process: then nothing is written.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import msgspec

from zebra.injection.ledger import Ledger, Phase
from zebra.injection.selection import Selection
from zebra.substrate import Pairs

_numbers = itertools.count(1)


class Notes:
    """The faults and effects of one run in the ledger of its session, if it has one."""

    def __init__(self, ledger: Ledger | None) -> None:
        self._ledger = ledger

    def fault(self, name: str, settings: Mapping[str, Any], on: Selection, acts_outside: bool) -> str:
        """A fault is planned; its entry. One that `acts_outside` of capabilities can be healed from what this says."""
        entry = {"kind": "fault", "name": name, "settings": dict(settings), "groups": on.groups, "phase": "planned"}
        if acts_outside:
            entry["places"] = msgspec.to_builtins(on.everyone)
        return self._add(entry)

    def effect(self, fault: str, capability: str, arguments: tuple[Any, ...], settings: Mapping[str, Any]) -> str:
        """A capability is about to add an effect for a fault; its entry."""
        return self._add({
            "kind": "effect", "fault": fault, "capability": capability, "arguments": [_plain(a) for a in arguments],
            "settings": {key: _plain(value) for key, value in settings.items()}, "phase": "injecting",
        })  # fmt: skip

    def phase(self, entry: str, phase: Phase, **more: Any) -> None:
        """A fault or an effect has come so far."""
        if self._ledger is not None:
            self._ledger.phase(entry, phase, **more)

    def _add(self, entry: dict[str, Any]) -> str:
        if self._ledger is None:
            return ""
        entry["id"] = f"{entry['kind']} {next(_numbers)}"
        self._ledger.add([entry])
        return str(entry["id"])


def _plain(value: Any) -> Any:
    """An argument of a capability as JSON has it."""
    if isinstance(value, Pairs):
        return [[sorted(sources), sorted(targets)] for sources, targets in value.products]
    if isinstance(value, set | frozenset):
        return sorted(value)
    return value if isinstance(value, bool | int | float | str | type(None)) else [_plain(each) for each in value]
