"""Small models of a history that several invariants share: configurations, places, what was done to whom, commits."""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from typing import Any

from zebra.events import Event

FAULT = ("run", "fault.inject", "fault.heal", "node.start", "node.ready", "node.crash", "node.exit", "node.stopping",
         "node.stop", "node.pause", "node.resume", "lad.hang", "lad.spoil")  # fmt: skip
DOWN = ("node.crash", "node.exit", "node.stopping", "node.stop", "node.pause")
LONG_AGO = -1e9
BOUNDS = (("lease", "ttl"), ("poll", "interval"), ("limit", "propagation"), ("tree", "fanout"), ("rpc", "timeout"),
          ("backoff", "longest"), ("canary", "duration"))  # fmt: skip
"""The numbers of which bounds take the largest that any node has."""


class Cluster:
    """Every node's configuration, place and fate. Bounds take the most lenient value among nodes."""

    def __init__(self) -> None:
        self.places: dict[str, dict[str, Any]] = {}
        self.configs: dict[str, dict[str, Any]] = {}
        self.variants: tuple[str, ...] = ()
        self._active: dict[int, tuple[str, tuple[str, ...]]] = {}
        self._held: dict[str, str] = {}
        self._last: dict[str, float] = {}
        self._seen: set[str] = set()
        self._highest: dict[tuple[str, str], float] = {}
        self.last_s = LONG_AGO

    def see(self, event: Event) -> None:
        kind = event.kind
        if kind == "run":
            self.places = {place["node"]: place for place in event["places"]}
            self.variants = tuple(event["variant"].split(","))
        elif kind == "fault.inject":
            hit = self._hit_by(event["fault"], event["on"])
            if not event["fault"].startswith("host."):  # of those, what happens to nodes says when they are over
                self._active[event["id"]] = event["fault"], hit
            self._mark(event.t, hit)
        elif kind == "fault.heal":
            self._mark(event.t, self._active.pop(event["id"], ("", ()))[1])
        elif kind in DOWN:
            self._held[event.node] = kind
            self._mark(event.t, (event.node,))
        elif kind in ("node.resume", "node.ready"):
            if self._held.pop(event.node, None):
                self._mark(event.t, (event.node,))
        elif kind == "node.start":
            self.configs[event.node] = lad = event["config"].get("lad", event["config"])
            for group, name in BOUNDS:
                value = lad.get(group, {}).get(name, 0.0)
                if value > self._highest.get((group, name), -1.0):
                    self._highest[group, name] = value
            if event.node in self._seen:
                self._mark(event.t, (event.node,))
            self._seen.add(event.node)
        elif kind == "lad.hang":
            if event["on"]:
                self._held[event.node] = kind
            else:
                self._held.pop(event.node, None)
            self._mark(event.t, (event.node,))
        elif kind == "lad.spoil":
            self._mark(event.t, (event.node,))

    def _hit_by(self, fault: str, on: list[str]) -> tuple[str, ...]:
        """All nodes that a fault touches: those of a host share its disk and its power, not its links."""
        hosts = set() if fault.startswith("network.") else {self.places[node]["host"] for node in on}
        return (*on, *(node for node, place in self.places.items() if place["host"] in hosts and node not in on))

    def _mark(self, t: float, nodes: tuple[str, ...]) -> None:
        for node in nodes:
            self._last[node] = self.last_s = t

    # -- questions -------------------------------------------------------------------------------------------

    def highest(self, group: str, name: str) -> float:
        """The largest value of a number among all nodes."""
        return self._highest.get((group, name), 0.0)

    def of(self, node: str, group: str, name: str) -> Any:
        return self.configs[node][group][name]

    def quiet_since(self) -> float:
        """When the last thing was done to anybody; infinity while something is being done."""
        return float("inf") if self._active or self._held else self.last_s

    def node_quiet_since(self, *nodes: str) -> float:
        """The same for some nodes."""
        if any(node in self._held or any(node in on for _, on in self._active.values()) for node in nodes):
            return float("inf")
        return max((self._last.get(node, LONG_AGO) for node in nodes), default=LONG_AGO)

    def role(self, role: str) -> list[str]:
        return [node for node, place in self.places.items() if place["role"] == role]

    def recovery_s(self) -> float:
        """After a disturbance everybody has a distributor and a parent again, and knows what he missed."""
        return 2 * self.highest("lease", "ttl") + self.highest("poll", "interval") + 2.0


class Commits:
    """What the store's transactions did to paths, once each."""

    def __init__(self) -> None:
        self.of: dict[tuple[str, int], Event] = {}
        self.latest: dict[str, Event] = {}
        self._shards: dict[str, tuple[list[int], list[Event]]] = defaultdict(lambda: ([], []))
        self._seen: set[tuple[str, int]] = set()

    def see(self, event: Event) -> bool:
        """Take a commit; whether it is a new one."""
        path, zxid = event["path"], event["zxid"]
        if (path, zxid) in self._seen:
            return False
        self._seen.add((path, zxid))
        self.of.setdefault((path, event["version"]), event)
        if path not in self.latest or self.latest[path]["zxid"] < zxid:
            self.latest[path] = event
        steps = path.split("/")
        for depth in range(2, len(steps) + 1):
            zxids, events = self._shards["/".join(steps[:depth])]
            at = bisect_right(zxids, zxid)
            zxids.insert(at, zxid)
            events.insert(at, event)
        return True

    def between(self, shard: str, after: int, upto: int) -> dict[str, int]:
        """The versions of the paths of a shard that transactions touched after one zxid and up to another."""
        zxids, events = self._shards[shard]
        return {
            event["path"]: event["version"] for event in events[bisect_right(zxids, after) : bisect_right(zxids, upto)]
        }
