"""A thing is held by one at a time: a lock, a lease. (For one ever, as a term's leader, see `zebra.at_most_one`.)"""

from __future__ import annotations

from functools import partial

from zebra.events import Event
from zebra.invariant import NODE_GONE, Factory, Violation, invariant, value_of


class AtMostOneHolder:
    """Nobody acquires what somebody else still holds; who crashes or stops holds nothing any more."""

    def __init__(self, acquired: str, per: str, who: str) -> None:
        self.acquired, self.per, self.who = acquired, per, who
        self.held: dict[object, Event] = {}

    def check(self, event: Event) -> Violation | None:
        if event.kind in NODE_GONE:
            self.held = {thing: by for thing, by in self.held.items() if by.node != event.node}
            return None
        thing, who = value_of(event, self.per), value_of(event, self.who)
        by = self.held.get(thing)
        mine = by is not None and value_of(by, self.who) == who
        if event.kind == self.acquired:
            if by is not None and not mine:
                return Violation(f"{who} acquired {thing} while {value_of(by, self.who)} held it", (by, event))
            self.held.setdefault(thing, event)
        elif mine:
            del self.held[thing]
        return None


def at_most_one_holder(name: str = "general.at_most_one_holder", *, acquired: str = "lock.acquired",
                       released: str = "lock.released", per: str = "lock", who: str = "node") -> Factory:  # fmt: skip
    """For each value of the field `per` at most one `who` at a time is between `acquired` and `released`."""
    return invariant(name, (acquired, released, *NODE_GONE))(partial(AtMostOneHolder, acquired, per, who))


at_most_one_holder()
