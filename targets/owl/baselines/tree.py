"""The static tree: hosts in an order drawn by hash, the parent of position i is at (i - 1) / degree.

Nobody chooses: a slow host in the middle slows down all below it, and a dead one costs each child 5 s for each chunk.
Source: ../shared/targets/owl.md section 2 (baselines).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from zebra.node import Node
from zebra.targets.owl.baselines.config import TreeGroup
from zebra.targets.owl.baselines.relay import Relay
from zebra.targets.owl.policies import weight
from zebra.targets.owl.transfer import Transfer


class TreePeer(Relay):
    """A host in the trees of all objects, whether or not it wants them."""

    def __init__(self, node: Node[Any]) -> None:
        super().__init__(node)
        self.tree: TreeGroup = node.config.tree
        self._above: dict[str, list[str]] = {}

    def parents(self, transfer: Transfer) -> Sequence[str]:
        key = transfer.piece.chunk if self.tree.per == "chunk" else transfer.manifest.object
        if key not in self._above:
            self._above[key] = ancestors(self.node.name, self.node.peers("peer"), key, self.tree.degree)
        return [*self._above[key], self.nearest_store()]


def ancestors(name: str, others: Iterable[str], key: str, degree: int) -> list[str]:
    """The hosts above one, up to the root, in the tree that rendezvous hashing makes of them all."""
    order = sorted([name, *others], key=lambda host: (weight(key, host), host), reverse=True)
    position, above = order.index(name), list[str]()
    while position:
        position = (position - 1) // degree
        above.append(order[position])
    return above
