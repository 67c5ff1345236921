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
from math import log2
from random import Random

from zebra.campaign.choose import Chooser, Costs
from zebra.campaign.posterior import PRIOR, Posterior, Prior

ERROR_RATE = 0.01
"""The expected share of false reports among all reports."""

SURE = 1 - ERROR_RATE / 4
"""How likely an item must be bad to be reported: stricter than the rate, for tests flakier than the prior expects."""

SUSPECT = 0.9
"""How likely an item must be bad to leave the pools and be confirmed."""

MISSED = 0.04
"""Expected number of bad items among the rest of a test at which its search may end: the residual risk."""


LIKELY, CLEARED = 0.6, 0.01
"""A pool that passes so likely takes items along that are so unlikely to be bad."""

ROUNDS_MAX = 40
"""Runs of a suspect alone after which it is given up as undecided."""

DOUBTFUL = 5
"""Runs of a suspect alone after which every failure gets its controls, as what is in doubt is how flaky the test is."""

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
        self._odds, self._costs = odds, costs
        self._mixed_runs: list[tuple[list[int], bool]] = []
        self.open = set(range(count))
        self.grouped = groups is not None
        self.passed: dict[int, int] = {}
        """How many mixed runs each item was in that passed; those that were in none are missing."""
        self.company: dict[int, set[int]] = {}
        """Of each group that has passed the other groups that were in all those runs: each may have masked it."""
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
        pools = [self._in_company(pool, suspected) for pool in self._not_yet_passed(rest, runs)]
        return pools or (self._apart(rest, runs) if self.grouped else [])

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
        """What has not passed yet, all groups together."""
        pools: list[list[int]] = []
        left = sorted(rest - self.passed.keys())
        while left and len(pools) < runs:
            pools.append(sorted({self.groups[item]: item for item in reversed(left)}.values()))
            left = [item for item in left if item not in pools[-1]]
        return pools

    def _apart(self, rest: set[int], runs: int) -> list[list[int]]:
        """Of each group that never passed without some other group the item that passed least often, in pools that take
        as many such pairs apart as a greedy choice finds: what the other one had masked fails there."""
        pools: list[list[int]] = []
        least = {self.groups[item]: item for item in sorted(rest, key=lambda item: (-self.passed[item], -item))}
        company = {group: found for group in least if (found := self.company[group])}
        while company and len(pools) < runs:
            chosen: set[int] = set()
            for group in sorted(company, key=lambda group: (-len(company[group]), group)):
                joined = sum(group in company[other] for other in chosen)
                if len(company[group] - chosen) > joined:
                    chosen.add(group)
            pools.append(sorted(least[group] for group in chosen))
            for group in chosen:
                company[group] = company[group] & chosen
            company = {group: left for group, left in company.items() if left}
        return pools

    def _half(self, items: list[int]) -> list[int]:
        """A random half of some items, one at least."""
        return sorted(self._random.sample(items, (len(items) + 1) // 2))

    def took(self, pool: Collection[int], failed: bool) -> None:
        """A mixed run of a pool has ended."""
        self._observe(pool, failed)
        if len(pool) == 1:
            (item,) = pool
            self.alone[item] += 1
            self.failed_alone[item] += failed

    def was_alike(self, pool: Collection[int], failed: bool) -> None:
        """A run has ended in which every node had the other value of these items, of none: the usual values."""
        self.alike.observe(pool, failed)
        if not pool or not failed:
            self._observe((), failed)
            self._baseline.append(failed)

    def _observe(self, pool: Collection[int], failed: bool) -> None:
        self.mixed.observe(pool, failed)
        self._mixed_runs.append((list(pool), failed))
        if failed:
            return
        for item in pool:
            self.passed[item] = self.passed.get(item, 0) + 1
        groups = {self.groups[item] for item in pool} if self.grouped else set()
        for group in groups:
            self.company[group] = self.company.get(group, groups) & (groups - {group})

    def forget(self, groups: Collection[int]) -> None:
        """Take back every mixed run in which each of these groups had an item. What fails only together, or is masked
        by others, is found in another way; the belief, which knows no such thing, would blame other items for it."""
        apart = [run for run in self._mixed_runs if not set(groups) <= {self.groups[item] for item in run[0]}]
        self.mixed, self._mixed_runs = Posterior(len(self.alone), self._prior, self._odds), []
        self.passed, self.company = {}, {}
        self.chooser = Chooser(self.mixed, self._costs, self.groups if self.grouped else None)
        for pool, failed in apart:
            self._observe(pool, failed)

    def drop(self, items: Collection[int]) -> None:
        """These items are no longer of interest; what failed because of them stays explained by them."""
        self.open -= set(items)

    def suspects(self) -> set[int]:
        """Items to confirm: probably bad."""
        risks = self.risks()
        return {item for item in self.open if risks[item] >= SUSPECT}

    def to_come(self) -> float:
        """About how many runs the search still takes: one tells at most one bit of which groups are bad, and those that
        are need their rounds, each with two controls."""
        highest, risks = dict[int, float](), self.mixed.risks()
        for item in self.open:
            group = self.groups[item]
            highest[group] = max(highest.get(group, 0.0), min(1.0, float(risks[item])))
        open_questions = [risk for risk in highest.values() if 0 < risk < 1]
        bits = -sum(risk * log2(risk) + (1 - risk) * log2(1 - risk) for risk in open_questions)
        return bits + 3 * self.seeds * sum(highest.values())

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
        few = self.hits[item] < self.seeds or self.alone[item] >= DOUBTFUL
        return few or bool(self.alike.risks()[item] > 1 - SURE)

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
