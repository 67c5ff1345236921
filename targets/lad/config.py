"""The configuration of LAD: distribution (../shared/targets/lad.md section 3) and pipeline (other.md section 1).

A target that includes LAD's roles has one more field, `lad: LadConfig`, in its own configuration. The roles therefore
read `node.config.lad.<group>.<name>`, which is the same thing in LAD itself, where `lad` leads back to the whole.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from zebra.params import Param


class ShardConfig(msgspec.Struct, frozen=True, kw_only=True):
    depth: Annotated[
        int, Param(1, 3, minimum=1, doc="So many steps of a path name its shard; each shard has its own trees.")
    ] = 2


class UpdateConfig(msgspec.Struct, frozen=True, kw_only=True):
    seq_mode: Annotated[
        Literal["zxid", "per_shard"],
        Param(doc="What numbers the updates of a shard: the store's zxid, or a count of the distributor's own."),
    ] = "zxid"


class ValueConfig(msgspec.Struct, frozen=True, kw_only=True):
    max_bytes: Annotated[
        int, Param("5MiB", unit="B", minimum=1, doc="Longest value that a store accepts, and a reader takes.")
    ] = 100 << 20


class LeaseConfig(msgspec.Struct, frozen=True, kw_only=True):
    ttl: Annotated[
        float,
        Param("3s", "30s", unit="s", minimum=0.1, doc="Silence after which a distributor or its proxy is given up."),
    ] = 10.0


class DigestConfig(msgspec.Struct, frozen=True, kw_only=True):
    over: Annotated[Literal["raw", "wire"], Param(doc="A value's digest covers it as written, or as transferred.")] = (
        "raw"
    )
    algorithm: Annotated[
        Literal["sha256", "blake2b", "md5"], Param(doc="Digest of values; each metadata entry names it.")
    ] = "sha256"


class StoreConfig(msgspec.Struct, frozen=True, kw_only=True):
    tick: Annotated[
        float,
        Param("0.1s", "2s", unit="s", minimum=0.01, doc="Heartbeat every half tick, election after 4 silent ticks."),
    ] = 0.5


class ContentConfig(msgspec.Struct, frozen=True, kw_only=True):
    codec: Annotated[Literal["none", "zlib"], Param(doc="Form in which values are stored; its tag travels along.")] = (
        "none"
    )
    range: Annotated[int, Param("64KiB", unit="B", minimum=1024, doc="Bytes of content in one message.")] = 1 << 20
    idle: Annotated[
        float, Param(unit="s", minimum=0.01, timer=True, doc="Longest silence of a parent in a transfer.")
    ] = 5.0


class SessionConfig(msgspec.Struct, frozen=True, kw_only=True):
    timeout: Annotated[
        float,
        Param("2s", "30s", unit="s", minimum=1e-6, doc="Asked of the store, which clamps it to 2 to 20 ticks."),
    ] = 6.0


class ProxyConfig(msgspec.Struct, frozen=True, kw_only=True):
    max_children: Annotated[int, Param(4, minimum=1, doc="Children per shard; a full proxy says so.")] = 16


class TreeConfig(msgspec.Struct, frozen=True, kw_only=True):
    fanout: Annotated[
        int, Param(2, 32, 1, minimum=1, doc="Children that a distributor gives a node; 1 is a control.")
    ] = 10


class PollConfig(msgspec.Struct, frozen=True, kw_only=True):
    interval: Annotated[
        float, Param("0.1s", "2s", "10s", unit="s", minimum=0.01, doc="Between two polls. 10s is a control.")
    ] = 0.5


class PickConfig(msgspec.Struct, frozen=True, kw_only=True):
    seed: Annotated[int, Param(7, doc="Of the rendezvous hash by which a proxy ranks distributors.")] = 0


class RetainConfig(msgspec.Struct, frozen=True, kw_only=True):
    versions: Annotated[int, Param(1, minimum=1, doc="Versions of a path that a proxy keeps.")] = 2


class ArtefactConfig(msgspec.Struct, frozen=True, kw_only=True):
    digest: Annotated[
        Literal["sha256", "md5"], Param(doc="Digest in an artefact, untagged: the compiler writes it, apps check it.")
    ] = "sha256"
    encoding: Annotated[Literal["json", "binary"], Param(doc="Of an artefact; its content type says which.")] = "json"


class SchemaConfig(msgspec.Struct, frozen=True, kw_only=True):
    rev: Annotated[
        int, Param(1, minimum=1, maximum=2, doc="Revision of the schema of artefacts; 2 has one more mode.")
    ] = 2


class SelectorConfig(msgspec.Struct, frozen=True, kw_only=True):
    seed: Annotated[int, Param(7, doc="Of the hash that decides which hosts a percentage means.")] = 0


class FallbackConfig(msgspec.Struct, frozen=True, kw_only=True):
    mode: Annotated[
        Literal["last_good", "default"], Param(doc="What an app uses while nobody can confirm what its proxy has.")
    ] = "last_good"


class ApplyConfig(msgspec.Struct, frozen=True, kw_only=True):
    mode: Annotated[Literal["live", "restart"], Param(doc="When an app takes a new version of a value.")] = "live"


class CanaryConfig(msgspec.Struct, frozen=True, kw_only=True):
    duration: Annotated[
        float, Param("1s", "5s", unit="s", minimum=0.0, doc="How long canary hosts are watched before the first stage.")
    ] = 2.0


class CompileConfig(msgspec.Struct, frozen=True, kw_only=True):
    workers: Annotated[int, Param(1, 8, minimum=1, doc="Changes that the author compiles at a time.")] = 4


class RpcConfig(msgspec.Struct, frozen=True, kw_only=True):
    timeout: Annotated[float, Param(unit="s", minimum=0.01, timer=True, doc="Of a control message, tried twice.")] = 1.0


class BackoffConfig(msgspec.Struct, frozen=True, kw_only=True):
    first: Annotated[float, Param(unit="s", minimum=0.001, timer=True, doc="Longest pause before the second try.")] = (
        0.2
    )
    longest: Annotated[float, Param(unit="s", minimum=0.001, timer=True, doc="Longest pause, doubled up to it.")] = 5.0


class LimitConfig(msgspec.Struct, frozen=True, kw_only=True):
    propagation: Annotated[float, Param(unit="s", minimum=0.1, timer=True, doc="Until a commit is everywhere.")] = 5.0


class LadConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Everything a node of LAD can be told: 15 parameters of distribution, 8 of the pipeline, fixed timers."""

    shard: ShardConfig = ShardConfig()
    update: UpdateConfig = UpdateConfig()
    value: ValueConfig = ValueConfig()
    lease: LeaseConfig = LeaseConfig()
    digest: DigestConfig = DigestConfig()
    store: StoreConfig = StoreConfig()
    content: ContentConfig = ContentConfig()
    session: SessionConfig = SessionConfig()
    proxy: ProxyConfig = ProxyConfig()
    tree: TreeConfig = TreeConfig()
    poll: PollConfig = PollConfig()
    pick: PickConfig = PickConfig()
    retain: RetainConfig = RetainConfig()
    artefact: ArtefactConfig = ArtefactConfig()
    schema: SchemaConfig = SchemaConfig()
    selector: SelectorConfig = SelectorConfig()
    fallback: FallbackConfig = FallbackConfig()
    apply: ApplyConfig = ApplyConfig()
    canary: CanaryConfig = CanaryConfig()
    compile: CompileConfig = CompileConfig()
    rpc: RpcConfig = RpcConfig()
    backoff: BackoffConfig = BackoffConfig()
    limit: LimitConfig = LimitConfig()

    @property
    def lad(self) -> LadConfig:
        """Itself: where a role of LAD looks for LAD's part of a node's configuration."""
        return self


def shard_of(path: str, depth: int) -> str:
    """The shard of a path: its first `depth` steps, all of them where it has no more: `/a/b` of `/a/b/c` at 2."""
    return "/".join(path.split("/", depth + 1)[: depth + 1])
