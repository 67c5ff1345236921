"""Which of several things a failure needs, found by halving."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

T = TypeVar("T")


def necessary(items: Sequence[T], cures: Callable[[Sequence[T]], bool]) -> list[T]:
    """The items each of which, taken away, makes the failure go away; found by halving.

    `cures(some)` runs the failing assignment without these items and says whether it passes. One run says that none of
    the items is needed. Which half is to blame is told by the other, which may fail for a reason of its own that the
    halves together do not have: where what is left does not cure alone, the fewest that cure together are looked at.
    """
    if not items or not cures(items):
        return []
    found = _guilty(list(items), cures)
    alone = [item for item in found if cures([item])]
    if len(alone) < len(found):
        alone += [item for item in least(items, cures) if item not in alone and cures([item])]
    return alone


def least(items: Sequence[T], fails: Callable[[Sequence[T]], bool]) -> list[T]:
    """Some of the items, known to fail, that fail together and of which none can be left out; found by halving.

    What `fails` does so with more items too. Each item found takes about log2 of their number in runs.
    """
    found, rest = list[T](), list(items)
    while rest and not fails(found):
        passing, failing = 0, len(rest)  # with so many of the rest
        while failing - passing > 1:
            middle = (passing + failing) // 2
            if fails([*found, *rest[:middle]]):
                failing = middle
            else:
                passing = middle
        found.append(rest[failing - 1])
        rest = rest[: failing - 1]
    return found


def _guilty(items: list[T], cures: Callable[[Sequence[T]], bool]) -> list[T]:
    """Those of some items, known to cure together, that probably cure alone."""
    if len(items) == 1:
        return items
    first, second = items[: (len(items) + 1) // 2], items[(len(items) + 1) // 2 :]
    if not cures(first):
        return _guilty(second, cures)
    return _guilty(first, cures) + (_guilty(second, cures) if cures(second) else [])
