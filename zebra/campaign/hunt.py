"""The search of one test: first for values that are invalid for everybody, then for mixtures that are unsafe.

`Search` decides which runs to make; here they get their values, seeds and controls. A suspect is run alone on fresh
seeds, with both controls on the same seed, until its posterior decides; the first such seed is the pre-run's, which
thereby is one of the controls. A parameter that is found leaves all pools at once. What fails again and again though no
case fails alone is cut down to the cases that fail together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import product
from typing import TYPE_CHECKING, NamedTuple

from zebra.campaign.explain import necessary
from zebra.campaign.plan import Case, mixed
from zebra.campaign.trial import Purpose, TrialResult, trial_seed
from zebra.params import Assignment
from zebra.params.parameter import Value
from zebra.run import RunSpec

if TYPE_CHECKING:
    from zebra.campaign.campaign import Campaign
    from zebra.campaign.search import Search

LOOK_AHEAD = 4
"""Pools tried at a time, at least. Not the number of workers, so that a campaign's course does not depend on it."""

SEEDS = 2
"""Seeds on which a suspect must fail alone beside two controls that pass."""

ALONE = 3
"""A suspect that passes alone so often in a row is no suspect by itself, whatever failed with it."""

TOGETHER_SEEDS = 2
"""Cases count as failing together when they do on so many seeds."""

LATER_ODDS = 0.15
"""What the odds of a parameter's later cases are, which are tried once its first has passed, to those of its first."""

PASSED_ODDS = 0.7
"""What a test in which a parameter passed leaves of its odds of being unsafe in another test."""


class Setting(NamedTuple):
    """A value of a parameter, for everybody."""

    parameter: str
    value: Value


class Failure(NamedTuple):
    """A run of a suspect that failed, and the file of its history."""

    spec: RunSpec
    result: TrialResult
    file: str


class Hunt:
    """Decides the open cases of one test of a campaign."""

    def __init__(self, campaign: Campaign, test: str) -> None:
        self.campaign, self.test = campaign, test
        self.look_ahead = max(LOOK_AHEAD, campaign.target.workers)
        self.observed = campaign.observed(test)

    def run(self) -> None:
        """First the values that no run of another test has shown to be valid, then the cases."""
        campaign = self.campaign
        cases = [case for name in campaign.names for case in campaign.state[name].cases if case.test == self.test]
        values = list(dict.fromkeys(Setting(case.parameter, self._unusual(case)) for case in cases))
        values = [v for v in values if v not in campaign.screened and campaign.state[v.parameter].found is None]
        self._screen([v for v in values if v.value not in campaign.state[v.parameter].invalid])
        if cases := [case for case in cases if campaign.wanted(case)]:
            self._mix(cases)

    def _unusual(self, case: Case) -> Value:
        return case.other if case.base == self.observed[case.parameter] else case.base

    def _search(self, groups: Sequence[str], odds: Sequence[float] | None = None) -> Search:
        from zebra.campaign.choose import Costs
        from zebra.campaign.search import Search

        campaign = self.campaign
        numbers = {name: number for number, name in enumerate(dict.fromkeys(groups))}
        found = Search(len(groups), campaign.prior(), odds, [numbers[name] for name in groups],
                       Costs(*campaign.costs_s(self.test)), seeds=SEEDS)  # fmt: skip
        found.was_alike((), failed=False)
        return found

    def _pooled(self, search: Search, purpose: Purpose, assignment: Callable[[Sequence[int]], Assignment],
                passed: Callable[[Sequence[int], TrialResult], None],
                confirm: Callable[[int], None]) -> list[list[int]]:  # fmt: skip
        """Run pools, telling `passed` of each that does, and confirm suspects until neither is left; the pools that
        failed."""
        campaign, failed = self.campaign, list[list[int]]()
        while True:
            pools = search.pools(self.look_ahead)
            campaign.report(f"{'values' if purpose == 'control' else 'pools'} of {self.test.rpartition('::')[2]}")
            first = campaign.trials.total
            specs = [
                campaign.spec(self.test, assignment(pool), trial_seed(campaign.seed, "pool", self.test, first + i))
                for i, pool in enumerate(pools)
            ]
            for pool, result in zip(pools, campaign.make(purpose, specs), strict=True):
                search.took(pool, failed=not result.passed)
                if result.passed:
                    passed(pool, result)
                else:
                    failed.append(pool)
            suspects = sorted(search.suspects())
            for item in suspects:
                if item in search.open and item in search.suspects():
                    confirm(item)
            if not pools and not suspects:
                return failed

    # -- values ----------------------------------------------------------------------------------------------

    def _screen(self, values: list[Setting]) -> None:
        """Give every node the same unusual values, of many parameters in one run."""
        if not values:
            return
        campaign = self.campaign
        search = self._search([value.parameter for value in values])

        def assignment(pool: Sequence[int]) -> Assignment:
            return {values[item].parameter: {"*": values[item].value} for item in pool}

        def confirm(item: int) -> None:
            """Alone on fresh seeds, beside the test as it is on the same seed, until it is decided."""
            while item in search.suspects():
                seed = self._seed(search, item, *values[item])
                spec = campaign.spec(self.test, assignment([item]), seed)
                result, usual = campaign.make("control", [spec, campaign.spec(self.test, {}, seed)])
                search.took([item], failed=not result.passed)
                search.was_alike((), failed=not usual.passed)
                search.hits[item] += usual.passed and not result.passed
                if search.judge(item, alike=0.0):
                    if item in search.unsafe:
                        campaign.is_invalid(self.test, *values[item], spec, result)
                    return

        def passed(pool: Sequence[int], result: TrialResult) -> None:
            campaign.screened.update(values[item] for item in pool)

        self._pooled(search, "control", assignment, passed, confirm)

    def _seed(self, search: Search, item: int, *what: object) -> int:
        """The seed of the next run of a suspect: first the pre-run's."""
        rounds = search.confirmed[item]
        search.confirmed[item] += 1
        own = self.campaign.tested[self.test].spec.seed
        return own if not rounds else trial_seed(self.campaign.seed, "confirm", self.test, *what, rounds)

    # -- mixtures --------------------------------------------------------------------------------------------

    def _mix(self, cases: list[Case]) -> None:
        campaign = self.campaign
        search = self._search([case.parameter for case in cases], self._odds(cases))
        failures: dict[int, list[Failure]] = {}
        aside = set[int]()

        def assignment(pool: Sequence[int]) -> Assignment:
            return mixed([cases[item] for item in pool])

        def passed(pool: Sequence[int], result: TrialResult) -> None:
            for item in pool:
                campaign.passed(cases[item], result)
            search.drop([item for item in pool if cases[item].parameter in result.unapplied])

        def confirm(item: int) -> None:
            case = cases[item]
            campaign.report(f"confirm {case.parameter}")
            outcomes: list[bool] = []
            while item in search.suspects():
                outcomes.append(self._round(search, item, case, failures.setdefault(item, [])))
                if len(outcomes) >= ALONE and not any(outcomes):
                    aside.add(item)
                    search.drop([item])
                if search.judge(item):
                    self._decided(search, item, case, failures[item])
                    search.drop([other for other in search.open if not campaign.wanted(cases[other])])
                    return

        failed = self._pooled(search, "pooled", assignment, passed, confirm)
        self._together(search, cases, failed, aside)
        campaign.note_search(cases, search)

    def _odds(self, cases: Sequence[Case]) -> list[float]:
        """Odds of each case before its test is run: a parameter that passed elsewhere is less likely to be unsafe."""
        passed = {name: self.campaign.passed_tests(name) for name in {case.parameter for case in cases}}
        least, seen, odds = min(passed.values()), set[str](), []
        for case in cases:
            odds.append(PASSED_ODDS ** (passed[case.parameter] - least) * (LATER_ODDS if case.parameter in seen else 1))
            seen.add(case.parameter)
        return odds

    def _round(self, search: Search, item: int, case: Case, failures: list[Failure]) -> bool:
        """One seed: the suspect alone and, if that fails and still needs them, both controls. Does it fail?"""
        campaign = self.campaign
        seed = self._seed(search, item, case.parameter, case.who, case.base, case.other)
        spec, file = campaign.spec(self.test, mixed([case]), seed), campaign.keep(campaign.trials.total)
        (result,) = campaign.make("confirm", [spec], keep=[file])
        search.took([item], failed=not result.passed)
        if result.passed:
            campaign.passed(case, result)
        elif search.needs_controls(item):
            unusual, usual = campaign.make("control", [
                campaign.spec(self.test, {case.parameter: {"*": value}}, seed)
                for value in (self._unusual(case), self.observed[case.parameter])
            ])  # fmt: skip
            search.was_alike((), failed=not usual.passed)
            search.was_alike([item], failed=not unusual.passed)
            if usual.passed and unusual.passed:
                search.hits[item] += 1
                failures.append(Failure(spec, result, file))
        return not result.passed

    def _decided(self, search: Search, item: int, case: Case, failures: list[Failure]) -> None:
        campaign, runs = self.campaign, search.alone[item]
        if item in search.unsafe:
            note = f"{search.hits[item]} of {runs} runs alone failed beside both controls, {case.who} against the rest"
            campaign.is_unsafe(case, failures[0], note)
        elif item in search.invalid:
            value = self._unusual(case)
            spec = campaign.spec(self.test, {case.parameter: {"*": value}}, campaign.tested[self.test].spec.seed)
            campaign.is_invalid(self.test, case.parameter, value, spec, campaign.make("control", [spec])[0])
        else:
            campaign.is_undecided(case, f"{search.hits[item]} of {runs} runs alone failed beside both controls")

    # -- what fails only together ----------------------------------------------------------------------------

    def _together(self, search: Search, cases: Sequence[Case], failed: Sequence[Sequence[int]],
                  aside: set[int]) -> None:  # fmt: skip
        """Cut pools whose failure no case explains down to the cases that fail together, if they do so again. Those
        `aside` are suspects that never failed alone."""
        campaign = self.campaign
        for pool in failed:
            alone = [cases[item] for item in pool if campaign.wanted(cases[item], passed_too=True)]
            if any(campaign.state[cases[item].parameter].found is not None for item in pool):
                continue
            if not alone or (not aside & set(pool) and search.mixed.none_bad_in(pool) < 0.5):
                continue

            def passes(some: Sequence[Case]) -> bool:
                seeds = [trial_seed(campaign.seed, "together", self.test, i) for i in range(TOGETHER_SEEDS)]
                specs = [campaign.spec(self.test, mixed(some), seed) for seed in seeds]
                return any(result.passed for result in campaign.make("confirm", specs))

            if passes(alone):
                campaign.unexplained += 1
                continue
            needed = necessary(alone, lambda gone, left=alone: passes([c for c in left if c not in gone]))  # type: ignore[misc]
            if len(needed) == 1:
                self._unmasked(needed[0], search)
            elif needed and not passes(needed):
                self._confirm_together(needed)
            else:
                campaign.unexplained += 1

    def _unmasked(self, case: Case, search: Search) -> None:
        """Decide a case that other cases masked by its runs alone: its pools say nothing of it."""
        alone, failures = self._search([case.parameter]), list[Failure]()
        for _ in range(sum(search.passed.values()) // max(1, len(search.passed))):
            alone.was_alike((), failed=False)  # so many runs at least passed, whatever was in them
        while self._round(alone, 0, case, failures):
            if alone.judge(0):
                self._decided(alone, 0, case, failures)
                return
        self.campaign.unexplained += 1

    def _confirm_together(self, cases: Sequence[Case]) -> None:
        """Cases that failed together on some seeds: unsafe if all controls pass on more.

        Those that also fail when all nodes agree on the others are unsafe given these values, and the others may be
        safe; if none does, each requires that the nodes disagree on the others too.
        """
        campaign = self.campaign
        failures = []
        for i in range(SEEDS):
            seed = trial_seed(campaign.seed, "both", self.test, *[case.parameter for case in cases], i)
            spec, file = campaign.spec(self.test, mixed(cases), seed), campaign.keep(campaign.trials.total)
            (result,) = campaign.make("confirm", [spec], keep=[file])
            unusual: Assignment = {case.parameter: {"*": self._unusual(case)} for case in cases}
            controls = [campaign.spec(self.test, assignment, seed) for assignment in ({}, unusual)]
            controls += [campaign.spec(self.test, mixed([c for c in cases if c != one]), seed) for one in cases]
            if result.passed or not all(control.passed for control in campaign.make("control", controls)):
                campaign.unexplained += 1
                return
            failures.append(Failure(spec, result, file))
        if [case for case in cases if self._fails_given(case, [other for other in cases if other != case])]:
            return
        for case in cases:
            others = [other for other in cases if other != case]
            note = f"{SEEDS} of {SEEDS} runs failed beside all controls, together with " + ", ".join(
                f"{other.parameter} ({other.who} against the rest)" for other in others
            )
            campaign.is_unsafe(case, failures[0], note)
            campaign.state[case.parameter].together = [replace(other) for other in others]

    def _fails_given(self, case: Case, others: Sequence[Case]) -> bool:
        """Decide a case as unsafe if it fails beside both controls while all nodes agree on each of the others."""
        campaign = self.campaign
        for values in product(*((other.base, other.other) for other in others)):
            given: Assignment = {other.parameter: {"*": v} for other, v in zip(others, values, strict=True)}
            failures = []
            for i in range(SEEDS):
                seed = trial_seed(campaign.seed, "given", self.test, case.parameter, *values, i)
                spec, file = campaign.spec(self.test, mixed([case]) | given, seed), campaign.keep(campaign.trials.total)
                (result,) = campaign.make("confirm", [spec], keep=[file])
                controls = [
                    campaign.spec(self.test, given | {case.parameter: {"*": value}}, seed)
                    for value in (case.base, case.other)
                ]
                if result.passed or not all(control.passed for control in campaign.make("control", controls)):
                    break
                failures.append(Failure(spec, result, file))
            else:
                note = f"{SEEDS} of {SEEDS} runs failed beside both controls, {case.who} against the rest"
                campaign.is_unsafe(case, failures[0], note)
                campaign.state[case.parameter].given = given
                return True
        return False
