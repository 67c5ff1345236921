"""One change on its way: compiled, validated, shown to a canary, then to stages of the hosts, then to all.

DRAFT -> COMPILED -> VALIDATED -> CANARY -> STAGE (several) -> FULL, or REJECTED, or ROLLED_BACK: then the old content
is the newest version. Source: ../shared/targets/other.md section 1.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

from zebra.blob import Blob
from zebra.node import Node
from zebra.rpc import Rpc, RpcError
from zebra.targets.lad.artefact import MODES, CompileError, Setting, compile_setting, find_fault, pack
from zebra.targets.lad.author_messages import Commit, Committed, Health, Probe, Undecided
from zebra.targets.lad.gates import is_inside
from zebra.targets.lad.store_client import StoreClient
from zebra.targets.lad.store_messages import (
    BadVersion,
    Delete,
    Entry,
    Expose,
    Gate,
    NoPath,
    NoQuorum,
    Op,
    Put,
    TooLarge,
)

STAGES = (10.0, 50.0)
"""Percent of the hosts that see a change before all do."""

COMPILE_S = 0.001
"""Seconds that compiling one source takes."""

WORSE = 0.05
"""A canary may fail at this share of its work more often than a host without the change."""

PROBED_MAX = 16
"""So many apps are asked for their health, at most, when hosts are compared."""


class Rejected(Exception):
    """The change goes no further, and nobody has seen it."""


class Harmful(Exception):
    """The change did harm where it was seen."""


class Pipeline:
    """What the steps of all changes share: the validator, the compilers, the store, the apps."""

    def __init__(self, node: Node[Any], rpc: Rpc, store: StoreClient) -> None:
        self.node, self.rpc, self.store, self.config = node, rpc, store, node.config.lad
        self.compilers = asyncio.Semaphore(self.config.compile.workers)
        self.validator_up = asyncio.Event()
        self.validator_up.set()
        self.hosts = tuple(dict.fromkeys(node.place_of(name).host for name in node.peers("proxy")))

    async def compile(self, change: Commit) -> list[Setting]:
        """The settings of all sources; raises Rejected."""
        settings = []
        async with self.compilers:
            for source in change.sources:
                await asyncio.sleep(COMPILE_S)
                try:
                    settings.append(compile_setting(source.text))
                except CompileError as error:
                    raise Rejected(f"{source.path} does not compile: {error}") from None
        return settings

    async def validate(self, change: Commit, settings: list[Setting]) -> None:
        """Raises Rejected for what a rule forbids, and when the validator does not answer."""
        if self.node.variant("bug.skip_validation"):
            return
        try:
            async with asyncio.timeout(self.config.rpc.timeout):
                await self.validator_up.wait()
        except TimeoutError:
            raise Rejected("the validator does not answer") from None
        schema = self.config.schema.rev
        if self.node.variant("safe.least_schema"):
            answers = await self.ask(self.node.peers("app"), change.sources[0].path)
            schema = min([schema, *(health.schema for health in answers.values())])
        for source, setting in zip(change.sources, settings, strict=True):
            fault = find_fault(setting, schema)
            if fault:
                raise Rejected(f"{source.path}: {fault}")
        self.node.emit("validator.pass", change=change.id)

    def artefact(self, setting: Setting, payload: Blob) -> Blob:
        config = self.config
        return pack(setting, payload, schema=max(config.schema.rev, min(MODES)), encoding=config.artefact.encoding,
                    algorithm=config.artefact.digest, name_it=self.node.variant("safe.name_digest"))  # fmt: skip

    def gate(self, change: str, percent: float, hosts: Iterable[str]) -> Gate:
        seed = self.config.selector.seed if self.node.variant("safe.seed_in_gate") else None
        return Gate(percent=percent, hosts=tuple(hosts), change=change, seed=seed)

    def inside(self, gate: Gate | None) -> list[str]:
        """The hosts that see what is behind a gate, as the author thinks."""
        return [h for h in self.hosts if gate is None or is_inside(gate, h, self.config.selector.seed)]

    # -- the store -------------------------------------------------------------------------------------------

    async def put(self, ops: list[Op]) -> int:
        """Carry out operations in one transaction; its zxid. Raises Rejected or Undecided."""
        groups = [[op] for op in ops] if self.node.variant("bug.split_group") else [ops]
        zxid = 0
        for group in groups:
            try:
                zxid = (await self.store.multi(group)).zxid
            except (TooLarge, BadVersion, NoPath) as error:
                raise Rejected(f"the store refuses: {error}") from None
            except NoQuorum as error:
                raise Undecided(str(error)) from None
        return zxid

    async def undo(self, paths: Iterable[str], change: str) -> tuple[int, ...] | None:
        """Make the content before a change the newest version of its paths, where it is staged; their new versions.

        None when it is not staged (any more).
        """
        ops: list[Op] = []
        revs: dict[str, int] = {}
        for path in paths:
            entry = await self.store.latest(path)
            if entry is None or entry.gate is None or entry.gate.change != change:
                return None
            ops.append(await self.old(entry))
            revs[path] = entry.version + 1
        for path, rev in revs.items():
            self.node.emit("change.undo", change=change, path=path, rev=rev)
        return (await self.store.multi(ops)).versions

    async def old(self, entry: Entry) -> Op:
        """The operation that brings back what a staged version was to replace."""
        base = entry.base
        if base is None or base.deleted:
            return Delete(path=entry.path, expected=entry.version)
        pieces = [piece.content async for piece in self.store.read(entry.path, base.version)]
        return Put(path=entry.path, data=Blob.join(pieces).decompress(base.codec), expected=entry.version)

    # -- the apps --------------------------------------------------------------------------------------------

    async def ask(self, apps: Iterable[str], path: str, take: bool = False) -> dict[str, Health]:
        """How those apps are that answer."""
        names, timeout_s = list(apps), self.config.rpc.timeout
        calls = (self.rpc.call(name, Probe(path=path, take=take), timeout_s) for name in names)
        answers = await asyncio.gather(*calls, return_exceptions=True)
        for answer in answers:
            if isinstance(answer, BaseException) and not isinstance(answer, RpcError):
                raise answer
        return {name: answer for name, answer in zip(names, answers, strict=True) if isinstance(answer, Health)}

    def apps_on(self, hosts: Iterable[str]) -> list[str]:
        wanted = set(hosts)
        return [name for name in self.node.peers("app") if self.node.place_of(name).host in wanted]

    async def pick_canary(self, path: str) -> tuple[list[str], list[str]]:
        """A host whose apps use the path, and another to compare it with; fewer where there are no more."""
        apps = list(self.node.peers("app"))
        self.node.random.shuffle(apps)
        hosts: dict[str, None] = {}
        for at in range(0, len(apps), PROBED_MAX):
            answers = await self.ask(apps[at : at + PROBED_MAX], path)
            hosts |= dict.fromkeys(self.node.place_of(app).host for app, health in answers.items() if health.uses)
            if len(hosts) >= 2:
                break
        found = list(hosts)
        return found[:1], found[1:2]

    async def compare(self, paths: Iterable[str], revs: dict[str, int], hosts: list[str], control: list[str],
                      wait: bool) -> None:  # fmt: skip
        """Raises Harmful when the hosts that see a change are worse off than those that do not.

        With `wait` they must also have applied it, within the time in which every change is everywhere.
        """
        loop = asyncio.get_running_loop()
        until_s = loop.time() + self.config.limit.propagation
        for path in paths:
            while True:
                sick = await self.ask(self.apps_on(hosts)[:PROBED_MAX], path, take=wait)
                late = [
                    app for app, h in sick.items() if h.uses and h.rev < revs[path] and not h.refused and not h.waits
                ]
                if not wait or not (late or not sick) or loop.time() > until_s:
                    break
                await asyncio.sleep(self.config.rpc.timeout / 10)
            if wait and (late or not sick):
                raise Harmful(f"{', '.join(late or hosts)} did not apply {path} version {revs[path]}")
            for app, health in sick.items():
                if health.refused:
                    raise Harmful(f"{app} refuses {path} version {revs[path]}: {health.refused}")
            sound = await self.ask(self.apps_on(control)[:PROBED_MAX], path)
            worse = _bad_share(sick.values()) - _bad_share(sound.values())
            if worse > WORSE:
                raise Harmful(f"{', '.join(hosts)} with {path} version {revs[path]} fail {worse:.0%} more often")


class Change:
    """One change, and what it has come to."""

    def __init__(self, pipeline: Pipeline, commit: Commit) -> None:
        self.pipeline, self.commit, self.node = pipeline, commit, pipeline.node
        self.paths = [source.path for source in commit.sources]
        self.revs = dict.fromkeys(self.paths, 0)
        self.zxid = 0
        self.canary: list[str] = []

    def tell(self, state: str, percent: float = 0.0, hosts: Iterable[str] = (), why: str = "") -> None:
        for path, rev in self.revs.items():
            self.node.emit("change.state", change=self.commit.id, path=path, rev=rev, state=state, percent=percent,
                           hosts=list(hosts), why=why)  # fmt: skip

    def end(self, state: str, why: str = "") -> Committed:
        self.tell(state, percent=100.0 if state == "FULL" else 0.0, why=why)
        return Committed(change=self.commit.id, state=state, revs=tuple(self.revs.values()), zxid=self.zxid, why=why)

    async def prepare(self) -> list[Blob]:
        """Compile and validate; the artefacts. Raises Rejected."""
        self.tell("DRAFT")
        settings = await self.pipeline.compile(self.commit)
        self.tell("COMPILED")
        await self.pipeline.validate(self.commit, settings)
        sources = self.commit.sources
        return [self.pipeline.artefact(s, source.payload) for s, source in zip(settings, sources, strict=True)]

    async def look_up(self) -> None:
        """Which versions the paths will have; raises Rejected when one is not what the change was written against."""
        for source in self.commit.sources:
            entry = await self.pipeline.store.latest(source.path)
            now = entry.version if entry is not None else 0
            if entry is not None and entry.gate is not None:
                raise Rejected(f"{source.path} has a change under way")
            if source.base_rev not in (-1, now):
                raise Rejected(f"{source.path} has version {now}, the change was made for {source.base_rev}")
            self.revs[source.path] = now + 1

    async def roll_out(self, artefacts: list[Blob]) -> Committed:
        """Write and expose, in stages or at once. Raises Rejected, Harmful or Undecided."""
        if not self.commit.staged:
            await self._write(artefacts, None)
            return self.end("FULL")
        pipeline = self.pipeline
        canary, control = await pipeline.pick_canary(self.paths[0])
        await self._write(artefacts, pipeline.gate(self.commit.id, 0.0, canary))
        self.canary = canary
        self.tell("CANARY", hosts=canary)
        if canary:
            await self._judge(canary, control, wait=True)
            await asyncio.sleep(pipeline.config.canary.duration)
            await self._judge(canary, control, wait=True)
        for percent in STAGES:
            gate = pipeline.gate(self.commit.id, percent, canary)
            inside = self._announce(gate)
            await self._expose(gate)
            self.tell("STAGE", percent, inside)
            await asyncio.sleep(pipeline.config.canary.duration)
            await self._judge(inside, [host for host in control if host not in inside], wait=False)
        self._announce(None)
        await self._expose(None)
        return self.end("FULL")

    async def _judge(self, hosts: list[str], control: list[str], wait: bool) -> None:
        """Raises Harmful when hosts that see the change are worse off."""
        why = ""
        try:
            await self.pipeline.compare(self.paths, self.revs, hosts, control, wait)
        except Harmful as error:
            why = str(error)
        self.node.emit("canary.verdict", change=self.commit.id, ok=not why, why=why)
        if why and not self.node.variant("bug.full_after_bad_canary"):
            raise Harmful(why)

    async def recover_canary(self) -> None:
        """After a roll-back: what was restarted for the change is restarted again, once it can take the old content."""
        try:
            await self.pipeline.compare(self.paths, self.revs, self.canary, [], wait=True)
        except Harmful as error:
            self.node.emit("canary.left", change=self.commit.id, why=str(error))

    def _announce(self, gate: Gate | None) -> list[str]:
        """Say who may see the change, before they do."""
        inside, percent = self.pipeline.inside(gate), 100.0 if gate is None else gate.percent
        for path, rev in self.revs.items():
            self.node.emit("change.expose", change=self.commit.id, path=path, rev=rev, percent=percent,
                           hosts=inside if gate is not None else [])  # fmt: skip
        return inside

    async def _write(self, artefacts: list[Blob], gate: Gate | None) -> None:
        self.tell("VALIDATED")
        self._announce(gate)
        puts: list[Op] = [
            Put(path=path, data=data, expected=self.revs[path] - 1, gate=gate)
            for path, data in zip(self.paths, artefacts, strict=True)
        ]
        self.zxid = await self.pipeline.put(puts)

    async def _expose(self, gate: Gate | None) -> None:
        self.zxid = await self.pipeline.put([Expose(path=p, version=self.revs[p], gate=gate) for p in self.paths])


def _bad_share(found: Iterable[Health]) -> float:
    ok, bad = (sum(numbers) for numbers in zip((0, 0), *((health.ok, health.bad) for health in found), strict=True))
    return bad / (ok + bad) if ok + bad else 0.0
