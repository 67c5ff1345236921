"""The search of one test: first for values that are invalid for everybody, then for mixtures that are unsafe.

`Search` decides which runs to make; here they get their values, seeds and controls. A suspect is run alone on fresh
seeds, with both controls on the same seed, until its posterior decides; the first such seed is the pre-run's, which
thereby is one of the controls. A parameter that is found leaves all pools at once. What fails again and again though no
case fails alone is cut down to the cases that fail together. Rolling changes are searched after the mixtures, one order
of roles at a time, and their controls are rolling restarts without a change.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import replace
from itertools import product
from typing import TYPE_CHECKING, NamedTuple

from zebra.campaign.halving import least
from zebra.campaign.plan import Case
from zebra.campaign.rolling import BEARS_SEEDS, Order
from zebra.campaign.trial import Purpose, TrialResult, trial_seed
from zebra.params import Assignment
from zebra.params.parameter import Value
from zebra.spec import RunSpec

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

TOGETHER_TRIES = 6
"""Further seeds on which cases that failed together are tried until they have failed on `SEEDS` of them."""

UNEXPLAINED = 3
"""Failed pools that no case explains, after which they are looked into at once and not at the end of the search."""

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


def _usual_runs(search: Search) -> int:
    """About how many runs passed at least, whatever was in them."""
    return sum(search.passed.values()) // max(1, len(search.passed))


class Hunt:
    """Decides the open cases of one test of a campaign."""

    def __init__(self, campaign: Campaign, test: str) -> None:
        self.campaign, self.test = campaign, test
        self.look_ahead = max(LOOK_AHEAD, campaign.target.workers, campaign.look_ahead)
        self.observed = campaign.observed(test)
        self._settings: Sequence[Setting] = ()
        """The parameter of each item of the present search, and its unusual value."""
        self._order: Order = ()
        """The order of the roles in the rolling changes of the present search; () while it is of mixtures."""

    def run(self) -> None:
        """First the values that no run of another test has shown to be valid, then the cases."""
        campaign = self.campaign
        cases = [case for name in campaign.names for case in campaign.state[name].cases if case.test == self.test]
        values = list(dict.fromkeys(Setting(case.parameter, self._unusual(case)) for case in cases))
        values = [v for v in values if v not in campaign.screened and campaign.state[v.parameter].found is None]
        self._screen([v for v in values if v.value not in campaign.state[v.parameter].invalid])
        for order in ((), *campaign.tested[self.test].orders):
            if wanted := [case for case in cases if case.order == order and campaign.wanted(case)]:
                self._mix(wanted, order)

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

    def _spec(self, cases: Sequence[Case], seed: int, also: Assignment | None = None) -> RunSpec:
        return self.campaign.spec_of(self.test, self._order, cases, seed, also)

    def _agreed(self, assignment: Assignment, seed: int) -> RunSpec:
        """The control of such a run: all nodes agree throughout."""
        return self.campaign.spec(self.test, assignment, seed, self._order)

    def _apart(self, search: Search, pool: list[int]) -> list[int]:
        """The pool without what sets a parameter that another item of it sets too, and without what fails for everybody
        together with others of it; what passed least often stays."""
        taken, kept, settings = set[str](), list[int](), set[Setting]()
        for item in sorted(pool, key=lambda item: (search.passed.get(item, 0), item)):
            touches = self.campaign.touches(self._settings[item].parameter)
            if not taken & touches and not self.campaign.clashing(settings | {self._settings[item]}):
                kept.append(item)
                taken |= touches
                settings.add(self._settings[item])
        return sorted(kept)

    def _pooled(self, search: Search, purpose: Purpose, spec: Callable[[Sequence[int], int], RunSpec],
                ended: Callable[[list[int], TrialResult], None], confirm: Callable[[Sequence[int]], None],
                explain: Callable[[bool], bool] = lambda over: False) -> None:  # fmt: skip
        """Run pools, telling `ended` of each, and rounds of all suspects until neither is left. `explain` looks into
        what failed so far, thoroughly when the search is `over`, and says whether that changed anything."""
        campaign = self.campaign
        while True:
            pools = [self._apart(search, pool) for pool in search.pools(self.look_ahead)]
            what = "values" if purpose == "control" else "pools"
            campaign.report(f"{what} of {self.test.rpartition('::')[2]}", search.to_come())
            first = campaign.trials.total
            specs = [
                spec(pool, trial_seed(campaign.seed, "pool", self.test, first + i)) for i, pool in enumerate(pools)
            ]
            for pool, result in zip(pools, campaign.make(purpose, specs), strict=True):
                search.took(pool, failed=not result.passed)
                ended(pool, result)
            over = not pools
            while suspects := self._apart(search, sorted(search.suspects())):
                campaign.suspects, over = [self._settings[item].parameter for item in suspects], False
                confirm(suspects)
            if not explain(over) and over:
                return

    def _unexplained(self, search: Search, failed: list[list[int]], aside: Set[int],
                     known: Callable[[list[int]], bool], over: bool) -> Iterator[list[int]]:  # fmt: skip
        """Take out of the failed pools, the smallest first, those in which nothing is known and in most runs nothing is
        probably bad, or something was suspected in vain; before the search is `over` only once there are a few."""

        def unexplained(pool: list[int]) -> bool:
            return not known(pool) and (bool(aside & set(pool)) or search.mixed.none_bad_in(pool) >= 0.5)

        pools = sorted(filter(unexplained, failed), key=len)
        for pool in pools if over or len(pools) >= UNEXPLAINED else ():
            failed.remove(pool)
            yield pool

    def _fresh(self, search: Search, items: Sequence[int], runs: int) -> list[int]:
        """The suspects of the next rounds, each so often as it gets a seed: all that one needs at first, if they and
        their `runs` each do not exceed the look-ahead."""
        many = SEEDS if runs * SEEDS * len(items) <= self.look_ahead else 1
        return [item for item in items for _ in range(1 if search.confirmed[item] else many)]

    # -- values ----------------------------------------------------------------------------------------------

    def _screen(self, values: list[Setting]) -> None:
        """Give every node the same unusual values, of many parameters in one run."""
        if not values:
            return
        campaign = self.campaign
        self._settings = values
        search = self._search([value.parameter for value in values])
        alone: dict[int, list[bool]] = {}
        failed, aside = list[list[int]](), set[int]()

        def spec_of(pool: Sequence[int], seed: int) -> RunSpec:
            return campaign.spec(self.test, {values[i].parameter: {"*": values[i].value} for i in pool}, seed)

        def confirm(items: Sequence[int]) -> None:
            """Alone on fresh seeds, beside the test as it is on the same seed."""
            rounds = [(item, self._seed(search, item, *values[item])) for item in self._fresh(search, items, 2)]
            specs = [spec for item, seed in rounds for spec in (spec_of([item], seed), spec_of([], seed))]
            results = campaign.make("control", specs)
            for (item, _), result, usual in zip(rounds, results[::2], results[1::2], strict=True):
                search.took([item], failed=not result.passed)
                search.was_alike((), failed=not usual.passed)
                search.hits[item] += usual.passed and not result.passed
                alone.setdefault(item, []).append(result.passed)
            for (item, _), spec, result in zip(rounds, specs[::2], results[::2], strict=True):
                if not result.passed and item in search.open:
                    search.judge(item, alike=0.0)
                    if item in search.unsafe:
                        campaign.is_invalid(self.test, *values[item], spec, result)
            for item in items:
                if len(alone[item]) >= ALONE and all(alone[item]):
                    campaign.screened.add(values[item])
                    aside.add(item)
                    search.drop([item])

        def ended(pool: list[int], result: TrialResult) -> None:
            if result.passed:
                campaign.screened.update(values[item] for item in pool)
            else:
                failed.append(pool)

        def known(pool: list[int]) -> bool:
            return bool(search.unsafe & set(pool)) or campaign.clashing({values[item] for item in pool})

        def explain(over: bool) -> bool:
            return any(self._clash(search, pool) for pool in self._unexplained(search, failed, aside, known, over))

        self._pooled(search, "control", spec_of, ended, confirm, explain)

    def _clash(self, search: Search, pool: list[int]) -> bool:
        """Cut a failed pool that no value explains down to values of which each is fine, but which nodes cannot have
        together, if it fails again; they are not tried together any more. One value alone that fails was masked by
        others. Was either possible?"""
        campaign = self.campaign

        def fails(items: Sequence[int], what: str = "clash") -> bool:
            values = {self._settings[item].parameter: {"*": self._settings[item].value} for item in items}
            seeds = [trial_seed(campaign.seed, what, self.test, i) for i in range(TOGETHER_SEEDS)]
            results = campaign.make("control", [campaign.spec(self.test, values, seed) for seed in seeds])
            return not any(result.passed for result in results)

        together = least(pool, fails) if fails(pool) else []
        if not together or not (self._masked(search, *together) if len(together) == 1 else fails(together, "again")):
            campaign.unexplained += 1
            return False
        if len(together) > 1:
            campaign.clash([self._settings[item] for item in together])
        search.forget({search.groups[item] for item in together})
        return True

    def _masked(self, search: Search, item: int) -> bool:
        """Decide a value that others masked by its runs alone, if they tell: its pools say nothing of it."""
        campaign, value = self.campaign, self._settings[item]
        alone = self._search([value.parameter])
        for _ in range(_usual_runs(search)):
            alone.was_alike((), failed=False)
        while item in search.open:
            seed = self._seed(alone, 0, *value)
            specs = [self._agreed(some, seed) for some in ({value.parameter: {"*": value.value}}, {})]
            result, usual = campaign.make("control", specs)
            if result.passed or not usual.passed:
                return False
            alone.took([0], failed=True)
            alone.was_alike((), failed=False)
            alone.hits[0] += 1
            if alone.judge(0, alike=0.0):
                campaign.is_invalid(self.test, *value, specs[0], result)
                search.unsafe.add(item)
                search.drop([item])
        return item in search.unsafe

    def _seed(self, search: Search, item: int, *what: object) -> int:
        """The seed of the next run of a suspect: first the pre-run's."""
        rounds = search.confirmed[item]
        search.confirmed[item] += 1
        own = self.campaign.tested[self.test].spec.seed
        return own if not rounds else trial_seed(self.campaign.seed, "confirm", self.test, *what, rounds)

    # -- mixtures --------------------------------------------------------------------------------------------

    def _mix(self, cases: list[Case], order: Order) -> None:
        """Mixtures, or rolling changes in one order of the roles."""
        campaign, self._order = self.campaign, order
        self._settings = [Setting(case.parameter, self._unusual(case)) for case in cases]
        search = self._search([case.parameter for case in cases], self._odds(cases))
        for _ in range(BEARS_SEEDS - 1 if order else 0):
            search.was_alike((), failed=False)  # the plain rolling restarts
        failures: dict[int, list[Failure]] = {}
        outcomes: dict[int, list[bool]] = {}
        failed, aside = list[list[int]](), set[int]()

        def spec_of(pool: Sequence[int], seed: int) -> RunSpec:
            return self._spec([cases[item] for item in pool], seed)

        def ended(pool: list[int], result: TrialResult) -> None:
            if not result.passed:
                failed.append(pool)
                return
            for item in pool:
                campaign.passed(cases[item], result)
            search.drop([item for item in pool if cases[item].parameter in result.unapplied])

        def confirm(items: Sequence[int]) -> None:
            campaign.report(f"confirm {', '.join(cases[item].parameter for item in items)}", search.to_come())
            suspects = [(item, cases[item]) for item in self._fresh(search, items, 1)]
            for (item, _), fails in zip(suspects, self._rounds(search, suspects, failures), strict=True):
                outcomes.setdefault(item, []).append(fails)
            for item in items:
                if len(outcomes[item]) >= ALONE and not any(outcomes[item]):
                    aside.add(item)
                    search.drop([item])
                if item in search.suspects() and search.judge(item):
                    self._decided(search, item, cases[item], failures.get(item, []))
                    search.drop([other for other in search.open if not campaign.wanted(cases[other])])

        def known(pool: list[int]) -> bool:
            return any(campaign.state[cases[item].parameter].found is not None for item in pool)

        def explain(over: bool) -> bool:
            for pool in self._unexplained(search, failed, aside, known, over):
                if self._together(search, {cases[item]: search.groups[item] for item in pool}):
                    search.drop([other for other in search.open if not campaign.wanted(cases[other])])
                    return True
            return False

        self._pooled(search, "pooled", spec_of, ended, confirm, explain)
        campaign.note_search(cases, search)

    def _odds(self, cases: Sequence[Case]) -> list[float]:
        """Odds of each case before its test is run: a parameter that passed elsewhere is less likely to be unsafe."""
        passed = {name: self.campaign.passed_tests(name) for name in {case.parameter for case in cases}}
        least, seen, odds = min(passed.values()), set[str](), []
        for case in cases:
            odds.append(PASSED_ODDS ** (passed[case.parameter] - least) * (LATER_ODDS if case.parameter in seen else 1))
            seen.add(case.parameter)
        return odds

    def _rounds(self, search: Search, suspects: Sequence[tuple[int, Case]],
                failures: dict[int, list[Failure]]) -> list[bool]:  # fmt: skip
        """One seed for each: the suspect alone and, where that fails and still needs them, both controls. Who fails?"""
        campaign, first = self.campaign, self.campaign.trials.total
        seeds = [self._seed(search, item, case.parameter, case.who, case.base, case.other) for item, case in suspects]
        specs = [self._spec([case], seed) for (_, case), seed in zip(suspects, seeds, strict=True)]
        files = [campaign.keep(first + i) for i in range(len(specs))]
        results = campaign.make("confirm", specs, keep=files)
        doubted = [
            i for i, ((item, _), result) in enumerate(zip(suspects, results, strict=True))
            if not result.passed and (result.result == "slow" or search.needs_controls(item))
        ]  # fmt: skip
        controls = [
            self._agreed({case.parameter: {"*": value}}, seeds[i])
            for i in doubted for _, case in (suspects[i],)
            for value in (self._unusual(case), self.observed[case.parameter])
        ]  # fmt: skip
        agree = campaign.make("control", controls)
        pairs = dict(zip(doubted, zip(agree[::2], agree[1::2], strict=True), strict=True))
        for i in doubted:
            (results[i],) = campaign.make("confirm", [specs[i]])  # perhaps slow no more, beside its controls
        for i, ((item, case), result) in enumerate(zip(suspects, results, strict=True)):
            search.took([item], failed=not result.passed)
            if result.passed:
                campaign.passed(case, result)
            elif i in pairs:
                unusual, usual = pairs[i]
                search.was_alike((), failed=not usual.passed)
                search.was_alike([item], failed=not unusual.passed)
                if usual.passed and unusual.passed:
                    search.hits[item] += 1
                    failures.setdefault(item, []).append(Failure(specs[i], result, files[i]))
        return [not result.passed for result in results]

    def _decided(self, search: Search, item: int, case: Case, failures: list[Failure]) -> None:
        campaign = self.campaign
        failed, runs, hits = search.failed_alone[item], search.alone[item], search.hits[item]
        note = f"{failed} of {runs} runs alone failed, {hits} beside controls that passed"
        if item in search.unsafe:
            campaign.is_unsafe(case, failures[0], f"{note}, {case}")
        elif item in search.invalid and case.order:
            campaign.not_borne(case, self._unusual(case))
        elif item in search.invalid:
            value = self._unusual(case)
            spec = campaign.spec(self.test, {case.parameter: {"*": value}}, campaign.tested[self.test].spec.seed)
            campaign.is_invalid(self.test, case.parameter, value, spec, campaign.make("control", [spec])[0])
        else:
            campaign.is_undecided(case, note)

    # -- what fails only together ----------------------------------------------------------------------------

    def _together(self, search: Search, pool: Mapping[Case, int]) -> bool:
        """Cut a failed pool whose failure no case explains down to the cases that fail together, if it does so again,
        and decide those. Was that possible? `pool` has the group of each case."""
        campaign, wanted = self.campaign, [case for case in pool if self.campaign.wanted(case, passed_too=True)]

        def fails(some: Sequence[Case]) -> bool:
            seeds = [trial_seed(campaign.seed, "together", self.test, i) for i in range(TOGETHER_SEEDS)]
            specs = [self._spec(some, seed) for seed in seeds]
            return not any(result.passed for result in campaign.make("confirm", specs))

        together = least(wanted, fails) if wanted and fails(wanted) else []
        decided = self._confirm_together(together, search) if together else ()
        if not decided:
            campaign.unexplained += 1
            return False
        search.forget({pool[case] for case in decided})
        return True

    def _unmasked(self, case: Case, search: Search) -> bool:
        """Decide a case that other cases masked by its runs alone, if they tell: its pools say nothing of it."""
        alone, failures = self._search([case.parameter]), dict[int, list[Failure]]()
        for _ in range(_usual_runs(search)):
            alone.was_alike((), failed=False)
        while self._rounds(alone, [(0, case)], failures) == [True]:
            if alone.judge(0):
                self._decided(alone, 0, case, failures.get(0, []))
                return True
        return False

    def _confirm_together(self, cases: Sequence[Case], search: Search) -> Sequence[Case]:
        """Cases that failed together on some seeds: unsafe if they do on more beside all controls, of which one leaves
        out each of them. What fails as well without one is tried without it. Those decided, none if it was chance.

        Those that also fail when all nodes agree on the others are unsafe given these values, and the others may be
        safe; if none does, each requires that the nodes disagree on the others too.
        """
        if len(cases) == 1:
            return cases if self._unmasked(cases[0], search) else ()
        campaign, failures = self.campaign, list[Failure]()
        for i in range(TOGETHER_TRIES):
            seed = trial_seed(campaign.seed, "both", self.test, *[case.parameter for case in cases], i)
            spec, file = self._spec(cases, seed), campaign.keep(campaign.trials.total)
            (result,) = campaign.make("confirm", [spec], keep=[file])
            if result.passed:
                continue
            unusual: Assignment = {case.parameter: {"*": self._unusual(case)} for case in cases}
            without = [[case for case in cases if case != one] for one in cases]
            agreed = [self._agreed(agree, seed) for agree in ({}, unusual)]
            controls = campaign.make("control", [*agreed, *(self._spec(some, seed) for some in without)])
            if not all(control.passed for control in controls[:2]):
                return ()
            for some, control in zip(without, controls[2:], strict=True):
                if not control.passed:
                    return self._confirm_together(some, search)
            failures.append(Failure(spec, result, file))
            if len(failures) == SEEDS:
                break
        else:
            return ()
        if [case for case in cases if self._fails_given(case, [other for other in cases if other != case])]:
            return cases
        for case in cases:
            others = [other for other in cases if other != case]
            note = f"{SEEDS} runs failed beside all controls, together with " + ", ".join(
                f"{other.parameter} ({other})" for other in others
            )
            campaign.is_unsafe(case, failures[0], note)
            campaign.state[case.parameter].together = [replace(other) for other in others]
        return cases

    def _fails_given(self, case: Case, others: Sequence[Case]) -> bool:
        """Decide a case as unsafe if it fails beside both controls while all nodes agree on each of the others."""
        campaign = self.campaign
        for values in product(*((other.base, other.other) for other in others)):
            given: Assignment = {other.parameter: {"*": v} for other, v in zip(others, values, strict=True)}
            failures = []
            for i in range(SEEDS):
                seed = trial_seed(campaign.seed, "given", self.test, case.parameter, *values, i)
                spec, file = self._spec([case], seed, given), campaign.keep(campaign.trials.total)
                (result,) = campaign.make("confirm", [spec], keep=[file])
                controls = [
                    self._agreed(given | {case.parameter: {"*": value}}, seed) for value in (case.base, case.other)
                ]
                if result.passed or not all(control.passed for control in campaign.make("control", controls)):
                    break
                failures.append(Failure(spec, result, file))
            else:
                note = f"{SEEDS} of {SEEDS} runs failed beside both controls, {case}"
                campaign.is_unsafe(case, failures[0], note)
                campaign.state[case.parameter].given = given
                return True
        return False
