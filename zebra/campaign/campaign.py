"""A campaign from its first run to its verdicts. Source: ../shared/design.md section 9."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

import msgspec

from zebra.campaign import baselines
from zebra.campaign.confirm import Evidence as Rounds
from zebra.campaign.confirm import Round, decide
from zebra.campaign.explain import necessary, sides
from zebra.campaign.plan import Case, cases_of, mixed, observed_values, pools, readers
from zebra.campaign.pool import BATCH, Pool, Search
from zebra.campaign.result import Baselines, CampaignResult, Evidence, ParameterResult, Trials
from zebra.campaign.trial import Purpose, Runner, Trial, TrialResult, trial_seed, without
from zebra.errors import ConfigError
from zebra.injection.schedule import Schedule
from zebra.params import Assignment, Read
from zebra.params.parameter import Value
from zebra.run import RunSpec
from zebra.target import Target
from zebra.topology import Place

ERROR_RATE = 0.01
"""The chance that a campaign calls any parameter unsafe though none is, over all its suspects together."""

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
    suspects: int = 0
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
        self._cache: dict[bytes, TrialResult] = {}
        self._pools: list[list[Case]] = []

    # -- running trials --------------------------------------------------------------------------------------

    def _spec(
        self, test: str, assignment: Assignment, seed: int, schedule: Schedule | None = None, **more: Any
    ) -> RunSpec:
        own = self.tested[test].spec
        merged = {**without(own.assignment, *assignment), **assignment}
        return msgspec.structs.replace(
            own, assignment=merged, seed=seed, schedule=own.schedule if schedule is None else schedule, **more
        )

    def _run(self, purpose: Purpose, specs: Sequence[RunSpec], *, keep: Sequence[str] = ()) -> list[TrialResult]:
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
        setattr(self.trials, purpose, getattr(self.trials, purpose) + len(fresh))
        self.trials.total += len(fresh)
        self.trials.cached += len(specs) - len(fresh)
        for i in fresh:
            for name in specs[i].assignment:
                if name in self.state:
                    self.state[name].trials += 1
        return [self._cache[key] for key in keys]

    def _report(self, stage: str, expected: int) -> None:
        self.progress(
            stage, self.trials.total, max(expected, self.trials.total), [n for n, s in self.state.items() if s.found]
        )

    # -- the stages ------------------------------------------------------------------------------------------

    def run(self) -> CampaignResult:
        """All verdicts. Raises ConfigError when no test passes on its own."""
        self.prerun()
        self.plan()
        self.search()
        for name in self.names:
            if self.state[name].found is not None:
                self.explain(name)
        return self.result()

    def prerun(self) -> None:
        """Run each test once as it is, noting who reads what; one that does not pass is left out."""
        self._report("pre-run", len(self.specs))
        for spec, result in zip(self.specs, self._run("prerun", self.specs), strict=True):
            if not result.passed:
                self.left_out.append(f"{spec.test}: {result.result}: {result.message}")
                continue
            places = self.target.full_topology(spec.topology).places()
            self.tested[spec.test] = Tested(spec=spec, places=places, reads=result.reads)
        if not self.tested:
            raise ConfigError(f"no test passes on its own, nothing can be compared: {'; '.join(self.left_out)}")

    def plan(self) -> None:
        """Draw up the cases of every parameter and pool them."""
        random = Random(trial_seed(self.seed, "plan"))
        per_test: list[list[list[Case]]] = []
        for test, tested in self.tested.items():
            observed = observed_values(self.target.space, tested.spec.assignment)
            cases: dict[str, list[Case]] = {}
            for name in self.names:
                roles = readers(name, tested.reads)
                own = cases_of(test, self.target.space[name], observed[name], roles, tested.places)
                state = self.state[name]
                state.roles = tuple(sorted({*state.roles, *roles}))
                state.cases += own
                cases[name] = own
            per_test.append(pools(cases, random))
        for layer in range(max(map(len, per_test), default=0)):
            self._pools += [own[layer] for own in per_test if layer < len(own)]

    def _wanted(self, case: Case) -> bool:
        state = self.state[case.parameter]
        bad = case.base in state.invalid or case.other in state.invalid
        decided = state.cleared | state.failed | state.unapplied
        return state.found is None and not bad and case not in decided

    def search(self) -> None:
        """Find suspects by pooled runs and decide each at once, so that a culprit is withheld from later pools."""
        search = Search(self._pools, self._wanted, max(BATCH, self.target.workers))
        while True:
            batch = search.next_batch()
            self._report("pools", self.trials.total + len(search))
            if batch:
                self._run_pools(search, batch)
            elif not search.suspects:
                return
            while search.suspects:
                suspect = search.suspects.pop(0)
                if self._wanted(suspect):
                    self._report(f"confirm {suspect.parameter}", self.trials.total + len(search))
                    self.confirm(suspect)

    def _run_pools(self, search: Search, batch: list[Pool]) -> None:
        first = self.trials.total
        specs = [
            self._spec(pool.cases[0].test, mixed(pool.cases), trial_seed(self.seed, "pool", first + i))
            for i, pool in enumerate(batch)
        ]
        for pool, result in zip(batch, self._run("pooled", specs), strict=True):
            if result.passed:
                for case in pool.cases:
                    state = self.state[case.parameter]
                    (state.unapplied if case.parameter in result.unapplied else state.cleared).add(case)
            search.took(pool, failed=not result.passed)

    # -- confirmation ----------------------------------------------------------------------------------------

    def confirm(self, case: Case) -> None:
        """Decide a suspect on fresh seeds, with both controls on the same seed."""
        state = self.state[case.parameter]
        state.suspects += 1
        threshold = len(self.names) * 2**state.suspects / ERROR_RATE
        failures: list[tuple[RunSpec, TrialResult, str]] = []

        def play(seeds: list[int]) -> list[Round]:
            specs = [self._spec(case.test, mixed([case]), seed) for seed in seeds]
            files = [self.keep(self.trials.total + i) for i in range(len(specs))]
            results = self._run("confirm", specs, keep=files)
            failing = [i for i, result in enumerate(results) if not result.passed]
            failures.extend((specs[i], results[i], files[i]) for i in failing)
            controls = [
                self._spec(case.test, {case.parameter: {"*": value}}, seeds[i])
                for i in failing
                for value in (case.base, case.other)
            ]
            answers = iter(self._run("control", controls))
            rounds = []
            for i, seed in enumerate(seeds):
                if i in failing:
                    rounds.append(Round(seed, True, next(answers).passed, next(answers).passed))
                else:
                    rounds.append(Round(seed, False))
            return rounds

        evidence = decide(threshold, play, lambda i: trial_seed(self.seed, "confirm", case.test, state.suspects, i))
        decision = evidence.decision()
        if decision == "unsafe":
            state.found = self._found(case, evidence, failures)
        elif decision == "invalid":
            self._invalid(case, evidence, failures)
        elif decision == "cleared":
            state.cleared.add(case)
            self.unexplained += 1
        else:
            value, hits = self.target.space[case.parameter].show(case.other), sum(r.hit for r in evidence.rounds)
            rounds = f"{hits} of {len(evidence.rounds)} rounds"
            state.undecided.append(f"{case.who} on {value} in {case.test}: {decision}, {rounds}")
            state.failed.add(case)

    def _found(self, case: Case, evidence: Rounds, failures: list[tuple[RunSpec, TrialResult, str]]) -> ParameterResult:
        hits = {round_.seed for round_ in evidence.rounds if round_.hit}
        spec, result, file = next(item for item in failures if item[0].seed in hits)
        if file:
            self.evidence[case.parameter] = file
        state, parameter = self.state[case.parameter], self.target.space[case.parameter]
        state.failed.add(case)
        return ParameterResult(
            name=case.parameter, verdict="unsafe", roles=list(state.roles),
            values=[parameter.show(case.other), parameter.show(case.base)],
            accepted=case.parameter in self.accepted,
            note=f"{len(hits)} of {len(evidence.rounds)} rounds, {case.who} against the rest",
            evidence=self._evidence(spec, result),
        )  # fmt: skip

    def _evidence(self, spec: RunSpec, result: TrialResult) -> Evidence:
        return Evidence(test=spec.test, outcome=result.result, violation=result.message, replay=self.describe(spec))

    def _invalid(self, case: Case, evidence: Rounds, failures: list[tuple[RunSpec, TrialResult, str]]) -> None:
        """One of the two values fails even when everybody has it."""
        state = self.state[case.parameter]
        value = case.base if evidence.invalid_side == "base" else case.other
        state.invalid[value] = case.test
        spec = self._spec(case.test, {case.parameter: {"*": value}}, failures[0][0].seed)
        state.invalid_evidence = self._evidence(spec, self._run("control", [spec])[0])

    # -- explanation -----------------------------------------------------------------------------------------

    def explain(self, name: str) -> None:
        """Fill in `requires` and `direction` of an unsafe parameter."""
        state = self.state[name]
        found = state.found
        assert found is not None and found.evidence is not None
        self._report(f"explain {name}", self.trials.total + 10)
        case = next(c for c in state.cases if c in state.failed)
        found.requires = self._requires(case)
        found.direction = self._direction(case)

    def _seeds(self, what: str, case: Case, count: int) -> list[int]:
        return [trial_seed(self.seed, what, case.parameter, i) for i in range(count)]

    def _requires(self, case: Case) -> list[str]:
        tested = self.tested[case.test]
        observed = observed_values(self.target.space, tested.spec.assignment)
        others: list[tuple[str, Value]] = []
        for name, parameter in self.target.space.items():
            if name != case.parameter and not parameter.param.timer and readers(name, tested.reads):
                bad = self.state[name].invalid if name in self.state else {}
                valid = [value for value in parameter.alternatives(observed[name]) if value not in bad]
                others += [(name, valid[0])] if valid else []
        others = self._harmless(case.test, others)

        def cures(changed: Sequence[tuple[str, Value]]) -> bool:
            assignment = mixed([case]) | {name: {"*": value} for name, value in changed}
            specs = [self._spec(case.test, assignment, seed) for seed in self._seeds("requires", case, CURE_SEEDS)]
            return all(result.passed for result in self._run("requires", specs))

        needed = necessary(others, cures)
        requires = [f"{name}={self.target.space[name].show(observed[name])}" for name, _ in needed]
        return requires + [
            f"fault:{name}" for name in necessary(self._faults(case), lambda names: self._passes_without(case, names))
        ]

    def _harmless(self, test: str, changed: list[tuple[str, Value]]) -> list[tuple[str, Value]]:
        """Those changes for everybody with which the test passes, found by halving."""
        spec = self._spec(
            test, {name: {"*": value} for name, value in changed}, trial_seed(self.seed, "requires", test)
        )
        if not changed or self._run("requires", [spec])[0].passed:
            return changed
        middle = len(changed) // 2
        return self._harmless(test, changed[:middle]) + self._harmless(test, changed[middle:]) if middle else []

    def _faults(self, case: Case) -> list[str]:
        """The faults that the failing run injected, from its schedule or in the test itself."""
        specs = [self._spec(case.test, mixed([case]), seed) for seed in self._seeds("requires", case, CURE_SEEDS)]
        return sorted({fault for result in self._run("requires", specs) for fault in result.faults})

    def _passes_without(self, case: Case, faults: Sequence[str]) -> bool:
        specs = [
            self._spec(case.test, mixed([case]), seed, without_faults=tuple(faults))
            for seed in self._seeds("requires", case, CURE_SEEDS)
        ]
        return all(result.passed for result in self._run("requires", specs))

    def _direction(self, case: Case) -> str:
        """`both`, unless the values the other way round pass: in the failing test, then in all others of this shape."""
        swapped, seeds = mixed([case.swapped()]), self._seeds("direction", case, SWAP_SEEDS)
        others = dict.fromkeys(c.test for c in self.state[case.parameter].cases if c.who == case.who)
        there = [self._spec(case.test, swapped, seed) for seed in seeds]
        elsewhere = [
            self._spec(test, swapped, seed) for test in others if test != case.test for seed in seeds[:CURE_SEEDS]
        ]
        for specs in (there, elsewhere):
            if not all(result.passed for result in self._run("requires", specs)):
                return "both"
        return self._one_sided(case)

    def _one_sided(self, case: Case) -> str:
        """Who must hold which value: whole roles where they show it as well as the nodes of the failing case do."""
        tested, state = self.tested[case.test], self.state[case.parameter]
        roles = readers(case.parameter, tested.reads)
        seeds = self._seeds("one-sided", case, CURE_SEEDS)
        for other in state.cases:
            same = other.test == case.test and {other.base, other.other} == {case.base, case.other}
            if ":" in case.who and ":" not in other.who and same:
                there = self._run("requires", [self._spec(case.test, mixed([other]), seed) for seed in seeds])
                back = self._run("requires", [self._spec(case.test, mixed([other.swapped()]), seed) for seed in seeds])
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
        cases: Mapping[str, list[Case]] = {name: state.cases for name, state in self.state.items() if state.cases}
        rounds = Rounds(len(self.names) * 2 / ERROR_RATE).rounds_to_go()
        order = defaultdict(
            list, {name: sorted(own, key=lambda c: list(self.tested).index(c.test)) for name, own in cases.items()}
        )
        return CampaignResult(
            target=self.target.name, substrate=self.specs[0].substrate, seed=self.seed, trials=self.trials,
            bound_bits=round(baselines.bound_bits(len(results), bad), 1), error_rate=ERROR_RATE,
            baselines=Baselines(
                one_by_one=self.trials.prerun + baselines.one_by_one(order, self._fails, self._is_invalid, 3 * rounds),
                zebraconf=self.trials.prerun + baselines.zebraconf(self._pools, self._fails, self._is_invalid),
            ),
            never=self._never(), left_out=self.left_out, unexplained=self.unexplained,
            reads_unseen=self.target.external,
            parameters=results,
        )  # fmt: skip

    def _never(self) -> list[str]:
        """The target's `sometimes` that never were; a campaign over some parameters need not have seen them all."""
        whole = self.names == self.target.space.matching()
        return sorted(set(self.target.sometimes) - self.kinds) if whole else []

    def _fails(self, case: Case) -> bool:
        """Whether a case fails, as far as this campaign knows: one of an unsafe parameter that never passed."""
        state = self.state[case.parameter]
        return state.found is not None and case not in state.cleared and not self._is_invalid(case)

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
        elif any(case not in state.cleared for case in valid):
            result.verdict, result.note = (
                "undecided",
                "; ".join(state.undecided) or "not every case was in a run that passed",
            )
        else:
            tests = len({case.test for case in valid})
            result.note = f"{len(valid)} cases in {tests} tests, {state.trials} runs with as many seeds{also}"
        return result
