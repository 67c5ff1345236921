"""A client of the store: finds the leader, retries within a deadline, reads and polls at any member.

It needs a node whose configuration has `lad` and whose cluster has nodes of the role `store`:

    store = StoreClient(node)
    written = await store.write("/app/limits", Blob.of(b"..."), expected=0)
    entry = await store.latest("/app/limits")
    data = await store.value(entry)
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import Any, TypeVar

from zebra.blob import Blob
from zebra.node import Node
from zebra.rpc import Request, Rpc, RpcError, RpcTimeout, Unreachable
from zebra.targets.lad.store_messages import (
    WIRE,
    Changes,
    Delete,
    Entry,
    Expose,
    Gate,
    Latest,
    NoPath,
    NoQuorum,
    NoSession,
    NotLeader,
    Op,
    OpenSession,
    Piece,
    PingSession,
    Poll,
    Put,
    Read,
    Watch,
    Write,
    Written,
)

R = TypeVar("R")
DEADLINE_S = 30.0
PAUSE_S, PAUSE_MAX_S = 0.02, 0.5
"""The longest pause before the second try; it doubles with each one up to the greatest."""

SLOW_RATE = 1e7
"""Bytes per second that a write is given time for, beside the timeout of an RPC."""


class Session:
    """A session at the store: lasts while this client pings it every third of `timeout_s`, the timeout granted.

    `lost` is set once it has ended: it was closed, or could not be kept alive for its timeout.
    """

    def __init__(self, client: StoreClient, name: str, timeout_s: float) -> None:
        self.client, self.id, self.timeout_s = client, name, timeout_s
        self.lost = asyncio.Event()
        self._task = asyncio.get_running_loop().create_task(self._keep())

    async def _keep(self) -> None:
        loop = asyncio.get_running_loop()
        until_s = loop.time() + self.timeout_s
        while until_s > loop.time():
            await asyncio.sleep(self.timeout_s / 3)
            try:
                left_s, sent_s = until_s - loop.time(), loop.time()
                await self.client.ask_leader(PingSession(session=self.id), self.timeout_s / 6, left_s)
                until_s = sent_s + self.timeout_s
            except RpcError:  # NoSession, or no answer in time
                break
        self.lost.set()

    async def close(self) -> None:
        """End the session; its ephemeral paths are deleted."""
        self._task.cancel()
        self.lost.set()
        try:
            await self.client.ask_leader(PingSession(session=self.id, close=True), self.client.attempt_s())
        except NoSession:
            pass


class StoreClient:
    """Calls to whichever member can answer. `rpc` is a client of the store's WIRE, made if not given.

    Every coroutine raises what the store answers (BadVersion, NoPath, TooLarge), or NoQuorum when `deadline_s` passed
    without an answer: a write may then have been carried out or not.
    """

    def __init__(self, node: Node[Any], rpc: Rpc | None = None, deadline_s: float = DEADLINE_S) -> None:
        self.node, self.rpc, self.deadline_s = node, rpc or Rpc(node, WIRE), deadline_s
        self.loop = asyncio.get_running_loop()
        members = node.peers("store")
        mine = node.place.region
        near = [name for name in members if node.place_of(name).region == mine]
        self.members = members
        self.readers = [*near, *(name for name in members if name not in near)]  # the first is asked, while it answers
        if near:
            self._turn(node.random.randrange(len(near)), len(near))
        self.leader, self.seen, self._number = "", 0, 0
        self._prefix = f"{node.name}/{node.incarnation}/{node.random.getrandbits(32):08x}/"
        self.sessions: list[Session] = []

    def attempt_s(self, size: int = 0) -> float:
        """How long one attempt may take, with so many bytes in it."""
        timeout_s: float = self.node.config.lad.rpc.timeout
        return 2 * timeout_s + size / SLOW_RATE

    def new_id(self) -> str:
        """A name that no other transaction or session has."""
        self._number += 1
        return f"{self._prefix}{self._number}"

    # -- writing ---------------------------------------------------------------------------------------------

    async def write(self, path: str, data: Blob | bytes, *, expected: int | None = None, gate: Gate | None = None,
                    session: str = "") -> Written:  # fmt: skip
        """A new version of a path, after `expected` if given (0: there is none yet); staged with a gate."""
        blob = data if isinstance(data, Blob) else Blob.of(data)
        before = -1 if expected is None else expected
        return await self.multi([Put(path=path, data=blob, expected=before, gate=gate, session=session)])

    async def delete(self, path: str, *, expected: int | None = None) -> Written:
        """A new version of a path that says it is gone."""
        return await self.multi([Delete(path=path, expected=-1 if expected is None else expected)])

    async def expose(self, path: str, version: int, gate: Gate | None) -> Written:
        """Move the gate of a staged version; None shows it to everybody."""
        return await self.multi([Expose(path=path, version=version, gate=gate)])

    async def multi(self, ops: Iterable[Op]) -> Written:
        """Several operations as one transaction: all or nothing, one zxid. It is carried out once, if at all."""
        write = Write(id=self.new_id(), ops=tuple(ops))
        size = sum(len(op.data) for op in write.ops if isinstance(op, Put))
        written = await self.ask_leader(write, self.attempt_s(size))
        self.seen = max(self.seen, written.zxid)
        return written

    async def ask_leader(self, ask: Request[R], attempt_s: float, deadline_s: float = 0.0) -> R:
        """The leader's answer, whoever that is and becomes; see the class for what is raised."""
        until_s, pause_s, why = self.loop.time() + (deadline_s or self.deadline_s), PAUSE_S, "no time"
        while (left_s := until_s - self.loop.time()) > 0:
            member = self.leader or self.node.random.choice(self.members)
            try:
                answer = await self.rpc.call(member, ask, min(attempt_s, left_s))
                self.leader = member
                return answer
            except NotLeader as error:
                named = str(error)
                self.leader, why = named if named in self.members and named != member else "", f"{member} does not lead"
                if self.leader:
                    continue
            except (Unreachable, RpcTimeout, NoQuorum) as error:
                self.leader, why = "", str(error)
            await asyncio.sleep(min(self.node.random.random() * pause_s, max(until_s - self.loop.time(), 0.0)))
            pause_s = min(2 * pause_s, PAUSE_MAX_S)
        raise NoQuorum(f"no leader answered {type(ask).__name__}: {why}")

    # -- reading ---------------------------------------------------------------------------------------------

    async def poll(self, since: int, roots: Iterable[str] = (), limit: int = 10_000, max_bytes: int = 0) -> Changes:
        """What changed after the zxid `since` below the roots, at any member; see `Poll`."""
        return await self.ask_any(Poll(since_zxid=since, roots=tuple(roots), limit=limit, max_bytes=max_bytes))

    async def latest(self, path: str, at_least: int = 0) -> Entry | None:
        """The entry of a path, at a member that knows our own writes and `at_least`; None if there never was one."""
        found = await self.ask_any(Latest(path=path, at_least=max(at_least, self.seen)))
        return found.entries[0] if found.entries else None

    async def ask_any(self, ask: Request[R]) -> R:
        """The answer of the first member that gives one."""
        until_s = self.loop.time() + self.deadline_s
        while (left_s := until_s - self.loop.time()) > 0:
            for _ in self.readers:
                member = self.readers[0]
                try:
                    return await self.rpc.call(member, ask, min(self.attempt_s(), max(left_s, 1e-3)))
                except (Unreachable, RpcTimeout):
                    self._turn(1)
            await asyncio.sleep(self.node.random.random() * PAUSE_MAX_S)
        raise NoQuorum(f"no member answered {type(ask).__name__} in {self.deadline_s:g} s")

    def _turn(self, by: int, among: int = 0) -> None:
        """Let another member be asked first."""
        head, tail = self.readers[: among or None], self.readers[among or len(self.readers) :]
        self.readers = head[by:] + head[:by] + tail

    async def read(self, path: str, version: int, offset: int = 0, stop: int = -1,
                   block: int = 1 << 20) -> AsyncIterator[Piece]:  # fmt: skip
        """The ranges of a version's stored form, one by one. Goes on at another member when one falls silent.

        Raises NoPath when no member has that version (a member may not have it yet: that is retried for a while).
        """
        at, until_s = offset, self.loop.time() + self.deadline_s
        while True:
            member = self.readers[0]
            try:
                ask = Read(path=path, version=version, offset=at, stop=stop, block=block)
                async with await self.rpc.stream(member, ask, self.attempt_s()) as pieces:
                    while (piece := await pieces.receive(self.attempt_s(block))) is not None:
                        at, until_s = piece.offset + len(piece.content), self.loop.time() + self.deadline_s
                        yield piece
                return
            except NoPath:
                if self.loop.time() > until_s - self.deadline_s + self.attempt_s():
                    raise
            except (Unreachable, RpcTimeout) as error:
                if self.loop.time() > until_s:
                    raise NoQuorum(f"no member lets {path} be read: {error}") from None
            self._turn(1)
            await asyncio.sleep(self.node.random.random() * PAUSE_MAX_S / 2)

    async def value(self, entry: Entry) -> Blob:
        """The whole value of an entry's version, decompressed. Raises NoPath when it is deleted, or not kept."""
        if entry.deleted:
            raise NoPath(f"{entry.path} is deleted")
        pieces = [piece.content async for piece in self.read(entry.path, entry.version)]
        return Blob.join(pieces).decompress(entry.codec)

    async def watch(self, path: str, since: int) -> int:
        """Wait until a path was touched by a transaction after `since`; that one's zxid. Has no deadline."""
        while True:
            try:
                stream = await self.rpc.stream(self.readers[0], Watch(path=path, since_zxid=since), self.attempt_s())
                async with stream:
                    fired = await stream.receive(4 * self.attempt_s())
                    if fired is not None:
                        return fired.zxid
            except (Unreachable, RpcTimeout):
                self._turn(1)
            await asyncio.sleep(self.node.random.random() * PAUSE_MAX_S)

    # -- sessions --------------------------------------------------------------------------------------------

    async def open_session(self, wanted_s: float = 0.0) -> Session:
        """Open a session; the store grants a timeout near the one wanted (0: what it likes).

        An attempt may take the share of the wanted timeout that leaves time for every member, as ZooKeeper's does.
        """
        ask = OpenSession(id=self.new_id(), wanted_s=wanted_s)
        granted = await self.ask_leader(ask, wanted_s / len(self.members) if wanted_s else self.attempt_s())
        session = Session(self, granted.session, granted.timeout_s)
        self.sessions.append(session)
        return session

    async def close(self) -> None:
        """End what this client keeps open."""
        for session in self.sessions:
            if not session.lost.is_set():
                await session.close()
        await self.rpc.close()
