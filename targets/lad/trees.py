"""A distribution tree as its distributor sees it, and where the next proxy goes in it.

Source: ../shared/targets/lad.md section 2 (placement): same rack, then datacenter, region, world; the least depth, then
the fewest children. A placement costs O(log n): each scope keeps a heap whose outdated entries are dropped as they
come up.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from zebra.topology import Place

DEPTH_MAX = 16
SCOPES = ("rack", "dc", "region", "")


@dataclass(slots=True)
class TreeNode:
    """A proxy in a tree, or its root. Without a parent (and no root) it waits for one, and all below it with it.

    `room` is how many children it takes; `shunned` keeps it from getting more, for as long as its distributor likes.
    """

    name: str
    room: int
    parent: str = ""
    depth: int = 0
    turn: int = 0
    placed_s: float = 0.0
    shunned: bool = False
    children: dict[str, None] = field(default_factory=dict)


class DistributionTree:
    """The tree of one shard, rooted at its distributor."""

    def __init__(self, root: str, fanout: int, places: Mapping[str, Place], careless: bool = False) -> None:
        self.root, self.fanout, self.places, self.careless = root, fanout, places, careless
        self.nodes = {root: TreeNode(root, fanout)}
        self._heaps: dict[str, list[tuple[int, int, str]]] = {}
        self._offer(self.nodes[root])

    def __contains__(self, name: str) -> bool:
        return name in self.nodes

    def __len__(self) -> int:
        return len(self.nodes) - 1

    # -- changes ---------------------------------------------------------------------------------------------

    def find_parent(self, child: str, avoid: frozenset[str] = frozenset()) -> str:
        """The best parent for a proxy, "" when no node has room for it."""
        place = self.places[child]
        for scope in SCOPES:
            best = self._best(getattr(place, scope) if scope else "", child, avoid)
            if best:
                return best
        return ""

    def put(self, child: str, parent: str) -> TreeNode:
        """Place a proxy, with all that is below it, under a node."""
        node = self.nodes.get(child)
        if node is None:
            node = self.nodes[child] = TreeNode(child, self.fanout)
        self.detach(child)
        node.parent = parent
        above = self.nodes[parent]
        above.children[child] = None
        self._offer(above)
        self._sink(node, above.depth + 1)
        return node

    def detach(self, child: str) -> str:
        """Take a proxy from its parent, whose name it returns; what is below the proxy stays there."""
        node = self.nodes[child]
        parent, node.parent = node.parent, ""
        if parent:
            above = self.nodes[parent]
            above.children.pop(child, None)
            self._offer(above)
        return parent

    def remove(self, name: str) -> list[str]:
        """Forget a proxy; its children, which wait for a parent now."""
        node = self.nodes.get(name)
        if node is None:
            return []
        children = list(node.children)
        for child in children:
            self.nodes[child].parent = ""
        self.detach(name)
        del self.nodes[name]
        return children

    def limit(self, name: str, room: int) -> None:
        """A proxy takes no more than so many children."""
        node = self.nodes[name]
        node.room = min(room, self.fanout)
        self._offer(node)

    def shun(self, name: str, on: bool) -> None:
        """Whether a proxy gets no more children for the time being."""
        node = self.nodes.get(name)
        if node is not None and node.shunned != on:
            node.shunned = on
            self._offer(node)

    # -- questions -------------------------------------------------------------------------------------------

    def way_up(self, name: str) -> Iterator[str]:
        """The nodes above a proxy, nearest first."""
        name = self.nodes[name].parent
        while name:
            yield name
            name = self.nodes[name].parent

    def below(self, name: str) -> Iterator[str]:
        """All proxies below one, those nearest to it first."""
        found = list(self.nodes[name].children)
        for child in found:
            yield child
            found.extend(self.nodes[child].children)

    # -- heaps -----------------------------------------------------------------------------------------------

    def _offer(self, node: TreeNode) -> None:
        """Enter a node, as it is now, where it may be found as a parent."""
        if node.shunned or len(node.children) >= node.room or node.depth >= DEPTH_MAX:
            return
        entry, place = (node.depth, len(node.children), node.name), self.places[node.name]
        for key in (place.rack, place.dc, place.region, ""):
            heapq.heappush(self._heaps.setdefault(key, []), entry)

    def _sink(self, node: TreeNode, depth: int) -> None:
        """Set the depth of a node and of all below it."""
        todo = [(node, depth)]
        while todo:
            node, depth = todo.pop()
            if node.depth != depth and depth <= len(self.nodes):  # deeper is a cycle, which only `careless` makes
                node.depth = depth
                todo += [(self.nodes[child], depth + 1) for child in node.children]
            self._offer(node)

    def _best(self, key: str, child: str, avoid: frozenset[str]) -> str:
        heap, aside, best = self._heaps.get(key, []), [], ""
        while heap:
            depth, kids, name = heap[0]
            node = self.nodes.get(name)
            current = node is not None and node.depth == depth and len(node.children) == kids
            if node is None or not current or node.shunned or kids >= node.room:
                heapq.heappop(heap)
                continue
            if name not in avoid and name != child and (self.careless or self._may_be_above(name, child)):
                best = name
                break
            aside.append(heapq.heappop(heap))
        for entry in aside:
            heapq.heappush(heap, entry)
        return best

    def _may_be_above(self, name: str, child: str) -> bool:
        """Whether a node hangs on the root, and not by way of the child itself."""
        while name != child:
            if name == self.root:
                return True
            if not name:
                return False
            name = self.nodes[name].parent
        return False
