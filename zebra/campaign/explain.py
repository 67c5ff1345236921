"""Why a parameter is unsafe: what else has to be so (`requires`), and which way round (`direction`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from zebra.campaign.plan import Case
from zebra.topology import Place

T = TypeVar("T")


def necessary(items: Sequence[T], cures: Callable[[Sequence[T]], bool]) -> list[T]:
    """The items each of which, taken away, makes the failure go away; found by halving.

    `cures(some)` runs the failing assignment without these items and says whether it passes. One run says that none of
    the items is needed.
    """
    if not items or not cures(items):
        return []
    return _guilty(list(items), cures)


def _guilty(items: list[T], cures: Callable[[Sequence[T]], bool]) -> list[T]:
    """Those of some items, known to cure together, that cure alone."""
    if len(items) == 1:
        return items
    first, second = items[: (len(items) + 1) // 2], items[(len(items) + 1) // 2 :]
    if not cures(first):
        return _guilty(second, cures)
    return _guilty(first, cures) + (_guilty(second, cures) if cures(second) else [])


def sides(case: Case, roles: Sequence[str], places: Sequence[Place]) -> tuple[str, str]:
    """Who holds `other` and who `base`, among the nodes that read the parameter: a role's name or nodes' names."""
    reading = [place for place in places if place.role in roles]
    number = {place.node: int(place.node.rpartition("-")[2]) for place in reading}

    def holds(place: Place) -> bool:
        half = f"{place.role}:{'odd' if number[place.node] % 2 else 'even'}"
        return bool({place.role, place.node, half}.intersection(case.who.split("+")))

    return _name([p for p in reading if holds(p)], reading), _name([p for p in reading if not holds(p)], reading)


def _name(nodes: list[Place], reading: list[Place]) -> str:
    roles = sorted({place.role for place in nodes})
    whole = all(place in nodes for place in reading if place.role in roles)
    return "+".join(roles) if whole else "+".join(place.node for place in nodes)
