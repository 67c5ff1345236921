"""The search for bad items: pooled runs until hardly a bad item can have been missed, then rounds that confirm.

It knows items, pools and outcomes only; campaigns and benchmarks/pools.py use it alike. Two beliefs are kept: which
items are bad when *mixed* (some nodes on the one value, the rest on the other) and which are bad when *alike* (all
nodes on the other value): an item is unsafe when it is bad mixed and not bad alike. Runs that no item can have failed
(the pre-run, the control on the usual values) are evidence about flakiness in both.

Error. An item is reported once its posterior says so: over all reports the expected share of false ones (the
false-discovery rate) is at most `ERROR_RATE`, given the prior; benchmarks/pools.py holds that against simulated flaky
tests. On how many seeds an item must have failed alone beside both controls as well, the caller says.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from random import Random

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


COMPANIES = 6
"""Mixed runs that the items of a group must have passed in together, most with a random half of the other groups: were
they masked by another group, that one would have to be in all of them."""

LIKELY, CLEARED = 0.6, 0.01
"""A pool that passes so likely takes items along that are so unlikely to be bad."""

ROUNDS_MAX = 12
"""Runs of a suspect alone after which it is given up as undecided."""

STUBBORN = 2
"""Runs alone, all failed, after which an item is judged by these runs if the belief about all items explains them away:
it may have dropped the states in which many related items are bad, as weighing next to nothing."""

RUNS_MAX = 8
"""Mixed runs per item, beside fifty, at which a search ends whatever is still unclear."""


class Search:
    """The course of one test's search over `count` items.

    Ask `pools` for runs to make and tell `took` how they ended; play confirmation rounds for `suspects` (`took`,
    `was_alike`, `confirmed`, then `judge`). When there are neither pools nor suspects, `unsafe`, `invalid` and
    `undecided` are the answer, and `residual` is the risk left. `groups[i]` is the group of item i: no pool holds two
    items of one group, nor one whose group has a suspect. `seeds` is on how many seeds a reported item must have failed
    alone beside its controls.
    """

    def __init__(self, count: int, prior: Prior = PRIOR, odds: Sequence[float] | None = None,
                 groups: Sequence[int] | None = None, costs: Costs | None = None, seeds: int = 1) -> None:  # fmt: skip
        self.mixed, self.alike = Posterior(count, prior, odds), Posterior(count, prior)
        self.groups = list(range(count) if groups is None else groups)
        self.chooser = Chooser(self.mixed, costs, groups)
        self.open = set(range(count))
        self.grouped = groups is not None
        self.passed: dict[int, int] = {}
        """How many mixed runs each item was in that passed; those that were in none are missing."""
        self._random = Random(0)
        self.alone = [0] * count
        """Mixed runs of each item alone."""
        self.failed_alone = [0] * count
        self.hits = [0] * count
        """Mixed runs of each item alone that failed on a seed on which both controls passed."""
        self.seeds = seeds
        self._prior, self._baseline = prior, list[bool]()
        self.confirmed = [0] * count
        """Rounds that each item has had."""
        self.unsafe: set[int] = set()
        self.invalid: set[int] = set()
        self.undecided: set[int] = set()

    def pools(self, runs: int = 1) -> list[list[int]]:
        """The next pools to run, several at once; none once every open item was in a run that passed and hardly one
        can have been missed."""
        if self.mixed.runs > 50 + RUNS_MAX * len(self.alone):
            return []
        suspected = {self.groups[item] for item in self.suspects()}
        rest = self._in_turn({item for item in self.open if self.groups[item] not in suspected}, runs)
        if rest and self.residual() > MISSED and (pools := self.chooser.choose(rest, runs)):
            return [self._in_company(pool, suspected) for pool in pools]
        return [self._in_company(pool, suspected) for pool in self._not_yet_passed(rest, runs)]

    def _in_company(self, pool: list[int], suspected: set[int]) -> list[int]:
        """A pool that will probably pass, with an item more of half of the groups that it lacks: what passed in one
        company may have been masked by it, and passes again for free in another."""
        if not self.grouped or self.mixed.passes(pool) < LIKELY:
            return pool
        risks, lacking = self.mixed.risks(), dict[int, int]()
        for item in sorted(self.open & self.passed.keys(), key=lambda item: (self.passed[item], item)):
            if risks[item] < CLEARED:
                lacking.setdefault(self.groups[item], item)
        for group in suspected | {self.groups[item] for item in pool}:
            lacking.pop(group, None)
        return sorted([*pool, *(self._half(list(lacking.values())) if lacking else ())])

    def _in_turn(self, items: set[int], runs: int) -> set[int]:
        """Of each group what passed and one item more, or as many as there are runs once some have passed: where one
        item of a group is bad, most others are."""
        waiting: dict[int, list[int]] = {}
        for item in sorted(items - self.passed.keys()):
            waiting.setdefault(self.groups[item], []).append(item)
        begun = {self.groups[item] for item in self.passed}
        chosen = {item for group, own in waiting.items() for item in own[: runs if group in begun else 1]}
        return items & self.passed.keys() | chosen

    def _not_yet_passed(self, rest: set[int], runs: int) -> list[list[int]]:
        """What has not passed yet, all groups together; then what passed in too few companies, half of the groups."""
        pools: list[list[int]] = []
        left = sorted(rest - self.passed.keys())
        again = self._too_few_companies(rest) if self.grouped and not left else []
        for items in (left, again):
            while items and len(pools) < runs:
                pool = {self.groups[item]: item for item in reversed(items)}
                chosen = sorted(pool.values()) if left else self._half(sorted(pool.values()))
                pools.append(chosen)
                items = [item for item in items if item not in chosen]
        return pools

    def _too_few_companies(self, rest: set[int]) -> list[int]:
        """Of each group that has passed in too few runs the items, the one that passed least often first."""
        total: dict[int, int] = {}
        for item in rest:
            total[self.groups[item]] = total.get(self.groups[item], 0) + self.passed[item]
        few = [item for item in rest if total[self.groups[item]] < COMPANIES]
        return sorted(few, key=lambda item: (-self.passed[item], -item))[::-1]

    def _half(self, items: list[int]) -> list[int]:
        """A random half of some items, one at least."""
        return sorted(self._random.sample(items, (len(items) + 1) // 2))

    def took(self, pool: Collection[int], failed: bool) -> None:
        """A mixed run of a pool has ended."""
        self.mixed.observe(pool, failed)
        if not failed:
            for item in pool:
                self.passed[item] = self.passed.get(item, 0) + 1
        if len(pool) == 1:
            (item,) = pool
            self.alone[item] += 1
            self.failed_alone[item] += failed

    def was_alike(self, pool: Collection[int], failed: bool) -> None:
        """A run has ended in which every node had the other value of these items, of none: the usual values."""
        self.alike.observe(pool, failed)
        if not pool or not failed:
            self.mixed.observe((), failed)
            self._baseline.append(failed)

    def drop(self, items: Collection[int]) -> None:
        """These items are no longer of interest; what failed because of them stays explained by them."""
        self.open -= set(items)

    def suspects(self) -> set[int]:
        """Items to confirm: probably bad."""
        risks = self.risks()
        return {item for item in self.open if risks[item] >= SUSPECT}

    def residual(self) -> float:
        """Expected number of bad items among those that are neither decided nor suspect."""
        risks = self.risks()
        return float(sum(risks[item] for item in self.open if risks[item] < SUSPECT))

    def risks(self) -> list[float]:
        """For each item the probability that it is bad mixed; see STUBBORN."""
        risks = [float(risk) for risk in self.mixed.risks()]
        for item in self.open:
            if STUBBORN <= self.failed_alone[item] == self.alone[item] and risks[item] < SURE:
                risks[item] = max(risks[item], self._by_itself(self.alone[item]))
        return risks

    def _by_itself(self, runs: int) -> float:
        """How likely an item is bad that failed in so many runs alone, by these and by runs in which none was mixed."""
        belief = Posterior(1, self._prior)
        for failed in self._baseline:
            belief.observe((), failed)
        for _ in range(runs):
            belief.observe([0], failed=True)
        return float(belief.risks()[0])

    def needs_controls(self, item: int) -> bool:
        """Whether an item whose run alone has failed lacks controls, or its other value may be bad by itself."""
        return self.hits[item] < self.seeds or bool(self.alike.risks()[item] > 1 - SURE)

    def judge(self, item: int, alike: float | None = None) -> bool:
        """Decide a suspect if its evidence suffices; then it is no longer open. `alike` is how likely its other value
        is bad by itself, where that is known better than from `was_alike`."""
        bad = self.risks()[item]
        alike = float(self.alike.risks()[item]) if alike is None else alike
        if alike >= SUSPECT:
            self.invalid.add(item)
        elif self.hits[item] >= self.seeds and bad * (1 - alike) >= SURE:
            self.unsafe.add(item)
        elif bad >= SUSPECT and self.alone[item] >= ROUNDS_MAX:
            self.undecided.add(item)
        else:
            return False
        self.open.discard(item)
        return True
