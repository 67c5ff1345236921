"""Which fault hit which role in which state, and which never did."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from zebra.injection.fault import catalogue
from zebra.report import Run
from zebra.reports.story import faults

CLIENT = "client"


@dataclass(slots=True)
class Exposure:
    """One fault over all stored runs; counts are of injections.

    `cells` says per role, and per state that its nodes were in (up, down, a selector of the target that had them),
    in how many injections it was so hit; only those count that took effect. `idle` had none.
    """

    fault: str
    injected: int = 0
    idle: int = 0
    cells: dict[str, Counter[str]] = field(default_factory=dict)


class Exposures:
    """The faults of the stored runs; `see` takes these one by one."""

    def __init__(self) -> None:
        self._faults: dict[str, Exposure] = {}
        self.roles: dict[str, None] = {}

    def see(self, run: Run) -> None:
        role_of = {str(place["node"]): str(place["role"]) for place in run.events[0].get("places") or []}
        self.roles.update(dict.fromkeys(role_of.values()))
        states = (event.get("states") or {} for event in run.events if event.kind == "fault.inject")
        for fault, own in zip(faults(run.events), states, strict=True):
            row = self._faults.setdefault(fault.name, Exposure(fault.name))
            row.injected += 1
            if not fault.took_effect:
                row.idle += 1
                continue
            seen = {(role_of.get(n, "?"), str(state)) for n in fault.on for state in own.get(n) or ["up"]}
            for role, state in sorted(seen):
                row.cells.setdefault(role, Counter())[state] += 1

    def rows(self) -> list[Exposure]:
        """One per fault that was injected, by name."""
        return [self._faults[name] for name in sorted(self._faults)]

    def missing(self) -> list[str]:
        """Faults of the catalogue that no run injected, by name."""
        return [name for name in catalogue() if name not in self._faults]

    def unhit(self) -> list[str]:
        """Roles that no fault has hit with effect; clients do not count."""
        hit = {role for row in self._faults.values() for role in row.cells}
        return [role for role in self.roles if role not in hit and role != CLIENT]
