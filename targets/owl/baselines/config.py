"""What the baselines can be told beside what they share with Owl's peers (chunks, checksums, frames, time-outs)."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from zebra.params import Param
from zebra.targets.owl.config import OwlConfig


class TreeGroup(msgspec.Struct, frozen=True, kw_only=True):
    degree: Annotated[int, Param(4, minimum=1, doc="Children of a host in the tree.")] = 2
    per: Annotated[
        Literal["object", "chunk"], Param(doc="What has a tree of its own; per chunk is a tree striped over all hosts.")
    ] = "object"


class HierarchyGroup(msgspec.Struct, frozen=True, kw_only=True):
    quota: Annotated[int, Param(1, minimum=1, doc="Streams that a cache sends to one client at a time.")] = 4
    streams: Annotated[int, Param(80, minimum=1, doc="Streams that a cache sends in all; beyond it refuses.")] = 40


class SwarmGroup(msgspec.Struct, frozen=True, kw_only=True):
    neighbours: Annotated[int, Param(8, minimum=1, doc="Random members that the tracker tells who joins.")] = 30
    slots: Annotated[int, Param(8, minimum=2, doc="Neighbours unchoked at a time; one of them is random.")] = 4
    seed_slots: Annotated[int, Param(4, minimum=2, doc="Neighbours that the seed unchokes at a time.")] = 40
    free_slots: Annotated[
        Literal["wait", "at_once"],
        Param(doc="Whether a free slot waits for the next choice."),
    ] = "wait"
    rechoke: Annotated[float, Param("10s", unit="s", minimum=0.1, doc="How often the unchoked are chosen anew.")] = 2.0


class StaticTreeConfig(OwlConfig, frozen=True, kw_only=True):
    """`transfer.idle_timeout` is the time after which a silent parent is given up."""

    tree: TreeGroup = TreeGroup()


class HierarchicalCacheConfig(OwlConfig, frozen=True, kw_only=True):
    hierarchy: HierarchyGroup = HierarchyGroup()


class BitTorrentConfig(OwlConfig, frozen=True, kw_only=True):
    swarm: SwarmGroup = SwarmGroup()
