"""The baseline: configuration by watches, as ZooKeeper gives it to its clients.

An observer learns all that the ensemble decides and serves clients through one pipeline, in which reads, writes and
what the leader decided follow each other. A watcher sets a one-shot watch on each of its paths, is told that one
changed, and reads all of the new value, which sets the watch anew in the same step.

Source: ../shared/targets/lad.md section 2 ("ZooKeeper baseline, exact"); the two rates are choices.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from typing import Any

from zebra.node import Node
from zebra.rpc import Caller, Rpc, RpcError
from zebra.targets.lad.state import Path
from zebra.targets.lad.store import Store
from zebra.targets.lad.store_client import StoreClient
from zebra.targets.lad.store_messages import (
    WIRE,
    Arm,
    Content,
    Events,
    Fetch,
    Fired,
    Follow,
    Forward,
    Ok,
    Record,
    Written,
)

REQUEST_S = 20e-6
"""Seconds that the pipeline needs for a request, whatever is in it, and for telling one client of an event."""

SERVE_RATE = 1.25e9
"""Bytes per second at which the pipeline turns a value into an answer: that of its network card, 10 Gb/s."""

ASK_S = 600.0
AGAIN_S = 0.2


class Pipeline:
    """Jobs one after the other, each for its time. `run` is its life."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._waiting: deque[tuple[float, asyncio.Future[None]]] = deque()
        self._news = asyncio.Event()

    async def turn(self, cost_s: float) -> None:
        """Wait for one's turn, and until the pipeline has spent the time that the job costs."""
        future: asyncio.Future[None] = self._loop.create_future()
        self._waiting.append((cost_s, future))
        self._news.set()
        await future

    async def run(self) -> None:
        while True:
            while self._waiting:
                cost_s, future = self._waiting.popleft()
                await asyncio.sleep(cost_s)
                if not future.done():
                    future.set_result(None)
            self._news.clear()
            await self._news.wait()


class Observer(Store):
    """A member without a vote that serves watchers."""

    def __init__(self, node: Node[Any]) -> None:
        super().__init__(node)
        self.pipeline = Pipeline(self.loop)
        self.leader = StoreClient(node, self.rpc)
        self.streams: dict[str, asyncio.Queue[Fired]] = {}
        self.armed: dict[str, dict[str, None]] = {}  # of each path, who watches it
        self.telling: deque[tuple[list[str], int]] = deque()
        self.news = asyncio.Event()

    async def run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.pipeline.run())
            tasks.create_task(self.tell())
            tasks.create_task(super().run())

    def handlers(self) -> dict[Any, Any]:
        baseline = {Events: self.events, Fetch: self.fetch, Arm: self.arm, Forward: self.forward}
        return {**super().handlers(), **baseline}

    def applied(self, record: Record, touched: list[Path]) -> None:
        super().applied(record, touched)
        if touched:
            paths = [path.name for path in touched]
            self.telling.append((paths, record.zxid))
            self.news.set()

    async def tell(self) -> None:
        """Tell all who watch what changed; each watch is gone with that. It is its turn after all asked before."""
        while True:
            while self.telling:
                paths, zxid = self.telling.popleft()
                await self.pipeline.turn(REQUEST_S)
                for path in paths:
                    armed = self.armed.pop(path, {})
                    for client in armed:
                        stream = self.streams.get(client)
                        if stream is not None:
                            stream.put_nowait(Fired(path=path, zxid=zxid))
                    await self.pipeline.turn(REQUEST_S * len(armed))
            self.news.clear()
            await self.news.wait()

    async def events(self, ask: Events, caller: Caller) -> AsyncIterator[Fired]:
        queue = self.streams[caller.name] = asyncio.Queue()
        try:
            while True:
                yield await queue.get()
        finally:
            if self.streams.get(caller.name) is queue:
                del self.streams[caller.name]
                for armed in self.armed.values():
                    armed.pop(caller.name, None)

    async def fetch(self, ask: Fetch, caller: Caller) -> Content:
        path = self.ensemble.state.paths.get(ask.path)
        await self.pipeline.turn(REQUEST_S + (len(path.held[-1].content) if path else 0) / SERVE_RATE)
        path = self.ensemble.state.paths.get(ask.path)
        if ask.watch:
            self._watch(ask.path, caller)
        held = path.of(path.full) if path is not None else None
        if path is None or held is None:
            return Content(path=ask.path)
        self.node.emit("store.read", path=ask.path, version=path.full, by=caller.name)
        return Content(path=ask.path, version=path.full, zxid=path.zxid, digest=held.version.digest,
                       codec=held.version.codec, content=held.content)  # fmt: skip

    async def arm(self, ask: Arm, caller: Caller) -> Ok:
        await self.pipeline.turn(REQUEST_S)
        self._watch(ask.path, caller)
        return Ok()

    def _watch(self, path: str, caller: Caller) -> None:
        self.armed.setdefault(path, {})[caller.name] = None

    async def forward(self, ask: Forward, caller: Caller) -> Written:
        await self.pipeline.turn(REQUEST_S)
        return await self.leader.ask_leader(ask.write, self.leader.attempt_s())


class Watcher:
    """A client of the baseline, one per host."""

    def __init__(self, node: Node[Any]) -> None:
        self.node, self.loop = node, asyncio.get_running_loop()
        self.paths: dict[str, int] = {}
        observers = node.peers("observer")
        mine = int(node.name.rpartition("-")[2]) if observers else 0
        self.observers = [*observers[mine % len(observers) :], *observers[: mine % len(observers)]] if observers else []
        self.reading: dict[str, asyncio.Task[None]] = {}
        self.again: dict[str, None] = {}
        self.stream: Any = None

    async def run(self) -> None:
        self.rpc = Rpc(self.node, WIRE)
        await self.rpc.serve({Follow: self.follow})
        await self.node.ready()
        while True:
            try:
                await self.listen()
            except RpcError:
                pass
            self.stream = None
            if len(self.observers) > 1:
                self.observers.append(self.observers.pop(0))
            await asyncio.sleep(self.node.random.random() * AGAIN_S)

    async def listen(self) -> None:
        """Take events from an observer for as long as it lasts; all watches are set anew at its beginning."""
        async with await self.rpc.stream(self.observers[0], Events(), ASK_S) as self.stream:
            for path in self.paths:
                self.read(path)
            while (fired := await self.stream.receive(ASK_S)) is not None:
                self.read(fired.path)

    async def follow(self, ask: Follow, caller: Caller) -> Ok:
        if ask.path not in self.paths:
            self.paths[ask.path] = 0
            self.node.emit("watch.follow", path=ask.path)
            if self.stream is not None:
                self.read(ask.path)
                await asyncio.wait([self.reading[ask.path]])
        return Ok()

    def read(self, path: str) -> None:
        """Read a path; once more afterwards if that is under way."""
        if path in self.reading:
            self.again[path] = None
        else:
            task = self.reading[path] = self.loop.create_task(self._read(path))
            task.add_done_callback(lambda _: self._done(path))

    def _done(self, path: str) -> None:
        del self.reading[path]
        if path in self.again:
            del self.again[path]
            self.read(path)

    async def _read(self, path: str) -> None:
        observer, gap = self.observers[0], self.node.variant("bug.watch_gap")
        try:
            got = await self.rpc.call(observer, Fetch(path=path, watch=not gap), ASK_S)
            if gap:
                await self.rpc.call(observer, Arm(path=path), ASK_S)
        except RpcError:
            return  # the events end too, and then all is read again
        if got.version > self.paths[path]:
            self.paths[path] = got.version
            self.node.emit("watch.read", path=path, version=got.version, zxid=got.zxid, digest=got.digest)
