"""The author: takes commits, one at a time per path, sees each to its end, undoes what a crash left half exposed."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import Any

import msgspec

from zebra.blob import Blob
from zebra.node import Node
from zebra.rpc import Caller, Rpc, RpcError
from zebra.targets.lad.author_messages import WIRE, Commit, Committed, Refused, RollBack, SetValidator, Undecided
from zebra.targets.lad.log import Framing
from zebra.targets.lad.pipeline import Change, Harmful, Pipeline, Rejected
from zebra.targets.lad.store_client import StoreClient
from zebra.targets.lad.store_messages import NoPath, Ok, Put

PATHS_MAX = 256
JOURNAL_MARKS, RESULTS_KEPT = 1000, 256
AGAIN_S = 1.0
"""How soon the author asks the store again about a change that it does not know the outcome of."""


class Mark(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """A line of the commit log: a change is about to become the versions `revs` of its paths, or has ended."""

    change: str
    revs: dict[str, int] = {}
    result: Committed | None = None


class Journal:
    """The commit log: which changes are under way, and what became of the last ones."""

    def __init__(self, node: Node[Any]) -> None:
        self.disk, self.framing = node.disk, Framing(Mark)
        self.open: dict[str, Mark] = {}
        self.results: dict[str, Committed] = {}
        self._number, self._marks, self._lock = 0, 0, asyncio.Lock()

    async def load(self) -> None:
        names = sorted(name for name in self.disk.names() if name.startswith("journal-"))
        for name in names:
            for mark in self.framing.frames(await self.disk.read(name)):
                self._take(mark)
            self._number = int(name[8:])
        await self._begin(names)

    def _take(self, mark: Mark) -> None:
        if mark.result is None:
            self.open[mark.change] = mark
            return
        self.open.pop(mark.change, None)
        self.results[mark.change] = mark.result
        if len(self.results) > RESULTS_KEPT:
            del self.results[next(iter(self.results))]

    async def add(self, mark: Mark) -> None:
        """Make a mark durable."""
        async with self._lock:
            self._take(mark)
            await self.disk.append(self._name, self.framing.frame(mark))
            await self.disk.sync(self._name)
            self._marks += 1
            if self._marks >= JOURNAL_MARKS:
                await self._begin([self._name])

    async def _begin(self, old: list[str]) -> None:
        """A new file that holds what still matters; then the old ones go."""
        self._number, self._marks = self._number + 1, 0
        self._name = f"journal-{self._number:08d}"
        marks = [*self.open.values(), *(Mark(change=name, result=result) for name, result in self.results.items())]
        await self.disk.write(self._name, Blob.join([Blob.of(b""), *map(self.framing.frame, marks)]))
        await self.disk.sync(self._name)
        for name in old:
            await self.disk.remove(name)


class Author:
    """The front end for changes of configuration."""

    def __init__(self, node: Node[Any]) -> None:
        self.node, self.loop = node, asyncio.get_running_loop()
        self.journal = Journal(node)
        self.locks: dict[str, asyncio.Lock] = {}
        self.going: dict[str, asyncio.Future[Committed]] = {}

    async def run(self) -> None:
        self.rpc, self.store = Rpc(self.node, WIRE), StoreClient(self.node)
        self.pipeline = Pipeline(self.node, self.rpc, self.store)
        await self.journal.load()
        left = list(self.journal.open.values())
        await self.rpc.serve({Commit: self.commit, RollBack: self.roll_back, SetValidator: self.set_validator})
        await self.node.ready()
        await asyncio.gather(*(self._settle(mark) for mark in left))
        await self.loop.create_future()

    # -- requests --------------------------------------------------------------------------------------------

    async def commit(self, ask: Commit, caller: Caller) -> Committed:
        paths = [source.path for source in ask.sources]
        if not 0 < len(paths) <= PATHS_MAX or len(set(paths)) < len(paths):
            raise Refused(f"a change has 1 to {PATHS_MAX} sources, each of another path")
        return await self._once(ask.id, self._carry_out(ask))

    async def roll_back(self, ask: RollBack, caller: Caller) -> Committed:
        return await self._once(ask.id, self._bring_back(ask))

    def set_validator(self, ask: SetValidator, caller: Caller) -> Ok:
        (self.pipeline.validator_up.set if ask.up else self.pipeline.validator_up.clear)()
        self.node.emit("validator", up=ask.up)
        return Ok()

    async def _once(self, name: str, work: Any) -> Committed:
        """Carry out a request that may be sent again: once. A caller that goes away does not stop it."""
        if name in self.journal.results or name in self.going:
            work.close()
        if name in self.journal.results:
            return self.journal.results[name]
        if name not in self.going:
            task = self.going[name] = self.loop.create_task(work)
            task.add_done_callback(lambda done: (self.going.pop(name), done.cancelled() or done.exception()))
        return await asyncio.shield(self.going[name])

    # -- changes ---------------------------------------------------------------------------------------------

    async def _carry_out(self, ask: Commit) -> Committed:
        change = Change(self.pipeline, ask)
        try:
            artefacts = await change.prepare()
            async with self._locked(change.paths):
                await change.look_up()
                await self.journal.add(Mark(change=ask.id, revs=dict(change.revs)))
                try:
                    result = await change.roll_out(artefacts)
                except Undecided:
                    self._later(ask.id)
                    raise
                except (Harmful, Rejected) as error:
                    result = await self._undo(change, str(error))
        except Rejected as error:
            result = change.end("REJECTED", str(error))
        await self.journal.add(Mark(change=ask.id, result=result))
        return result

    async def _undo(self, change: Change, why: str) -> Committed:
        """End a change that must not go on: roll it back if anybody could have seen it."""
        try:
            revs = await self.pipeline.undo(change.paths, change.commit.id)
        except RpcError as error:
            self._later(change.commit.id)
            raise Undecided(f"{why}; and it could not be rolled back yet: {error}") from None
        if revs is None:
            return change.end("REJECTED", why)
        change.revs = dict(zip(change.paths, revs, strict=True))
        if change.canary:
            await change.recover_canary()
        return change.end("ROLLED_BACK", why)

    async def _bring_back(self, ask: RollBack) -> Committed:
        """What was there before a path's newest version becomes its newest version."""
        async with self._locked([ask.path]):
            entry = await self.store.latest(ask.path)
            if entry is None or not entry.before or entry.gate is not None:
                return Committed(change=ask.id, state="REJECTED", why=f"{ask.path} has nothing to go back to")
            try:
                pieces = [piece async for piece in self.store.read(ask.path, entry.before)]
            except NoPath as error:
                return Committed(change=ask.id, state="REJECTED", why=f"what was before is not there: {error}")
            before = Blob.join([piece.content for piece in pieces]).decompress(pieces[0].codec)
            rev = entry.version + 1
            self.node.emit("change.undo", change=ask.id, path=ask.path, rev=rev)
            try:
                written = await self.store.multi([Put(path=ask.path, data=before, expected=entry.version)])
            except RpcError as error:
                raise Undecided(str(error)) from None
        self.node.emit("change.state", change=ask.id, path=ask.path, rev=rev, state="ROLLED_BACK", percent=100.0,
                       hosts=[], why="asked for")  # fmt: skip
        result = Committed(change=ask.id, state="FULL", revs=written.versions, zxid=written.zxid)
        await self.journal.add(Mark(change=ask.id, result=result))
        return result

    def _locked(self, paths: list[str]) -> AsyncExitStack:
        return _Locks([self.locks.setdefault(path, asyncio.Lock()) for path in sorted(paths)])

    # -- after a crash, or an outage of the store ------------------------------------------------------------

    def _later(self, change: str) -> None:
        task = self.loop.create_task(self._settle(self.journal.open[change]))
        self.going[f"settling {change}"] = task  # type: ignore[assignment]
        task.add_done_callback(lambda done: self.going.pop(f"settling {change}", None))

    async def _settle(self, mark: Mark) -> None:
        """Find out what became of a change that this author no longer follows; roll it back if it is half exposed."""
        async with self._locked(list(mark.revs)):
            while True:
                try:
                    revs = await self.pipeline.undo(mark.revs, mark.change)
                    entries = [await self.store.latest(path) for path in mark.revs]
                    break
                except RpcError:
                    await asyncio.sleep(AGAIN_S)
            taken = all(entry is not None and entry.version >= mark.revs[entry.path] for entry in entries)
            state = "ROLLED_BACK" if revs is not None else "FULL" if taken else "REJECTED"
            now = dict(zip(mark.revs, revs, strict=True)) if revs is not None else mark.revs
            for path, rev in now.items():
                self.node.emit("change.state", change=mark.change, path=path, rev=rev, state=state, percent=0.0,
                               hosts=[], why="the author lost sight of it")  # fmt: skip
            result = Committed(change=mark.change, state=state, revs=tuple(now.values()), why="found out later")
            await self.journal.add(Mark(change=mark.change, result=result))


class _Locks(AsyncExitStack):
    """Several locks, taken in their order."""

    def __init__(self, locks: list[asyncio.Lock]) -> None:
        super().__init__()
        self._locks = locks

    async def __aenter__(self) -> _Locks:
        await super().__aenter__()
        try:
            for lock in self._locks:
                await self.enter_async_context(lock)
        except BaseException:
            await self.aclose()
            raise
        return self
