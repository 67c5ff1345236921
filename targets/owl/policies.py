"""Buckets, and the policies that they choose: four for selection, three for caching, two for retry.

A bucket is a use case. Source: ../shared/targets/owl.md section 1.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Literal

from zebra.topology import Place

Selection = Literal["nearest", "random", "hash_superpeer", "least_loaded"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bucket:
    """How objects of one use case are treated. None: as the tracker's configuration says.

    `uploads` bounds the children of a peer in one chunk's forest. Of `sla_target` of the gets is expected that they end
    within `sla_s` plus the time that their bytes take at a fair rate.
    """

    selection: Selection | None = None
    caching: Literal["keep", "superpeers", "copies"] = "keep"
    retry: Literal["backoff", "external_soon"] = "backoff"
    uploads: int = 4
    external_limit: int | None = None
    sla_s: float = 5.0
    sla_target: float = 0.9


BUCKETS = {
    "default": Bucket(),
    "hot": Bucket(caching="superpeers", selection="hash_superpeer"),
    "models": Bucket(caching="copies", retry="external_soon"),
    "logs": Bucket(selection="least_loaded", uploads=2),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A peer that could be a source: `ahead` says whether it holds more than the asking peer."""

    peer: str
    place: Place
    superpeer: bool
    uploads: int
    ahead: bool


def distance(a: Place, b: Place) -> int:
    """0 on one host, then rack, datacenter, region; 4 across regions."""
    levels = (a.host == b.host, a.rack == b.rack, a.dc == b.dc, a.region == b.region)
    return levels.index(True) if True in levels else 4


def weight(*names: str) -> int:
    """A number that depends on the names alone: rendezvous hashing takes the highest."""
    return zlib.crc32("|".join(names).encode())


def _nearest(me: Place, chunk: str, found: Sequence[Candidate], random: Random) -> Candidate:
    return min(found, key=lambda c: (distance(me, c.place), not c.ahead, c.uploads))


def _random(me: Place, chunk: str, found: Sequence[Candidate], random: Random) -> Candidate:
    ahead = [c for c in found if c.ahead]
    return random.choice(ahead or found)


def _hash_superpeer(me: Place, chunk: str, found: Sequence[Candidate], random: Random) -> Candidate:
    superpeers = [c for c in found if c.superpeer]
    return max(superpeers, key=lambda c: weight(chunk, c.peer)) if superpeers else _nearest(me, chunk, found, random)


def _least_loaded(me: Place, chunk: str, found: Sequence[Candidate], random: Random) -> Candidate:
    return min(found, key=lambda c: (c.uploads, not c.ahead, distance(me, c.place)))


SELECTION: dict[str, Callable[[Place, str, Sequence[Candidate], Random], Candidate]] = {
    "nearest": _nearest, "random": _random, "hash_superpeer": _hash_superpeer, "least_loaded": _least_loaded,
}  # fmt: skip

COPIES = 1
"""Copies of a chunk that the caching policy `copies` leaves at one tracker, a superpeer's rather than a peer's."""


def keeps(policy: str, superpeer: bool, copies: int) -> bool:
    """Whether a peer that has a chunk is told to keep it, when so many others of its tracker do."""
    return {"keep": True, "superpeers": superpeer, "copies": superpeer or copies < COPIES}[policy]


def evicts(policy: str) -> bool:
    """Whether a policy ever tells a peer to evict what it was told to keep."""
    return policy == "copies"


def to_evict(policy: str, copies: Sequence[str], superpeers: int) -> Sequence[str]:
    """The ordinary peers, of those that keep a chunk, that are told to evict it because superpeers keep it now."""
    if not evicts(policy):
        return ()
    return copies[: max(0, len(copies) + superpeers - COPIES)]


def external_after(policy: str, default: int) -> int:
    """Failed sources after which a peer is sent to the store."""
    return 1 if policy == "external_soon" else default
