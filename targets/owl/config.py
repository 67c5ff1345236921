"""The configuration of Owl, its fixed timers, and what time limits follow from both.

Source: ../shared/targets/owl.md section 3; timers from its section 2.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from zebra.params import Param

RPC_S, RPC_TRIES = 1.0, 3
"""An RPC's timeout (`rpc.timeout`), and how many in a row must fail before a peer gives its tracker up."""

DELEGATE_SHARE = 0.5
"""An RPC between trackers has this share of the timeout, because a peer waits for its end."""

ADVERT_EVERY_S = 1.0
"""How often a tracker looks what to tell the others, and which leases have run out (`advert.every`)."""

WAIT_S = 0.2
"""How soon a peer asks again when its tracker has no source yet."""

BACKOFF_S, BACKOFF_MAX_S = 0.2, 5.0
"""Pause before the second retry; it doubles with each one."""

FORGET_S = 10.0
"""A source that stalled or was lost is offered to the same peer again after so long; one that sent garbage never is."""

EXTERNAL_AFTER = 3
"""Failed sources after which a peer is sent to the store, unless its bucket says otherwise."""

FAIR_RATE = 2e6
"""Bytes per second that a transfer can count on: half of what frames of 256 KiB, one per 60 ms round trip, give."""

CODECS = ("none", "zlib", "lzma")


class ChunkConfig(msgspec.Struct, frozen=True, kw_only=True):
    size: Annotated[
        int, Param("4MiB", "16MiB", unit="B", minimum=1, doc="Length of a chunk; a peer cuts objects by it.")
    ] = 8 << 20
    id_scheme: Annotated[
        Literal["index", "range"], Param(doc="What names a chunk: its number or its range of bytes.")
    ] = "index"


class ChecksumConfig(msgspec.Struct, frozen=True, kw_only=True):
    algorithm: Annotated[
        Literal["crc32c", "crc32", "sha256"], Param(doc="Computed over a chunk; End carries the bare value.")
    ] = "crc32c"


class TransferConfig(msgspec.Struct, frozen=True, kw_only=True):
    encryption: Annotated[
        Literal["off", "psk"], Param(doc="Whether frames between peers are encrypted with the shared key.")
    ] = "off"
    frame_max: Annotated[
        int,
        Param("256KiB", "4MiB", unit="B", minimum=1024, doc="Longest frame a peer sends, and the longest it takes."),
    ] = 1 << 20
    idle_timeout: Annotated[
        float, Param("1s", "20s", "10us", unit="s", minimum=1e-6, doc="Silence after which a source counts as stalled.")
    ] = 5.0  # "10us" is a control: below one round trip nothing can work
    codec: Annotated[
        Literal["none", "zlib", "lzma"], Param(doc="Compression of frames, used where the receiver lists it.")
    ] = "none"


class DelegationConfig(msgspec.Struct, frozen=True, kw_only=True):
    loop_guard: Annotated[
        Literal["refuse", "path"],
        Param(doc="refuse: lend only from trees with one's own root (D1, D2); path: lend all, check each pick's path."),
    ] = "refuse"


class LeaseConfig(msgspec.Struct, frozen=True, kw_only=True):
    ttl: Annotated[
        float,
        Param("5s", "60s", unit="s", minimum=0.1, doc="Granted in RegisterAck; heartbeats come three times as often."),
    ] = 15.0


class AdvertConfig(msgspec.Struct, frozen=True, kw_only=True):
    ttl: Annotated[
        float,
        Param(
            "2s", "30s", unit="s", minimum=0.1, doc="How long other trackers believe an advertisement; carried in it."
        ),
    ] = 5.0
    every: Annotated[
        float, Param(unit="s", minimum=0.01, timer=True, doc="How often a tracker advertises and expires leases.")
    ] = ADVERT_EVERY_S


class RpcConfig(msgspec.Struct, frozen=True, kw_only=True):
    timeout: Annotated[
        float, Param(unit="s", minimum=0.01, timer=True, doc="Bound of one RPC to a tracker or a source.")
    ] = RPC_S


class ProtoConfig(msgspec.Struct, frozen=True, kw_only=True):
    version: Annotated[
        str,
        Param(
            "1-2",
            "2-3",
            pattern="[1-9]-[1-9]",
            doc="Versions spoken, lowest and highest; two nodes use the highest common one.",
        ),
    ] = "1-3"


class SelectionConfig(msgspec.Struct, frozen=True, kw_only=True):
    policy: Annotated[
        Literal["nearest", "random", "hash_superpeer"],
        Param(doc="Which source a tracker prefers, where the bucket does not say."),
    ] = "nearest"


class CacheConfig(msgspec.Struct, frozen=True, kw_only=True):
    capacity: Annotated[
        int, Param("32MiB", unit="B", doc="Bytes of chunks kept on a peer's disk (16 times as many on a superpeer's).")
    ] = 256 << 20


class FetchConfig(msgspec.Struct, frozen=True, kw_only=True):
    parallel: Annotated[int, Param(1, 16, minimum=1, doc="Chunks of one object that a peer fetches at a time.")] = 4


class TrackerConfig(msgspec.Struct, frozen=True, kw_only=True):
    pick: Annotated[Literal["random", "hash"], Param(doc="How a peer picks one of the trackers of its region.")] = (
        "random"
    )


class RetryConfig(msgspec.Struct, frozen=True, kw_only=True):
    attempts: Annotated[
        int, Param(0, doc="Sources that a peer tries for a chunk before the get fails. 0 is a control.")
    ] = 8


class ExternalConfig(msgspec.Struct, frozen=True, kw_only=True):
    limit: Annotated[
        int, Param(0, doc="Fetches of one chunk from the store at a time, per tracker. 0 is a control.")
    ] = 4


class OwlConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Everything a node of Owl can be told: 15 parameters, the controls `retry.attempts` and `external.limit`, and the
    timers `advert.every` and `rpc.timeout`."""

    chunk: ChunkConfig = ChunkConfig()
    checksum: ChecksumConfig = ChecksumConfig()
    transfer: TransferConfig = TransferConfig()
    delegation: DelegationConfig = DelegationConfig()
    lease: LeaseConfig = LeaseConfig()
    advert: AdvertConfig = AdvertConfig()
    proto: ProtoConfig = ProtoConfig()
    selection: SelectionConfig = SelectionConfig()
    cache: CacheConfig = CacheConfig()
    fetch: FetchConfig = FetchConfig()
    tracker: TrackerConfig = TrackerConfig()
    retry: RetryConfig = RetryConfig()
    external: ExternalConfig = ExternalConfig()
    rpc: RpcConfig = RpcConfig()


def deadline_s(length: int, attempts: int, idle_timeout_s: float, rpc_s: float = RPC_S) -> float:
    """The time that a get of `length` bytes may take: then it has ended, well or in an error (L1)."""
    return 4 * length / FAIR_RATE + attempts * (idle_timeout_s + RPC_TRIES * rpc_s)


def common_version(mine: str, theirs: str) -> int:
    """The highest version in both ranges, like "1-3"; 0 when they are disjoint."""
    (low, high), (their_low, their_high) = (map(int, text.split("-")) for text in (mine, theirs))
    best = min(high, their_high)
    return best if best >= max(low, their_low) else 0
