"""The tracker: decides for its peers where each chunk comes from, what is kept and what is evicted. Soft state only.

Source: ../shared/targets/owl.md section 2 (source choice, delegation, races to get right).
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace
from functools import partial

from zebra.node import Node
from zebra.rpc import Caller, Rpc, RpcError
from zebra.targets.owl import policies
from zebra.targets.owl.config import ADVERT_EVERY_S, DELEGATE_S, EXTERNAL_AFTER, FORGET_S, OwlConfig, common_version
from zebra.targets.owl.forest import BORROWED, EXT, UNROOTED, Edge, Forest, Loan
from zebra.targets.owl.messages import (
    WIRE, Advertise, Delegate, Done, DoneAck, Draining, EdgeClosed, GetSource, Heartbeat, HeartbeatAck, Lent, Manifest, Move, Moved,
    NotRegistered, Ok, Prefetch, PushPolicy, Register, Registered, Served, Source, Trace, Traced, VersionMismatch,
)  # fmt: skip
from zebra.targets.owl.policies import Bucket, Candidate, distance, weight

CANDIDATES = 16
"""Candidates per distance that a choice looks at: the work of a tracker does not grow with its forests."""

HOPS_MAX = 16
BLAME = ("stall", "reset", "checksum", "length", "lost")
FOR_GOOD = ("checksum", "length")


@dataclass(slots=True, kw_only=True)
class Member:
    """One of our peers. `edges` are the chunks it has an open edge for; `evict` is what it is still to be told."""

    incarnation: int
    superpeer: bool
    heard_s: float
    suspected: bool = False
    leaving: bool = False
    edges: dict[str, None] = field(default_factory=dict)
    kept: dict[str, None] = field(default_factory=dict)
    evict: dict[str, None] = field(default_factory=dict)


@dataclass(slots=True, kw_only=True)
class Advert:
    """What another tracker says it can lend."""

    epoch: int
    seq: int
    until_s: float


class Tracker:
    def __init__(self, node: Node[OwlConfig]) -> None:
        self.node, self.loop = node, asyncio.get_running_loop()
        self.members: dict[str, Member] = {}
        self.forests: dict[str, Forest] = {}
        self.adverts: dict[str, dict[str, Advert]] = {}
        self.heard: dict[str, tuple[int, int]] = {}
        self.buckets = dict(policies.BUCKETS)
        self.edges = self.seq = 0
        self.withdrawn: dict[str, None] = {}
        self.draining = False

    async def run(self) -> None:
        self.rpc = Rpc(self.node, WIRE)
        await self.rpc.serve(
            {Register: self.register, Heartbeat: self.heartbeat, GetSource: self.get_source, Done: self.done,
             Delegate: self.delegate, Trace: self.trace, PushPolicy: self.push_policy},
            casts={Advertise: self.advertise, EdgeClosed: self.edge_closed, Moved: self.moved},
        )  # fmt: skip
        await self.node.ready()
        try:
            while True:
                await asyncio.sleep(ADVERT_EVERY_S)
                self.expire()
                self.send_adverts()
        except asyncio.CancelledError:
            await self.drain()

    async def drain(self) -> None:
        """Stop as planned: take no new peers, and send ours to other trackers."""
        self.draining = True
        while self.members and self.node.up("tracker"):
            for peer in self.members:
                self.rpc.cast(peer, Move())
            await asyncio.sleep(ADVERT_EVERY_S / 4)

    # -- membership ------------------------------------------------------------------------------------------

    def register(self, ask: Register, caller: Caller) -> Registered:
        if self.draining:
            raise Draining(f"{self.node.name} is about to stop")
        version = common_version(self.node.config.proto.version, ask.versions)
        if not version:
            raise VersionMismatch(f"{caller.name} speaks {ask.versions}, {self.node.name} {self.node.config.proto.version}")
        self.remove(caller.name, "registered")
        self.members[caller.name] = Member(
            incarnation=caller.incarnation, superpeer=self.node.place_of(caller.name).role == "superpeer", heard_s=self.loop.time()
        )
        for chunk, _ in ask.cached:
            self.keep(caller.name, chunk)
        for transfer in ask.open:
            edge = Edge(id=transfer.edge, child=caller.name, parent=transfer.parent, source=transfer.source, lender="?", have=transfer.have)
            self.enter(transfer.chunk, edge)
            self.node.emit("edge.adopt", edge=edge.id, chunk=transfer.chunk, child=edge.child, parent=edge.parent, src=edge.source)
        for served in ask.serving:
            self.lend(served)
        if ask.before and ask.before != self.node.name:
            self.rpc.cast(ask.before, Moved(peer=caller.name))
        self.node.emit("owl.reg", peer=caller.name, tracker=self.node.name, epoch=self.node.incarnation, version=version,
                       cached=[chunk for chunk, _ in ask.cached], open=[transfer.edge for transfer in ask.open])  # fmt: skip
        return Registered(epoch=self.node.incarnation, version=version, lease_ttl=self.node.config.lease.ttl)

    def heartbeat(self, ask: Heartbeat, caller: Caller) -> HeartbeatAck:
        member = self.member(caller)
        member.suspected = False
        if ask.leaving:
            member.leaving = True
        for chunk in ask.cached_add:
            self.keep(caller.name, chunk)
        gone = [c for c in member.kept if c not in ask.cached_add] if ask.whole else ask.cached_del
        for chunk in gone:
            self.unkeep(caller.name, chunk)
        return HeartbeatAck(evict=tuple(member.evict))

    def member(self, caller: Caller) -> Member:
        """The caller's membership, renewed; raises NotRegistered."""
        member = self.members.get(caller.name)
        if member is None or member.incarnation != caller.incarnation:
            raise NotRegistered(f"{caller.name} is not registered with {self.node.name}")
        member.heard_s = self.loop.time()
        return member

    def moved(self, cast: Moved, caller: Caller) -> None:
        self.remove(cast.peer, "moved")

    def remove(self, peer: str, why: str) -> None:
        """Forget a peer and all that hangs on it."""
        member = self.members.pop(peer, None)
        if member is None:
            return
        for chunk in list(member.edges):
            self.close(chunk, peer, why)
        for chunk in list(member.kept):
            self.unkeep(peer, chunk)
        del member

    def expire(self) -> None:
        """Drop the peers, loans and advertisements whose time is over."""
        now = self.loop.time()
        for peer in [p for p, m in self.members.items() if now - m.heard_s > self.node.config.lease.ttl]:
            self.node.emit("owl.expired", peer=peer)
            self.remove(peer, "lease")
        for chunk, forest in list(self.forests.items()):
            for edge in [e for e, loan in forest.loans.items() if loan.until_s < now]:
                forest.take_back(edge)
            self.tidy(chunk)
        for chunk, adverts in list(self.adverts.items()):
            for tracker in [t for t, a in adverts.items() if a.until_s < now]:
                del adverts[tracker]
            if not adverts:
                del self.adverts[chunk]

    # -- source choice ---------------------------------------------------------------------------------------

    async def get_source(self, ask: GetSource, caller: Caller) -> Source:
        self.member(caller)
        peer, chunk, forest = caller.name, ask.chunk, self.forest(ask.chunk)
        if not self.node.variant("bug.two_edges"):
            self.close(chunk, peer, ask.why or "replaced")
        if peer in forest.kept:  # it was evicted, and no heartbeat has said so yet
            self.unkeep(peer, chunk)
        self.note_failure(forest, peer, ask)
        turn = forest.turns[peer] = forest.turns.get(peer, 0) + 1
        if forest.picking and forest.picking != peer:
            return Source(kind="wait")  # whoever picks now will be a source soon
        forest.picking = peer
        try:
            edge = await self.pick(forest, peer, ask)
        finally:
            if forest.turns.get(peer) == turn:
                forest.picking = ""
        if edge is None:
            return Source(kind="wait")
        if forest.turns.get(peer) != turn or peer not in self.members:  # asked again, or left, while we asked around
            self.tell_lender(chunk, edge, "unused")
            return Source(kind="wait")
        self.enter(chunk, edge)
        self.node.emit("edge.open", edge=edge.id, chunk=chunk, bucket=ask.manifest.bucket, child=peer, parent=edge.parent,
                       src=edge.source, tracker=self.node.name, lent=bool(edge.lender))  # fmt: skip
        if edge.parent == EXT or edge.lender:
            self.prefetch(forest, peer, chunk, ask.manifest)
        return Source(kind="external" if edge.parent == EXT else "peer", src=edge.source, parent=edge.parent, edge=edge.id)

    async def pick(self, forest: Forest, peer: str, ask: GetSource) -> Edge | None:
        """The edge to open: from a peer of ours, one that another tracker lends, or the store."""
        bucket, chunk = self.bucket(ask.manifest), ask.chunk
        self.edges += 1
        new = partial(Edge, id=f"{self.node.name}/{self.node.incarnation}/{self.edges}", child=peer, have=ask.have)
        if ask.failures >= policies.external_after(bucket.retry, EXTERNAL_AFTER) and self.may_fetch_externally(forest, bucket):
            return self.external(forest, peer, new)
        found = self.candidates(forest, peer, bucket, ask.have)
        while found:
            best = self.choose(peer, chunk, bucket, found)
            if self.node.config.delegation.loop_guard == "refuse" or await self.checked(forest, chunk, best.peer, peer):
                return new(parent=best.peer, source=best.peer)
            found.remove(best)
        lent = await self.borrow(forest, peer, chunk, new)
        if lent is not None:
            return lent
        return self.external(forest, peer, new) if self.may_fetch_externally(forest, bucket) else None

    def candidates(self, forest: Forest, peer: str, bucket: Bucket, have: int) -> list[Candidate]:
        """Our peers that may become the parent of `peer`."""
        guard = self.node.config.delegation.loop_guard
        blind = self.node.variant("bug.no_d2") or self.node.variant("bug.no_d1_d2")
        stuck = guard == "refuse" and not blind and forest.has_lent_descendant(peer)
        found = []
        for other in forest.near(self.node.place_of(peer), bucket.uploads, CANDIDATES):
            if other == peer or not self.is_offered(forest, peer, other):
                continue
            walk = forest.walk(other)
            if peer in walk.path and not self.node.variant("bug.descendant"):
                continue
            if walk.top == UNROOTED and not (self.node.variant("bug.descendant") and peer in walk.path):
                continue
            if stuck and walk.top == BORROWED:  # D2
                continue
            found.append(self.candidate(forest, other, have))
            if len(found) == CANDIDATES:
                break
        return found

    def is_offered(self, forest: Forest, peer: str, other: str) -> bool:
        """Whether a peer may be anybody's source now, and has not failed this one."""
        member = self.members.get(other)
        if member is None or member.suspected or member.leaving or self.loop.time() - member.heard_s > self.node.config.lease.ttl:
            return False
        return other not in self.failed(forest, peer)

    def candidate(self, forest: Forest, peer: str, have: int) -> Candidate:
        edge = forest.edges.get(peer)
        ahead = peer in forest.kept or edge is None or edge.have >= have
        superpeer = self.members[peer].superpeer
        return Candidate(peer=peer, place=self.node.place_of(peer), superpeer=superpeer, uploads=forest.uploads(peer), ahead=ahead)

    def choose(self, peer: str, chunk: str, bucket: Bucket, found: list[Candidate]) -> Candidate:
        policy = bucket.selection or self.node.config.selection.policy
        return policies.SELECTION[policy](self.node.place_of(peer), chunk, found, self.node.random)

    def may_fetch_externally(self, forest: Forest, bucket: Bucket) -> bool:
        limit = self.node.config.external.limit if bucket.external_limit is None else bucket.external_limit
        return forest.external() < limit or self.node.variant("bug.no_external_limit")

    def external(self, forest: Forest, peer: str, new: partial[Edge]) -> Edge:
        place, failed = self.node.place_of(peer), self.failed(forest, peer)
        stores = sorted(self.node.peers("store"), key=lambda s: (s in failed, distance(place, self.node.place_of(s))))
        return new(parent=EXT, source=stores[0])

    def prefetch(self, forest: Forest, peer: str, chunk: str, manifest: Manifest) -> None:
        """Let one of our superpeers fetch the chunk too, from the peer that has just begun."""
        superpeers = [name for name, member in self.members.items() if member.superpeer and not member.leaving]
        if superpeers and not any(s == peer or s in forest.kept or s in forest.edges for s in superpeers):
            self.rpc.cast(max(superpeers, key=lambda s: weight(chunk, s)), Prefetch(chunk=chunk, manifest=manifest))

    # -- failures --------------------------------------------------------------------------------------------

    def note_failure(self, forest: Forest, peer: str, ask: GetSource) -> None:
        if ask.failed and ask.why in (*BLAME, "not_found", "busy"):
            forest.failed.setdefault(peer, {})[ask.failed] = (self.loop.time(), ask.why)
            if ask.why in ("stall", "lost") and ask.failed in self.members:
                self.members[ask.failed].suspected = True  # until its next heartbeat

    def failed(self, forest: Forest, peer: str) -> dict[str, tuple[float, str]]:
        """The sources that failed this peer for this chunk lately, or sent it garbage at any time."""
        failed = forest.failed.get(peer, {})
        for source in [s for s, (at, why) in failed.items() if why not in FOR_GOOD and self.loop.time() - at > FORGET_S]:
            del failed[source]
        return failed

    # -- delegation ------------------------------------------------------------------------------------------

    async def borrow(self, forest: Forest, peer: str, chunk: str, new: partial[Edge]) -> Edge | None:
        """An edge to a peer of another tracker that advertises the chunk, the nearest first."""
        if self.node.variant("safe.lent_never_borrows") and forest.has_lent_descendant(peer):  # D3
            return None
        here, guard = self.node.place, self.node.config.delegation.loop_guard
        for tracker in sorted(self.adverts.get(chunk, ()), key=lambda t: (distance(here, self.node.place_of(t)), t)):
            edge = new(parent="", source="", lender=tracker)
            ask = Delegate(chunk=chunk, for_peer=peer, edge=edge.id, avoid=tuple(self.failed(forest, peer)))
            try:
                lent = await self.rpc.call(tracker, ask, DELEGATE_S)
            except RpcError:
                continue
            if not lent.src:
                continue
            if guard == "path" and (peer in lent.path or not lent.rooted):
                self.tell_lender(chunk, edge, "refused")
                continue
            self.node.emit("owl.borrowed", chunk=chunk, peer=peer, parent=lent.src, lender=tracker)
            return replace(edge, parent=lent.src, source=lent.src)
        return None

    async def delegate(self, ask: Delegate, caller: Caller) -> Lent:
        """Lend one of our peers. D1: not one whose tree hangs on a borrowed root, unless every borrower checks the path."""
        chunk, guard = ask.chunk, self.node.config.delegation.loop_guard
        forest = self.forests.get(chunk)
        if forest is None:
            return Lent()
        found = []
        for other in forest.near(self.node.place_of(ask.for_peer), 2 * Bucket().uploads, CANDIDATES):
            top = forest.walk(other).top
            d1 = guard == "refuse" and not self.node.variant("bug.no_d1_d2")
            if top != UNROOTED and not (d1 and top == BORROWED) and other not in ask.avoid and self.is_offered(forest, ask.for_peer, other):
                found.append((top == BORROWED, self.candidate(forest, other, 0)))
        if not found:
            return Lent()
        own_root = [candidate for borrowed, candidate in found if not borrowed]
        best = self.choose(ask.for_peer, chunk, Bucket(), own_root or [candidate for _, candidate in found]).peer
        self.lend(Served(chunk=chunk, parent=best, child=ask.for_peer, edge=ask.edge))
        path, rooted = await self.path_to_root(chunk, best, HOPS_MAX) if guard == "path" else ([best], True)
        return Lent(src=best, path=tuple(path), rooted=rooted)

    def lend(self, served: Served) -> None:
        """Enter a loan, or renew it. One that nobody renews is over after two leases."""
        if served.parent in self.members and served.child not in self.members and not self.node.variant("bug.forget_lent"):
            until_s = self.loop.time() + 2 * self.node.config.lease.ttl
            self.forest(served.chunk).lend(served.edge, Loan(parent=served.parent, child=served.child, until_s=until_s))

    async def checked(self, forest: Forest, chunk: str, other: str, peer: str) -> bool:
        """Guard `path`: whether the way from `other` to its root is whole, and `peer` is not on it."""
        before = forest.walk(other)
        path, rooted = await self.path_to_root(chunk, other, HOPS_MAX)
        return rooted and peer not in path and forest.walk(other) == before

    async def path_to_root(self, chunk: str, peer: str, hops: int) -> tuple[list[str], bool]:
        """The peers from one of ours up to the root, across trackers, and whether there is a root."""
        forest = self.forests.get(chunk)
        if forest is None or peer not in self.members or not hops:
            return [peer], False
        walk = forest.walk(peer)
        if walk.top != BORROWED:
            return walk.path, walk.top != UNROOTED
        lender = forest.edges[walk.path[-2]].lender
        if lender == "?":
            return walk.path, False
        try:
            rest = await self.rpc.call(lender, Trace(chunk=chunk, peer=walk.path[-1], hops=hops - 1), DELEGATE_S)
        except RpcError:
            return walk.path, False
        return [*walk.path[:-1], *rest.path], rest.rooted

    async def trace(self, ask: Trace, caller: Caller) -> Traced:
        path, rooted = await self.path_to_root(ask.chunk, ask.peer, ask.hops)
        return Traced(path=tuple(path), rooted=rooted)

    def edge_closed(self, cast: EdgeClosed, caller: Caller) -> None:
        if cast.chunk in self.forests:
            self.forests[cast.chunk].take_back(cast.edge)

    def send_adverts(self) -> None:
        """Tell every other tracker what we can lend, again before they forget it, and what we have of theirs."""
        config, now = self.node.config, self.loop.time()
        add, borrowed = [], []
        for chunk, forest in self.forests.items():
            borrowed += [Served(chunk=chunk, parent=e.parent, child=e.child, edge=e.id) for e in forest.edges.values() if e.lender]
            if self.can_lend(forest):
                if now - forest.advertised_s >= config.advert.ttl / 2 - ADVERT_EVERY_S / 2:
                    forest.advertised_s = now
                    add.append(chunk)
            elif forest.advertised_s > 0:
                forest.advertised_s = -1e9
                self.withdrawn[chunk] = None
        self.seq += 1
        drop, self.withdrawn = tuple(self.withdrawn), {}
        for tracker in self.node.peers("tracker"):
            mine = tuple(served for served in borrowed)
            if add or drop or mine:
                self.rpc.cast(tracker, Advertise(epoch=self.node.incarnation, seq=self.seq, add=tuple(add), drop=drop, borrowed=mine, ttl=config.advert.ttl))

    def can_lend(self, forest: Forest) -> bool:
        own = bool(forest.kept) or forest.external() > 0
        return own or (self.node.config.delegation.loop_guard == "path" and bool(forest.edges))

    def advertise(self, cast: Advertise, caller: Caller) -> None:
        """Take an advertisement; one that a later one has overtaken changes nothing."""
        stamp = (cast.epoch, cast.seq)
        if self.heard.get(caller.name, (0, 0)) >= stamp:
            return
        self.heard[caller.name] = stamp
        until_s = self.loop.time() + cast.ttl
        for chunk in cast.add:
            self.adverts.setdefault(chunk, {})[caller.name] = Advert(epoch=cast.epoch, seq=cast.seq, until_s=until_s)
        for chunk in cast.drop:
            self.adverts.get(chunk, {}).pop(caller.name, None)
        for served in cast.borrowed:
            self.lend(served)

    # -- the end of a download -------------------------------------------------------------------------------

    def done(self, ask: Done, caller: Caller) -> DoneAck:
        member, forest, bucket = self.member(caller), self.forest(ask.chunk), self.bucket(ask.manifest)
        peer, chunk = caller.name, ask.chunk
        forest.turns[peer] = forest.turns.get(peer, 0) + 1
        if forest.picking == peer:
            forest.picking = ""
        self.close(chunk, peer, "done" if ask.ok else "given_up")
        forest.failed.pop(peer, None)
        others = [p for p in forest.kept if p != peer and p in self.members]
        ordinary = [p for p in others if not self.members[p].superpeer]
        keep = ask.ok and not member.leaving and policies.keeps(bucket.caching, member.superpeer, len(others))
        if keep:
            self.node.emit("owl.told", peer=peer, chunk=chunk, keep=True)
            self.keep(peer, chunk)
            superpeers = len(others) - len(ordinary) + member.superpeer
            for other in policies.to_evict(bucket.caching, ordinary, superpeers) if superpeers else ():
                self.node.emit("owl.told", peer=other, chunk=chunk, keep=False)
                self.members[other].evict[chunk] = None
                self.unkeep(other, chunk, told=True)
        return DoneAck(keep=keep)

    # -- the forests -----------------------------------------------------------------------------------------

    def forest(self, chunk: str) -> Forest:
        if chunk not in self.forests:
            self.forests[chunk] = Forest(self.members)
        return self.forests[chunk]

    def tidy(self, chunk: str) -> None:
        forest = self.forests[chunk]
        if not (forest.kept or forest.edges or forest.loans or forest.picking):
            del self.forests[chunk]
            if forest.advertised_s > 0:
                self.withdrawn[chunk] = None

    def enter(self, chunk: str, edge: Edge) -> None:
        self.forest(chunk).open(edge, self.node.place_of(edge.child))
        self.members[edge.child].edges[chunk] = None

    def close(self, chunk: str, peer: str, why: str) -> None:
        """Close a peer's open edge, if there is one, and tell who lent its parent."""
        forest = self.forests.get(chunk)
        edge = forest.close(peer) if forest is not None else None
        if forest is None or edge is None:
            return
        if peer in self.members:
            self.members[peer].edges.pop(chunk, None)
        forest.withdraw(peer, self.node.place_of(peer))
        self.node.emit("edge.close", edge=edge.id, chunk=chunk, child=peer, parent=edge.parent, src=edge.source, why=why)
        if edge.lender:
            self.tell_lender(chunk, edge, why)

    def tell_lender(self, chunk: str, edge: Edge, why: str) -> None:
        if edge.lender not in ("", "?"):
            self.rpc.cast(edge.lender, EdgeClosed(chunk=chunk, edge=edge.id, why=why))

    def keep(self, peer: str, chunk: str) -> None:
        self.members[peer].kept[chunk] = None
        self.forest(chunk).keep(peer, self.node.place_of(peer))

    def unkeep(self, peer: str, chunk: str, told: bool = False) -> None:
        """A peer has a chunk no more, or was told to evict it."""
        member = self.members.get(peer)
        if member is not None:
            member.kept.pop(chunk, None)
            if not told:
                member.evict.pop(chunk, None)
        if chunk in self.forests:
            self.forests[chunk].kept.pop(peer, None)
            self.forests[chunk].withdraw(peer, self.node.place_of(peer))

    def bucket(self, manifest: Manifest) -> Bucket:
        return self.buckets.get(manifest.bucket, self.buckets["default"])

    def push_policy(self, ask: PushPolicy, caller: Caller) -> Ok:
        bucket = self.buckets.get(ask.bucket, self.buckets["default"])
        self.buckets[ask.bucket] = replace(bucket, external_limit=ask.external_limit, uploads=ask.uploads)
        self.node.emit("owl.policy", bucket=ask.bucket, external_limit=ask.external_limit, uploads=ask.uploads)
        return Ok()
