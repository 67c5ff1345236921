"""What is wrong with a server, as its own monitoring pages tell; and what it does not lead."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from zebra.targets.nats.contents import streams_of


def wrong_with(
    name: str, servers: Iterable[str], jsz: dict[str, Any], health: dict[str, Any], routes: dict[str, Any]
) -> str:
    """What is wrong with a server, "" if nothing is. `servers` are those that should run, it among them."""
    if health.get("status") != "ok":
        return f"calls itself {health.get('status')}: {health.get('error')}"
    joined = {route.get("remote_name") for route in routes.get("routes") or []}
    missing = [other for other in servers if other not in (name, *joined)]
    if missing:
        return f"has no route to {', '.join(missing)}"
    meta = jsz.get("meta_cluster") or {}
    if not meta.get("leader"):
        return "knows no leader of the meta layer"
    replicas = meta.get("replicas") or []
    late = [
        peer["name"] for peer in replicas if peer["name"] in servers and (peer.get("offline") or not peer["current"])
    ]
    if late and name == meta["leader"]:
        return f"leads the meta layer and waits for {', '.join(late)}"
    headless = [stream["name"] for stream in streams_of(jsz) if not stream.get("cluster", {}).get("leader")]
    return f"knows no leader of {', '.join(headless)}" if headless else ""


def disagreement(name: str, leaders: Mapping[str, str]) -> str:
    """How a server differs from others about who leads the meta layer, "" if all agree. `leaders` is what each says."""
    return "" if len(set(leaders.values())) == 1 else f"takes {leaders[name]} for the meta layer's leader, not all do"


def led_by_others(jsz: dict[str, Any], name: str) -> Iterator[str]:
    """What a server does not lead, as the API names it: "META", "STREAM a", "CONSUMER a reader"."""
    if (jsz.get("meta_cluster") or {}).get("leader") != name:
        yield "META"
    for stream in streams_of(jsz):
        if stream.get("cluster", {}).get("leader") != name:
            yield f"STREAM {stream['name']}"
        for consumer in stream.get("consumer_detail") or []:
            if consumer.get("cluster", {}).get("leader") != name:
                yield f"CONSUMER {stream['name']} {consumer['name']}"
