"""Delegation: trackers lend each other their peers as sources, without ever closing a cycle.

D1: a tracker lends no peer of a tree whose root was itself borrowed. D2: it does not attach one of its peers that has
lent-out descendants below a borrowed root (see `Tracker.candidates`). With both, nobody has to check on borrowing: a
loan begins in a tree that stands on the store or a cache, and D2 keeps that tree from ever hanging below the borrower.
The other guard, `path`, lends everything and checks each pick, ours or borrowed, by walking to the root; the picker has
no source while it asks, so of two picks that would close a cycle together the later one meets the earlier one's.

Source: ../shared/targets/owl.md section 2 (delegation loop rules).
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from zebra.rpc import Caller, RpcError
from zebra.targets.owl.config import DELEGATE_SHARE
from zebra.targets.owl.forest import BORROWED, UNROOTED, Edge, Forest, Loan
from zebra.targets.owl.messages import Advertise, Delegate, EdgeClosed, Lent, Served, Trace, Traced
from zebra.targets.owl.policies import Bucket, distance

if TYPE_CHECKING:
    from zebra.targets.owl.tracker import Tracker

CANDIDATES = 16
"""Candidates per distance that a choice looks at: the work of a tracker does not grow with its forests."""

HOPS_MAX = 16
BATCH = 200
"""Entries of each kind in one advertisement, so that it fits into a datagram."""


class Delegation:
    """One tracker's dealings with the others. `adverts` holds, per chunk, until when we believe which tracker."""

    def __init__(self, tracker: Tracker) -> None:
        self.tracker, self.node, self.loop = tracker, tracker.node, tracker.loop
        self.adverts: dict[str, dict[str, float]] = {}
        self.heard: dict[str, tuple[int, int]] = {}
        self.withdrawn: dict[str, None] = {}
        self.seq = 0

    @property
    def timeout_s(self) -> float:
        """Bound of an RPC between trackers."""
        return DELEGATE_SHARE * self.node.config.rpc.timeout

    async def borrow(self, forest: Forest, peer: str, chunk: str, new: partial[Edge]) -> Edge | None:
        """An edge to a peer of another tracker that advertises the chunk, the nearest first."""
        if self.node.variant("safe.lent_never_borrows") and forest.has_lent_descendant(peer):  # D3
            return None
        here, guard = self.node.place, self.node.config.delegation.loop_guard
        for tracker in sorted(self.adverts.get(chunk, ()), key=lambda t: (distance(here, self.node.place_of(t)), t)):
            edge = new(parent="", source="", lender=tracker)
            ask = Delegate(chunk=chunk, for_peer=peer, edge=edge.id, avoid=tuple(self.tracker.failed(forest, peer)))
            try:
                lent = await self.tracker.rpc.call(tracker, ask, self.timeout_s)
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
        """Lend one of our peers. D1: not one below a borrowed root, unless every borrower checks the path."""
        chunk, guard = ask.chunk, self.node.config.delegation.loop_guard
        self.tracker.remove(ask.for_peer, "moved")  # the caller's now: it may have been ours before
        forest = self.tracker.forests.get(chunk)
        if forest is None or self.node.variant("bug.lend_nothing"):
            return Lent()
        found, failed = [], self.tracker.failed(forest, ask.for_peer)
        for other in forest.near(self.node.place_of(ask.for_peer), 2 * Bucket().uploads, CANDIDATES):
            top = forest.walk(other).top
            d1 = guard == "refuse" and not self.node.variant("bug.no_d1_d2")
            if (
                top != UNROOTED
                and not (d1 and top == BORROWED)
                and other not in ask.avoid
                and other not in failed
                and self.tracker.is_offered(other)
            ):
                found.append((top == BORROWED, self.tracker.candidate(forest, other, 0)))
        if not found:
            return Lent()
        own_root = [candidate for borrowed, candidate in found if not borrowed]
        best = self.tracker.choose(
            ask.for_peer, chunk, Bucket(), own_root or [candidate for _, candidate in found]
        ).peer
        self.lend(Served(chunk=chunk, parent=best, child=ask.for_peer, edge=ask.edge))
        path, rooted = await self.path_to_root(chunk, best, HOPS_MAX) if guard == "path" else ([best], True)
        return Lent(src=best, path=tuple(path), rooted=rooted)

    def lend(self, served: Served) -> None:
        """Enter a loan, or renew it. One that nobody renews is over after two leases."""
        if (
            served.parent in self.tracker.members
            and served.child not in self.tracker.members
            and not self.node.variant("bug.forget_lent")
        ):
            until_s = self.loop.time() + 2 * self.node.config.lease.ttl
            self.tracker.forest(served.chunk).lend(
                served.edge, Loan(parent=served.parent, child=served.child, until_s=until_s)
            )

    async def checked(self, forest: Forest, chunk: str, other: str, peer: str) -> bool:
        """Guard `path`: whether the way from `other` to its root is whole, and `peer` is not on it."""
        before = forest.walk(other)
        path, rooted = await self.path_to_root(chunk, other, HOPS_MAX)
        return rooted and peer not in path and forest.walk(other) == before

    async def path_to_root(self, chunk: str, peer: str, hops: int) -> tuple[list[str], bool]:
        """The peers from one of ours up to the root, across trackers, and whether there is a root."""
        forest = self.tracker.forests.get(chunk)
        if forest is None or peer not in self.tracker.members or not hops:
            return [peer], False
        walk = forest.walk(peer)
        if walk.top != BORROWED:
            return walk.path, walk.top != UNROOTED
        lender = forest.edges[walk.path[-2]].lender
        if lender == "?":
            return walk.path, False
        try:
            ask = Trace(chunk=chunk, peer=walk.path[-1], hops=hops - 1)
            rest = await self.tracker.rpc.call(lender, ask, self.timeout_s)
        except RpcError:
            return walk.path, False
        return [*walk.path[:-1], *rest.path], rest.rooted

    async def trace(self, ask: Trace, caller: Caller) -> Traced:
        path, rooted = await self.path_to_root(ask.chunk, ask.peer, ask.hops)
        return Traced(path=tuple(path), rooted=rooted)

    def tell_lender(self, chunk: str, edge: Edge, why: str) -> None:
        """An edge that was lent to us is closed. The message may be lost: then the loan runs out."""
        if edge.lender not in ("", "?"):
            self.tracker.rpc.cast(edge.lender, EdgeClosed(chunk=chunk, edge=edge.id, why=why))

    def edge_closed(self, cast: EdgeClosed, caller: Caller) -> None:
        if cast.chunk in self.tracker.forests:
            self.tracker.forests[cast.chunk].take_back(cast.edge)

    def send_adverts(self) -> None:
        """Tell every other tracker what we can lend, again before they forget it, and what we have of theirs."""
        advert, now = self.node.config.advert, self.loop.time()
        add: list[str] = []
        borrowed: list[Served] = []
        for chunk, forest in self.tracker.forests.items():
            for edge in forest.edges.values() if forest.borrows() else ():
                if edge.lender:
                    borrowed.append(Served(chunk=chunk, parent=edge.parent, child=edge.child, edge=edge.id))
            if self.can_lend(forest):
                if now - forest.advertised_s >= advert.ttl / 2 - advert.every / 2:
                    forest.advertised_s = now
                    add.append(chunk)
            elif forest.advertised_s > 0:
                forest.advertised_s = -1e9
                self.withdrawn[chunk] = None
        drop, self.withdrawn = list(self.withdrawn), {}
        while add or drop or borrowed:
            self.seq += 1
            cast = Advertise(
                epoch=self.node.incarnation,
                seq=self.seq,
                add=tuple(add[:BATCH]),
                drop=tuple(drop[:BATCH]),
                borrowed=tuple(borrowed[:BATCH]),
                ttl=advert.ttl,
            )
            for tracker in self.node.peers("tracker"):
                self.tracker.rpc.cast(tracker, cast)
            del add[:BATCH], drop[:BATCH], borrowed[:BATCH]

    def withdraw(self, chunk: str) -> None:
        """Tell the others soon that there is nothing of a chunk to lend any more."""
        self.withdrawn[chunk] = None

    def expire(self, now: float) -> None:
        """Forget what was advertised too long ago."""
        for chunk, adverts in list(self.adverts.items()):
            for tracker in [t for t, until_s in adverts.items() if until_s < now]:
                del adverts[tracker]
            if not adverts:
                del self.adverts[chunk]

    def can_lend(self, forest: Forest) -> bool:
        own = bool(forest.kept) or forest.external() > 0
        lends_all = self.node.config.delegation.loop_guard == "path" or self.node.variant("bug.no_d1_d2")
        return own or (lends_all and bool(forest.edges))

    def advertise(self, cast: Advertise, caller: Caller) -> None:
        """Take an advertisement; one that a later one has overtaken changes nothing."""
        stamp = (cast.epoch, cast.seq)
        if self.heard.get(caller.name, (0, 0)) >= stamp:
            return
        self.heard[caller.name] = stamp
        until_s = self.loop.time() + cast.ttl
        for chunk in cast.add:
            self.adverts.setdefault(chunk, {})[caller.name] = until_s
        for chunk in cast.drop:
            self.adverts.get(chunk, {}).pop(caller.name, None)
        for served in cast.borrowed:
            self.lend(served)
