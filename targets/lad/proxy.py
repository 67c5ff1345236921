"""The proxy, one per host: follows shards for its apps, keeps on disk what they may read, and relays to its children.

Metadata goes on to children before content is asked for; content is forwarded as it arrives.
Source: ../shared/targets/lad.md section 2.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from typing import Any

from zebra.node import Node
from zebra.rpc import Caller, Rpc, RpcError
from zebra.targets.lad.cache import Cache
from zebra.targets.lad.config import LadConfig, shard_of
from zebra.targets.lad.content import RETRY_S, Contents, Holding, digest_of
from zebra.targets.lad.feed import Feed
from zebra.targets.lad.messages import (
    WIRE,
    AddPeer,
    Attach,
    Content,
    Full,
    Get,
    GetContent,
    Gone,
    Hang,
    Leave,
    MetaUpdate,
    Move,
    NoContent,
    Notify,
    Ok,
    Ping,
    Pong,
    Position,
    RemovePeer,
    Reparent,
    Resync,
    Shown,
    Spoil,
    Stale,
    Unsubscribe,
    Value,
    Values,
    Want,
    Watch,
)
from zebra.targets.lad.shelf import Shelf
from zebra.targets.lad.store_messages import Entry
from zebra.targets.lad.subscription import Control, Subscription

SLOW_BYTES = 1 << 20
"""Content of which a parent is judged by the time it takes; what is shorter says nothing."""


class Proxy:
    """Serves the apps of its host, and the children that its distributor gives it."""

    def __init__(self, node: Node[Any]) -> None:
        self.node, self.loop = node, asyncio.get_running_loop()
        self.config: LadConfig = node.config.lad
        self.depth = self.config.shard.depth
        self.cache = Cache(node)
        self.feeds: dict[str, Feed] = {}
        self.subscriptions: dict[str, Subscription] = {}
        self.contents = Contents(node, self.entry, self.fetch)
        self.shelf = Shelf(node, self.contents, self.show)
        self.watchers: dict[str, dict[asyncio.Event, None]] = {}
        self.slow: dict[tuple[str, str], None] = {}
        self.tasks: dict[asyncio.Task[Any], None] = {}
        self.hung: asyncio.Event | None = None

    async def run(self) -> None:
        await self.restore()
        self.rpc = Rpc(self.node, WIRE)
        self.control = Control(self.node, self.rpc)
        self.control.changed, self.control.other_depth = self.wake, self.change_depth
        await self.rpc.serve(
            {
                AddPeer: self.add_peer,
                RemovePeer: self.remove_peer,
                Reparent: self.reparent,
                Move: self.move,
                Attach: self.attach,
                Resync: self.resync,
                GetContent: self.get_content,
                Watch: self.watch,
                Get: self.get,
                Want: self.want,
                Hang: self.hang,
                Spoil: self.spoil,
            },
            casts={Ping: self.ping},
        )
        await self.node.ready()
        try:
            await self.control.watch_lease()
        except asyncio.CancelledError:
            await self.leave()

    def spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = self.loop.create_task(work)
        self.tasks[task] = None
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self.tasks.pop(task)
        if not task.cancelled() and task.exception() is not None:
            self.loop.call_exception_handler({"message": "a task of the proxy", "exception": task.exception()})

    def wake(self) -> None:
        for subscription in self.subscriptions.values():
            subscription.wake()

    async def restore(self) -> None:
        """Go on with what an earlier life left on disk; torn content is got again."""
        await self.cache.restore()
        for shard, meta in self.cache.shards.items():
            feed = self.feeds[shard] = Feed(shard)
            feed.apply(meta.entries)
            feed.zxid = max(feed.zxid, meta.zxid)
            feed.at = Position(seq=meta.seq, prev=meta.seq, zxid=meta.zxid)
        for path, kept in list(self.cache.kept.items()):
            content = await self.cache.content(kept)
            if content is None:
                self.node.emit("cache.torn", proxy=self.node.name, path=path, version=kept.version.version)
                continue
            holding = self.contents.add(Holding(path, kept.version, self.loop))
            holding.content, holding.codec, holding.ready = content, kept.codec, True
            self.shelf.shown[path] = kept.version

    async def leave(self) -> None:
        """Stop as planned: our children get other parents first."""
        distributor = self.control.tree.distributor if self.control.tree is not None else ""
        self.contents.leaving = True
        if distributor and not self.control.lost:
            try:
                await self.rpc.call(distributor, Leave(), 2 * self.config.rpc.timeout)
            except RpcError:
                pass

    # -- interest --------------------------------------------------------------------------------------------

    def entry(self, path: str) -> Entry | None:
        feed = self.feeds.get(shard_of(path, self.depth))
        return None if feed is None else feed.entries.get(path)

    def interested(self, path: str) -> None:
        """A path is wanted on this host from now on."""
        if path in self.shelf.interest:
            return
        self.shelf.interest[path] = None
        self.node.emit("interest", proxy=self.node.name, path=path)
        shard = shard_of(path, self.depth)
        if shard not in self.subscriptions:
            feed = self.feeds.setdefault(shard, Feed(shard))
            made = Subscription(shard, self.node, self.rpc, self.control, feed, self.apply)
            made.hung, made.on_confirm, made.depth = self.hung, self.confirmed, self.depth
            self.subscriptions[shard] = made
            self.spawn(made.run())
        entry = self.entry(path)
        if entry is not None and not self.node.variant("bug.late_interest"):
            self.shelf.consider([entry])

    def confirmed(self, shard: str) -> None:
        """Tell apps that what they have is the latest."""
        self.show([path for path in self.shelf.interest if shard_of(path, self.depth) == shard])

    def change_depth(self, depth: int) -> None:
        """Our distributor names shards by another depth: follow it (`safe.depth_in_subscribe`)."""
        self.depth, paths = depth, list(self.shelf.interest)
        for subscription in self.subscriptions.values():
            subscription.stop()
        self.subscriptions.clear()
        self.shelf.interest.clear()
        for path in paths:
            self.interested(path)

    # -- metadata --------------------------------------------------------------------------------------------

    async def apply(self, subscription: Subscription, update: MetaUpdate) -> None:
        """On disk, in memory, to our children, and only then content."""
        feed, shard = subscription.feed, subscription.shard
        have, zxid = feed.zxid, max(feed.zxid, update.at.zxid)
        await self.cache.note_meta(shard, update.at.seq, zxid, update.entries)
        entries = update.entries[:1] if self.node.variant("bug.half_update") else update.entries
        news = feed.apply(entries)
        feed.at, feed.zxid = update.at, zxid
        self.node.emit("meta.apply", proxy=self.node.name, shard=shard, seq=update.at.seq, have=have, zxid=zxid,
                       source=subscription.place.parent if subscription.place else "",
                       entries=[[entry.path, entry.version] for entry in news])  # fmt: skip
        if not self.node.variant("bug.silent_relay"):
            feed.publish(update)
        self.shelf.consider(news)
        for entry in news:
            self.shelf.tidy(entry.path)

    def subscription(self, shard: str, child: str) -> Subscription:
        """The subscription in whose tree a child of ours is. Raises Stale."""
        found = self.subscriptions.get(shard)
        if found is None or child not in found.peers:
            raise Stale(f"{child} is no child of {self.node.name} in {shard}")
        return found

    async def add_peer(self, ask: AddPeer, caller: Caller) -> Ok:
        found = self.subscriptions.get(ask.shard)
        if found is not None and found.feed.tree != ask.tree:
            await found.placed_soon()  # our distributor may use us before its answer has reached us
        fenced = not self.node.variant("bug.ignore_epoch")
        if found is None or (fenced and (found.feed.tree != ask.tree or ask.tree != self.control.tree)):
            raise Stale(f"{self.node.name} is not in the tree of {ask.shard} by {ask.tree}")
        peers = found.peers
        if ask.child not in peers and len(peers) >= self.config.proxy.max_children:
            raise Full(f"{self.node.name} has {len(peers)} children in {ask.shard}")
        peers[ask.child] = max(ask.turn, peers.get(ask.child, 0))
        self.node.emit("peer.add", proxy=self.node.name, shard=ask.shard, distributor=ask.tree.distributor,
                       epoch=ask.tree.epoch, child=ask.child, kids=len(peers))  # fmt: skip
        return Ok()

    def remove_peer(self, ask: RemovePeer, caller: Caller) -> Ok:
        found = self.subscriptions.get(ask.shard)
        if found is not None and found.feed.tree == ask.tree and found.peers.get(ask.child, ask.turn) <= ask.turn:
            found.peers.pop(ask.child, None)
            found.feed.close(ask.child)
        return Ok()

    def reparent(self, ask: Reparent, caller: Caller) -> Ok:
        found = self.subscriptions.get(ask.place.shard)
        if found is None or not found.take_place(ask.place, "reparented"):
            raise Stale(f"{self.node.name} has another place in {ask.place.shard}")
        return Ok()

    def move(self, ask: Move, caller: Caller) -> Ok:
        """Our distributor drains: subscribe with another one, and keep what we have until that is done."""
        if ask.tree == self.control.tree and not self.control.lost:
            self.control.move(ask.to)
        return Ok()

    def ping(self, cast: Ping, caller: Caller) -> None:
        tree = self.control.tree
        if tree is None or (tree.distributor, tree.epoch) != (caller.name, cast.epoch):
            if tree is not None and tree.distributor != caller.name:
                self.rpc.cast(caller.name, Unsubscribe())
            return
        self.control.hear()
        applied = tuple((shard, one.feed.zxid) for shard, one in self.subscriptions.items())
        self.rpc.cast(caller.name, Pong(epoch=cast.epoch, applied=applied, slow=tuple(self.slow)))
        self.slow.clear()

    def attach(self, ask: Attach, caller: Caller) -> AsyncIterator[MetaUpdate]:
        found = self.subscription(ask.shard, caller.name)
        if found.feed.tree != ask.tree:
            raise Stale(f"{self.node.name} is in another tree of {ask.shard}")
        return found.feed.follow(caller.name, ask.tree, ask.have)

    def resync(self, ask: Resync, caller: Caller) -> MetaUpdate:
        return self.subscription(ask.shard, caller.name).feed.catch_up(ask.tree, ask.have)

    # -- content ---------------------------------------------------------------------------------------------

    def get_content(self, ask: GetContent, caller: Caller) -> AsyncIterator[Content]:
        return self.contents.serve(ask, caller.name)

    async def fetch(self, holding: Holding) -> None:
        """Get a version from our parent; from the one above it when what it sent was wrong."""
        path, version = holding.path, holding.version
        if version.size > self.config.value.max_bytes:
            holding.why = f"{version.size} bytes are more than we take"
            return
        above = False
        while not holding.ready:
            subscription = self.subscriptions.get(shard_of(path, self.depth))
            place = subscription.place if subscription is not None else None
            if place is None:
                await asyncio.sleep(RETRY_S)
                continue
            source = place.above if above else place.parent
            began_s = self.loop.time()
            why = await self._fetch_from(source, holding)
            if why == "gone":
                holding.why = "overtaken"
                return
            if why:
                await asyncio.sleep(RETRY_S)
                continue
            digest = digest_of(holding.content, holding.codec, version, self.config.digest.over)
            if digest != version.digest and not self.node.variant("bug.no_verify"):
                self.node.emit(
                    "content.reject", proxy=self.node.name, path=path, version=version.version, source=source
                )
                holding.restart(version.codec)
                above = True
                assert subscription is not None
                subscription.blame(place, "digest")
                await asyncio.sleep(RETRY_S)
                continue
            self._time(subscription, source, len(holding.content), self.loop.time() - began_s)
            await self._keep(holding, digest, source)

    async def _fetch_from(self, source: str, holding: Holding) -> str:
        """Get what is missing of a version from a node; "" once it is whole, else why it is not."""
        ask = GetContent(path=holding.path, version=holding.version.version, offset=len(holding.content),
                         length=self.config.content.range, codec=holding.codec)  # fmt: skip
        try:
            async with await self.rpc.stream(source, ask, self.config.rpc.timeout) as stream:
                while (piece := await stream.receive(self.config.content.idle)) is not None:
                    if self.hung is not None:
                        await self.hung.wait()
                    holding.add(piece)
            return ""
        except Gone:
            return "gone"
        except NoContent:
            return "none"
        except RpcError:
            return "lost"

    async def _keep(self, holding: Holding, digest: str, source: str) -> None:
        """A version is ready once it is on disk, or the disk refuses it."""
        stale = self.node.variant("bug.stale_cache") and holding.path in self.cache.kept
        if holding.path in self.shelf.interest and not stale:
            await self.cache.keep(holding)
        holding.ready = True
        holding.wake()
        self.node.emit("content.ready", proxy=self.node.name, path=holding.path, version=holding.version.version,
                       digest=digest, source=source, size=len(holding.content))  # fmt: skip
        self.shelf.ready(holding)

    def _time(self, subscription: Subscription | None, source: str, size: int, took_s: float) -> None:
        """Note a parent that is slow with content."""
        if subscription is not None and size >= SLOW_BYTES and took_s > self.config.limit.propagation / 5:
            self.slow[subscription.shard, source] = None

    # -- apps ------------------------------------------------------------------------------------------------

    def show(self, paths: list[str]) -> None:
        for path in paths:
            for event in self.watchers.get(path, ()):
                event.set()

    def notice(self, path: str) -> Shown:
        shown = self.shelf.shown.get(path)
        version = 0 if shown is None or shown.deleted else shown.version
        return Shown(path=path, version=version, confirmed=self.is_confirmed(path), batch=self.shelf.batch.get(path, 0))

    def is_confirmed(self, path: str) -> bool:
        """Whether a distributor has told, since we started, what is latest, and we have it."""
        found = self.subscriptions.get(shard_of(path, self.depth))
        return found is not None and found.confirmed and path not in self.shelf.groups

    async def watch(self, ask: Watch, caller: Caller) -> AsyncIterator[Notify]:
        changed, told = asyncio.Event(), dict[str, Shown]()
        for path in ask.paths:
            self.interested(path)
            self.watchers.setdefault(path, {})[changed] = None
        try:
            while True:
                news = [notice for path in ask.paths if (notice := self.notice(path)) != told.get(path)]
                told.update({notice.path: notice for notice in news})
                if news:
                    yield Notify(paths=tuple(news))
                elif not changed.is_set():
                    await changed.wait()
                changed.clear()
        finally:
            for path in ask.paths:
                del self.watchers[path][changed]

    def get(self, ask: Get, caller: Caller) -> Values:
        return Values(values=tuple(self.value(path) for path in ask.paths))

    def value(self, path: str) -> Value:
        shown = self.notice(path)
        holding = self.contents.find(path, shown.version)
        if holding is None:
            return Value(shown=shown)
        return Value(shown=shown, content=holding.raw(), meta=holding.version,
                     over=holding.version.over or self.config.digest.over)  # fmt: skip

    def want(self, ask: Want, caller: Caller) -> Ok:
        self.interested(ask.path)
        return Ok()

    # -- application faults ----------------------------------------------------------------------------------

    def hang(self, ask: Hang, caller: Caller) -> Ok:
        self.node.emit("lad.hang", proxy=self.node.name, on=ask.on)
        if self.hung is not None:
            self.hung.set()
        self.hung = asyncio.Event() if ask.on else None
        for subscription in self.subscriptions.values():
            subscription.hung = self.hung
        return Ok()

    def spoil(self, ask: Spoil, caller: Caller) -> Ok:
        self.node.emit("lad.spoil", proxy=self.node.name)
        self.contents.spoil_next = True
        return Ok()
