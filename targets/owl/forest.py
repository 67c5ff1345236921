"""The forest of one chunk, as one tracker sees it. Pure data: nobody is asked, nothing is sent.

Its nodes are the tracker's own peers that keep the chunk or have an open edge for it. An edge leads from the child that
downloads to its parent: a peer, or EXT for a store. A parent that is not one of ours was borrowed from another tracker
(or came with a peer that changed trackers). What we lent to other trackers is `lent`.
"""

from __future__ import annotations

from collections.abc import Container, Iterator
from dataclasses import dataclass, field

from zebra.topology import Place

EXT = "EXT"
KEPT, BORROWED, UNROOTED = "kept", "borrowed", "unrooted"
TOPS = (EXT, KEPT, BORROWED, UNROOTED)


@dataclass(slots=True, kw_only=True)
class Edge:
    """An open download. `source` is the node that is asked, `lender` the tracker that lent the parent, "" if ours.

    `have` bytes the child had when it began.
    """

    id: str
    child: str
    parent: str
    source: str
    lender: str = ""
    have: int = 0
    began_s: float = 0.0


@dataclass(slots=True, kw_only=True)
class Loan:
    """A peer of ours that another tracker uses as a source, until the loan runs out."""

    parent: str
    child: str
    until_s: float


@dataclass(slots=True, kw_only=True)
class Walk:
    """The peers from one up to its top, and what the top stands on: EXT, KEPT, BORROWED (last in path) or UNROOTED."""

    path: list[str]
    top: str


@dataclass(slots=True)
class Forest:
    """Everything that a tracker knows of one chunk. `members` are the tracker's own peers."""

    members: Container[str]
    kept: dict[str, None] = field(default_factory=dict)
    edges: dict[str, Edge] = field(default_factory=dict)
    loans: dict[str, Loan] = field(default_factory=dict)
    failed: dict[str, dict[str, tuple[float, str]]] = field(default_factory=dict)
    turns: dict[str, int] = field(default_factory=dict)
    picking: str = ""
    advertised_s: float = -1e9
    _uploads: dict[str, int] = field(default_factory=dict)
    _offered: dict[str, tuple[str, ...]] = field(default_factory=dict)
    _free: dict[int, dict[str, dict[str, None]]] = field(default_factory=dict)
    """By limit of uploads and by place: the peers on offer that have fewer, so that nobody looks at those in vain."""

    # -- looking ---------------------------------------------------------------------------------------------

    def walk(self, peer: str) -> Walk:
        """From a peer up to its top."""
        path: list[str] = []
        while len(path) <= len(self.edges):
            path.append(peer)
            over = self._over(peer)
            if over == BORROWED:
                path.append(self.edges[peer].parent)
            if over in TOPS:
                return Walk(path=path, top=over)
            peer = over
        return Walk(path=path, top=UNROOTED)  # a cycle: only with a planted bug

    def top(self, peer: str, known: dict[str, str]) -> str:
        """The top of a peer's walk; `known` holds what was found for others, so that many cost little more than one."""
        path: list[str] = []
        while peer not in known and len(path) <= len(self.edges):
            path.append(peer)
            over = self._over(peer)
            if over in TOPS:
                known[peer] = over
            else:
                peer = over
        top = known.get(peer, UNROOTED)
        known.update(dict.fromkeys(path, top))
        return top

    def _over(self, peer: str) -> str:
        """What a peer stands on: its parent, if that is one of ours, or one of TOPS."""
        if peer in self.kept:
            return KEPT
        edge = self.edges.get(peer)
        if edge is None:
            return UNROOTED
        if edge.parent == EXT or edge.parent in self.members:
            return edge.parent
        return BORROWED

    def has_lent_descendant(self, peer: str) -> bool:
        """Whether another tracker's peer hangs below this one, as far as we lent it."""
        return any(peer in self.walk(loan.parent).path for loan in self.loans.values())

    def uploads(self, peer: str) -> int:
        """The open edges and loans of which the peer is the parent."""
        return self._uploads.get(peer, 0)

    def external(self) -> int:
        """Open edges to the store."""
        return self._uploads.get(EXT, 0)

    def borrows(self) -> bool:
        """Whether any open edge leads out of our own peers."""
        return any(parent != EXT and parent not in self.members for parent in self._uploads)

    def is_empty(self) -> bool:
        return not (self.kept or self.edges or self.loans or self.picking)

    def near(self, place: Place, limit: int, most: int) -> Iterator[str]:
        """Peers with fewer uploads than `limit`, those near `place` first, at most `most` per distance."""
        if limit not in self._free:
            self._free[limit] = {}
            for peer in self._offered:
                self._enlist(peer, limit)
        seen: dict[str, None] = {}
        for key in _keys(place):
            tried = 0
            for peer in self._free[limit].get(key, ()):
                if peer not in seen:
                    seen[peer] = None
                    yield peer
                    tried += 1
                    if tried >= most:
                        break

    # -- changing --------------------------------------------------------------------------------------------

    def open(self, edge: Edge, place: Place) -> None:
        self.edges[edge.child] = edge
        self._count(edge.parent, +1)
        self._offer(edge.child, place)

    def close(self, child: str) -> Edge | None:
        """Take a peer's open edge away, if there is one."""
        edge = self.edges.pop(child, None)
        if edge is not None:
            self._count(edge.parent, -1)
        return edge

    def lend(self, edge: str, loan: Loan) -> None:
        if edge not in self.loans:
            self._count(loan.parent, +1)
        self.loans[edge] = loan

    def take_back(self, edge: str) -> None:
        loan = self.loans.pop(edge, None)
        if loan is not None:
            self._count(loan.parent, -1)

    def keep(self, peer: str, place: Place) -> None:
        self.kept[peer] = None
        self._offer(peer, place)

    def _offer(self, peer: str, place: Place) -> None:
        if peer not in self._offered:
            self._offered[peer] = _keys(place)
            for limit in self._free:
                self._enlist(peer, limit)

    def _enlist(self, peer: str, limit: int) -> None:
        if self.uploads(peer) < limit:
            for key in self._offered[peer]:
                self._free[limit].setdefault(key, {})[peer] = None

    def _delist(self, peer: str, limit: int) -> None:
        for key in self._offered[peer]:
            self._free[limit].get(key, {}).pop(peer, None)

    def withdraw(self, peer: str) -> None:
        """Let `near` find a peer no more, unless it still keeps the chunk or fetches it."""
        if peer in self._offered and peer not in self.kept and peer not in self.edges:
            for limit in self._free:
                self._delist(peer, limit)
            del self._offered[peer]

    def _count(self, parent: str, change: int) -> None:
        before = self._uploads.get(parent, 0)
        count = before + change
        if count:
            self._uploads[parent] = count
        else:
            self._uploads.pop(parent, None)
        if parent in self._offered:
            for limit in self._free:
                if before < limit <= count:
                    self._delist(parent, limit)
                elif count < limit <= before:
                    self._enlist(parent, limit)


def _keys(place: Place) -> tuple[str, ...]:
    return (f"host {place.host}", f"rack {place.rack}", f"dc {place.dc}", f"region {place.region}", "")
