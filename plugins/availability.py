"""Enough nodes (or tasks, or replicas) are up."""

from __future__ import annotations

import math
from collections.abc import Collection
from functools import partial

from zebra.events import Event
from zebra.invariant import NODE_GONE, Factory, Violation, invariant, value_of


class Availability:
    """At least so many are up, but for dips of no more than `for_s` seconds; judged from when they first were.

    How many there are at all is read from the places in the event `run`, unless `total` says it.
    """

    def __init__(self, at_least: int, share: float, for_s: float, role: str, total: int,
                 up: Collection[str], what: str) -> None:  # fmt: skip
        self.at_least, self.share, self.for_s, self.role, self.total = at_least, share, for_s, role, total
        self.kinds, self.what = up, what
        self.up, self.members = set[object](), set[object]()
        self.reached = False
        self.below: Event | None = None

    @property
    def needed(self) -> int:
        return max(self.at_least, math.ceil(self.share * (self.total or len(self.members))))

    def check(self, event: Event) -> Violation | None:
        if event.kind == "run":
            servers = [place for place in event.get("places", ()) if place["role"] != "client"]
            self.members = {place["node"] for place in servers if self.role in ("", place["role"])}
            return None
        late = self._late(event.t)
        if late is not None or event.kind == "clock":
            return late
        thing = value_of(event, self.what)
        if self.what == "node" and self.members and thing not in self.members:
            return None
        (self.up.add if event.kind in self.kinds else self.up.discard)(thing)
        enough = len(self.up) >= self.needed
        self.reached = self.reached or enough
        self.below = None if enough or not self.reached else self.below or event
        return self._late(event.t) if not self.for_s else None

    def end(self, now_s: float) -> str | Violation | None:
        if self.up and not self.reached:
            return f"never as many up as the {self.needed} that are needed"
        return self._late(now_s)

    def _late(self, now_s: float) -> Violation | None:
        if self.below is None or (self.for_s and now_s - self.below.t <= self.for_s):
            return None
        lasting = f" for {now_s - self.below.t:g} s, {self.for_s:g} s are allowed" if self.for_s else ""
        return Violation(f"{len(self.up)} up, {self.needed} are needed{lasting}", (self.below,))


def availability(name: str = "general.availability", *, at_least: int = 1, share: float = 0.0, for_s: float = 0.0,
                 role: str = "", total: int = 0, up: Collection[str] = ("node.ready", "node.resume"),
                 down: Collection[str] = (*NODE_GONE, "node.pause"), what: str = "node") -> Factory:  # fmt: skip
    """At least `at_least`, and the `share`, of a role's nodes (all but clients when "") are up, but for dips.

    A dip lasts no longer than `for_s` seconds. For other things than nodes give the kinds `up` and `down`, the field
    `what` that names the thing, and for a share how many there are in `total`.
    """
    make = partial(Availability, at_least, share, for_s, role, total, up, what)
    return invariant(name, (*up, *down, "run", "clock"))(make)


availability()
