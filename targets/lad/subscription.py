"""A proxy's place in the world: which distributor it belongs to, and for each shard its parent.

Per shard: SUBSCRIBING -> ATTACHED -> (gap) RESYNC -> ATTACHED; no ping for a lease, or a broken stream: ORPHAN ->
SUBSCRIBING with what it has. Source: ../shared/targets/lad.md section 2.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from typing import Any, Literal

from zebra.node import Node
from zebra.rpc import Rpc, RpcError, Unreachable
from zebra.targets.lad.config import LadConfig
from zebra.targets.lad.feed import Feed
from zebra.targets.lad.messages import (
    Attach,
    MetaUpdate,
    NoPlace,
    OtherDepth,
    ParentLost,
    Position,
    Resync,
    Stale,
    SubAck,
    Subscribe,
    Tree,
    Unsubscribe,
)

State = Literal["subscribing", "attached", "resync", "orphan"]
FOREVER_S = 1e6
ATTEMPTS_S = 3
"""A subscription may take as long as so many control messages: the distributor asks parents meanwhile."""


class Control:
    """The one distributor that a proxy belongs to: the one whose answer to a subscription is the newest."""

    def __init__(self, node: Node[Any], rpc: Rpc) -> None:
        self.node, self.rpc, self.loop = node, rpc, asyncio.get_running_loop()
        self.config: LadConfig = node.config.lad
        self.tree: Tree | None = None
        self.heard_s = self.loop.time()
        self.lease_s = self.config.lease.ttl / (10 if self.node.variant("bug.hasty_lease") else 1)
        self.lost = self.next = ""
        self.failed: dict[str, float] = {}
        self.changed: Callable[[], None] = lambda: None
        self.other_depth: Callable[[int], None] = lambda depth: None

    def choose(self) -> str:
        """The distributor to ask: ours while we have one, else by rendezvous among those of our region, then others."""
        if self.tree is not None and self.tree.distributor != self.lost:
            return self.tree.distributor
        if self.next and self.failed.get(self.next, -1e9) < self.loop.time() - self.lease_s:
            return self.next
        region, now = self.node.place.region, self.loop.time()

        def rank(name: str) -> tuple[bool, bool, bytes]:
            drawn = f"{self.config.pick.seed} {self.node.name} {name}".encode()
            return (
                self.failed.get(name, -1e9) > now - self.lease_s,
                self.node.place_of(name).region != region,
                hashlib.blake2b(drawn, digest_size=8).digest(),
            )

        return min(self.node.peers("distributor"), key=rank)

    def take(self, tree: Tree) -> None:
        """A subscription was answered: that distributor is ours now."""
        self.heard_s = self.loop.time()
        self.failed.pop(tree.distributor, None)
        if tree == self.tree and not self.lost:
            return
        old, self.tree, self.lost, self.next = self.tree, tree, "", ""
        if old is not None and old.distributor != tree.distributor:
            self.rpc.cast(old.distributor, Unsubscribe())
        self.changed()

    def hear(self) -> None:
        self.heard_s = self.loop.time()

    def give_up(self, distributor: str) -> None:
        """A distributor is of no use now."""
        self.failed[distributor] = self.loop.time()
        if self.tree is not None and self.tree.distributor == distributor and self.lost != distributor:
            self.lost = distributor
            self.changed()

    def move(self, to: str) -> None:
        """Belong to another distributor from its answer on."""
        if self.tree is not None:
            self.failed[self.tree.distributor] = self.loop.time()
            self.next, self.lost = to, self.tree.distributor
            self.changed()

    async def watch_lease(self) -> None:
        """Give our distributor up when it was silent for a lease."""
        while True:
            left_s = self.heard_s + self.lease_s - self.loop.time()
            if left_s > 0 or self.tree is None or self.lost:
                await asyncio.sleep(max(left_s, self.lease_s / 10))
                continue
            if self.node.variant("bug.faithful"):
                self.hear()
                continue
            self.node.emit("lease.lost", proxy=self.node.name, distributor=self.tree.distributor)
            self.give_up(self.tree.distributor)


class Subscription:
    """One shard: keeps a parent, and takes what comes from it. `apply` puts an update on disk and makes it known."""

    def __init__(self, shard: str, node: Node[Any], rpc: Rpc, control: Control, feed: Feed,
                 apply: Callable[[Subscription, MetaUpdate], Awaitable[None]]) -> None:  # fmt: skip
        self.shard, self.node, self.rpc, self.control, self.feed, self._apply = shard, node, rpc, control, feed, apply
        self.config: LadConfig = node.config.lad
        self.depth = self.config.shard.depth
        self.loop = asyncio.get_running_loop()
        self.state: State = "subscribing"
        self.place: SubAck | None = None
        self.peers: dict[str, int] = {}
        self.mode = self.config.update.seq_mode
        self.confirmed = False
        self.hung: asyncio.Event | None = None
        self.on_confirm: Callable[[str], None] = lambda shard: None
        self._why, self.stopped = "", False
        self._reader: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()
        self._placed: list[asyncio.Future[None]] = []

    # -- the place -------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Keep a place in the tree of our distributor, until stopped."""
        while not self.stopped:
            place = self.place
            if place is None or self.control.lost or place.tree != self.control.tree:
                await self.subscribe()
            elif self._why:
                await self.replace(place, self._why)
            else:
                self._wake.clear()
                await self._wake.wait()

    def wake(self) -> None:
        self._wake.set()

    async def subscribe(self) -> None:
        """Ask a distributor for a place until one gives it, after a loss not at once. Pauses grow, with full jitter."""
        self.state = "orphan" if self.place is not None else "subscribing"
        attempt = 0
        if self.control.lost and not self.control.next:
            await asyncio.sleep(
                self.node.random.uniform(0, min(self.config.backoff.longest, self.control.lease_s / 3))
                * (0 if self.node.variant("bug.no_jitter") else 1)
            )
        while True:
            distributor = self.control.choose()
            depth = self.depth if self.node.variant("safe.depth_in_subscribe") else 0
            limit = self.config.value.max_bytes if self.node.variant("safe.least_reader_limit") else 0
            ask = Subscribe(shard=self.shard, have=self.feed.zxid, depth=depth, max_bytes=limit)
            try:
                ack = await self.rpc.call(distributor, ask, ATTEMPTS_S * self.config.rpc.timeout)
            except OtherDepth as error:
                self.control.other_depth(int(str(error)))
                return
            except RpcError:
                self.control.give_up(distributor)
            else:
                self.control.take(ack.tree)
                self.take_place(ack, "subscribed")
                return
            longest = min(self.config.backoff.longest, self.config.backoff.first * 2**attempt)
            attempt += 1
            await asyncio.sleep(self.node.random.uniform(0, longest))

    async def replace(self, place: SubAck, why: str) -> None:
        """Our parent is of no use: ask our distributor for another one."""
        self._why, self.state = "", "orphan"
        if self.node.variant("bug.no_replace"):
            self.node.emit("parent.lost", proxy=self.node.name, shard=self.shard, parent=place.parent, why=why)
            return
        if why == "left" and await self._moved(place):
            return
        self.node.emit("parent.lost", proxy=self.node.name, shard=self.shard, parent=place.parent, why=why)
        ask = ParentLost(shard=self.shard, tree=place.tree, turn=place.turn, parent=place.parent, why=why,
                         have=self.feed.zxid)  # fmt: skip
        try:
            ack = await self.rpc.call(place.tree.distributor, ask, ATTEMPTS_S * self.config.rpc.timeout)
        except Stale:
            if self.place is place and not await self._moved(place):
                self.place = None
        except NoPlace:
            if self.place is place:
                self.place = None
        except RpcError:
            if self.place is place:
                self.control.give_up(place.tree.distributor)
        else:
            self.take_place(ack, why)

    async def _moved(self, place: SubAck) -> bool:
        """Whether our distributor gives us another place soon, without being asked: it has just taken us away here."""
        if self.place is place:
            await self.placed_soon()
        return self.place is not place

    async def placed_soon(self) -> None:
        """Wait until we are given a place, but not for long."""
        waiter = self.loop.create_future()
        self._placed.append(waiter)
        await asyncio.wait([waiter], timeout=self.config.rpc.timeout / 2)

    def take_place(self, ack: SubAck, why: str) -> bool:
        """Attach to a parent, unless the place is older than ours, or in the tree of a distributor that is not ours."""
        old = self.place
        older = old is not None and old.tree == ack.tree and ack.turn <= old.turn
        if (ack.tree != self.control.tree or older) and not self.node.variant("bug.ignore_epoch"):
            return False
        if self._reader is not None:
            self._reader.cancel()
        if self.feed.tree != ack.tree:
            self.feed.tree = ack.tree
            self.peers.clear()
            self.feed.close_all()
            self.mode = ack.mode or self.config.update.seq_mode
            if self.mode == "per_shard":
                self.feed.at = Position(seq=0, prev=0, zxid=self.feed.zxid)
        if ack.lease:
            self.control.lease_s = ack.lease
        self.place, self._why, self.state = ack, "", "attached"
        self.node.emit("sub", proxy=self.node.name, shard=self.shard, distributor=ack.tree.distributor,
                       epoch=ack.tree.epoch, parent=ack.parent, turn=ack.turn, why=why)  # fmt: skip
        self._reader = self.loop.create_task(self.read(ack))
        self._wake.set()
        waiting, self._placed = self._placed, []
        for waiter in waiting:
            waiter.set_result(None)
        return True

    def blame(self, place: SubAck, why: str) -> None:
        """What our parent sends is wrong: ask for another one."""
        if self.place is place and place.parent != place.tree.distributor:
            self._why = why
            self._wake.set()

    def stop(self) -> None:
        self.stopped = True
        if self._reader is not None:
            self._reader.cancel()

    # -- the parent ------------------------------------------------------------------------------------------

    async def read(self, place: SubAck) -> None:
        """Take the updates that our parent sends, until that ends."""
        ask = Attach(shard=self.shard, tree=place.tree, have=self.feed.zxid)
        why = "left"
        try:
            async with await self.rpc.stream(place.parent, ask, self.config.rpc.timeout) as stream:
                while (update := await stream.receive(FOREVER_S)) is not None:
                    if self.hung is not None:
                        await self.hung.wait()
                    await self.take(update, place)
        except Stale:
            why = "stale"
        except Unreachable:
            why = "lost"
        except RpcError:
            why = "idle"
        if self.place is place:
            self._why = why
            self._wake.set()

    async def take(self, update: MetaUpdate, place: SubAck) -> None:
        """Apply an update if it follows what we have; ignore old news; ask for what is missing after a gap."""
        if update.tree != place.tree:
            return
        self.control.hear()
        seq, at = update.at.seq, self.feed.at.seq
        if update.first and self.mode == "per_shard":
            pass  # each tree counts for itself: whatever its number is, it is where we are now
        elif update.first:
            if seq < at or (seq == at and not update.entries):
                self.confirm()
                return
        elif seq <= at:
            return
        elif seq != at + 1 if self.mode == "per_shard" else update.at.prev > at:
            update = await self.resync(place)
        await self._apply(self, update)
        self.confirm()

    async def resync(self, place: SubAck) -> MetaUpdate:
        """All that we miss, from our parent. Raises RpcError."""
        self.state = "resync"
        self.node.emit("resync", proxy=self.node.name, shard=self.shard, parent=place.parent)
        ask = Resync(shard=self.shard, tree=place.tree, have=self.feed.zxid)
        update = await self.rpc.call(place.parent, ask, self.config.rpc.timeout)
        self.state = "attached"
        return update

    def confirm(self) -> None:
        """What we have is what our distributor has."""
        if not self.confirmed:
            self.confirmed = True
            self.on_confirm(self.shard)
