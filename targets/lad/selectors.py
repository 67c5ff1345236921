"""Sets of nodes that a fault can name, the progress of every run that is healed, and the way of a value."""

from __future__ import annotations

from collections.abc import Iterable

from zebra.cluster import Cluster
from zebra.events import Event
from zebra.targets.lad.client import Rejected


async def one_more_commit(cluster: Cluster) -> None:
    """A fresh commit to a path that apps use reaches all of them that are up."""
    runs = cluster.history.of("app.runs")
    if not runs:
        return
    path = runs[0]["path"]
    users = {event["app"] for event in runs if event["path"] == path}
    try:
        (version,) = await cluster.client.commit(path)
    except Rejected:
        return
    apps = [app for app in cluster.up("app") if app in users]
    await cluster.client.arrived({path: version}, apps=apps, within_s=80.0)


def parents(cluster: Cluster) -> Iterable[str]:
    """The proxies that have children now."""
    found = {edge["parent"]: None for edge in edges(cluster) if not edge["parent"].startswith("distributor")}
    return found


def tops(cluster: Cluster) -> Iterable[str]:
    """The proxies right under a distributor."""
    return dict.fromkeys(edge["child"] for edge in edges(cluster) if edge["parent"].startswith("distributor"))


def leader(cluster: Cluster) -> Iterable[str]:
    """The store member elected last."""
    return [event.node for event in cluster.history.of("store.leader")][-1:]


def edges(cluster: Cluster) -> Iterable[Event]:
    """The edges of all trees that there are now."""
    found: dict[tuple[str, str], Event] = {}
    for event in cluster.history.of("tree.add", "tree.del"):
        if event.kind == "tree.add":
            found[event["tree"], event["child"]] = event
        else:
            found.pop((event["tree"], event["child"]), None)
    latest = {event["tree"].partition("/")[0]: event["epoch"] for event in found.values()}
    return [event for event in found.values() if event["epoch"] == latest[event["tree"].partition("/")[0]]]


def find_hops(history: Iterable[Event], proxy: str, path: str, version: int = 0) -> list[str]:
    """The nodes that a version of a path (the latest, unless given) came through to a proxy, itself first.

    The last is `store-…`, the member that a distributor read it from; the list is empty if it never came.
    """
    sources: dict[tuple[str, int], str] = {}
    for event in history:
        if event.kind == "content.ready" and event["path"] == path:
            sources[event.node, event["version"]] = event["source"]
        elif event.kind == "store.read" and event["path"] == path:
            sources[event["by"], event["version"]] = event.node
    version = version or max((v for node, v in sources if node == proxy), default=0)
    hops, here = list[str](), proxy
    while (here, version) in sources and here not in hops:
        hops.append(here)
        here = sources[here, version]
    return [*hops, here] if hops else []
