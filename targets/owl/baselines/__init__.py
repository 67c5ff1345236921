"""The three systems that Owl is measured against, as targets of their own on the same simulated or real network.

They share Owl's client, store and content, and check what they deliver in the same way. A run names one of them as
`zebra.targets.owl.baselines:BITTORRENT`. Source: ../shared/targets/owl.md section 2 (baselines).
"""

from __future__ import annotations

from zebra.target import Target
from zebra.targets.owl.baselines.bittorrent import Member, Seed, SwarmTracker
from zebra.targets.owl.baselines.config import BitTorrentConfig, HierarchicalCacheConfig, StaticTreeConfig
from zebra.targets.owl.baselines.hierarchy import CachedPeer, RackCache, RegionCache
from zebra.targets.owl.baselines.tree import TreePeer
from zebra.targets.owl.client import OwlClient
from zebra.targets.owl.invariants import CutThroughHonesty, Integrity
from zebra.targets.owl.selectors import one_more_fetch
from zebra.targets.owl.store import Store
from zebra.topology import Topology

BITTORRENT = Target(
    name="bt",
    config=BitTorrentConfig,
    roles={"tracker": SwarmTracker, "store": Seed, "peer": Member},
    client=OwlClient,
    topology=Topology(counts={"tracker": 1, "store": 1, "peer": 4}),
    invariants=(Integrity,),
    progress=one_more_fetch,
)
STATIC_TREE = Target(
    name="stree",
    config=StaticTreeConfig,
    roles={"store": Store, "peer": TreePeer},
    client=OwlClient,
    topology=Topology(counts={"store": 1, "peer": 4}),
    invariants=(Integrity, CutThroughHonesty),
    progress=one_more_fetch,
)
HIERARCHICAL_CACHE = Target(
    name="hcache",
    config=HierarchicalCacheConfig,
    roles={"store": Store, "regioncache": RegionCache, "rackcache": RackCache, "peer": CachedPeer},
    client=OwlClient,
    topology=Topology(counts={"store": 1, "regioncache": 1, "rackcache": 2, "peer": 4}, racks=2),
    invariants=(Integrity, CutThroughHonesty),
    progress=one_more_fetch,
)
