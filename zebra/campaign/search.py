"""The search for bad items: pooled runs until hardly a bad item can have been missed, then rounds that confirm.

It knows items, pools and outcomes only; campaigns and benchmarks/pools.py use it alike. Two beliefs are kept: which
items are bad when *mixed* (some nodes on the one value, the rest on the other) and which are bad when *alike* (all
nodes on the other value): an item is unsafe when it is bad mixed and not bad alike. Runs that no item can have failed
(the pre-run, the control on the usual values) are evidence about flakiness in both.

Error. An item is reported once its posterior odds say so: over all reports the expected share of false ones is at most
`ERROR_RATE` (false-discovery rate), given the prior; benchmarks/pools.py holds that against simulated flaky tests. A report
needs failures on two seeds at least, one of them beside both its controls.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from zebra.campaign.choose import Chooser, Costs
from zebra.campaign.posterior import PRIOR, Posterior, Prior

ERROR_RATE = 0.01
"""The expected share of false reports among all reports."""

SURE = 1 - ERROR_RATE / 4
"""How likely an item must be bad to be reported: stricter than the rate, for tests flakier than the prior expects."""

SUSPECT = 0.8
"""How likely an item must be bad to leave the pools and be confirmed."""

MISSED = 0.04
"""Expected number of bad items among the rest of a test at which its search may end: the residual risk."""


class Search:
    """The course of one test's search over `count` items.

    Ask `pools` for runs to make and tell `took` how they ended; when it has none left, play confirmation rounds for
    `suspects`; when there are no suspects either, `unsafe` and `invalid` are the answer and `residual` the risk left.
    """

    def __init__(self, count: int, prior: Prior = PRIOR, odds: Sequence[float] | None = None,
                 groups: Sequence[int] | None = None, costs: Costs | None = None) -> None:  # fmt: skip
        self.mixed, self.alike = Posterior(count, prior, odds), Posterior(count, prior)
        self.chooser = Chooser(self.mixed, costs, groups)
        self.open = set(range(count))
        self.failures = [0] * count
        """Mixed runs of each item alone that failed in a round whose controls passed."""
        self.rounds = 0
        self.unsafe: set[int] = set()
        self.invalid: set[int] = set()

    def pools(self, runs: int = 1) -> list[list[int]]:
        """The next pools to run, several at once; none when little enough is left to be found."""
        rest = self.open - self.suspects()
        return self.chooser.choose(rest, runs) if rest and self.residual() > MISSED else []

    def took(self, pool: Collection[int], failed: bool) -> None:
        """A mixed run of a pool has ended."""
        self.mixed.observe(pool, failed)

    def was_alike(self, pool: Collection[int], failed: bool) -> None:
        """A run has ended in which every node had the other value of these items, of none: the usual values."""
        self.alike.observe(pool, failed)
        if not pool or not failed:
            self.mixed.observe((), failed)

    def drop(self, items: Collection[int]) -> None:
        """These items are no longer of interest; what failed because of them stays explained by them."""
        self.open -= set(items)

    def suspects(self) -> set[int]:
        """Items to confirm: probably bad."""
        risks = self.mixed.risks()
        return {item for item in self.open if risks[item] >= SUSPECT}

    def residual(self) -> float:
        """Expected number of bad items among those that are neither decided nor suspect."""
        risks = self.mixed.risks()
        return float(sum(risks[item] for item in self.open if risks[item] < SUSPECT))

    def judge(self, item: int) -> bool:
        """Decide a suspect if its evidence suffices; then it is no longer open."""
        bad, alike = float(self.mixed.risks()[item]), float(self.alike.risks()[item])
        if alike >= SUSPECT:
            self.invalid.add(item)
        elif self.failures[item] and bad * (1 - alike) >= SURE:
            self.unsafe.add(item)
        else:
            return False
        self.open.discard(item)
        return True

    def doubt(self, items: Collection[int]) -> list[int]:
        """Of some items those whose other value may be bad by itself."""
        risks = self.alike.risks()
        return [item for item in items if risks[item] > ERROR_RATE / 4]
