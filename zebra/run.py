"""One run: a frozen RunSpec in, an Outcome out. Everything that runs a scenario ends here.

Plugin, campaign, replay, benchmarks and the tests of planted bugs call `run`; it knows nothing of pytest, makes its
own loop, and returns a violation instead of raising it.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Coroutine, Iterable
from pathlib import Path
from random import Random
from typing import Any

import msgspec

from zebra.cluster import Cluster
from zebra.errorlog import ErrorLog, compiled
from zebra.errors import ConfigError, Hang, Infrastructure
from zebra.events import SCHEMA, Event, EventLog, History
from zebra.injection.injector import Injector
from zebra.invariant import Checks, Violation, find
from zebra.outcome import BUSY_S, Outcome, Result
from zebra.output import keep, last_lines
from zebra.params import Assignment, Read, configs, validate
from zebra.params.assignment import values_for
from zebra.registry import load
from zebra.spec import RunSpec
from zebra.substrate import Plan, Running, Substrate
from zebra.target import CLIENT, Target, find_target
from zebra.topology import Place

Scenario = Callable[[Cluster], Coroutine[Any, Any, None]]

LEAVE_S = 5.0
"""Run time that a node has to end when it is looked for what it leaves behind."""


def run(scenario: Scenario, spec: RunSpec, *, target: Target | None = None, invariants: Iterable[Any] | None = None,
        history: History | None = None, record_reads: bool = False, report: Path | None = None,
        output: Path | None = None, errors: Iterable[str] = (), leaks: bool = False) -> Outcome:  # fmt: skip
    """Run a scenario once and say how it went.

    `target` overrides the look-up of `spec.target`; `invariants` (names or factories) are added to the target's, and
    one that was asked for so and never exercised makes the run inconclusive. `history` may stream to a file. With
    `record_reads` every parameter read is noted. If the run fails, what nodes wrote to stdout and stderr goes into the
    directory `output`. `errors` are regular expressions, beside the target's: a node that says what matches fails the
    run (see `zebra.errorlog`). With `leaks` a node fails it that leaves tasks or processes behind when it is stopped as
    planned, as all are at the end then. Raises ConfigError for bad input; whatever goes wrong later is in the Outcome.
    """
    started = time.perf_counter()
    target = find_target(spec.target) if target is None else target
    this = _Run(
        scenario, spec, target, tuple(invariants or ()), History() if history is None else history, record_reads,
        report, output, compiled(target.errors) + compiled(errors), leaks or target.leaks,
    )  # fmt: skip
    return this.go(started)


def find_substrate(name: str) -> Substrate:
    """A substrate by name; raises ConfigError when it is unknown or this machine cannot offer it."""
    substrate: Substrate = load("substrates", name).SUBSTRATE
    reason = substrate.unavailable()
    if reason:
        raise ConfigError(f"substrate {name} is not available here: {reason}")
    return substrate


class _Run:
    def __init__(self, scenario: Scenario, spec: RunSpec, target: Target, asked: tuple[Any, ...], history: History,
                 record_reads: bool, report: Path | None, output: Path | None, errors: tuple[re.Pattern[str], ...],
                 leaks: bool) -> None:  # fmt: skip
        self.errors, self.leaks, self.left = ErrorLog(errors), leaks, list[Event]()
        self.scenario, self.spec, self.target, self.history, self.report = scenario, spec, target, history, report
        self.output = output
        if target.unavailable:
            raise ConfigError(f"target {target.name} is not available here: {target.unavailable}")
        self.substrate = find_substrate(spec.substrate)
        target.check_variant(spec.variant)
        self.topology = target.full_topology(spec.topology)
        self.places = self.topology.places()
        given = spec.assignment if spec.substrate == "sim" else over(target.realtime, spec.assignment)
        assignment = validate(given, target.space, self.places)
        self.configs = configs(assignment, target.space, self.places)
        self.base = target.space.replace(target.config(), values_for(assignment, _nowhere))
        self.asked = [find(item) if isinstance(item, str) else item for item in asked]
        self.checks = Checks(
            [*target.invariants, *(a for a in self.asked if a not in target.invariants)], self._announce
        )
        self.reads: set[Read] | None = set() if record_reads else None
        self.role_of = {place.node: place.role for place in self.places}
        self.kinds: set[str] = set()
        self.unapplied: set[str] = set()
        self.broken: asyncio.Future[None] | None = None
        self.crash: tuple[str, BaseException] | None = None
        self.log: EventLog | None = None
        self.injector: Injector | None = None
        self.waits: dict[str, float] = {}
        self.outputs: dict[str, str] = {}
        self.kept = False
        self.began = False

    def go(self, started: float) -> Outcome:
        plan = Plan(
            prefix=self.target.name, places=self.places, topology=self.topology, roles=self.target.all_roles,
            configs=self.configs, seed=self.spec.seed, variant=self.spec.variant,
            known_variants=self.target.variants,
            external=frozenset(self.target.roles if self.target.external else ()), start_s=self.target.start_s,
            timeout_s=self.spec.timeout_s, log=self._make_log, on_crash=self._crashed,
            on_second=self._second if self.checks.wants_clock else None,
            note_read=None if self.reads is None else self._note_read, prepared=self.target.prepared,
            images=self.target.images, leaks=self.leaks,
        )  # fmt: skip
        if self.reads is not None and self.target.external:
            self._read_everything()
        result: Result
        error: BaseException | None
        self.errors.open()
        try:
            result, message, error = self.substrate.run(plan, self._main)
        except Hang as hang:
            result, message, error = "hang", str(hang), hang
        except Infrastructure as trouble:
            result, message, error = "infrastructure", str(trouble), trouble
        finally:
            self.errors.close()
        return self._outcome(result, message, error, started)

    # -- what the substrate calls ----------------------------------------------------------------------------

    def _make_log(self, now: Callable[[], float]) -> EventLog:
        self.log = EventLog(self.history, now)
        self.now = now
        self.log.listeners += [self._note_kind, self.checks.feed]
        self.log.emit("", "run", schema=SCHEMA, **msgspec.to_builtins(self._full_spec()),
                      places=msgspec.to_builtins(self.places))  # fmt: skip
        return self.log

    def _full_spec(self) -> Any:
        """The spec with its defaults written out, so that a stored history says everything."""
        spec = msgspec.structs.replace(self.spec, topology=self.topology)
        return {name: getattr(spec, name) for name in spec.__struct_fields__}

    def _second(self) -> None:
        self.checks.feed(Event(-1, self.now(), "", "clock", {}))

    def _note_kind(self, event: Event) -> None:
        self.kinds.add(event.kind)
        if event.kind == "node.unapplied":
            self.unapplied.update(event["parameters"])
        elif event.kind == "node.leak":
            self.left.append(event)
        else:
            self.errors.event(event)

    def _read_everything(self) -> None:
        """What an external server reads nobody sees: each has every parameter."""
        for place in self.places:
            if place.role != CLIENT:
                for name in self.target.space:
                    self._note_read(place.node, name, self.target.space.get_value(self.configs[place.node], name))

    def _note_read(self, node: str, parameter: str, value: Any, site: str = "") -> None:
        assert self.reads is not None
        self.reads.add(Read(self.role_of[node], parameter, value, site="" if self.target.external else site))

    def _announce(self, violation: Violation) -> None:
        self._break()

    def _crashed(self, node: str, error: BaseException) -> None:
        if self.crash is None:
            self.crash = (node, error)
        self._break()

    def _break(self) -> None:
        if self.broken is not None and not self.broken.done():
            self.broken.set_result(None)

    # -- phases ----------------------------------------------------------------------------------------------

    async def _main(self, running: Running) -> tuple[Result, str, BaseException | None]:
        self.broken = asyncio.get_running_loop().create_future()
        random = Random(f"{self.spec.seed}/faults")
        cluster: Cluster
        selectors = {name: (lambda select=select: select(cluster)) for name, select in self.target.selectors.items()}
        self.injector = Injector(
            running,
            self.places,
            random,
            selectors,
            lambda step: cluster.carry_out(step),
            self.spec.without_faults,
            self.spec.limits,
        )
        cluster = Cluster(self.target, running, self.places, self.configs, self.base, self.injector)
        passed = False
        try:
            error = await self._until_broken(running.start(place.node for place in self.places))
            self.began = error is None
            if self.began and self._fine():
                error = await self._until_broken(self._scenario(cluster))
            if error is None and self._fine():
                error = await self._until_broken(self._liveness(cluster))
            if self._fine():
                await self._settle(running, error)
            if error is None and self._fine():
                self.checks.end(running.now())
            judged = self._judge(error)
            if judged[0] == "pass":
                await self._look_again(running)
                judged = self._judge(error)
            passed = judged[0] == "pass"
            return judged
        finally:
            if not passed:
                self.waits = {node: seconds for node, seconds in running.waits().items() if seconds >= BUSY_S}
                self._keep_output(running)
            if self.log is not None and self.checks.feed in self.log.listeners:
                self.log.listeners.remove(self.checks.feed)  # how nodes take the end of the others is not judged
            await running.stop()

    async def _look_again(self, running: Running) -> None:
        """What else makes a run fail that went well: errors that nodes speak of, tasks or processes left behind."""
        if said := self.errors.look(running, self.configs):
            self.checks._found(Violation(said, (), "zebra.errors", self.now()))
        if self.leaks and self._fine():
            self.log.listeners.remove(self.checks.feed)  # type: ignore[union-attr]
            up = [node for node in self.configs if running.is_up(node)]
            await asyncio.gather(*(running.stop_node(node, LEAVE_S) for node in up))
            self.crash = None  # how nodes take the end of the others is not judged
            await self._settle(running, None)
        if self.left and self.checks.violation is None:
            event = self.left[0]
            what = f"{event.node} left behind when it was stopped: {', '.join(map(str, event['left']))}"
            self.checks._found(Violation(what, (event,), "zebra.leaks", self.now()))

    def _fine(self) -> bool:
        return self.checks.violation is None and self.crash is None

    async def _settle(self, running: Running, error: BaseException | None) -> None:
        try:
            await running.settled()
        except Infrastructure:
            if error is None:
                raise

    def _keep_output(self, running: Running) -> None:
        self.outputs = last_lines(running, self._involved(), self.configs)
        self.kept = self.output is not None and keep(running, self.configs, self.output)

    def _involved(self) -> list[str]:
        """The nodes at which a failure can be seen: those that the evidence names, and those that crashed."""
        nodes = [] if self.crash is None else [self.crash[0]]
        if self.checks.violation is not None:
            seqs = set(self.checks.violation.seqs())
            evidence = [event for event in self.history if event.seq in seqs]
            nodes += [str(said) for event in evidence for said in (event.node, *event.fields.values())]
        if nodes:
            nodes += [event.node for event in self.history if event.kind in ("node.crash", "error")]
        return [node for node in dict.fromkeys(nodes) if node in self.configs]

    async def _until_broken(self, coroutine: Coroutine[Any, Any, None]) -> BaseException | None:
        """Run a phase until it ends or something breaks; what it raised, or None."""
        assert self.broken is not None
        task = asyncio.create_task(coroutine)
        try:
            await asyncio.wait([task, self.broken], return_when=asyncio.FIRST_COMPLETED)
        finally:
            if not task.done():
                task.cancel()
                await asyncio.wait([task], timeout=1.0)
        if not task.done() or task.cancelled():
            return None if self.broken.done() else asyncio.CancelledError("the test cancelled itself")
        return task.exception()

    async def _scenario(self, cluster: Cluster) -> None:
        assert self.injector is not None
        following = asyncio.create_task(self.injector.follow(self.spec.schedule, cluster.now))
        done = False
        try:
            await self.scenario(cluster)
            done = True
        finally:
            following.cancel()
            [trouble] = await asyncio.gather(following, return_exceptions=True)
            if not done:
                await self.injector.drop_rolls()
        if isinstance(trouble, Exception):
            raise trouble
        await self.injector.end_rolls()

    async def _liveness(self, cluster: Cluster) -> None:
        """Heal everything and demand progress."""
        assert self.injector is not None and self.log is not None
        await self.injector.heal_all()
        self.log.emit("", "run.healed")
        if self.target.progress is None or self.injector.unhealed():
            return
        try:
            async with asyncio.timeout(self.target.settle_s):
                await self.target.progress(cluster)
        except Exception as error:
            what = (
                "no answer"
                if isinstance(error, TimeoutError) and not str(error)
                else f"{type(error).__name__}: {error}"
            )
            self.checks._found(
                Violation(
                    f"no progress within {self.target.settle_s:g} s of healing: {what}",
                    (),
                    "zebra.progress",
                    cluster.now,
                )
            )

    def _judge(self, error: BaseException | None) -> tuple[Result, str, BaseException | None]:
        assert self.injector is not None
        if self.checks.violation is not None:
            violation = self.checks.violation
            return "fail", f"{violation.invariant}: {violation.message}", None
        if self.crash is not None:
            node, cause = self.crash
            if isinstance(cause, Infrastructure):
                return "infrastructure", str(cause), cause
            return "crash", f"{node}: {type(cause).__name__}: {cause}", cause
        if error is not None:
            if not isinstance(error, Exception | asyncio.CancelledError):
                raise error
            return "fail", _one_line(error), error
        idle = self.injector.without_effect()
        if self.injector.waiting:
            idle.append(f"{self.injector.waiting} steps of the schedule, which are later than the end of the test")
        if idle:
            return "inconclusive", f"no effect: {'; '.join(idle)}", None
        wanted = {getattr(factory, "zebra_name", "") for factory in self.asked}
        missing = sorted(wanted.intersection(self.checks.exercised()[1]))
        if missing:
            return "inconclusive", f"asked for but never exercised: {', '.join(missing)}", None
        return "pass", "", None

    def _outcome(self, result: Result, message: str, error: BaseException | None, started: float) -> Outcome:
        assert self.log is not None
        exercised, unknown = self.checks.exercised()
        violation = self.checks.violation
        if self.checks.error is not None:
            result, message, error, violation = "infrastructure", str(self.checks.error), self.checks.error, None
        if violation is not None:
            result, message = "fail", f"{violation.invariant}: {violation.message}"
            self.log.emit(
                "", "violation", invariant=violation.invariant, message=violation.message, events=violation.seqs(),
                found_s=round(violation.t, 9),
            )  # fmt: skip
        duration_s = self.now()
        if result == "pass" and 0 < self.spec.slow_s < duration_s:
            result, message = "slow", f"took {duration_s:.3g} s, {self.spec.slow_s:.3g} s at most were expected"
        replay = "" if result == "pass" else self.spec.command(self.report)
        self.log.emit(
            "", "run.end", outcome=result, message=message, replay=replay, exercised=exercised, unknown=unknown
        )
        self.history.close()
        return Outcome(
            spec=self.spec, result=result, message=message, violation=violation, error=error, history=self.history,
            duration_s=duration_s, wall_s=time.perf_counter() - started, exercised=tuple(exercised),
            unknown=tuple(unknown), kinds=frozenset(self.kinds), reads=frozenset(self.reads or ()),
            unapplied=frozenset(self.unapplied),
            faults=tuple(sorted({i.name for i in self.injector.injected})) if self.injector else (), replay=replay,
            waits=self.waits, outputs=self.outputs, output=self.output if self.kept else None,
            unhealed=tuple(self.injector.unhealed()) if self.injector else (),
        )  # fmt: skip


def over(realtime: Assignment, assignment: Assignment) -> Assignment:
    """The target's timers for real substrates, where the test's own assignment does not say otherwise."""
    return {**realtime, **{name: {**realtime.get(name, {}), **shares} for name, shares in assignment.items()}}


_nowhere = Place(node="none-1", role="none", host="", rack="", dc="", region="")


def _one_line(error: BaseException) -> str:
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0]}" if text else type(error).__name__
