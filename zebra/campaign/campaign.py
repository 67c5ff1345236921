"""A campaign from its first run to its verdicts. Source: ../shared/design.md section 9."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from functools import partial
from random import Random
from typing import TYPE_CHECKING

import msgspec

from zebra.campaign.accounting import result_of
from zebra.campaign.explain import Explanation
from zebra.campaign.hunt import Failure, Hunt
from zebra.campaign.plan import (
    ALONE_TESTS,
    Case,
    cases_of,
    designed,
    mixed,
    observed_values,
    one_by_one,
    readers,
)
from zebra.campaign.result import CampaignResult, Evidence, ParameterResult, Trials
from zebra.campaign.rolling import BEARS_SEEDS, How, Order, orders, roll, rolling_cases
from zebra.campaign.slow import RATIO, Pace
from zebra.campaign.trial import BudgetSpent, Purpose, Runner, Trial, TrialResult, trial_seed, without
from zebra.campaign.verdict import State
from zebra.errors import ConfigError
from zebra.params import Assignment, Read, places_seen, values_seen
from zebra.params.parameter import Value
from zebra.params.rules import Rules
from zebra.run import over
from zebra.spec import RunSpec
from zebra.target import Target
from zebra.topology import Place

if TYPE_CHECKING:
    from zebra.campaign.posterior import Prior
    from zebra.campaign.search import Search

Progress = Callable[[str, int, int, Sequence[str], Sequence[str]], None]
"""Called with the stage, trials done, trials expected, the culprits so far and the suspects of the present search."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tested:
    """A test that passed its pre-run: its own spec, its places, what it read, and the run time that it took.

    `orders` are the orders in which its roles change in rolling changes; () if none are made, or it bears none.
    """

    spec: RunSpec
    places: tuple[Place, ...]
    reads: tuple[Read, ...]
    duration_s: float = 0.0
    orders: tuple[Order, ...] = ()


class Campaign:
    """Decides the parameters of one target over some tests.

    `tests` are their RunSpecs; `keep(trial_number)` gives the file for the history of a run that may become evidence;
    `describe(spec)` is the command that replays a spec. `only(test, parameter)` says what is to be tried at all;
    `look_ahead` is how many pools to try at a time at least. `rules` are what the user adds to the target's own;
    `rolling` is how rolling changes are made, "" for none; `slow` is how many times the slowest run in which all nodes
    agree makes a run slow, 0 for none. Raises ConfigError for rules or names that do not fit.
    """

    def __init__(self, target: Target, tests: Sequence[RunSpec], runner: Runner, *, seed: int, params: str = "*",
                 accepted: Sequence[str] = (), progress: Progress = lambda *_: None,
                 keep: Callable[[int], str] = lambda _: "",
                 describe: Callable[[RunSpec], str] = RunSpec.token,
                 only: Callable[[str, str], bool] = lambda *_: True, look_ahead: int = 0,
                 rules: Rules | None = None, rolling: How = "", slow: float = RATIO) -> None:  # fmt: skip
        self.target, self.specs, self.runner, self.seed = target, list(tests), runner, seed
        if rolling and target.agent:
            raise ConfigError("--zebra-rolling: tests under --zebra-agent have no nodes that zebra could restart")
        self.rules, self.rolling, self.pace = target.rules + (rules or Rules()), rolling, Pace(slow)
        self.space = self.rules.applied(target.space)
        self.names = self.space.matching(params)
        if not self.names:
            raise ConfigError(f"--zebra-params: no parameter of {target.name} matches {params!r}")
        for name in accepted:
            self.space[name]
        self.accepted = set(accepted)
        self.progress, self.keep, self.describe, self.only = progress, keep, describe, only
        self.look_ahead = look_ahead
        self.suspects: list[str] = []
        self.cut: BudgetSpent | None = None
        """Why the campaign ended before it had all verdicts."""
        self.trials = Trials()
        self.tested: dict[str, Tested] = {}
        self.left_out: list[str] = []
        self.skipped: list[str] = []
        self.uncertain: dict[str, str] = {}
        self.state = {name: State() for name in self.names}
        self.evidence: dict[str, str] = {}
        self.kinds: set[str] = set()
        self.unexplained = 0
        self.screened: set[tuple[str, Value]] = set()
        self.clashes: list[frozenset[tuple[str, Value]]] = []
        """Values that fail when all nodes have all of them."""
        self.not_rolling: list[str] = []
        self._cache: dict[bytes, TrialResult] = {}
        self._varied: dict[bytes, frozenset[str]] = {}
        self._observed: dict[str, dict[str, Value]] = {}
        self.zebraconf: dict[str, dict[str, list[Case]]] = {}
        self.searched: list[str] = []
        self.explained: list[str] = []
        self._found_cases = self._cleared_cases = 0
        self._wall_s: dict[str, dict[bool, list[float]]] = {}

    # -- running trials --------------------------------------------------------------------------------------

    def spec(self, test: str, assignment: Assignment, seed: int, order: Order = (),
             changes: Mapping[str, Value] | None = None, without_faults: Sequence[str] = ()) -> RunSpec:  # fmt: skip
        """A run of a test with this assignment, and with an `order` of roles these changes to it while it runs.

        What everybody has anyhow is left out: equal runs have equal specs.
        """
        own, usual, changes = self.tested[test].spec, self.observed(test), changes or {}
        varied = frozenset({*assignment, *changes})
        assignment = {n: shares for n, shares in assignment.items() if shares != {"*": usual[n]} or n in own.assignment}
        assignment = self.rules.lowered(assignment, self.space, self.target.space, usual)
        schedule = own.schedule
        if order:
            given = self.rules.changes(changes, self.space, self.target.space, usual)
            nodes = sum(place.role in order for place in self.tested[test].places)
            schedule += roll(order, given, nodes, self.tested[test].duration_s, self.rolling, seed)
        spec = msgspec.structs.replace(
            own, assignment={**without(own.assignment, *assignment), **assignment}, seed=seed, schedule=schedule,
            without_faults=tuple(without_faults),
        )  # fmt: skip
        self._varied[msgspec.msgpack.encode(spec)] = varied
        return spec

    def spec_of(self, test: str, order: Order, cases: Sequence[Case], seed: int, also: Assignment | None = None,
                without_faults: Sequence[str] = ()) -> RunSpec:  # fmt: skip
        """A run of some cases of a test, all mixtures or all rolling changes in one order; `also` is assigned too."""
        changes = {case.parameter: case.other for case in cases if case.order}
        return self.spec(test, mixed(cases) | (also or {}), seed, order, changes, without_faults=without_faults)

    def observed(self, test: str) -> dict[str, Value]:
        """The value that each parameter has in a test of its own accord."""
        if test not in self._observed:
            spec = self.tested[test].spec
            own = spec.assignment if spec.substrate == "sim" else over(self.target.realtime, spec.assignment)
            self._observed[test] = observed_values(self.space, own)
        return self._observed[test]

    def touches(self, name: str) -> frozenset[str]:
        """All parameters that varying this one may set: two that meet there are not varied in one run."""
        return self.rules.touches(name, self.space)

    def judged(self, spec: RunSpec, result: TrialResult) -> TrialResult:
        """A result by all that is known now: a run that passed may be slow beside those in which all nodes agree."""
        return self.pace.judged(spec, self._own(spec), result)

    def _own(self, spec: RunSpec) -> Assignment:
        """What the test of a run assigns of its own accord."""
        return (self.tested[spec.test].spec if spec.test in self.tested else spec).assignment

    def make(self, purpose: Purpose, specs: Sequence[RunSpec], *, keep: Sequence[str] = ()) -> list[TrialResult]:
        """Results in order; a spec that ran before is answered from the cache."""
        keys = [msgspec.msgpack.encode(spec) for spec in specs]
        fresh = [i for i, key in enumerate(keys) if key not in self._cache and key not in keys[:i]]
        trials = [
            Trial(spec=specs[i], purpose=purpose, record_reads=purpose == "prerun", history=keep[i] if keep else "")
            for i in fresh
        ]
        for i, result in zip(fresh, self.runner.map(trials) if trials else [], strict=True):
            self._cache[keys[i]] = result
            self.kinds.update(result.kinds)
            self.pace.note(specs[i], self._own(specs[i]), result)
            self._wall_s.setdefault(specs[i].test, {True: [], False: []})[result.passed].append(result.wall_s)
        setattr(self.trials, purpose, getattr(self.trials, purpose) + len(fresh))
        self.trials.total += len(fresh)
        self.trials.cached += len(specs) - len(fresh)
        for i in fresh:
            for name in self._varied.get(keys[i], ()):
                if name in self.state:
                    self.state[name].trials += 1
        return [self.judged(spec, self._cache[key]) for spec, key in zip(specs, keys, strict=True)]

    def report(self, stage: str, to_come: float = 0.0) -> None:
        """Tell how far the campaign is: about `to_come` runs of the present search are, and as many as the tests that
        are over have taken for each that is not."""
        tests = max(1, len(self.searched))
        expected = (self.trials.total + to_come) * max(1.0, len(self.tested) / tests)
        found = [name for name, state in self.state.items() if state.found]
        self.progress(stage, self.trials.total, round(expected), found, self.suspects)

    # -- the stages ------------------------------------------------------------------------------------------

    def run(self) -> CampaignResult:
        """All verdicts; what could not be decided before the budget ended is undecided. Raises ConfigError when no test
        passes on its own."""
        try:
            self._decide()
        except BudgetSpent as spent:
            self.cut = spent
        return result_of(self)

    def _decide(self) -> None:
        self.prerun()
        self.plan()
        for test in self.tested:
            Hunt(self, test).run()
            self.searched.append(test)
        for name in self.names:
            if self.state[name].found is not None:
                self.report(f"explain {name}")
                Explanation(self, name).run()
                self.explained.append(name)

    def prerun(self) -> None:
        """Run each test once as it is, noting who reads what; one that does not pass is left out."""
        self.report("pre-run")
        for spec, result in zip(self.specs, self.make("prerun", self.specs), strict=True):
            if result.skipped:
                self.skipped.append(f"{spec.test}: {result.message}")
                continue
            if not result.passed:
                self.left_out.append(f"{spec.test}: {result.result}: {result.message}")
                continue
            self.uncertain |= result.uncertain
            if self.target.agent:
                seen = msgspec.structs.replace(spec, assignment=values_seen(result.reads, self.target.space))
                self.tested[spec.test] = Tested(spec=seen, places=places_seen(result.reads), reads=result.reads)
                continue
            places = self.target.full_topology(spec.topology).places()
            self.tested[spec.test] = Tested(spec=spec, places=places, reads=result.reads, duration_s=result.duration_s)
        if not self.tested:
            why = "; ".join([*self.left_out, *self.skipped])
            raise ConfigError(f"no test passes on its own, nothing can be compared: {why}")

    def plan(self) -> None:
        """Draw up the cases of every parameter."""
        random = Random(trial_seed(self.seed, "plan"))
        alone = {name: self._most_readers(name, random) for name in self.names}
        for test, tested in self.tested.items():
            observed = self.observed(test)
            self.zebraconf[test] = {}
            for name in self.names:
                roles = self.readers(test, name)
                given = test, self.space[name], observed[name], roles, tested.places
                state = self.state[name]
                state.roles = tuple(sorted({*state.roles, *roles}))
                if not self.only(test, name):
                    self.zebraconf[test][name] = []
                    continue
                state.cases += cases_of(*given, partial(designed, random=random, alone=test in alone[name]))
                self.zebraconf[test][name] = cases_of(*given, one_by_one)
        if self.rolling:
            self._plan_rolling()

    def readers(self, test: str, name: str) -> tuple[str, ...]:
        """The roles that read a parameter in a test."""
        return readers(self.space[name], self.tested[test].reads)

    def _most_readers(self, name: str, random: Random) -> list[str]:
        """The tests in which one role of those that read a parameter has most nodes, in an order drawn among equals."""
        counts = {}
        for test in random.sample(list(self.tested), len(self.tested)):
            nodes = [place.role for place in self.tested[test].places]
            counts[test] = max((nodes.count(role) for role in self.readers(test, name)), default=0)
        return sorted(counts, key=lambda test: -counts[test])[:ALONE_TESTS]

    # -- rolling changes -------------------------------------------------------------------------------------

    def _plan_rolling(self) -> None:
        """Find out which tests bear rolling restarts in which orders, and draw up the cases of those."""
        random = Random(trial_seed(self.seed, "orders"))
        for test, tested in self.tested.items():
            roles = {role for name in self.names if self.only(test, name) for role in self.readers(test, name)}
            self.report(f"rolling restarts of {test.rpartition('::')[2]}")
            wanted = orders(self.target, sorted(roles), self.rolling, random)
            borne = tuple(order for order in wanted if self._bears(test, order))
            self.tested[test] = replace(tested, orders=borne)
            for name in self.names:
                if self.only(test, name):
                    given = test, self.space[name], self.observed(test)[name], self.readers(test, name), borne
                    self.state[name].cases += rolling_cases(*given)

    def _bears(self, test: str, order: Order) -> bool:
        """Whether a test passes while its nodes are restarted and nothing changes; if not, why is noted."""
        seeds = [self.tested[test].spec.seed, *(trial_seed(self.seed, "roll", test, i) for i in range(1, BEARS_SEEDS))]
        for result in self.make("control", [self.spec(test, {}, seed, order) for seed in seeds]):
            if not result.passed:
                self.not_rolling.append(f"{test}, {' then '.join(order)}: {result.result}: {result.message}")
                return False
        return True

    # -- what a hunt asks, and what it tells -----------------------------------------------------------------

    def wanted(self, case: Case, passed_too: bool = False) -> bool:
        """Whether a case is still of interest."""
        state = self.state[case.parameter]
        bad = case.base in state.invalid or case.other in state.invalid
        decided = state.failed | state.unapplied if passed_too else state.cleared | state.failed | state.unapplied
        return state.found is None and not bad and case not in decided

    def prior(self) -> Prior:
        """What the tests so far let expect of the next one: the share of unsafe cases is learned on line."""
        from zebra.campaign.posterior import PRIOR

        return replace(PRIOR, clean=(PRIOR.clean + self._cleared_cases) / (1 + self._found_cases))

    def passed_tests(self, name: str) -> int:
        """In how many tests a parameter has been searched and not found."""
        return len({case.test for case in self.state[name].cases if case.test in self.searched})

    def costs_s(self, test: str) -> tuple[float, float]:
        """Seconds of a passing and of a failing run. On sim they count alike, so that the course hangs on no clock."""
        if self.specs[0].substrate == "sim":
            return 1.0, 1.0
        known = self._wall_s[test]
        pass_s = sum(known[True]) / len(known[True]) or 1.0
        return pass_s, max(pass_s, sum(known[False]) / len(known[False])) if known[False] else 2 * pass_s

    def passed(self, case: Case, result: TrialResult) -> None:
        """A mixed run with this case has passed."""
        state = self.state[case.parameter]
        (state.unapplied if case.parameter in result.unapplied else state.cleared).add(case)

    def is_unsafe(self, case: Case, failure: Failure, note: str) -> None:
        """A parameter is decided; `failure` is the evidence."""
        if failure.result.result == "slow":  # with the limit in its spec, so that a replay is slow too
            spec = msgspec.structs.replace(failure.spec, slow_s=round(self.pace.limit_s(failure.spec), 6))
            (result,) = self.make("confirm", [spec], keep=[failure.file])
            failure = Failure(spec, result if result.failed else failure.result, failure.file)
        if failure.file:
            self.evidence[case.parameter] = failure.file
        state, parameter = self.state[case.parameter], self.space[case.parameter]
        state.failed.add(case)
        state.cleared.discard(case)
        self._found_cases += 1
        state.found = ParameterResult(
            name=case.parameter, verdict="unsafe", roles=list(state.roles),
            values=[parameter.show(case.other), parameter.show(case.base)],
            note=note, rolling=bool(case.order), evidence=self._evidence(failure.spec, failure.result),
        )  # fmt: skip

    def is_invalid(self, test: str, name: str, value: Value, spec: RunSpec, result: TrialResult) -> None:
        """A value fails even when everybody has it; `spec` is the run that shows it."""
        self.state[name].invalid[value] = test
        self.state[name].invalid_evidence = self._evidence(spec, result)

    def clash(self, values: Sequence[tuple[str, Value]]) -> None:
        """Some values, each of which is fine, fail when all nodes have all of them."""
        self.clashes.append(frozenset(values))
        for name, value in values:
            others = [f"{other}={self.space[other].show(theirs)}" for other, theirs in values if other != name]
            said = f"{self.space[name].show(value)} fails for everyone together with {' and '.join(others)}"
            self.state[name].remarks.append(said)

    def clashing(self, values: AbstractSet[tuple[str, Value]]) -> bool:
        """Whether some of these values are known to fail together."""
        return any(clash <= values for clash in self.clashes)

    def not_borne(self, case: Case, value: Value) -> None:
        """A rolling change cannot be tried: the test does not bear rolling restarts while all nodes have the value."""
        state, shown = self.state[case.parameter], self.space[case.parameter].show(value)
        state.remarks.append(f"not rolled to {shown} in {case.test}: restarts fail when all nodes have it")
        state.cases = [c for c in state.cases if not (c.order and c.test == case.test and value in (c.base, c.other))]

    def is_undecided(self, case: Case, why: str) -> None:
        """A case neither fails nor passes reliably."""
        state, value = self.state[case.parameter], self.space[case.parameter].show(case.other)
        state.undecided.append(f"{case.who} on {value} in {case.test}: {why}")
        state.failed.add(case)
        state.cleared.discard(case)

    def note_search(self, cases: Sequence[Case], search: Search) -> None:
        """A test has been searched: what risk is left for each parameter, and what the next search may expect."""
        for case, risk in zip(cases, search.mixed.risks(), strict=True):
            if self.state[case.parameter].found is None and case in self.state[case.parameter].cleared:
                self.state[case.parameter].risk += float(risk)
                self._cleared_cases += 1

    def _evidence(self, spec: RunSpec, result: TrialResult) -> Evidence:
        return Evidence(test=spec.test, outcome=result.result, violation=result.message, replay=self.describe(spec))
