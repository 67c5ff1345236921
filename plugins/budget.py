"""No more are down at once than a budget allows."""

from __future__ import annotations

from collections.abc import Collection
from functools import partial

from zebra.events import Event
from zebra.invariant import Factory, Violation, invariant, value_of


class WithinBudget:
    """No more than `budget` things are down at once, for whatever reason.

    Source: Grubic et al. 2023 (Conveyor), section 5.1; Tang et al. 2020 (Twine).
    """

    def __init__(self, budget: int, up: Collection[str], what: str) -> None:
        self.budget, self.up, self.what = budget, up, what
        self.down: dict[object, Event] = {}

    def check(self, event: Event) -> Violation | None:
        thing = value_of(event, self.what)
        if event.kind in self.up:
            self.down.pop(thing, None)
        else:
            self.down.setdefault(thing, event)
            if len(self.down) > self.budget:
                names = ", ".join(sorted(map(str, self.down)))
                return Violation(f"{len(self.down)} down, budget {self.budget}: {names}", tuple(self.down.values()))
        return None


def within_budget(name: str = "general.budget", *, budget: int = 1, down: Collection[str] = ("task.down",),
                  up: Collection[str] = ("task.up",), what: str = "task") -> Factory:  # fmt: skip
    """At most `budget` of what the field `what` names ("node": the event's) are between a `down` and an `up` event."""
    return invariant(name, (*down, *up))(partial(WithinBudget, budget, up, what))


within_budget()
