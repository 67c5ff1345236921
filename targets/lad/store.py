"""A member of the store: takes transactions where it leads, answers reads, polls and watches from what it has.

Source: ../shared/targets/lad.md sections 1 and 2.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from typing import Any

from zebra.node import Node
from zebra.rpc import Caller, Rpc, RpcError
from zebra.targets.lad.ensemble import Ensemble
from zebra.targets.lad.log import RECORDS
from zebra.targets.lad.state import Path
from zebra.targets.lad.store_messages import (
    WIRE,
    BadVersion,
    Changes,
    Close,
    Fired,
    Granted,
    Latest,
    NoSession,
    NotLeader,
    Ok,
    Op,
    Open,
    OpenSession,
    Piece,
    PingSession,
    Poll,
    Put,
    Read,
    Record,
    Stored,
    TooLarge,
    Watch,
    Write,
    Written,
)

OPS_MAX = 512
"""Operations in one transaction."""

TICKS_MIN, TICKS_MAX = 2, 20
"""The bounds of a session's timeout, in ticks. Source: ZooKeeper."""


class Store:
    """One member of the ensemble of all nodes of the role `store`; nodes of the role `observer` learn from it."""

    def __init__(self, node: Node[Any]) -> None:
        self.node, self.loop = node, asyncio.get_running_loop()
        self.rpc = Rpc(node, WIRE)
        voters = tuple(sorted((*node.peers("store"), *((node.name,) if node.role == "store" else ()))))
        self.ensemble = Ensemble(node, self.rpc, voters, node.peers("observer"), self.applied)
        self.ensemble.max_bytes, self.ensemble.loaded = self.least_limit, self.loaded
        self.limits: dict[str, int] = {}  # of readers that polled here
        self.heard: dict[str, float] = {}  # of sessions, while leading
        self.watches: dict[str, dict[asyncio.Future[int], None]] = {}

    async def run(self) -> None:
        await self.ensemble.load()
        await self.rpc.serve({**self.ensemble.handlers, **self.handlers()})
        await self.node.ready()
        await asyncio.gather(self.ensemble.run(), self.end_sessions())

    def handlers(self) -> dict[Any, Any]:
        return {
            Write: self.write, Poll: self.poll, Latest: self.latest, Read: self.read, Watch: self.watch,
            OpenSession: self.open_session, PingSession: self.ping_session,
        }  # fmt: skip

    # -- transactions ----------------------------------------------------------------------------------------

    async def write(self, ask: Write, caller: Caller) -> Written:
        paths = [op.path for op in ask.ops]
        if not 0 < len(paths) <= OPS_MAX or len(set(paths)) < len(paths):
            raise BadVersion(f"a transaction has 1 to {OPS_MAX} operations, each on another path")
        if not self.ensemble.leads:
            raise NotLeader(self.ensemble.leader)
        written = await self.ensemble.propose(ask.id, tuple(map(self.prepare, ask.ops)))
        self.node.emit("store.ack", zxid=written.zxid)
        return written

    def prepare(self, op: Op) -> Any:
        """An operation as it goes into the log: a value in its stored form, with its digest. Raises TooLarge."""
        if not isinstance(op, Put):
            return op
        config, size = self.node.config.lad, len(op.data)
        limits = [config.value.max_bytes, self.least_limit(), *self.ensemble.limits.values()]
        limit = min(filter(None, limits))
        if size > limit:
            raise TooLarge(f"{op.path}: {size} bytes, {limit} is the most that is taken")
        content = op.data.compress(config.content.codec)
        digest = (op.data if config.digest.over == "raw" else content).checksum(config.digest.algorithm)
        return Stored(path=op.path, content=content, raw_size=size, digest=digest, alg=config.digest.algorithm,
                      codec=config.content.codec, expected=op.expected, gate=op.gate, session=op.session,
                      over=config.digest.over if self.node.variant("safe.name_coverage") else "")  # fmt: skip

    def least_limit(self) -> int:
        """The longest value that all who poll here can pass on; 0 when none said."""
        return min(self.limits.values(), default=0)

    def applied(self, record: Record, touched: list[Path]) -> None:
        """A record is committed, and carried out here."""
        of = hashlib.blake2b(RECORDS.split(record)[0], digest_size=8).hexdigest()
        self.node.emit("store.apply", zxid=record.zxid, term=record.term, of=of)
        for path in touched:
            if self.ensemble.leads:
                entry, gate = path.entry(), path.gate
                self.node.emit("commit", path=path.name, version=entry.version, zxid=record.zxid, digest=entry.digest,
                               alg=entry.alg, size=entry.size, raw_size=entry.raw_size, codec=entry.codec,
                               deleted=entry.deleted, batch=path.batch, full=path.full,
                               percent=gate.percent if gate else 100.0, hosts=list(gate.hosts) if gate else [],
                               change=gate.change if gate else "")  # fmt: skip
            self.fire(path.name, record.zxid)

    def fire(self, path: str, zxid: int) -> None:
        for future in self.watches.pop(path, ()):
            if not future.done():
                future.set_result(zxid)

    def loaded(self) -> None:
        """A snapshot has taken the place of what was here: any path may have changed."""
        for path in list(self.watches):
            self.fire(path, self.ensemble.state.zxid)

    # -- reading ---------------------------------------------------------------------------------------------

    def poll(self, ask: Poll, caller: Caller) -> Changes:
        if ask.max_bytes:
            self.limits[caller.name] = ask.max_bytes
        return self.ensemble.state.poll(ask.since_zxid, ask.roots, ask.limit)

    async def latest(self, ask: Latest, caller: Caller) -> Changes:
        await self.ensemble.caught_up(ask.at_least)
        state = self.ensemble.state
        path = state.paths.get(ask.path)
        return Changes(entries=(path.entry(),) if path is not None else (), to_zxid=state.zxid)

    async def read(self, ask: Read, caller: Caller) -> AsyncIterator[Piece]:
        held = self.ensemble.state.content(ask.path, ask.version)
        self.node.emit("store.read", path=ask.path, version=ask.version, by=caller.name)
        size = len(held.content)
        at, stop = min(ask.offset, size), size if ask.stop < 0 else min(ask.stop, size)
        while True:
            end = min(at + max(ask.block, 1), stop)
            yield Piece(offset=at, size=size, codec=held.version.codec, content=held.content.slice(at, max(at, end)))
            at = end
            if at >= stop:
                return

    async def watch(self, ask: Watch, caller: Caller) -> AsyncIterator[Fired]:
        """A one-shot watch; what happened between `since_zxid` and now fires it at once."""
        path = self.ensemble.state.paths.get(ask.path)
        if path is not None and path.zxid > ask.since_zxid:
            yield Fired(path=ask.path, zxid=path.zxid)
            return
        future: asyncio.Future[int] = self.loop.create_future()
        self.watches.setdefault(ask.path, {})[future] = None
        try:
            yield Fired(path=ask.path, zxid=await future)
        finally:
            self.watches.get(ask.path, {}).pop(future, None)

    # -- sessions --------------------------------------------------------------------------------------------

    async def open_session(self, ask: OpenSession, caller: Caller) -> Granted:
        """Grant the timeout that is wanted, clamped to 2 to 20 of our ticks; the member's own when none is."""
        tick_s, wanted_s = self.ensemble.tick_s, ask.wanted_s or self.node.config.lad.session.timeout
        timeout_s = min(max(wanted_s, TICKS_MIN * tick_s), TICKS_MAX * tick_s)
        await self.ensemble.propose(f"open {ask.id}", (Open(session=ask.id, timeout_s=timeout_s),))
        self.heard[ask.id] = self.loop.time()
        self.node.emit("session.open", session=ask.id, timeout_s=timeout_s)
        return Granted(session=ask.id, timeout_s=self.ensemble.state.sessions[ask.id])

    async def ping_session(self, ask: PingSession, caller: Caller) -> Ok:
        if not self.ensemble.leads:
            raise NotLeader(self.ensemble.leader)
        if ask.session not in self.ensemble.state.sessions:
            raise NoSession(ask.session)
        self.heard[ask.session] = self.loop.time()
        if ask.close:
            await self.close_session(ask.session, "closed")
        return Ok()

    async def close_session(self, session: str, why: str) -> None:
        await self.ensemble.propose(f"close {session}", (Close(session=session),))
        self.node.emit("session.close", session=session, why=why)

    async def end_sessions(self) -> None:
        """While leading, end sessions that were silent for their timeout; a new leader gives each all of it."""
        while True:
            await asyncio.sleep(self.ensemble.tick_s / 2)
            sessions = self.ensemble.state.sessions if self.ensemble.leads else {}
            self.heard = {name: self.heard.get(name, self.loop.time()) for name in sessions}
            for name, timeout_s in list(sessions.items()):
                if self.loop.time() > self.heard[name] + timeout_s:
                    try:
                        await self.close_session(name, "silent")
                    except RpcError:  # we lead no longer
                        break
