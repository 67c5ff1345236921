"""Sets of peers that a fault can name, and the progress that every run has to make once it is healed."""

from __future__ import annotations

from collections.abc import Iterable

from zebra.cluster import Cluster
from zebra.events import Event


async def one_more_fetch(cluster: Cluster) -> None:
    """A fresh object reaches every peer that is up."""
    await cluster.client.fetch_everywhere(await cluster.client.publish(size=1 << 20))


def roots(cluster: Cluster) -> Iterable[str]:
    """The peers at the top of a tree now: they download from a store."""
    return dict.fromkeys(edge["child"] for edge in _open(cluster) if edge["parent"] == "EXT")


def sources(cluster: Cluster) -> Iterable[str]:
    """The peers that others download from now."""
    return dict.fromkeys(edge["parent"] for edge in _open(cluster) if edge["parent"] != "EXT")


def _open(cluster: Cluster) -> Iterable[Event]:
    edges: dict[str, Event] = {}
    for event in cluster.history.of("edge.open", "edge.adopt", "edge.close"):
        if event.kind == "edge.close":
            edges.pop(event["edge"], None)
        else:
            edges[event["edge"]] = event
    return edges.values()
