"""One run: a frozen RunSpec in, an Outcome out. Everything that runs a scenario ends here.

Plugin, campaign, replay, benchmarks and the tests of planted bugs call `run`; it knows nothing of pytest, makes its
own loop, and returns a violation instead of raising it.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from random import Random
from typing import Any, Literal

import msgspec

from zebra.cluster import Cluster
from zebra.errors import ConfigError, Hang, Infrastructure, InvariantViolated, TargetError, ZebraError
from zebra.events import SCHEMA, Event, EventLog, History
from zebra.injection.injector import Injector
from zebra.injection.schedule import Schedule
from zebra.invariant import Checks, Violation, find
from zebra.output import keep, last_lines
from zebra.params import Assignment, Read, configs, validate
from zebra.params.assignment import values_for
from zebra.registry import load
from zebra.substrate import Plan, Running, Substrate
from zebra.target import CLIENT, Target, find_target
from zebra.topology import Place, Topology

Scenario = Callable[[Cluster], Coroutine[Any, Any, None]]
Result = Literal["pass", "fail", "hang", "crash", "slow", "invalid", "inconclusive", "infrastructure"]
FAILED: frozenset[str] = frozenset({"fail", "hang", "crash", "slow"})

TOKEN_CHARACTERS_MAX = 1500


class RunSpec(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """All inputs of one run. `test` is a pytest node id or `module:function`; `topology` None means the target's own.

    `without_faults` names faults that the run leaves out wherever its schedule or its test injects them: so a campaign
    asks whether a failure needs a fault.
    """

    test: str = ""
    target: str
    substrate: str = "sim"
    topology: Topology | None = None
    assignment: Assignment = {}
    schedule: Schedule = Schedule()
    seed: int = 0
    variant: str = ""
    timeout_s: float = 600.0
    without_faults: tuple[str, ...] = ()

    def token(self) -> str:
        """`zebra1.` + the packed spec + 8 hex digits of the code's hash: all that `zebra replay` needs."""
        packed = base64.urlsafe_b64encode(msgspec.msgpack.encode(self)).rstrip(b"=").decode()
        return f"zebra1.{packed}{code_hash(self.target)}"

    def command(self, report: Path | None = None) -> str:
        """The command that runs this again; a token that is too long for a line is written below `report` instead."""
        token = self.token()
        if len(token) > TOKEN_CHARACTERS_MAX and report is not None:
            path = report / "replays" / f"{hashlib.blake2b(token.encode(), digest_size=6).hexdigest()}.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(token + "\n")
            return f"zebra replay {path}"
        return f"zebra replay {token}"


def decode_token(text: str) -> tuple[RunSpec, bool]:
    """The spec of a token, and whether it was made by this very code. Raises ConfigError for text that is no token."""
    text = text.strip()
    if not text.startswith("zebra1."):
        version = text.partition(".")[0]
        what = (
            f"version {version} is unknown"
            if version.startswith("zebra") and "." in text
            else "it does not begin with 'zebra1.'"
        )
        raise ConfigError(f"token {text[:30]!r}: {what}, expected one that this version of zebra printed")
    body, made_by = text[7:-8], text[-8:]
    try:
        packed = base64.b64decode(body + "=" * (-len(body) % 4), altchars=b"-_", validate=True)
        spec = msgspec.msgpack.decode(packed, type=RunSpec)
        bytes.fromhex(made_by)
    except (binascii.Error, msgspec.DecodeError, ValueError, RecursionError) as error:
        raise ConfigError(f"token {text[:30]!r}: damaged or cut short ({error}), copy the whole of it") from None
    return spec, made_by == code_hash(spec.target)


@cache
def code_hash(target: str) -> str:
    """8 hex digits of the engine's and the target's source."""
    roots = [Path(__file__).parent]
    try:
        module = load("targets", target) if ":" not in target else None
        if module is not None and module.__file__:
            roots.append(Path(module.__file__).parent)
    except ConfigError:
        pass
    digest = hashlib.blake2b(digest_size=4)
    for root in roots:
        for path in sorted(root.rglob("*.py")):
            digest.update(path.read_bytes())
    return digest.hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What one run came to.

    `message` is one line for people; `error` the exception behind a fail or crash; `duration_s` is run time, `wall_s`
    the machine's. `exercised` and `unknown` name the invariants that saw an event and those that saw none; `kinds` are
    the event kinds that occurred; `reads` what a recording run read; `unapplied` the parameters that a live server did
    not show as its node's configuration has them; `faults` the names of the faults injected;
    `outputs` the last lines that the nodes involved in a failure wrote, on real substrates, and `output` the directory
    that has the rest; `replay` the command that runs it again.
    """

    spec: RunSpec
    result: Result
    message: str = ""
    violation: Violation | None = None
    error: BaseException | None = None
    history: History
    duration_s: float
    wall_s: float
    exercised: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()
    kinds: frozenset[str] = frozenset()
    reads: frozenset[Read] = frozenset()
    unapplied: frozenset[str] = frozenset()
    faults: tuple[str, ...] = ()
    outputs: Mapping[str, str] = field(default_factory=dict)
    output: Path | None = None
    replay: str = ""

    @property
    def failed(self) -> bool:
        return self.result in FAILED

    def explain(self) -> str:
        """For people: what broke, the events that show it, the faults that were on, and the command that replays it."""
        lines = [f"{self.result}: {self.message}"]
        if self.violation is not None:
            seqs = set(self.violation.seqs())
            lines[0] = (
                f"{self.violation.invariant} does not hold at t={self.violation.t:.6f} s: {self.violation.message}"
            )
            lines += [f"  {event!r}" for event in self.history if event.seq in seqs]
        for event, end_s in _bands(self.history):
            until = "the end" if end_s is None else f"{end_s:.3f} s"
            lines.append(f"fault {event['fault']} on {', '.join(event['on'])} from {event.t:.3f} s to {until}")
        if self.spec.assignment:
            lines.append(f"assignment: {self.spec.assignment}")
        for node, text in self.outputs.items():
            lines += [f"{node} wrote last:", *(f"  {line}" for line in text.splitlines())]
        if self.output is not None:
            lines.append(f"output of all nodes: {self.output}")
        return "\n".join([*lines, f"replay: {self.replay}"])

    def raise_failure(self) -> None:
        """Raise what went wrong: the test's own exception, InvariantViolated, or a ZebraError that says it."""
        if self.violation is not None:
            raise InvariantViolated(self.violation, self.spec.token())
        if self.error is not None:
            raise self.error
        if self.result != "pass":
            raise ZebraError(f"{self.result}: {self.message}")


def run(scenario: Scenario, spec: RunSpec, *, target: Target | None = None, invariants: Iterable[Any] | None = None,
        history: History | None = None, record_reads: bool = False, report: Path | None = None,
        output: Path | None = None) -> Outcome:  # fmt: skip
    """Run a scenario once and say how it went.

    `target` overrides the look-up of `spec.target`; `invariants` (names or factories) are added to the target's, and
    one that was asked for so and never exercised makes the run inconclusive. `history` may stream to a file. With
    `record_reads` every parameter read is noted. If the run fails, what nodes wrote to stdout and stderr goes into the
    directory `output`. Raises ConfigError for bad input; whatever goes wrong later is in the Outcome.
    """
    started = time.perf_counter()
    target = find_target(spec.target) if target is None else target
    this = _Run(
        scenario, spec, target, tuple(invariants or ()), History() if history is None else history, record_reads,
        report, output,
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
                 record_reads: bool, report: Path | None, output: Path | None) -> None:  # fmt: skip
        self.scenario, self.spec, self.target, self.history, self.report = scenario, spec, target, history, report
        self.output = output
        if target.unavailable:
            raise ConfigError(f"target {target.name} is not available here: {target.unavailable}")
        self.substrate = find_substrate(spec.substrate)
        target.check_variant(spec.variant)
        self.topology = target.full_topology(spec.topology)
        self.places = self.topology.places()
        given = spec.assignment if spec.substrate == "sim" else _over(target.realtime, spec.assignment)
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
        self.outputs: dict[str, str] = {}
        self.kept = False
        self.began = False

    def go(self, started: float) -> Outcome:
        plan = Plan(
            prefix=self.target.name, places=self.places, topology=self.topology, roles=self.target.all_roles,
            configs=self.configs, seed=self.spec.seed, variant=self.spec.variant, start_s=self.target.start_s,
            timeout_s=self.spec.timeout_s, log=self._make_log, on_crash=self._crashed,
            on_second=self._second if self.checks.wants_clock else None,
            note_read=None if self.reads is None else self._note_read,
        )  # fmt: skip
        if self.reads is not None and self.target.external:
            self._read_everything()
        result: Result
        error: BaseException | None
        try:
            result, message, error = self.substrate.run(plan, self._main)
        except Hang as hang:
            result, message, error = "hang", str(hang), hang
        except Infrastructure as trouble:
            result, message, error = "infrastructure", str(trouble), trouble
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

    def _read_everything(self) -> None:
        """What an external server reads nobody sees: each has every parameter."""
        for place in self.places:
            if place.role != CLIENT:
                for name in self.target.space:
                    self._note_read(place.node, name, self.target.space.get_value(self.configs[place.node], name))

    def _note_read(self, node: str, parameter: str, value: Any) -> None:
        assert self.reads is not None
        self.reads.add(Read(self.role_of[node], parameter, value))

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
            running, self.places, random, selectors, lambda step: cluster.carry_out(step), self.spec.without_faults
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
            passed = judged[0] == "pass"
            return judged
        finally:
            if not passed:
                self._keep_output(running)
            if self.log is not None and self.checks.feed in self.log.listeners:
                self.log.listeners.remove(self.checks.feed)  # how nodes take the end of the others is not judged
            await running.stop()

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
        try:
            await self.scenario(cluster)
        finally:
            following.cancel()
            await asyncio.wait([following])
        if following.done() and not following.cancelled() and following.exception() is not None:
            raise following.exception() or TargetError("the schedule failed")

    async def _liveness(self, cluster: Cluster) -> None:
        """Heal everything and demand progress."""
        assert self.injector is not None and self.log is not None
        await self.injector.heal_all()
        self.log.emit("", "run.healed")
        if self.target.progress is None:
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
        replay = "" if result == "pass" else self.spec.command(self.report)
        self.log.emit(
            "", "run.end", outcome=result, message=message, replay=replay, exercised=exercised, unknown=unknown
        )
        duration_s = self.now()
        self.history.close()
        return Outcome(
            spec=self.spec, result=result, message=message, violation=violation, error=error, history=self.history,
            duration_s=duration_s, wall_s=time.perf_counter() - started, exercised=tuple(exercised),
            unknown=tuple(unknown), kinds=frozenset(self.kinds), reads=frozenset(self.reads or ()),
            unapplied=frozenset(self.unapplied),
            faults=tuple(sorted({i.name for i in self.injector.injected})) if self.injector else (), replay=replay,
            outputs=self.outputs, output=self.output if self.kept else None,
        )  # fmt: skip


def _over(realtime: Assignment, assignment: Assignment) -> Assignment:
    """The target's timers for real substrates, where the test's own assignment does not say otherwise."""
    return {**realtime, **{name: {**realtime.get(name, {}), **shares} for name, shares in assignment.items()}}


_nowhere = Place(node="none-1", role="none", host="", rack="", dc="", region="")


def _bands(history: History) -> list[tuple[Event, float | None]]:
    """Each fault's inject event, and when it was healed (None: it was still on)."""
    faults = history.of("fault.inject", "fault.heal")
    healed = {event["id"]: event.t for event in faults if event.kind == "fault.heal"}
    return [(event, healed.get(event["id"])) for event in faults if event.kind == "fault.inject"]


def _one_line(error: BaseException) -> str:
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0]}" if text else type(error).__name__
