"""Pooled search: one run clears all cases of a pool; a pool that fails is halved until single cases stand out.

When a pool fails and its first half passes, its second half is known to hold the cause and is halved without a run of
its own. That inference is only a guess where runs are noisy: what it ends in is a suspect, and `confirm` decides.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from zebra.campaign.plan import Case

BATCH = 4
"""Pools tried at a time, at least. Not the number of workers, so that a campaign's course does not depend on it."""


@dataclass(slots=True)
class Pool:
    """Cases of one test that are tried in one run. `guilty`: known to fail; `rest`: the other half of a failed pool."""

    cases: list[Case]
    guilty: bool = False
    rest: Pool | None = None


class Search:
    """The pools still to try, `batch` at a time. `wanted(case)` says whether a case is still of interest; the rest is
    dropped unseen."""

    def __init__(self, pools: Iterable[list[Case]], wanted: Callable[[Case], bool], batch: int = BATCH) -> None:
        self._batch = batch
        self._stack = [Pool(list(pool)) for pool in pools][::-1]
        self._wanted = wanted
        self.suspects: list[Case] = []

    def next_batch(self) -> list[Pool]:
        """The next pools to run, none when all is decided; known culprits go to `suspects` on the way."""
        batch: list[Pool] = []
        while self._stack and len(batch) < self._batch and not self.suspects:
            pool = self._stack.pop()
            before = len(pool.cases)
            pool.cases = [case for case in pool.cases if self._wanted(case)]
            if len(pool.cases) < before:  # what was dropped may have been the cause: of this half, or of both together
                pool.guilty = False
                self._take_up(pool.rest, guilty=False)
                pool.rest = None
            if not pool.cases:
                continue
            if pool.guilty:
                self._blame(pool)
            else:
                batch.append(pool)
        return batch

    def took(self, pool: Pool, failed: bool) -> None:
        """The result of a pool's run."""
        if failed:
            self._blame(pool)
        else:
            self._take_up(pool.rest, guilty=True)

    def __len__(self) -> int:
        """How many pools still wait."""
        return len(self._stack)

    def _blame(self, pool: Pool) -> None:
        self._take_up(pool.rest, guilty=False)
        if len(pool.cases) == 1:
            self.suspects.append(pool.cases[0])
            return
        middle = (len(pool.cases) + 1) // 2
        self._stack.append(Pool(pool.cases[:middle], rest=Pool(pool.cases[middle:])))

    def _take_up(self, half: Pool | None, guilty: bool) -> None:
        if half is not None:
            half.guilty = guilty
            self._stack.append(half)
