"""Which proxies of a distributor are alive, and well enough to have children.

Each is pinged three times per lease, and tells in its pong what it has applied and which parents were slow: so one that
answers but relays nothing, and one whose card is slow, are noticed too. Source: ../shared/targets/lad.md section 5.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from zebra.rpc import Caller
from zebra.targets.lad.config import LadConfig
from zebra.targets.lad.messages import Ping, Pong
from zebra.targets.lad.trees import DistributionTree

if TYPE_CHECKING:
    from zebra.targets.lad.distributor import Distributor

PATIENCE = 2
"""Pongs in a row that show a proxy without the updates of the ping before, and something is done about it."""

SLOW_TWICE = 2
"""Updates that all children of a node must have found slow before it becomes a leaf."""


@dataclass(slots=True)
class Member:
    """One of our proxies. `due` is what it must have applied by its next pong; `late` counts the pongs without it."""

    incarnation: int
    heard_s: float
    max_bytes: int = 0
    shards: dict[str, None] = field(default_factory=dict)
    due: dict[str, int] = field(default_factory=dict)
    late: dict[str, int] = field(default_factory=dict)


class Leases:
    """Pings the members of a distributor, and acts on what they answer or do not."""

    def __init__(self, of: Distributor) -> None:
        self.of, self.node, self.loop = of, of.node, asyncio.get_running_loop()
        self.config: LadConfig = of.node.config.lad
        self.slow: dict[tuple[str, str], dict[str, int]] = {}

    def ping(self) -> None:
        ping = Ping(epoch=self.of.tree_id.epoch)
        for name, member in self.of.members.items():
            self.of.rpc.cast(name, ping)
            member.due = {shard: self.of.feed(shard).zxid for shard in member.shards}

    def expire(self) -> None:
        """Give up the proxies whose leases are over."""
        now = self.loop.time()
        for name in [name for name, member in self.of.members.items() if now - member.heard_s > self.config.lease.ttl]:
            self.node.emit("lease.expired", proxy=name)
            self.of.forget(name)

    def pong(self, cast: Pong, caller: Caller) -> None:
        member = self.of.members.get(caller.name)
        if member is None or member.incarnation != caller.incarnation or cast.epoch != self.of.tree_id.epoch:
            return
        member.heard_s = self.loop.time()
        for shard, zxid in cast.applied:
            late = zxid < member.due.get(shard, 0)
            member.late[shard] = member.late.get(shard, 0) + 1 if late else 0
            if late and member.late[shard] % PATIENCE == 0:
                self.unblock(shard, caller.name, member.late[shard])
        for shard, parent in cast.slow:
            self.note_slow(shard, parent, caller.name)

    def unblock(self, shard: str, name: str, late: int) -> None:
        """A proxy answers, but updates do not come through to it: give it another parent, or if it is late even so,
        give its children others. Where its parent is late as well, that one's turn comes first.
        """
        tree = self.of.trees.get(shard)
        if tree is None or name not in tree:
            return
        parent = tree.nodes[name].parent
        above = self.of.members.get(parent)
        if (above is not None and above.late.get(shard)) or self.node.variant("bug.no_replace"):
            return
        self.of.spawn(self.of.reparent(shard, name, frozenset([parent]) - {self.node.name}))
        if late > PATIENCE:
            self.shun(name)
            for child in list(tree.nodes[name].children):
                self.of.spawn(self.of.reparent(shard, child, frozenset([name])))

    def note_slow(self, shard: str, parent: str, child: str) -> None:
        """A node whose children all find it slow, though its parent is not, becomes a leaf."""
        tree = self.of.trees.get(shard)
        if tree is None or parent not in tree or parent == tree.root:
            return
        votes = self.slow.setdefault((shard, parent), {})
        votes[child] = votes.get(child, 0) + 1
        above = tree.nodes[parent].parent
        if self._is_slow(tree, shard, parent) and not self._is_slow(tree, shard, above):
            votes["leaf"] = 1
            self.node.emit("tree.demote", shard=shard, proxy=parent)
            tree.shun(parent, True)
            for one in list(tree.nodes[parent].children):
                self.of.spawn(self.of.reparent(shard, one, frozenset([parent])))

    def _is_slow(self, tree: DistributionTree, shard: str, name: str) -> bool:
        votes = self.slow.get((shard, name), {})
        children = tree.nodes[name].children if name in tree else {}
        return bool(children) and all(votes.get(child, 0) >= SLOW_TWICE for child in children)

    def shun(self, name: str) -> None:
        """Give a proxy no more children until a lease has passed."""
        if name == self.node.name:
            return
        for tree in self.of.trees.values():
            tree.shun(name, True)
        self.loop.call_later(self.config.lease.ttl, self._unshun, name)

    def _unshun(self, name: str) -> None:
        for shard, tree in self.of.trees.items():
            if (shard, name) not in self.slow or not self.slow[shard, name].get("leaf"):
                tree.shun(name, False)

    def forget(self, name: str) -> None:
        """A proxy is gone: what was said against it does not count for its next life."""
        for key in [key for key in self.slow if key[1] == name]:
            del self.slow[key]
