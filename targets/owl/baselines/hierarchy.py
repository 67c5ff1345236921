"""The hierarchical cache: host, cache of the rack, cache of the region, store.

Caches stream what they have not got whole, as the other systems do. A cache sends `quota` streams to one client and
`streams` in all; whoever comes on top is refused, and asks again after 0.2 s.
Source: ../shared/targets/owl.md section 2 (baselines).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from typing import Any

from zebra.node import Node
from zebra.rpc import Caller
from zebra.targets.owl.baselines.config import HierarchyGroup
from zebra.targets.owl.baselines.messages import Pull
from zebra.targets.owl.baselines.relay import Relay
from zebra.targets.owl.messages import Data, End, StoreError
from zebra.targets.owl.transfer import Transfer


class CachedPeer(Relay):
    """A host: all that it downloads comes through the cache of its rack."""

    above: tuple[str, ...] = ("rackcache", "regioncache")

    def parents(self, transfer: Transfer) -> Sequence[str]:
        here, caches = self.node.place, list[str]()
        for role in self.above:
            for cache in self.node.peers(role):
                place = self.node.place_of(cache)
                if place.region == here.region and (role == "regioncache" or place.rack == here.rack):
                    caches.append(cache)
        return [*caches, self.nearest_store()]


class RackCache(CachedPeer):
    """Serves the hosts of its rack, and answers no Get."""

    above: tuple[str, ...] = ("regioncache",)
    cache_factor = 16

    def __init__(self, node: Node[Any]) -> None:
        super().__init__(node)
        self.limits: HierarchyGroup = node.config.hierarchy

    def calls(self) -> dict[type, Any]:
        return {Pull: self.pull}

    async def pull(self, ask: Pull, caller: Caller) -> AsyncIterator[Data | End]:
        going = self.uploads.going.values()
        if len(going) >= self.limits.streams:
            raise StoreError(f"{self.node.name} is overloaded")
        if sum(served.child == caller.name for served in going) >= self.limits.quota:
            raise StoreError(f"{caller.name} has {self.limits.quota} streams of {self.node.name} already")
        frames: Any = super().pull(ask, caller)
        async with aclosing(frames):
            async for frame in frames:
                yield frame


class RegionCache(RackCache):
    """Serves the caches of its region's racks from the store."""

    above = ()
