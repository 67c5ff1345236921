"""Which items to run next: the pool whose outcome tells most for the time it is expected to take.

What a pool tells is the mutual information between its outcome and the state of the posterior: the entropy of the
outcome less what entropy it would have were the state known. Pools are grown greedily from one cell, part of a cell or
some untested items. Of several runs that go on at once each is chosen for what it adds to those before it (look-ahead).
Source: ../shared/research/zebraconf.md, section 9 item 4.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from zebra.campaign.posterior import Posterior

Array = np.ndarray[Any, np.dtype[Any]]

STATES = 300
"""States that a choice looks at, the likeliest ones."""

BRANCHES = 256
"""Courses of the runs under way that a choice looks at, the likeliest ones."""

SEEDLINGS = 3
"""First parts of a pool that are tried to be grown."""


TANGLE = 0.02
"""Bits that a bit of doubt left in a pool costs: of pools that tell the same the simpler one is better."""

GAIN = 1e-6
"""Bits per second below which a pool is not worth a run, or a cell not worth to be added to one."""


@dataclass(frozen=True, slots=True)
class Costs:
    """Seconds that a run takes which passes, and one that fails: hangs and time-outs make the latter dearer."""

    pass_s: float = 1.0
    fail_s: float = 1.0


@dataclass(slots=True)
class _Pool:
    """A pool in the making. Its rows are states, each twice where only a part of a cell is in it: part without and part
    with a bad item; `weight` is (branch, row), `passes` the chance per row that the run passes."""

    items: list[int]
    weight: Array
    passes: Array
    score: float
    tangle: float = 0.0


def entropy(chance: Array) -> Array:
    """Bits of a coin, elementwise."""
    inner = np.clip(chance, 1e-12, 1 - 1e-12)
    found: Array = -(inner * np.log2(inner) + (1 - inner) * np.log2(1 - inner))
    return found


class Chooser:
    """Chooses pools of a belief; no pool holds two items of one group (`groups[i]` is the group of item i)."""

    def __init__(self, belief: Posterior, costs: Costs | None = None, groups: Sequence[int] | None = None) -> None:
        self.belief, self.costs = belief, costs or Costs()
        self.groups = groups

    def choose(self, allowed: Collection[int], runs: int = 1) -> list[list[int]]:
        """So many pools to run at once; fewer, or none, when nothing is to be learned."""
        pools: list[list[int]] = []
        for _ in range(runs):
            pool = self._next(set(allowed), pools)
            if not pool:
                break
            self.belief.isolate(pool)
            pools.append(sorted(pool))
        return pools

    def _next(self, allowed: set[int], under_way: Sequence[Sequence[int]]) -> list[int]:
        belief = self.belief
        top, self._starts = _by_pattern(belief.counts[:STATES].sum(axis=2))
        self._base = belief.f_given[top] @ np.exp(belief.log_pass)
        weight = (belief.weight[top] / belief.weight[top].sum())[None, :]
        for pool in under_way:
            passes = self._base * np.exp(belief.log_miss_of(belief.inside(pool))[top])
            weight = np.concatenate([weight * passes, weight * (1 - passes)])
            if len(weight) > BRANCHES:
                weight = weight[np.argsort(-weight.sum(axis=1), kind="stable")[:BRANCHES]]
        weight /= weight.sum()
        self._counts, self._totals = belief.counts[top], belief.totals[top]
        self._miss = np.exp(self._counts @ belief.log_miss)
        """Per state and cell the chance that no bad item of the cell makes a run fail."""
        self._open = [[item for item in cell if item in allowed] for cell in belief.cells]
        self._tangle = TANGLE * entropy(np.einsum("s,sc->c", weight.sum(axis=0), self._counts.sum(axis=2) > 0))
        first = [*self._of_cells(weight), *self._of_fresh(weight, allowed)]
        if not first:
            return []
        first.sort(key=lambda pool: -pool.score)
        best = max((self._grow(pool) for pool in first[:SEEDLINGS]), key=lambda pool: pool.score)
        return best.items if best.score > GAIN else []

    # -- scores ----------------------------------------------------------------------------------------------

    def _scores(self, weight: Array, passes: Array, tangle: Array | float) -> Array:
        """Bits per second of pools that pass with these chances: `weight` (branch, row), `passes` (row, pool)."""
        branch = weight.sum(axis=1)
        passing = weight @ passes
        starts, own = self._starts, weight.sum(axis=0)
        if len(own) > len(self._base):
            starts = np.concatenate([starts, starts + len(self._base)])
        share = np.add.reduceat(own, starts)
        known = np.add.reduceat(own[:, None] * passes, starts) / np.maximum(share, 1e-300)[:, None]
        bits = branch @ entropy(passing / branch[:, None]) - share @ entropy(known)
        chance = passing.sum(axis=0)
        found: Array = (bits - tangle) / (chance * self.costs.pass_s + (1 - chance) * self.costs.fail_s)
        return found

    def _distinct(self, items: Iterable[int], used: Collection[int] = ()) -> list[int]:
        """Those items whose groups are not yet used, one of each."""
        if self.groups is None:
            return list(items)
        found: dict[int, int] = {}
        for item in items:
            if self.groups[item] not in used:
                found.setdefault(self.groups[item], item)
        return list(found.values())

    # -- how a pool begins -----------------------------------------------------------------------------------

    def _of_cells(self, weight: Array) -> list[_Pool]:
        """Each cell, whole and in part."""
        belief, found = self.belief, []
        mass = weight.sum(axis=0)
        doubt = mass @ (self._counts.sum(axis=2) > 0)
        for cell in np.argsort(-doubt * (1 - doubt), kind="stable")[:24]:
            items = self._distinct(self._open[cell])
            if not items:
                continue
            size = len(belief.cells[cell])
            bad = self._counts[:, cell, :].sum(axis=1).astype(int)
            for part in _sizes(len(items), 2.0):
                none = _none_drawn(size, part)[np.minimum(bad, size)]
                drawn = np.maximum(1.0, bad * part / size)
                some = self._miss[:, cell] ** (drawn / np.maximum(bad, 1))
                found.append(self._seedling(items[:part], weight, none, some, whole=part == size, cell=int(cell)))
        return found

    def _of_fresh(self, weight: Array, allowed: set[int]) -> list[_Pool]:
        """Untested items, from one to all."""
        belief = self.belief
        fresh = [int(item) for item in np.flatnonzero(belief.cell_of < 0) if int(item) in allowed]
        items = self._distinct(sorted(fresh, key=lambda item: -belief.odds[item]))
        if not items:
            return []
        none = belief.none_bad(items)[self._totals.sum(axis=1)]
        some = 1 - belief.manifestation_given(self._totals)
        return [self._seedling(items[:part], weight, none[:, part], some) for part in _sizes(len(items), 1.2)]

    def _seedling(self, items: list[int], weight: Array, none: Array, some: Array, whole: bool = False,
                  cell: int = -1) -> _Pool:  # fmt: skip
        if whole:
            passes = self._base * self._miss[:, cell]
            tangle = float(self._tangle[cell])
            return _Pool(items, weight, passes, float(self._scores(weight, passes[:, None], tangle)[0]), tangle)
        doubled = np.concatenate([weight * none, weight * (1 - none)], axis=1)
        passes = np.concatenate([self._base, self._base * some])
        tangle = TANGLE * float(entropy(weight.sum(axis=0) @ none))
        return _Pool(items, doubled, passes, float(self._scores(doubled, passes[:, None], tangle)[0]), tangle)

    # -- how it grows ----------------------------------------------------------------------------------------

    def _grow(self, pool: _Pool) -> _Pool:
        """Add whole cells, or what of them may be added, as long as that tells more."""
        taken = {int(self.belief.cell_of[item]) for item in pool.items}
        cells = [cell for cell, items in enumerate(self._open) if items and cell not in taken]
        halves = pool.weight.shape[1] // len(self._base)
        for _ in range(3):
            used = {self.groups[item] for item in pool.items} if self.groups is not None else set()
            addable = {cell: items for cell in cells if (items := self._distinct(self._open[cell], used))}
            if not addable:
                break
            miss = {cell: np.tile(self._factor(cell, len(items)), halves) for cell, items in addable.items()}
            passes = pool.passes[:, None] * np.stack(list(miss.values()), axis=1)
            alone = self._scores(pool.weight, passes, pool.tangle + self._tangle[list(addable)])
            order = [cell for less, cell in sorted(zip(-alone, addable, strict=True)) if -less > pool.score + GAIN]
            if not order:
                break
            pool = self._longest(pool, order, addable, miss, halves, used)
            cells = [cell for cell in cells if not set(self._open[cell]) & set(pool.items)]
        return pool

    def _factor(self, cell: int, part: int) -> Array:
        """Per state the chance that no bad item of the cell, of which a part is added, makes a run fail."""
        found: Array = 1 - (1 - self._miss[:, cell]) * (part / len(self.belief.cells[cell]))
        return found

    def _longest(self, pool: _Pool, order: list[int], addable: dict[int, list[int]], miss: dict[int, Array],
                 halves: int, used: set[int]) -> _Pool:  # fmt: skip
        """The pool with so many cells of `order` added as tell most."""
        items, columns, passes, used = list(pool.items), [], pool.passes, set(used)
        ends, tangles, tangle = [], [], pool.tangle
        for cell in order:
            own = addable[cell]
            if self.groups is not None:
                own = self._distinct(own, used)
                if not own:
                    continue
                used |= {self.groups[item] for item in own}
            whole = len(own) == len(addable[cell])
            passes = passes * (miss[cell] if whole else np.tile(self._factor(cell, len(own)), halves))
            items += own
            columns.append(passes)
            ends.append(len(items))
            tangle = tangle + self._tangle[cell]
            tangles.append(tangle)
        scores = self._scores(pool.weight, np.stack(columns, axis=1), np.array(tangles))
        best = int(np.argmax(scores))
        return _Pool(items[: ends[best]], pool.weight, columns[best], float(scores[best]), tangles[best])


def _by_pattern(bad: Array) -> tuple[Array, Array]:
    """The states in an order that brings together those with the same bad items, and where each such group begins."""
    order = np.lexsort(bad.T) if bad.shape[1] else np.arange(len(bad))
    new = np.any(np.diff(bad[order], axis=0) != 0, axis=1)
    return order, np.concatenate([[0], np.flatnonzero(new) + 1])


def _sizes(most: int, ratio: float) -> list[int]:
    """Sizes from all to one, each smaller by about this ratio."""
    found, size = [], float(most)
    while size >= 1:
        found.append(round(size))
        size /= ratio
    return list(dict.fromkeys([*found, 1]))


def _none_drawn(size: int, part: int) -> Array:
    """For every number of bad items in a cell the chance that a part of it, drawn at random, holds none."""
    found = [1.0]
    for bad in range(size):
        found.append(found[-1] * max(0, size - part - bad) / (size - bad))
    return np.array(found)
