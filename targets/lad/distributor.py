"""The distributor: polls the store, places proxies in trees, one per shard, and is the root of each. Soft state only.

Source: ../shared/targets/lad.md section 2.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Iterable
from typing import Any

from zebra.node import Node
from zebra.rpc import Caller, Request, Rpc, RpcError
from zebra.targets.lad.config import LadConfig, shard_of
from zebra.targets.lad.content import Contents, Holding, digest_of
from zebra.targets.lad.feed import Feed
from zebra.targets.lad.leases import Leases, Member
from zebra.targets.lad.messages import (
    WIRE,
    AddPeer,
    Attach,
    Content,
    Full,
    GetContent,
    Leave,
    MetaUpdate,
    Move,
    NoPlace,
    Ok,
    OtherDepth,
    ParentLost,
    Pong,
    Position,
    RemovePeer,
    Reparent,
    Resync,
    Stale,
    SubAck,
    Subscribe,
    Tree,
    Unsubscribe,
)
from zebra.targets.lad.store_client import StoreClient
from zebra.targets.lad.store_messages import Changes, Entry, NoPath
from zebra.targets.lad.trees import DistributionTree

PAGE = 10_000
REGISTER = "/lad/distributors"


class Distributor:
    """Gives every proxy that subscribes its place, and the trees what changes in the store."""

    def __init__(self, node: Node[Any]) -> None:
        self.node, self.loop = node, asyncio.get_running_loop()
        self.config: LadConfig = node.config.lad
        self.tree_id = Tree(distributor=node.name, epoch=node.incarnation)
        self.store = StoreClient(node, deadline_s=2 * self.config.rpc.timeout)
        self.contents = Contents(node, self.entry, self.fetch)
        self.feeds: dict[str, Feed] = {}
        self.trees: dict[str, DistributionTree] = {}
        self.members: dict[str, Member] = {}
        self.zxid, self.polled, self.draining = 0, asyncio.Event(), False
        self.tasks: dict[asyncio.Task[Any], None] = {}
        self.leases = Leases(self)

    async def run(self) -> None:
        self.rpc = Rpc(self.node, WIRE)
        await self.rpc.serve(
            {
                Subscribe: self.subscribe,
                ParentLost: self.parent_lost,
                Attach: self.attach,
                Resync: self.resync,
                GetContent: self.get_content,
                Leave: self.leave,
            },
            casts={Pong: self.leases.pong, Unsubscribe: self.unsubscribe},
        )
        self.spawn(self.keep_polling())
        self.spawn(self.keep_registered())
        await self.node.ready()
        try:
            while True:
                self.leases.ping()
                await asyncio.sleep(self.config.lease.ttl / 3)
                self.leases.expire()
        except asyncio.CancelledError:
            await self.drain()

    def spawn(self, work: Coroutine[Any, Any, Any]) -> None:
        task = self.loop.create_task(work)
        self.tasks[task] = None
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self.tasks.pop(task)
        if not task.cancelled() and task.exception() is not None:
            self.loop.call_exception_handler({"message": "a task of the distributor", "exception": task.exception()})

    async def call(self, to: str, request: Request[Any]) -> Any:
        """A proxy's answer, asked twice if need be. Raises RpcError."""
        try:
            return await self.rpc.call(to, request, self.config.rpc.timeout)
        except (Full, Stale):
            raise
        except RpcError:
            return await self.rpc.call(to, request, self.config.rpc.timeout)

    # -- the store -------------------------------------------------------------------------------------------

    async def keep_polling(self) -> None:
        while True:
            limit = self.least_limit() if self.node.variant("safe.least_reader_limit") else 0
            try:
                changes = await self.store.poll(self.zxid, (), PAGE, limit)
            except RpcError:
                changes = None
            if changes is not None:
                self.take(changes)
                if len(changes.entries) >= PAGE:
                    continue
            await asyncio.sleep(self.config.poll.interval)

    def least_limit(self) -> int:
        """The longest value that we and all our proxies take."""
        limits = [member.max_bytes for member in self.members.values() if member.max_bytes]
        return min([self.config.value.max_bytes, *limits])

    async def keep_registered(self) -> None:
        """Be listed in the store while we are up: a path of ours that ends with our session."""
        while True:
            try:
                session = await self.store.open_session(self.config.session.timeout)
                await self.store.write(f"{REGISTER}/{self.node.name}", b"", session=session.id)
                await session.lost.wait()
            except RpcError:
                await asyncio.sleep(self.config.poll.interval)

    def take(self, changes: Changes) -> None:
        """Publish what changed, one update per shard."""
        self.zxid = max(self.zxid, changes.to_zxid)
        self.polled.set()
        shards: dict[str, list[Entry]] = {}
        for entry in changes.entries:
            shards.setdefault(shard_of(entry.path, self.config.shard.depth), []).append(entry)
        for shard, entries in shards.items():
            feed = self.feed(shard)
            news = feed.apply(entries)
            if not news:
                continue
            seq = feed.zxid if self.config.update.seq_mode == "zxid" else feed.at.seq + 1
            feed.at = Position(seq=seq, prev=feed.at.seq, zxid=feed.zxid)
            for entry in news:
                self.contents.forget_others(entry)
            feed.publish(MetaUpdate(tree=self.tree_id, at=feed.at, entries=tuple(news)))

    def feed(self, shard: str) -> Feed:
        return self.feeds.setdefault(shard, Feed(shard))

    def entry(self, path: str) -> Entry | None:
        feed = self.feeds.get(shard_of(path, self.config.shard.depth))
        return None if feed is None else feed.entries.get(path)

    async def fetch(self, holding: Holding) -> None:
        """Read a version from the store, until it is whole and verified."""
        version, block = holding.version, self.config.content.range
        if version.size > self.config.value.max_bytes:
            holding.why = f"{version.size} bytes are more than we take"
            self.node.emit("content.refused", path=holding.path, version=version.version, size=version.size)
            return
        self.node.emit("store.fetch", path=holding.path, version=version.version)
        while not holding.ready:
            try:
                async for piece in self.store.read(
                    holding.path, version.version, offset=len(holding.content), block=block
                ):
                    holding.add(Content(offset=piece.offset, size=piece.size, codec=piece.codec, content=piece.content))
            except NoPath:
                holding.why = "the store has it no more"
                return
            except RpcError:
                await asyncio.sleep(self.config.poll.interval)
                continue
            if digest_of(holding.content, holding.codec, version, self.config.digest.over) == version.digest:
                holding.ready = True
                holding.wake()
            else:
                self.node.emit("content.reject", path=holding.path, version=version.version, source="store")
                holding.restart(version.codec)
                await asyncio.sleep(self.config.poll.interval)

    # -- proxies ---------------------------------------------------------------------------------------------

    async def subscribe(self, ask: Subscribe, caller: Caller) -> SubAck:
        if not self.polled.is_set():
            try:
                async with asyncio.timeout(self.config.rpc.timeout):
                    await self.polled.wait()
            except TimeoutError:
                pass
        if self.draining or not self.polled.is_set():
            raise NoPlace(f"{self.node.name} {'drains' if self.draining else 'knows nothing yet'}")
        if ask.depth and ask.depth != self.config.shard.depth:
            raise OtherDepth(f"{self.config.shard.depth}")
        member = self.members.get(caller.name)
        if member is None or member.incarnation != caller.incarnation:
            self.forget(caller.name)
            member = self.members[caller.name] = Member(caller.incarnation, self.loop.time(), ask.max_bytes)
        member.heard_s = self.loop.time()
        member.shards[ask.shard] = None
        return await self.place(ask.shard, caller.name)

    async def parent_lost(self, ask: ParentLost, caller: Caller) -> SubAck:
        member, tree = self.members.get(caller.name), self.trees.get(ask.shard)
        if ask.tree != self.tree_id or member is None or tree is None or caller.name not in tree:
            raise Stale(f"{caller.name} is not in the tree of {ask.shard}")
        member.heard_s = self.loop.time()
        node = tree.nodes[caller.name]
        if ask.turn != node.turn:
            raise Stale(f"{caller.name} has another place by now")
        if ask.why in ("lost", "idle"):
            self.leases.shun(ask.parent)
        return await self.place(ask.shard, caller.name, frozenset([ask.parent]) - {self.node.name})

    async def place(self, shard: str, child: str, avoid: frozenset[str] = frozenset()) -> SubAck:
        """Find a proxy a parent that takes it. Raises NoPlace, or Stale when it was placed anew meanwhile."""
        tree = self.trees.get(shard)
        if tree is None:
            tree = self.trees[shard] = DistributionTree(
                self.node.name,
                self.config.tree.fanout,
                {name: self.node.place_of(name) for name in self._everyone()},
                careless=self.node.variant("bug.any_parent"),
            )
        old = ""
        while True:
            if child in tree:
                old = self.detach(tree, shard, child) or old
            parent = tree.find_parent(child, avoid)
            if not parent:
                raise NoPlace(f"{self.node.name}: no node has room for {child} in {shard}")
            node = tree.put(child, parent)
            turn, node.placed_s = node.turn + 1, self.loop.time()
            node.turn = turn
            self.note_edge("tree.add", shard, parent, child)
            if parent == self.node.name or await self.add_peer(tree, shard, parent, child, turn):
                break
            if tree.nodes.get(child) is not node or node.turn != turn:
                raise NoPlace(f"{child} was placed anew")
            avoid |= {parent}
        if old not in ("", parent):
            self.spawn(self.remove_peer(shard, old, child, turn))
        feed = self.feed(shard)
        return SubAck(
            shard=shard,
            tree=self.tree_id,
            turn=turn,
            parent=parent,
            above=tree.nodes[parent].parent or parent,
            base_seq=feed.at.seq,
            mode=self.config.update.seq_mode if self.node.variant("safe.mode_in_ack") else "",
            lease=self.config.lease.ttl if self.node.variant("safe.lease_in_ack") else 0.0,
        )

    async def add_peer(self, tree: DistributionTree, shard: str, parent: str, child: str, turn: int) -> bool:
        """Whether a proxy takes a child that the tree has under it; what it is good for is noted if not."""
        try:
            await self.call(parent, AddPeer(shard=shard, tree=self.tree_id, child=child, turn=turn))
            return True
        except Full:
            if parent in tree:
                tree.limit(parent, len(tree.nodes[parent].children) - 1)
        except Stale:
            above = tree.nodes.get(parent)
            if above is not None and self.loop.time() - above.placed_s > self.config.rpc.timeout:
                self.lose(parent, shard)
        except RpcError:
            self.leases.shun(parent)
        return False

    def _everyone(self) -> Iterable[str]:
        return (self.node.name, *self.node.peers("proxy"))

    def detach(self, tree: DistributionTree, shard: str, child: str) -> str:
        """Take a proxy from its parent, whose name it returns."""
        parent = tree.detach(child)
        if parent:
            self.note_edge("tree.del", shard, parent, child)
        return parent

    def note_edge(self, kind: str, shard: str, parent: str, child: str) -> None:
        epoch = self.tree_id.epoch
        self.node.emit(kind, tree=f"{self.node.name}/{epoch}{shard}", shard=shard, epoch=epoch, parent=parent,
                       child=child)  # fmt: skip

    async def remove_peer(self, shard: str, parent: str, child: str, turn: int) -> None:
        """Tell a parent, or ourselves, that a child has another place: `turn`."""
        if parent == self.node.name:
            tree = self.trees[shard]
            if child not in tree.nodes[tree.root].children:
                self.feed(shard).close(child)
        elif parent in self.members:
            await self.tell(parent, RemovePeer(shard=shard, tree=self.tree_id, child=child, turn=turn))

    async def tell(self, to: str, request: Request[Any]) -> None:
        """Ask once and do not mind whether it was heard."""
        try:
            await self.rpc.call(to, request, self.config.rpc.timeout)
        except RpcError:
            pass

    def lose(self, name: str, shard: str) -> None:
        """A proxy is in the tree of a shard no more: those below it get other places."""
        tree = self.trees.get(shard)
        if tree is None or name not in tree:
            return
        parent, turn = self.detach(tree, shard, name), tree.nodes[name].turn
        if parent:
            self.spawn(self.remove_peer(shard, parent, name, turn))
        children = list(tree.nodes[name].children)
        for child in children:
            self.note_edge("tree.del", shard, name, child)
        tree.remove(name)
        member = self.members.get(name)
        if member is not None:
            member.shards.pop(shard, None)
        for child in children:
            self.spawn(self.reparent(shard, child, frozenset([name])))

    async def reparent(self, shard: str, child: str, avoid: frozenset[str] = frozenset()) -> None:
        """Give a proxy another place, and tell it."""
        try:
            place = await self.place(shard, child, avoid)
            await self.call(child, Reparent(place=place))
        except RpcError:
            pass  # it has another place by now, or its lease will end

    def forget(self, name: str) -> None:
        """A proxy is ours no more."""
        member = self.members.pop(name, None)
        if member is not None:
            self.leases.forget(name)
            for shard in list(member.shards):
                self.lose(name, shard)

    def unsubscribe(self, cast: Unsubscribe, caller: Caller) -> None:
        member = self.members.get(caller.name)
        if member is None or member.incarnation != caller.incarnation:
            return
        for shard in cast.shards or list(member.shards):
            self.lose(caller.name, shard)
        if not member.shards:
            self.members.pop(caller.name, None)

    async def leave(self, ask: Leave, caller: Caller) -> Ok:
        """A proxy is about to stop: its children get other places first."""
        member = self.members.get(caller.name)
        for shard in list(member.shards) if member is not None else ():
            tree = self.trees[shard]
            if caller.name in tree:
                tree.shun(caller.name, True)
                children = list(tree.nodes[caller.name].children)
                await asyncio.gather(*(self.reparent(shard, child) for child in children))
        self.forget(caller.name)
        return Ok()

    async def drain(self) -> None:
        """Stop as planned: send our proxies to other distributors, and serve them until they are there."""
        self.draining = True
        others = [name for name in self.node.up("distributor") if name != self.node.name]
        near = [name for name in others if self.node.place_of(name).region == self.node.place.region] or others
        while self.members and near:
            moves = [
                self.tell(name, Move(tree=self.tree_id, to=near[index % len(near)]))
                for index, name in enumerate(self.members)
            ]
            await asyncio.gather(*moves)
            await asyncio.sleep(self.config.backoff.first)

    # -- as the root of our trees ----------------------------------------------------------------------------

    def attach(self, ask: Attach, caller: Caller) -> AsyncIterator[MetaUpdate]:
        tree = self.trees.get(ask.shard)
        if ask.tree != self.tree_id or tree is None or caller.name not in tree.nodes[tree.root].children:
            raise Stale(f"{caller.name} is no child of {self.node.name} in {ask.shard}")
        return self.feed(ask.shard).follow(caller.name, self.tree_id, ask.have)

    def resync(self, ask: Resync, caller: Caller) -> MetaUpdate:
        return self.feed(ask.shard).catch_up(self.tree_id, ask.have)

    def get_content(self, ask: GetContent, caller: Caller) -> AsyncIterator[Content]:
        return self.contents.serve(ask, caller.name)
