"""The tracker: decides for its peers where each chunk comes from, what is kept and what is evicted. Soft state only.

Source: ../shared/targets/owl.md section 2 (source choice, delegation, races to get right).
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace
from functools import partial

from zebra.node import Node
from zebra.rpc import Caller, Rpc
from zebra.targets.owl import policies
from zebra.targets.owl.config import EXTERNAL_AFTER, FORGET_S, OwlConfig, common_version
from zebra.targets.owl.delegation import CANDIDATES, Delegation
from zebra.targets.owl.forest import BORROWED, EXT, UNROOTED, Edge, Forest
from zebra.targets.owl.load import Load
from zebra.targets.owl.messages import (
    WIRE,
    Advertise,
    Delegate,
    Done,
    DoneAck,
    Draining,
    EdgeClosed,
    GetSource,
    Heartbeat,
    HeartbeatAck,
    Manifest,
    Move,
    Moved,
    NotRegistered,
    Ok,
    Prefetch,
    PushPolicy,
    Register,
    Registered,
    Source,
    Trace,
    VersionMismatch,
)
from zebra.targets.owl.policies import Bucket, Candidate, distance, weight

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


class Tracker:
    """Decides for its peers who fetches what from whom, what is kept and what is evicted; soft state only."""

    def __init__(self, node: Node[OwlConfig]) -> None:
        self.node, self.loop = node, asyncio.get_running_loop()
        self.members: dict[str, Member] = {}
        self.forests: dict[str, Forest] = {}
        self.buckets = dict(policies.BUCKETS)
        self.edges = 0
        self.load = Load()
        self.draining = False
        self.delegation = Delegation(self)

    async def run(self) -> None:
        self.rpc = Rpc(self.node, WIRE)
        await self.rpc.serve(
            {
                Register: self.register,
                Heartbeat: self.heartbeat,
                GetSource: self.get_source,
                Done: self.done,
                Delegate: self.delegation.delegate,
                Trace: self.delegation.trace,
                PushPolicy: self.push_policy,
            },
            casts={Advertise: self.delegation.advertise, EdgeClosed: self.delegation.edge_closed, Moved: self.moved},
        )
        await self.node.ready()
        try:
            while True:
                await asyncio.sleep(self.node.config.advert.every)
                self.expire()
                self.delegation.send_adverts()
        except asyncio.CancelledError:
            await self.drain()

    async def drain(self) -> None:
        """Stop as planned: take no new peers, and send ours to other trackers."""
        self.draining = True
        while self.members and self.node.up("tracker"):
            for peer in self.members:
                self.rpc.cast(peer, Move())
            await asyncio.sleep(self.node.config.advert.every / 4)

    # -- membership ------------------------------------------------------------------------------------------

    def register(self, ask: Register, caller: Caller) -> Registered:
        if self.draining:
            raise Draining(f"{self.node.name} is about to stop")
        version = common_version(self.node.config.proto.version, ask.versions)
        if not version:
            raise VersionMismatch(
                f"{caller.name} speaks {ask.versions}, {self.node.name} {self.node.config.proto.version}"
            )
        self.remove(caller.name, "registered")
        self.members[caller.name] = Member(
            incarnation=caller.incarnation,
            superpeer=self.node.place_of(caller.name).role == "superpeer",
            heard_s=self.loop.time(),
        )
        for chunk, _ in ask.cached:
            self.keep(caller.name, chunk)
        for transfer in ask.open:
            edge = Edge(
                id=transfer.edge,
                child=caller.name,
                parent=transfer.parent,
                source=transfer.source,
                lender="?",
                have=transfer.have,
            )
            self.enter(transfer.chunk, edge)
            self.node.emit(
                "edge.adopt", edge=edge.id, chunk=transfer.chunk, child=edge.child, parent=edge.parent, src=edge.source
            )
        for served in ask.serving:
            self.delegation.lend(served)
        for tracker in ask.before:
            if tracker != self.node.name:
                self.rpc.cast(tracker, Moved(peer=caller.name))
        self.node.emit(
            "owl.reg",
            peer=caller.name,
            tracker=self.node.name,
            epoch=self.node.incarnation,
            version=version,
            cached=[chunk for chunk, _ in ask.cached],
            open=[transfer.edge for transfer in ask.open],
        )
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
        self.load.forget(peer)

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
        self.delegation.expire(now)

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
            self.delegation.tell_lender(chunk, edge, "unused")
            return Source(kind="wait")
        self.enter(chunk, edge)
        self.node.emit(
            "edge.open",
            edge=edge.id,
            chunk=chunk,
            bucket=ask.manifest.bucket,
            child=peer,
            parent=edge.parent,
            src=edge.source,
            tracker=self.node.name,
            lent=bool(edge.lender),
        )
        if edge.parent == EXT or edge.lender:
            self.prefetch(forest, peer, chunk, ask.manifest)
        return Source(
            kind="external" if edge.parent == EXT else "peer", src=edge.source, parent=edge.parent, edge=edge.id
        )

    async def pick(self, forest: Forest, peer: str, ask: GetSource) -> Edge | None:
        """The edge to open: from a peer of ours, one that another tracker lends, or the store."""
        bucket, chunk = self.bucket(ask.manifest), ask.chunk
        self.edges += 1
        new = partial(Edge, id=f"{self.node.name}/{self.node.incarnation}/{self.edges}", child=peer, have=ask.have)
        if ask.failures >= policies.external_after(bucket.retry, EXTERNAL_AFTER) and self.may_fetch_externally(
            forest, bucket
        ):
            return self.external(forest, peer, new)
        found = self.candidates(forest, peer, bucket, ask.have)
        while found:
            best = self.choose(peer, chunk, bucket, found)
            if self.node.config.delegation.loop_guard == "refuse" or await self.delegation.checked(
                forest, chunk, best.peer, peer
            ):
                return new(parent=best.peer, source=best.peer)
            found.remove(best)
        lent = await self.delegation.borrow(forest, peer, chunk, new)
        if lent is not None:
            return lent
        return self.external(forest, peer, new) if self.may_fetch_externally(forest, bucket) else None

    def candidates(self, forest: Forest, peer: str, bucket: Bucket, have: int) -> list[Candidate]:
        """Our peers that may become the parent of `peer`."""
        guard = self.node.config.delegation.loop_guard
        blind = self.node.variant("bug.no_d2") or self.node.variant("bug.no_d1_d2")
        stuck = guard == "refuse" and not blind and forest.has_lent_descendant(peer)
        has_children = forest.uploads(peer) > 0
        failed, tops, found = self.failed(forest, peer), dict[str, str](), []
        for other in forest.near(self.node.place_of(peer), bucket.uploads, CANDIDATES):
            if other == peer or other in failed or not self.is_offered(other):
                continue
            below = has_children and peer in forest.walk(other).path
            if below and not self.node.variant("bug.descendant"):
                continue
            top = forest.top(other, tops)
            if top == UNROOTED and not below:
                continue
            if stuck and top == BORROWED:  # D2
                continue
            found.append(self.candidate(forest, other, have))
            if len(found) == CANDIDATES:
                break
        return found

    def is_offered(self, peer: str) -> bool:
        """Whether a peer may be anybody's source now."""
        member = self.members.get(peer)
        return (
            member is not None
            and not member.suspected
            and not member.leaving
            and self.loop.time() - member.heard_s <= self.node.config.lease.ttl
        )

    def candidate(self, forest: Forest, peer: str, have: int) -> Candidate:
        edge = forest.edges.get(peer)
        ahead = peer in forest.kept or edge is None or edge.have >= have
        superpeer = self.members[peer].superpeer
        return Candidate(
            peer=peer,
            place=self.node.place_of(peer),
            superpeer=superpeer,
            uploads=self.load.uploads.get(peer, 0),
            ahead=ahead,
        )

    def choose(self, peer: str, chunk: str, bucket: Bucket, found: list[Candidate]) -> Candidate:
        policy = bucket.selection or self.node.config.selection.policy
        return policies.SELECTION[policy](self.node.place_of(peer), chunk, self.load.quick(found), self.node.random)

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
            if ask.why in ("stall", "lost"):
                self.suspect(ask.failed)

    def suspect(self, source: str) -> None:
        """Offer a silent peer, and those on its host, to nobody until their next heartbeats."""
        host = self.node.place_of(source).host
        for peer in [peer for peer in self.members if self.node.place_of(peer).host == host]:
            self.members[peer].suspected = True

    def failed(self, forest: Forest, peer: str) -> dict[str, tuple[float, str]]:
        """The sources that failed this peer for this chunk lately, or sent it garbage at any time."""
        failed = forest.failed.get(peer, {})
        for source in [
            s for s, (at, why) in failed.items() if why not in FOR_GOOD and self.loop.time() - at > FORGET_S
        ]:
            del failed[source]
        return failed

    # -- the end of a download -------------------------------------------------------------------------------

    def done(self, ask: Done, caller: Caller) -> DoneAck:
        member, forest, bucket = self.member(caller), self.forest(ask.chunk), self.bucket(ask.manifest)
        peer, chunk = caller.name, ask.chunk
        forest.turns[peer] = forest.turns.get(peer, 0) + 1
        if forest.picking == peer:
            forest.picking = ""
        edge = forest.edges.get(peer)
        if edge is not None and ask.ok:
            took_s = max(self.loop.time() - edge.began_s, 1e-6)
            self.load.saw(edge.source, peer, len(member.edges), (ask.bytes - edge.have) / took_s)
        self.close(chunk, peer, "done" if ask.ok else "given_up")
        forest.failed.pop(peer, None)
        others = len(forest.kept) - (peer in forest.kept)
        keep = ask.ok and not member.leaving and policies.keeps(bucket.caching, member.superpeer, others)
        if keep:
            self.node.emit("owl.told", peer=peer, chunk=chunk, keep=True)
            self.keep(peer, chunk)
            if policies.evicts(bucket.caching):
                self.evict(forest, chunk, bucket, peer)
        return DoneAck(keep=keep)

    def evict(self, forest: Forest, chunk: str, bucket: Bucket, peer: str) -> None:
        """Tell those to evict a chunk who keep too many copies of it, now that `peer` keeps one."""
        ordinary = [p for p in forest.kept if p != peer and not self.members[p].superpeer]
        superpeers = len(forest.kept) - len(ordinary) - (not self.members[peer].superpeer)
        for other in policies.to_evict(bucket.caching, ordinary, superpeers) if superpeers else ():
            self.node.emit("owl.told", peer=other, chunk=chunk, keep=False)
            self.members[other].evict[chunk] = None
            self.unkeep(other, chunk, told=True)

    # -- the forests -----------------------------------------------------------------------------------------

    def forest(self, chunk: str) -> Forest:
        if chunk not in self.forests:
            self.forests[chunk] = Forest(self.members)
        return self.forests[chunk]

    def tidy(self, chunk: str) -> None:
        forest = self.forests[chunk]
        if forest.is_empty():
            del self.forests[chunk]
            if forest.advertised_s > 0:
                self.delegation.withdraw(chunk)

    def enter(self, chunk: str, edge: Edge) -> None:
        edge.began_s = self.loop.time()
        self.load.began(edge.source)
        self.forest(chunk).open(edge, self.node.place_of(edge.child))
        self.members[edge.child].edges[chunk] = None

    def close(self, chunk: str, peer: str, why: str) -> None:
        """Close a peer's open edge, if there is one, and tell who lent its parent."""
        forest = self.forests.get(chunk)
        edge = forest.close(peer) if forest is not None else None
        if forest is None or edge is None:
            return
        self.load.ended(edge.source)
        if peer in self.members:
            self.members[peer].edges.pop(chunk, None)
        forest.withdraw(peer)
        self.node.emit(
            "edge.close", edge=edge.id, chunk=chunk, child=peer, parent=edge.parent, src=edge.source, why=why
        )
        if edge.lender:
            self.delegation.tell_lender(chunk, edge, why)

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
            self.forests[chunk].withdraw(peer)

    def bucket(self, manifest: Manifest) -> Bucket:
        return self.buckets.get(manifest.bucket, self.buckets["default"])

    def push_policy(self, ask: PushPolicy, caller: Caller) -> Ok:
        bucket = self.buckets.get(ask.bucket, self.buckets["default"])
        self.buckets[ask.bucket] = replace(bucket, external_limit=ask.external_limit, uploads=ask.uploads)
        self.node.emit("owl.policy", bucket=ask.bucket, external_limit=ask.external_limit, uploads=ask.uploads)
        return Ok()
