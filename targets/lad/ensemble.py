"""How the members of the store agree: one leader per term, a record counts once a majority has it on disk.

A follower that hears nothing for four ticks of its own stands for election; a leader beats every half tick of its own,
and gives up when no majority answered for four. Terms fence: whoever sees a higher one follows, and nothing of a lower
one is accepted. Sources: ../shared/targets/lad.md section 2; Ongaro and Ousterhout 2014 (Raft), sections 5 and 7.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from zebra.node import Node
from zebra.rpc import Caller, Rpc, RpcError
from zebra.targets.lad.log import Log, content_bytes, read_snapshot, write_snapshot
from zebra.targets.lad.state import PARTS, Part, Path, State
from zebra.targets.lad.store_messages import (
    WIRE,
    Append,
    Appended,
    Install,
    NoQuorum,
    NotLeader,
    Record,
    Vote,
    Voted,
    Written,
)

BATCH_RECORDS, BATCH_BYTES = 64, 8 << 20
SLOW_RATE = 1e7
"""Bytes per second that a transfer between members is given time for."""

BULK_BYTES = 1 << 20
"""From so many bytes on records travel on a connection of their own, lest heartbeats wait behind them."""

SNAPSHOT_EVERY, KEPT_RECORDS = 1000, 200

Applied = Callable[[Record, list[Path]], None]


class Ensemble:
    """One member's part in it. `applied` is called for each record once it is committed; `state` is what they came to.

    A `learner` gets everything and has no say.
    """

    def __init__(self, node: Node[Any], rpc: Rpc, voters: tuple[str, ...], learners: tuple[str, ...],
                 applied: Applied) -> None:  # fmt: skip
        self.node, self.rpc, self.voters, self.applied = node, rpc, voters, applied
        self.others = tuple(name for name in (*voters, *learners) if name != node.name)
        self.learner = node.name not in voters
        self.majority = len(voters) // 2 + 1
        self.loop, self.log, self.state = asyncio.get_running_loop(), Log(node), State()
        self.bulk = Rpc(node, WIRE)
        self.leader, self.leads, self.commit = "", False, 0
        self.heard_s = self.loop.time()
        self.max_bytes: Callable[[], int] = int  # the least limit of the readers that polled here
        self.loaded: Callable[[], object] = int  # called when a leader's snapshot has replaced the state
        self.limits: dict[str, int] = {}  # of each follower, what it said last
        self._snapshot = 0
        self._parts: list[Part] = []
        self._asked: dict[str, asyncio.Future[Written]] = {}
        self._news = self.loop.create_future()
        self._down = asyncio.Event()
        self._applying: list[asyncio.Future[None]] = []
        self._tasks: dict[asyncio.Task[None], None] = {}
        self.handlers: dict[Any, Any] = {Vote: self.vote, Append: self.append, Install: self.install}

    @property
    def tick_s(self) -> float:
        tick: float = self.node.config.lad.store.tick
        return tick

    async def load(self) -> None:
        """Take up what is on disk."""
        parts = await read_snapshot(self.node, PARTS)
        if parts:
            self.state = State.of(parts)
        self.commit = self._snapshot = self.state.zxid
        await self.log.load(self.state.zxid, self.state.term)
        self.node.emit("store.load", zxid=self.state.zxid, last=self.log.last, term=self.log.term)

    async def run(self) -> None:
        """Follow, stand for election, lead, for ever."""
        while True:
            await self._silence()
            try:
                if await self._campaign():
                    await self._lead()
            except OSError:
                self.heard_s = self.loop.time()  # the disk takes no vote: later, perhaps

    async def _silence(self) -> None:
        """Wait until nothing was heard of a leader for four ticks or up to half as many more, drawn anew each time.

        Where there never was a term nobody leads, and one tick is enough.
        """
        share = self.node.random.random()
        while True:
            timeout_s = self.tick_s * (4 + 2 * share if self.log.term else share)
            left_s = self.heard_s + timeout_s - self.loop.time()
            if left_s <= 0 and not self.learner:
                return
            await asyncio.sleep(1e9 if self.learner else left_s)

    # -- following -------------------------------------------------------------------------------------------

    def _see(self, term: int) -> None:
        """A term higher than ours: we follow, whoever leads it."""
        self.log.term, self.log.voted, self.leader, self.leads = term, "", "", False
        self._down.set()

    async def vote(self, ask: Vote, caller: Caller) -> Voted:
        log = self.log
        if ask.term > log.term:
            self._see(ask.term)
        current = (ask.last_term, ask.last_zxid) >= (log.last_term, log.last)
        granted = ask.term == log.term and log.voted in ("", caller.name) and current and not self.learner
        if granted:
            log.voted, self.heard_s = caller.name, self.loop.time()
        await log.save_term()
        return Voted(term=log.term, granted=granted)

    def _follow(self, term: int, leader: str) -> bool:
        """Whether to obey this leader; if so, it was heard."""
        if term < self.log.term and not self.node.variant("bug.no_fence"):
            return False
        if term > self.log.term:
            self._see(term)
        self.leader, self.heard_s = leader, self.loop.time()
        return True

    async def append(self, ask: Append, caller: Caller) -> Appended:
        log = self.log
        if not self._follow(ask.term, caller.name):
            return Appended(term=log.term, ok=False, zxid=self.commit)
        if ask.prev_zxid > self.commit and log.term_at(ask.prev_zxid) != ask.prev_term:
            return Appended(term=log.term, ok=False, zxid=self.commit)
        for record in ask.records:
            if record.zxid > self.commit and log.term_at(record.zxid) != record.term:
                if record.zxid <= log.last:
                    log.cut(record.zxid)
                log.add(record)
        agreed = ask.prev_zxid + len(ask.records)
        self._commit(min(ask.committed, agreed))
        await log.save_term()
        if ask.records:
            await log.persist()
        if log.term != ask.term and not self.node.variant("bug.no_fence"):
            return Appended(term=log.term, ok=False, zxid=self.commit)
        return Appended(term=log.term, ok=True, zxid=agreed, max_bytes=self.max_bytes())

    async def install(self, ask: Install, caller: Caller) -> Appended:
        """Parts of a snapshot, in order; the last one puts it in the place of everything that we have."""
        log = self.log
        if not self._follow(ask.term, caller.name):
            return Appended(term=log.term, ok=False, zxid=self.commit)
        if ask.part == 0:
            self._parts = []
        if ask.part != len(self._parts):
            return Appended(term=log.term, ok=False, zxid=self.commit)
        self._parts.append(PARTS.join(ask.header, ask.blobs))
        if ask.last and ask.zxid > self.commit:
            parts, self._parts = self._parts, []
            await write_snapshot(self.node, PARTS, ask.zxid, parts)
            if ask.zxid > self.commit:
                await log.restart_at(ask.zxid, ask.zxid_term)
                self.state, self.commit, self._snapshot = State.of(parts), ask.zxid, ask.zxid
                self.node.emit("store.load", zxid=ask.zxid, last=log.last, term=log.term)
                self.loaded()
                self._wake()
        await log.save_term()
        return Appended(term=log.term, ok=log.term == ask.term, zxid=ask.zxid if ask.last else self.commit)

    # -- committing ------------------------------------------------------------------------------------------

    def _commit(self, zxid: int) -> None:
        """Carry out all records up to `zxid`."""
        if zxid <= self.commit:
            return
        self.commit = zxid
        while self.state.zxid < zxid:
            record = self.log.at(self.state.zxid + 1)
            touched = self.state.apply(record)
            self.applied(record, touched)
            asked = self._asked.pop(record.id, None)
            if asked is not None and not asked.done():
                self._answer(asked, self.state.done[record.id])
        self._wake()
        if zxid - self._snapshot >= SNAPSHOT_EVERY:
            self._snapshot = zxid
            self._spawn(self._take_snapshot())

    def _answer(self, asked: asyncio.Future[Written], result: Written | str) -> None:
        if isinstance(result, Written):
            asked.set_result(result)
        else:
            name, _, text = result.partition(": ")
            asked.set_exception(WIRE.errors[name](text))
            asked.exception()

    async def _take_snapshot(self) -> None:
        self.state.compact()
        zxid, parts = self.state.zxid, self.state.parts()
        try:
            await write_snapshot(self.node, PARTS, zxid, parts)
            await self.log.forget(zxid, KEPT_RECORDS)
        except OSError:
            self._snapshot = zxid - SNAPSHOT_EVERY // 2  # the disk is full: there may be room later

    async def caught_up(self, zxid: int) -> None:
        """Wait until the record `zxid` has been carried out here."""
        while self.state.zxid < zxid:
            future: asyncio.Future[None] = self.loop.create_future()
            self._applying.append(future)
            await future

    def _wake(self) -> None:
        """Something was carried out, or there are new records."""
        applying, self._applying = self._applying, []
        news, self._news = self._news, self.loop.create_future()
        for future in (*applying, news):
            if not future.done():
                future.set_result(None)

    def _spawn(self, work: Any) -> asyncio.Task[None]:
        task: asyncio.Task[None] = self.loop.create_task(work)
        self._tasks[task] = None
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        del self._tasks[task]
        if not task.cancelled() and task.exception() is not None:
            self.loop.call_exception_handler({"message": "a task of the store", "exception": task.exception()})

    # -- leading ---------------------------------------------------------------------------------------------

    async def _campaign(self) -> bool:
        """Stand for election; whether it was won."""
        log = self.log
        log.term, log.voted, self.leader, self.heard_s = log.term + 1, self.node.name, "", self.loop.time()
        term, ask = log.term, Vote(term=log.term, last_term=log.last_term, last_zxid=log.last)
        await log.save_term()
        asking = {
            self.loop.create_task(self.rpc.call(n, ask, 4 * self.tick_s)) for n in self.voters if n != self.node.name
        }
        votes = 1
        try:
            while asking and votes < self.majority and log.term == term:
                done, asking = await asyncio.wait(asking, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    if not isinstance(task.exception(), RpcError):
                        voted = task.result()
                        votes += voted.granted
                        if voted.term > log.term:
                            self._see(voted.term)
        finally:
            for task in asking:
                task.cancel()
        return votes >= self.majority and log.term == term

    async def _lead(self) -> None:
        log, now_s = self.log, self.loop.time()
        self.leader, self.leads = self.node.name, True
        self._down.clear()
        self.match = dict.fromkeys(self.others, 0)
        self.next = dict.fromkeys(self.others, log.last + 1)
        self.told = dict.fromkeys(self.others, 0)
        self.answered = dict.fromkeys(self.others, now_s)
        self.node.emit("store.leader", term=log.term, last=log.last)
        self._add("", ())
        tasks = [self._spawn(self._replicate(name, log.term)) for name in self.others]
        tasks += [self._spawn(self._beat(name, log.term)) for name in self.others]
        tasks += [self._spawn(self._flush()), self._spawn(self._keep_quorum())]
        try:
            await self._down.wait()
        finally:
            self.leads = False
            self.leader = "" if self.leader == self.node.name else self.leader
            self.heard_s = self.loop.time()
            for task in tasks:
                task.cancel()
            for asked in self._asked.values():
                if not asked.done():
                    asked.set_exception(NoQuorum(f"{self.node.name} leads no longer"))
                    asked.exception()
            self._asked.clear()

    async def propose(self, name: str, ops: tuple[Any, ...]) -> Written:
        """Carry out operations as one transaction; raises what stands against it, NotLeader or NoQuorum."""
        if not self.leads:
            raise NotLeader(self.leader)
        done = self.state.done.get(name)
        if done is not None:
            asked: asyncio.Future[Written] = self.loop.create_future()
            self._answer(asked, done)
            return await asked
        if name not in self._asked:
            self._asked[name] = self.loop.create_future()
            self._add(name, ops)
        return await asyncio.shield(self._asked[name])

    def _add(self, name: str, ops: tuple[Any, ...]) -> None:
        self.log.add(Record(zxid=self.log.last + 1, term=self.log.term, id=name, ops=ops))
        self._wake()

    def _advance(self) -> None:
        """Commit what a majority has on disk, once something of this term is among it."""
        have = sorted((self.log.durable, *(self.match[n] for n in self.voters if n != self.node.name)), reverse=True)
        zxid = have[0 if self.node.variant("bug.ack_before_majority") else self.majority - 1]
        if zxid > self.commit and self.log.term_at(zxid) == self.log.term and self.leads:
            self._commit(zxid)

    async def _flush(self) -> None:
        """Make the leader's own records durable."""
        while True:
            news = self._news
            try:
                await self.log.persist()
                self._advance()
            except OSError:
                await asyncio.sleep(self.tick_s)
                continue
            if self.log.durable >= self.log.last:
                await asyncio.wait([news])

    async def _beat(self, name: str, term: int) -> None:
        while True:
            match = self.match[name]
            ask = Append(term=term, prev_term=self.log.term_at(match) or 0, prev_zxid=match, records=(),
                         committed=min(self.commit, match))  # fmt: skip
            self._spawn(self._send(name, ask, self.rpc, 4 * self.tick_s))
            await asyncio.sleep(self.tick_s / 2)

    async def _keep_quorum(self) -> None:
        """Stand down once no majority has answered for four ticks."""
        voters = [name for name in self.voters if name != self.node.name]
        while True:
            await asyncio.sleep(self.tick_s / 2)
            since_s = self.loop.time() - 4 * self.tick_s
            if 1 + sum(self.answered[name] >= since_s for name in voters) < self.majority:
                self._down.set()

    async def _send(self, name: str, ask: Append | Install, rpc: Rpc, timeout_s: float) -> Appended | None:
        """A follower's answer; None if there is none, or it knows of a higher term."""
        try:
            reply = await rpc.call(name, ask, timeout_s)
        except RpcError:
            return None
        if not self.node.variant("bug.no_fence"):
            if reply.term > self.log.term:
                self._see(reply.term)
            if not reply.term == ask.term == self.log.term:
                return None
        self.answered[name] = self.loop.time()
        if reply.ok:
            self.limits[name] = reply.max_bytes
            self.match[name] = max(self.match[name], reply.zxid)
            self._advance()
        return reply

    async def _replicate(self, name: str, term: int) -> None:
        """Send a follower what it lacks, and how far all is committed."""
        log, timeout_s = self.log, self.node.config.lad.rpc.timeout
        while True:
            if self.next[name] <= log.base:
                await self._send_snapshot(name, term)
                continue
            before, news = self.next[name] - 1, self._news
            records = log.after(before, BATCH_RECORDS, BATCH_BYTES)
            if not records and self.told[name] >= self.commit:
                await asyncio.wait([news])
                continue
            committed = self.commit
            ask = Append(term=term, prev_term=log.term_at(before) or 0, prev_zxid=before, records=records,
                         committed=committed)  # fmt: skip
            size = sum(map(content_bytes, records))
            rpc = self.bulk if size >= BULK_BYTES else self.rpc
            reply = await self._send(name, ask, rpc, timeout_s + size / SLOW_RATE)
            if reply is None:
                await asyncio.sleep(self.tick_s / 2)
            elif reply.ok:
                self.next[name] = max(self.next[name], reply.zxid + 1)
                self.told[name] = min(committed, reply.zxid)
            else:
                self.next[name] = reply.zxid + 1

    async def _send_snapshot(self, name: str, term: int) -> None:
        zxid, zxid_term, parts = self.state.zxid, self.state.term, self.state.parts()
        for number, part in enumerate(parts):
            header, blobs = PARTS.split(part)
            ask = Install(term=term, zxid=zxid, zxid_term=zxid_term, part=number, last=part.last, header=header,
                          blobs=tuple(blobs))  # fmt: skip
            size = sum(map(len, blobs))
            timeout_s = self.node.config.lad.rpc.timeout + 4 * size / SLOW_RATE
            reply = await self._send(name, ask, self.bulk, timeout_s)
            if reply is None or not reply.ok:
                await asyncio.sleep(self.tick_s)
                return
        self.next[name] = zxid + 1
