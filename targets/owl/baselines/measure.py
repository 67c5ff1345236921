"""The one measure for Owl and its baselines, read from a run's history."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from math import ceil

from zebra.events import Event
from zebra.targets.owl.forest import EXT


@dataclass(frozen=True, slots=True, kw_only=True)
class Measures:
    """Times in seconds: `published` counts from the publication to a peer's last byte, `get` from a peer's own request.

    `healthy` leaves slow hosts out. `racks`, `regions` and `store` are the bytes that crossed racks, crossed regions or
    came from a store, as shares of the bytes delivered; `external` is the most store reads of any one chunk.
    """

    peers: int
    published_p50_s: float
    published_p99_s: float
    published_last_s: float
    get_p50_s: float
    get_p99_s: float
    healthy_p99_s: float
    racks: float
    regions: float
    store: float
    reads: int
    external: int
    depth: int


def measure(history: Iterable[Event], slow: Collection[str] = ()) -> Measures:
    """What a run in which one object was published came to. Raises ValueError when a get failed or none ended."""
    places, sources, parents = dict[str, dict[str, str]](), dict[str, str](), dict[tuple[str, str], str]()
    asked, done, took = dict[str, float](), list[float](), dict[str, float]()
    published, length, received, racks, regions, store = 0.0, 0, 0, 0, 0, 0
    reads: dict[str, int] = {}
    for event in history:
        if event.kind == "run":
            places = {place["node"]: place for place in event["places"]}
        elif event.kind == "op.ok" and event["f"] == "publish":
            published = event.t
        elif event.kind == "get.start":
            asked[event.node], length = event.t, event["length"]
        elif event.kind == "get.end":
            if not event["ok"]:
                raise ValueError(f"{event.node} did not get {event['object']}: {event['why']}")
            done.append(event.t - published)
            took[event.node] = event.t - asked[event.node]
        elif event.kind == "edge.open":
            sources[event["edge"]] = event["src"]
            parents[event["chunk"], event["child"]] = event["parent"]
            if event["parent"] == EXT:
                reads[event["chunk"]] = reads.get(event["chunk"], 0) + 1
        elif event.kind == "owl.recv":
            here, there = places[event.node], places[sources[event["edge"]]]
            received += event["len"]
            racks += event["len"] * (here["rack"] != there["rack"])
            regions += event["len"] * (here["region"] != there["region"])
            store += event["len"] * (there["role"] == "store")
    if not took:
        raise ValueError("no peer got anything")
    delivered = length * len(took)
    return Measures(
        peers=len(took),
        published_p50_s=quantile(done, 0.5),
        published_p99_s=quantile(done, 0.99),
        published_last_s=max(done),
        get_p50_s=quantile(list(took.values()), 0.5),
        get_p99_s=quantile(list(took.values()), 0.99),
        healthy_p99_s=quantile([s for peer, s in took.items() if peer not in slow], 0.99),
        racks=racks / delivered,
        regions=regions / delivered,
        store=store / delivered,
        reads=sum(reads.values()),
        external=max(reads.values(), default=0),
        depth=max(_depth(parents, chunk, child) for chunk, child in parents),
    )


def quantile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least a share of the values does not exceed."""
    ordered = sorted(values)
    return ordered[max(0, ceil(share * len(ordered)) - 1)]


def _depth(parents: dict[tuple[str, str], str], chunk: str, child: str) -> int:
    """Edges from a child up to the store, by the last source that each had."""
    depth, seen = 1, {child}
    while (parent := parents.get((chunk, child), EXT)) != EXT and parent not in seen:
        child, depth = parent, depth + 1
        seen.add(parent)
    return depth
