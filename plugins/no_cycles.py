"""Edges between nodes, opened and closed over time, form no directed cycle."""

from __future__ import annotations

from collections import defaultdict
from functools import partial
from itertools import pairwise

from zebra.events import Event
from zebra.invariant import NODE_GONE, Factory, Violation, invariant, value_of

Edges = dict[object, dict[object, list[Event]]]
"""For each child its parents, and for each of those the events that opened the edge and were not closed."""


class NoCycles:
    """The open edges child -> parent have no directed cycle, for each value of `per` on its own.

    An edge ends when it is closed, or when either end's node crashes or stops. Cost: one search from the new edge's
    parent for its child, over what that parent can reach.
    """

    def __init__(self, opened: str, child: str, parent: str, per: str) -> None:
        self.opened, self.child, self.parent, self.per = opened, child, parent, per
        self.graphs: dict[object, Edges] = defaultdict(dict)

    def check(self, event: Event) -> Violation | None:
        if event.kind in NODE_GONE:
            self._forget(event.node)
            return None
        edges = self.graphs[value_of(event, self.per) if self.per else None]
        child, parent = value_of(event, self.child), value_of(event, self.parent)
        if event.kind != self.opened:
            parents = edges.get(child, {})
            if parents.get(parent):
                parents[parent].pop()
                if not parents[parent]:
                    del parents[parent]
            return None
        edges.setdefault(child, {}).setdefault(parent, []).append(event)
        way = _way(edges, parent, child)
        if way is None:
            return None
        evidence = sorted([event, *(edges[a][b][-1] for a, b in pairwise(way))], key=lambda e: e.seq)
        what = f" for {self.per} {event[self.per]}" if self.per else ""
        return Violation(f"a cycle{what}: {' -> '.join(map(str, [child, *way]))}", tuple(evidence))

    def _forget(self, node: str) -> None:
        for edges in self.graphs.values():
            edges.pop(node, None)
            for parents in edges.values():
                parents.pop(node, None)


def _way(edges: Edges, start: object, goal: object) -> list[object] | None:
    """A way from `start` to `goal` along the edges, both included, or None."""
    came_from: dict[object, object] = {start: None}
    to_see = [start]
    while to_see:
        here = to_see.pop()
        if here == goal:
            way = [here]
            while way[-1] != start:
                way.append(came_from[way[-1]])
            return way[::-1]
        for after in edges.get(here, ()):
            if after not in came_from:
                came_from[after] = here
                to_see.append(after)
    return None


def no_cycles(name: str = "general.no_cycles", *, opened: str = "edge.open", closed: str = "edge.close",
              child: str = "child", parent: str = "parent", per: str = "") -> Factory:  # fmt: skip
    """No cycle of edges from the field `child` ("node": the event's node) to `parent`, per value of the field `per`."""
    return invariant(name, (opened, closed, *NODE_GONE))(partial(NoCycles, opened, child, parent, per))


no_cycles()
