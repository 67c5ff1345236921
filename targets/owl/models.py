"""Small models of a history that several invariants share: configurations, faults, open edges."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from zebra.events import Event

LIFE = ("node.start", "node.crash", "node.stop")
EDGE = ("edge.open", "edge.adopt", "edge.close", "owl.reg", *LIFE)
APPLICATION = ("owl.flip", "owl.abandon", "owl.policy")
FAULT = (
    "run",
    "fault.inject",
    "fault.heal",
    "node.start",
    "node.ready",
    "node.crash",
    "node.stopping",
    "node.stop",
    "node.pause",
    "node.resume",
    "owl.throttle",
    *APPLICATION,
)


class Settings:
    """Every node's configuration; a bound takes the most lenient value."""

    def __init__(self) -> None:
        self.configs: dict[str, dict[str, Any]] = {}
        self._highest: dict[tuple[str, str], Any] = {}

    def see(self, event: Event) -> None:
        if event.kind == "node.start":
            self.configs[event.node] = event["config"]
            self._highest.clear()

    def of(self, node: str, group: str, name: str) -> Any:
        return self.configs[node][group][name]

    def highest(self, group: str, name: str) -> Any:
        key = (group, name)
        if key not in self._highest:  # asked at every get
            self._highest[key] = max((config[group][name] for config in self.configs.values()), default=0)
        return self._highest[key]


class Faults:
    """Which nodes have, or lately had, something done to them."""

    def __init__(self) -> None:
        self._hosts: dict[str, str] = {}
        self._active: dict[int, tuple[str, ...]] = {}
        self._held: dict[str, str] = {}
        self._last: dict[str, float] = {}
        self.any_s = -1e9

    def see(self, event: Event) -> None:
        kind = event.kind
        if kind == "run":
            self._hosts = {place["node"]: place["host"] for place in event["places"]}
        elif kind == "fault.inject":
            self._active[event["id"]] = self._hit_by(event["fault"], event["on"])
            self._mark(event, *self._active[event["id"]])
        elif kind == "fault.heal":
            self._mark(event, *self._active.pop(event["id"], ()))
        elif kind in ("node.crash", "node.stopping", "node.pause"):
            self._held[event.node] = kind
            self._mark(event, event.node)
        elif kind in ("node.resume", "node.ready"):
            if self._held.pop(event.node, None):
                self._mark(event, event.node)
        elif kind == "owl.throttle":
            if event["pause_s"] or event["closed"]:
                self._held[event.node] = kind
            else:
                self._held.pop(event.node, None)
            self._mark(event, event.node)
        elif kind in APPLICATION:
            self._mark(event, event.node)

    def _hit_by(self, fault: str, on: list[str]) -> tuple[str, ...]:
        """All nodes that a fault touches: those of a host share its disk and its power, not its links."""
        hosts = set() if fault.startswith("network.") else {self._hosts[node] for node in on}
        return (*on, *(node for node, host in self._hosts.items() if host in hosts and node not in on))

    def _mark(self, event: Event, *nodes: str) -> None:
        for node in nodes:
            self._last[node] = self.any_s = event.t

    def active(self) -> Iterator[str]:
        """The nodes that something is being done to now."""
        yield from self._held
        for nodes in self._active.values():
            yield from nodes

    def hit(self, node: str, since_s: float) -> bool:
        """Whether something is, or was since then, done to a node."""
        return self._last.get(node, -1e9) >= since_s or node in self.active()

    def any_since(self, since_s: float) -> bool:
        return self.any_s >= since_s or next(self.active(), None) is not None

    def role_hit(self, role: str, since_s: float) -> bool:
        """Whether something was done to any node of a role."""
        return any(node.startswith(role + "-") and self.hit(node, since_s) for node in [*self._last, *self.active()])


class Edges:
    """The open edges, by id; a node that is down, or has registered without it, has an edge no longer."""

    def __init__(self) -> None:
        self.open: dict[str, Event] = {}
        self._owner: dict[str, str] = {}
        self._of: dict[str, dict[str, None]] = {}
        self.parent: dict[tuple[str, str], str] = {}

    def see(self, event: Event) -> None:
        kind, fields = event.kind, event.fields
        if kind in ("edge.open", "edge.adopt"):
            edge, child = fields["edge"], fields["child"]
            self.open[edge], self._owner[edge] = event, event.node
            self._of.setdefault(child, {})[edge] = None
            self.parent[fields["chunk"], child] = fields["parent"]
        elif kind == "edge.close":
            if self._owner.get(event["edge"]) == event.node:
                self._close(event["edge"])
        elif kind == "owl.reg":
            for edge in [e for e in self._of.get(event["peer"], ()) if e not in event["open"]]:
                self._close(edge)
        elif kind in LIFE:
            for edge in list(self._of.get(event.node, ())):
                self._close(edge)
            for edge in [e for e, owner in self._owner.items() if owner == event.node]:
                self._owner[edge] = ""  # a tracker without memory: nobody answers for it until it is adopted

    def _close(self, edge: str) -> None:
        fields = self.open.pop(edge).fields
        del self._owner[edge]
        child, chunk = fields["child"], fields["chunk"]
        mine = self._of[child]
        mine.pop(edge, None)
        if not any(self.open[e].fields["chunk"] == chunk for e in mine):
            self.parent.pop((chunk, child), None)

    def owner(self, edge: str) -> str:
        """The tracker that answers for an edge."""
        return self._owner.get(edge, "")

    def of(self, child: str, chunk: str) -> list[Event]:
        """A child's open edges for a chunk."""
        return [self.open[e] for e in self._of.get(child, ()) if self.open[e]["chunk"] == chunk]
