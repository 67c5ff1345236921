"""The invariant that always holds: where to begin when writing one."""

from __future__ import annotations

from zebra.events import Event
from zebra.invariant import invariant


@invariant("general.noop", on="run")
class Noop:
    """Nothing is demanded; every run begins with an event `run`, so it is never unknown."""

    def check(self, event: Event) -> None:
        return None
