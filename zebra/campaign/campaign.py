"""A campaign from its first run to its verdicts. Source: ../shared/design.md section 9."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from math import exp
from random import Random
from typing import TYPE_CHECKING, Any

import msgspec

from zebra.campaign import baselines
from zebra.campaign.explain import necessary, sides
from zebra.campaign.hunt import SEEDS, Failure, Hunt
from zebra.campaign.plan import Case, cases_of, designed, mixed, observed_values, one_by_one, pools, readers
from zebra.campaign.result import Baselines, CampaignResult, Evidence, ParameterResult, Trials
from zebra.campaign.trial import Purpose, Runner, Trial, TrialResult, trial_seed, without
from zebra.errors import ConfigError
from zebra.injection.schedule import Schedule
from zebra.params import Assignment, Read
from zebra.params.parameter import Value
from zebra.run import RunSpec
from zebra.target import Target
from zebra.topology import Place

if TYPE_CHECKING:
    from zebra.campaign.posterior import Prior
    from zebra.campaign.search import Search

CURE_SEEDS = 2
"""A change counts as a cure when the failing assignment passes with it on so many seeds."""

SWAP_SEEDS = 4
"""The reverse direction counts as harmless when it passes on so many seeds."""

Progress = Callable[[str, int, int, Sequence[str]], None]
"""Called with the stage, trials done, trials expected and the suspects or culprits so far."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tested:
    """A test that passed its pre-run: its own spec, its places, and what it read."""

    spec: RunSpec
    places: tuple[Place, ...]
    reads: tuple[Read, ...]


@dataclass(slots=True)
class _State:
    """What is known of one parameter."""

    roles: tuple[str, ...] = ()
    cases: list[Case] = field(default_factory=list)
    cleared: set[Case] = field(default_factory=set)
    failed: set[Case] = field(default_factory=set)
    unapplied: set[Case] = field(default_factory=set)
    undecided: list[str] = field(default_factory=list)
    invalid: dict[Value, str] = field(default_factory=dict)
    together: list[Case] = field(default_factory=list)
    given: Assignment = field(default_factory=dict)
    risk: float = 0.0
    trials: int = 0
    found: ParameterResult | None = None
    invalid_evidence: Evidence | None = None


class Campaign:
    """Decides the parameters of one target over some tests.

    `tests` are their RunSpecs; `keep(trial_number)` gives the file for the history of a run that may become evidence;
    `describe(spec)` is the command that replays a spec.
    """

    def __init__(self, target: Target, tests: Sequence[RunSpec], runner: Runner, *, seed: int, params: str = "*",
                 accepted: Sequence[str] = (), progress: Progress = lambda *_: None,
                 keep: Callable[[int], str] = lambda _: "",
                 describe: Callable[[RunSpec], str] = RunSpec.token) -> None:  # fmt: skip
        self.target, self.specs, self.runner, self.seed = target, list(tests), runner, seed
        self.names = target.space.matching(params)
        if not self.names:
            raise ConfigError(f"--zebra-params: no parameter of {target.name} matches {params!r}")
        for name in accepted:
            target.space[name]
        self.accepted = set(accepted)
        self.progress, self.keep, self.describe = progress, keep, describe
        self.trials = Trials()
        self.tested: dict[str, Tested] = {}
        self.left_out: list[str] = []
        self.state = {name: _State() for name in self.names}
        self.evidence: dict[str, str] = {}
        self.kinds: set[str] = set()
        self.unexplained = 0
        self.screened: set[tuple[str, Value]] = set()
        self._cache: dict[bytes, TrialResult] = {}
        self._zebraconf: dict[str, dict[str, list[Case]]] = {}
        self._searched: list[str] = []
        self._found_cases = self._cleared_cases = 0
        self._wall_s: dict[str, dict[bool, list[float]]] = {}

    # -- running trials --------------------------------------------------------------------------------------

    def spec(
        self, test: str, assignment: Assignment, seed: int, schedule: Schedule | None = None, **more: Any
    ) -> RunSpec:
        """A run of a test with this assignment. What everybody has anyhow is left out: equal runs have equal specs."""
        own, usual = self.tested[test].spec, self.observed(test)
        assignment = {n: shares for n, shares in assignment.items() if shares != {"*": usual[n]} or n in own.assignment}
        merged = {**without(own.assignment, *assignment), **assignment}
        return msgspec.structs.replace(
            own, assignment=merged, seed=seed, schedule=own.schedule if schedule is None else schedule, **more
        )

    def observed(self, test: str) -> dict[str, Value]:
        """The value that each parameter has in a test of its own accord."""
        return observed_values(self.target.space, self.tested[test].spec.assignment)

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
            self._wall_s.setdefault(specs[i].test, {True: [], False: []})[result.passed].append(result.wall_s)
        setattr(self.trials, purpose, getattr(self.trials, purpose) + len(fresh))
        self.trials.total += len(fresh)
        self.trials.cached += len(specs) - len(fresh)
        for i in fresh:
            for name in specs[i].assignment:
                if name in self.state:
                    self.state[name].trials += 1
        return [self._cache[key] for key in keys]

    def report(self, stage: str) -> None:
        """Tell how far the campaign is; what is still to come is guessed from the tests that are over."""
        tests = max(1, len(self._searched))
        expected = self.trials.total * max(1.0, len(self.tested) / tests)
        self.progress(stage, self.trials.total, round(expected), [n for n, s in self.state.items() if s.found])

    # -- the stages ------------------------------------------------------------------------------------------

    def run(self) -> CampaignResult:
        """All verdicts. Raises ConfigError when no test passes on its own."""
        self.prerun()
        self.plan()
        for test in self.tested:
            Hunt(self, test).run()
            self._searched.append(test)
        for name in self.names:
            if self.state[name].found is not None:
                self.explain(name)
        return self.result()

    def prerun(self) -> None:
        """Run each test once as it is, noting who reads what; one that does not pass is left out."""
        self.report("pre-run")
        for spec, result in zip(self.specs, self.make("prerun", self.specs), strict=True):
            if not result.passed:
                self.left_out.append(f"{spec.test}: {result.result}: {result.message}")
                continue
            places = self.target.full_topology(spec.topology).places()
            self.tested[spec.test] = Tested(spec=spec, places=places, reads=result.reads)
        if not self.tested:
            raise ConfigError(f"no test passes on its own, nothing can be compared: {'; '.join(self.left_out)}")

    def plan(self) -> None:
        """Draw up the cases of every parameter."""
        random = Random(trial_seed(self.seed, "plan"))
        for test, tested in self.tested.items():
            observed = self.observed(test)
            self._zebraconf[test] = {}
            for name in self.names:
                roles = readers(name, tested.reads)
                given = test, self.target.space[name], observed[name], roles, tested.places
                state = self.state[name]
                state.roles = tuple(sorted({*state.roles, *roles}))
                state.cases += cases_of(*given, partial(designed, random=random))
                self._zebraconf[test][name] = cases_of(*given, one_by_one)

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
        return len({case.test for case in self.state[name].cases if case.test in self._searched})

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
        if failure.file:
            self.evidence[case.parameter] = failure.file
        state, parameter = self.state[case.parameter], self.target.space[case.parameter]
        state.failed.add(case)
        state.cleared.discard(case)
        self._found_cases += 1
        state.found = ParameterResult(
            name=case.parameter, verdict="unsafe", roles=list(state.roles),
            values=[parameter.show(case.other), parameter.show(case.base)],
            accepted=case.parameter in self.accepted, note=note, evidence=self._evidence(failure.spec, failure.result),
        )  # fmt: skip

    def is_invalid(self, test: str, name: str, value: Value, spec: RunSpec, result: TrialResult) -> None:
        """A value fails even when everybody has it; `spec` is the run that shows it."""
        self.state[name].invalid[value] = test
        self.state[name].invalid_evidence = self._evidence(spec, result)

    def is_undecided(self, case: Case, why: str) -> None:
        """A case neither fails nor passes reliably."""
        state, value = self.state[case.parameter], self.target.space[case.parameter].show(case.other)
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

    # -- explanation -----------------------------------------------------------------------------------------

    def explain(self, name: str) -> None:
        """Fill in `requires` and `direction` of an unsafe parameter."""
        state = self.state[name]
        found = state.found
        assert found is not None and found.evidence is not None
        self.report(f"explain {name}")
        case = next(c for c in state.cases if c in state.failed)
        found.requires = self._requires(case)
        found.direction = "both" if state.together else self._direction(case)

    def _failing(self, case: Case) -> Assignment:
        """The assignment that failed: the case, and what of other parameters it does not fail without: a value that all
        nodes have, or cases of theirs."""
        state = self.state[case.parameter]
        return mixed([case, *state.together]) | state.given

    def _seeds(self, what: str, case: Case, count: int) -> list[int]:
        return [trial_seed(self.seed, what, case.parameter, i) for i in range(count)]

    def _requires(self, case: Case) -> list[str]:
        tested = self.tested[case.test]
        observed = observed_values(self.target.space, tested.spec.assignment)
        others: list[tuple[str, Value]] = []
        for name, parameter in self.target.space.items():
            if name not in self._failing(case) and not parameter.param.timer and readers(name, tested.reads):
                bad = self.state[name].invalid if name in self.state else {}
                valid = [value for value in parameter.alternatives(observed[name]) if value not in bad]
                others += [(name, valid[0])] if valid else []
        others = self._harmless(case.test, others)

        def cures(changed: Sequence[tuple[str, Value]]) -> bool:
            assignment = self._failing(case) | {name: {"*": value} for name, value in changed}
            specs = [self.spec(case.test, assignment, seed) for seed in self._seeds("requires", case, CURE_SEEDS)]
            return all(result.passed for result in self.make("requires", specs))

        needed = necessary(others, cures)
        requires = [f"{name}={self.target.space[name].show(observed[name])}" for name, _ in needed]
        for other in self.state[case.parameter].together:
            requires.append(f"{other.parameter}={self.target.space[other.parameter].show(other.other)}")
        for name, shares in self.state[case.parameter].given.items():
            requires.append(f"{name}={self.target.space[name].show(shares['*'])}")
        return requires + [
            f"fault:{name}" for name in necessary(self._faults(case), lambda names: self._passes_without(case, names))
        ]

    def _harmless(self, test: str, changed: list[tuple[str, Value]]) -> list[tuple[str, Value]]:
        """Those changes for everybody with which the test passes, found by halving."""
        spec = self.spec(test, {name: {"*": value} for name, value in changed}, trial_seed(self.seed, "requires", test))
        if not changed or self.make("requires", [spec])[0].passed:
            return changed
        middle = len(changed) // 2
        return self._harmless(test, changed[:middle]) + self._harmless(test, changed[middle:]) if middle else []

    def _faults(self, case: Case) -> list[str]:
        """The faults that the failing run injected, from its schedule or in the test itself."""
        specs = [self.spec(case.test, self._failing(case), seed) for seed in self._seeds("requires", case, CURE_SEEDS)]
        return sorted({fault for result in self.make("requires", specs) for fault in result.faults})

    def _passes_without(self, case: Case, faults: Sequence[str]) -> bool:
        specs = [
            self.spec(case.test, self._failing(case), seed, without_faults=tuple(faults))
            for seed in self._seeds("requires", case, CURE_SEEDS)
        ]
        return all(result.passed for result in self.make("requires", specs))

    def _direction(self, case: Case) -> str:
        """`both`, unless the values the other way round pass: in the failing test, then in others with such roles."""
        given = self.state[case.parameter].given
        swapped, seeds = mixed([case.swapped()]) | given, self._seeds("direction", case, SWAP_SEEDS)
        there = [self.spec(case.test, swapped, seed) for seed in seeds]
        elsewhere = [self.spec(test, swapped, seeds[0]) for test in self.tested if self._has_shape(test, case)]
        for specs in (there, elsewhere):
            if not all(result.passed for result in self.make("requires", specs)):
                return "both"
        return self._one_sided(case)

    def _has_shape(self, test: str, case: Case) -> bool:
        """Whether the roles of a case read its parameter in another test too."""
        if test == case.test:
            return False
        return {who.partition(":")[0] for who in case.who.split("+")} <= set(
            readers(case.parameter, self.tested[test].reads)
        )

    def _one_sided(self, case: Case) -> str:
        """Who must hold which value: whole roles where they show it as well as the nodes of the failing case do."""
        tested, state = self.tested[case.test], self.state[case.parameter]
        roles = readers(case.parameter, tested.reads)
        seeds = self._seeds("one-sided", case, CURE_SEEDS)
        for other in state.cases:
            same = other.test == case.test and {other.base, other.other} == {case.base, case.other}
            if ":" in case.who and ":" not in other.who and same:
                there, back = (
                    self.make("requires", [self.spec(case.test, mixed([c]) | state.given, seed) for seed in seeds])
                    for c in (other, other.swapped())
                )
                if not any(result.passed for result in there) and all(result.passed for result in back):
                    case = other
                    break
        assert state.found is not None
        show = self.target.space[case.parameter].show
        state.found.values = [show(case.other), show(case.base)]
        return ">".join(sides(case, roles, tested.places))

    # -- the result ------------------------------------------------------------------------------------------

    def result(self) -> CampaignResult:
        """What the campaign has found so far, with the accounting."""
        results = [self._verdict(name) for name in self.names]
        bad = sum(result.verdict in ("unsafe", "invalid") for result in results)
        layers = self._layers()
        from zebra.campaign.search import ERROR_RATE

        return CampaignResult(
            target=self.target.name, substrate=self.specs[0].substrate, seed=self.seed, trials=self.trials,
            bound_bits=round(baselines.bound_bits(len(results), bad), 1), error_rate=ERROR_RATE,
            baselines=Baselines(
                one_by_one=self.trials.prerun + baselines.one_by_one(
                    self._singles(), self._fails, self._is_invalid, 3 * SEEDS
                ),
                zebraconf=self.trials.prerun + baselines.zebraconf(layers, self._fails, self._is_invalid),
            ),
            never=self._never(), left_out=self.left_out, unexplained=self.unexplained,
            reads_unseen=self.target.external,
            parameters=results,
        )  # fmt: skip

    def _never(self) -> list[str]:
        """The target's `sometimes` that never were; a campaign over some parameters need not have seen them all."""
        whole = self.names == self.target.space.matching()
        return sorted(set(self.target.sometimes) - self.kinds) if whole else []

    def _singles(self) -> dict[str, list[Case]]:
        """For each parameter ZebraConf's cases, test by test."""
        return {name: [c for own in self._zebraconf.values() for c in own[name]] for name in self.names}

    def _layers(self) -> list[list[Case]]:
        """ZebraConf's pools: one of each test, a second one of each test …"""
        random = Random(trial_seed(self.seed, "layers"))
        per_test = [pools(own, random) for own in self._zebraconf.values()]
        return [own[k] for k in range(max(map(len, per_test), default=0)) for own in per_test if k < len(own)]

    def _fails(self, case: Case) -> bool:
        """Whether one of ZebraConf's cases fails, for all that is known: the pair that was found, where it was."""
        state = self.state[case.parameter]
        return state.found is not None and any(
            case.test == failed.test and {case.base, case.other} == {failed.base, failed.other}
            for failed in state.failed
        )

    def _is_invalid(self, case: Case) -> bool:
        return case.base in self.state[case.parameter].invalid or case.other in self.state[case.parameter].invalid

    def _verdict(self, name: str) -> ParameterResult:
        state, parameter = self.state[name], self.target.space[name]
        bad = [parameter.show(value) for value in state.invalid]
        also = f"; invalid for everyone: {', '.join(bad)}" if bad else ""
        unshown = {parameter.show(v) for c in state.unapplied for v in (c.base, c.other) if v != parameter.default}
        also += f"; no running server showed: {', '.join(sorted(unshown))}" if unshown else ""
        if state.found is not None:
            state.found.trials, state.found.note = state.trials, state.found.note + also
            return state.found
        result = ParameterResult(
            name=name, verdict="safe", roles=list(state.roles), trials=state.trials, accepted=name in self.accepted
        )
        valid = [case for case in state.cases if not self._is_invalid(case) and case not in state.unapplied]
        if not state.cases:
            result.verdict = "untested"
            result.note = parameter.param.why or "no other value is known"
            if not state.roles:
                result.note = "no test reads it on two nodes"
        elif not valid and state.unapplied:
            result.verdict, result.note = "untested", "a running server does not show the values as they were set"
        elif not valid:
            result.verdict, result.evidence = "invalid", state.invalid_evidence
            result.values, result.note = bad, "fails on all nodes alike"
        elif state.undecided or any(case not in state.cleared for case in valid):
            result.verdict, result.note = (
                "undecided",
                "; ".join(state.undecided) or "not every case was in a run that passed",
            )
        else:
            tests = len({case.test for case in valid})
            result.risk = round(1 - exp(-state.risk), 4)
            result.note = (
                f"{len(valid)} cases in {tests} tests, {state.trials} runs; risk left {100 * result.risk:.2g} %{also}"
            )
        return result
