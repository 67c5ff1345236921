"""Valkey (or Redis): a primary and two replicas under their own configuration files, the space read from the server."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zebra.target import Target

    TARGET: Target


@cache
def _target() -> Target:
    from zebra.cluster import Cluster
    from zebra.target import Target
    from zebra.targets.valkey.client import ValkeyClient
    from zebra.targets.valkey.invariants import CONVERGE_S, INVARIANTS
    from zebra.targets.valkey.server import Primary, Replica
    from zebra.targets.valkey.space import config_type, unavailable
    from zebra.topology import Topology

    async def alike_again(cluster: Cluster) -> None:
        await cluster.client.compare("healing", within_s=CONVERGE_S - 1)

    return Target(
        name="valkey", config=config_type(), roles={"primary": Primary, "replica": Replica}, client=ValkeyClient,
        topology=Topology(counts={"primary": 1, "replica": 2}), invariants=INVARIANTS, progress=alike_again,
        settle_s=CONVERGE_S, external=True, unavailable=unavailable(), workers=8,
        sometimes=("valkey.applied", "valkey.compared", "valkey.promoted"),
    )  # fmt: skip


def __getattr__(name: str) -> Any:
    """`TARGET` is made on first use: its space is asked from the server that is installed here."""
    if name == "TARGET":
        return _target()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
