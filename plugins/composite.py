"""Several invariants under one name."""

from __future__ import annotations

from functools import partial
from typing import Any

from zebra.events import Event
from zebra.invariant import Checks, Factory, Violation, describe, invariant


class Composite:
    """All parts hold; a violation keeps the name of the part that found it."""

    def __init__(self, *parts: Any) -> None:
        self.checks = Checks(parts)

    def check(self, event: Event) -> Violation | None:
        self.checks.feed(event)
        return self._found()

    def end(self, now_s: float) -> Violation | None:
        self.checks.end(now_s)
        return self._found()

    def _found(self) -> Violation | None:
        if self.checks.error is not None:
            raise self.checks.error
        return self.checks.violation


def composite(name: str, *parts: Any) -> Factory:
    """One invariant that holds when all its parts (factories) do."""
    kinds = dict.fromkeys(kind for part in parts for kind in describe(part)[1])
    return invariant(name, kinds)(partial(Composite, *parts))
