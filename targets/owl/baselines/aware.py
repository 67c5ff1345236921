"""Owl with one thing changed, for the benchmark to tell what a result is due to: a tracker that knows its peers' load.

Owl's tracker, as built, counts the uploads of a peer in one chunk's forest, and knows nothing of a peer's rate. Here
`uploads` is counted over all chunks, and peers that have shown less than an eighth of the best rate are sources only if
there is no other (what the specification's Heartbeat carries as `uploads` and `up_rate`). Both are learned from what a
tracker sees anyhow: edges that open and downloads that end.
"""

from __future__ import annotations

from dataclasses import replace

from zebra.node import Node
from zebra.rpc import Caller
from zebra.targets.owl.config import OwlConfig
from zebra.targets.owl.forest import Edge, Forest
from zebra.targets.owl.messages import Done, DoneAck
from zebra.targets.owl.policies import Bucket, Candidate
from zebra.targets.owl.tracker import Tracker

SLOW = 1 / 8
"""Of the best rate seen: below it a peer counts as slow."""


class LoadAwareTracker(Tracker):
    """Prefers sources by what they have to do in all, and leaves slow ones out."""

    def __init__(self, node: Node[OwlConfig]) -> None:
        super().__init__(node)
        self.load: dict[str, int] = {}
        self.rates: dict[str, float] = {}
        self.best = 0.0
        self.began: dict[tuple[str, str], tuple[Edge, float]] = {}

    def enter(self, chunk: str, edge: Edge) -> None:
        super().enter(chunk, edge)
        self.load[edge.source] = self.load.get(edge.source, 0) + 1
        self.began[chunk, edge.child] = edge, self.loop.time()

    def close(self, chunk: str, peer: str, why: str) -> None:
        forest = self.forests.get(chunk)
        edge = forest.edges.get(peer) if forest is not None else None
        if edge is not None:
            self.load[edge.source] -= 1
        super().close(chunk, peer, why)

    def done(self, ask: Done, caller: Caller) -> DoneAck:
        edge, began_s = self.began.pop((ask.chunk, caller.name), (None, 0.0))
        if edge is not None and ask.ok and caller.name in self.members:
            rate = (ask.bytes - edge.have) / max(self.loop.time() - began_s, 1e-6)
            self.saw(edge.source, rate * max(1, self.load[edge.source]))
            self.saw(caller.name, rate * max(1, len(self.members[caller.name].edges)))
        return super().done(ask, caller)

    def saw(self, peer: str, rate: float) -> None:
        self.rates[peer] = max(self.rates.get(peer, 0.0), rate)
        self.best = max(self.best, rate)

    def candidate(self, forest: Forest, peer: str, have: int) -> Candidate:
        return replace(super().candidate(forest, peer, have), uploads=self.load.get(peer, 0))

    def choose(self, peer: str, chunk: str, bucket: Bucket, found: list[Candidate]) -> Candidate:
        quick = [c for c in found if self.rates.get(c.peer, self.best) >= SLOW * self.best]
        return super().choose(peer, chunk, bucket, quick or found)
