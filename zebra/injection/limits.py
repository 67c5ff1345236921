"""The blast radius of a run: what its faults must not touch, and how many nodes they may hit at once.

A fault outside of that is refused before anything happens. A composite fault, and a schedule, are refused as a whole
where the nodes of their steps are known; a step that draws its nodes only when its time has come is judged then.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import msgspec

from zebra.errors import ConfigError
from zebra.injection.schedule import Inject, Schedule
from zebra.injection.selection import DRAWN, check_form

Known = Callable[[Inject], frozenset[str]]
"""The nodes that a step will surely hit: those named, and those in a place. Nothing is drawn by lot."""


class Limits(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """`spare` are selections that no fault may hit; `at_once` is how many nodes may be hit at a time, 0 for any."""

    spare: tuple[str, ...] = ()
    at_once: int = 0

    def __bool__(self) -> bool:
        return bool(self.spare or self.at_once)

    @classmethod
    def parse(cls, spare: object, at_once: object) -> Limits:
        """Limits from selections (a list, or text with commas) and a number; raises ConfigError."""
        texts = [text.strip() for text in spare.split(",")] if isinstance(spare, str) else spare
        if not isinstance(texts, list | tuple) or not all(isinstance(text, str) for text in texts):
            raise ConfigError(f"spare: {spare!r} is not a selection, nor a list of them")
        texts = [text for text in texts if text]
        drawn = next((text for text in texts if check_form(text)[0] in DRAWN), "")
        if drawn:
            raise ConfigError(f"spare: {drawn} is drawn by lot, expected nodes, all(…) or a place")
        try:
            number = int(str(at_once or 0))
        except ValueError:
            number = -1
        if number < 0:
            raise ConfigError(f"at_once: {at_once!r} is not a number of nodes")
        return cls(spare=tuple(texts), at_once=number)

    def __and__(self, other: Limits) -> Limits:
        """What both allow."""
        numbers = [number for number in (self.at_once, other.at_once) if number]
        spare = tuple(dict.fromkeys(self.spare + other.spare))
        return Limits(spare=spare, at_once=min(numbers, default=0))


NO_LIMITS = Limits()


def check(limits: Limits, what: str, nodes: Iterable[str], spared: Iterable[str], hit: Iterable[str]) -> None:
    """Refuse a fault on `nodes` while `hit` are hit by others; raises ConfigError."""
    nodes = list(dict.fromkeys(nodes))
    touched = sorted(set(nodes).intersection(spared))
    if touched:
        spares = ", ".join(limits.spare)
        raise ConfigError(f"{what} is refused: it would hit {', '.join(touched)}, and this run spares {spares}")
    together = sorted(set(nodes).union(hit))
    if limits.at_once and len(together) > limits.at_once:
        already = f", {len(together) - len(nodes)} of them already" if len(together) > len(nodes) else ""
        limit = f"at most {limits.at_once} may be"
        raise ConfigError(f"{what} is refused: {len(together)} nodes would be hit at once{already}, {limit}")


def check_schedule(limits: Limits, what: str, schedule: Schedule, known: Known, spared: Iterable[str],
                   hit: Iterable[str]) -> None:  # fmt: skip
    """Refuse a schedule any of whose steps is surely outside of the limits, alone or with those that last meanwhile."""
    steps = [(step, known(step)) for step in schedule.steps if isinstance(step, Inject)]
    spared, hit = set(spared), set(hit)
    for step, nodes in steps:
        at = step.at_s
        meanwhile = [
            other_nodes for other, other_nodes in steps
            if other is not step and other.at_s <= at and (other.for_s is None or at < other.at_s + other.for_s)
        ]  # fmt: skip
        check(limits, f"{what}{step.fault} at {at:g} s", nodes, spared, hit.union(*meanwhile))
