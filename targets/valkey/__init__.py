"""Valkey (or Redis): a primary and two replicas under their own configuration files, the space read from the server."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zebra.cluster import Cluster
from zebra.target import Target
from zebra.targets.valkey import certificates
from zebra.targets.valkey.client import ValkeyClient
from zebra.targets.valkey.invariants import CONVERGE_S, INVARIANTS
from zebra.targets.valkey.server import Primary, Replica
from zebra.targets.valkey.space import config_type, profiles, unavailable
from zebra.topology import Topology

if TYPE_CHECKING:
    TARGET: Target


async def alike_again(cluster: Cluster) -> None:
    """Progress: once all is healed, the nodes hold the same, and whatever two replicas have confirmed."""
    await cluster.client.compare("healing", within_s=CONVERGE_S - 1)
    await cluster.client.read_back()


@cache
def target() -> Target:
    """The target; its space is asked from the server that is installed here."""
    return Target(
        name="valkey", config=config_type(), roles={"primary": Primary, "replica": Replica}, client=ValkeyClient,
        topology=Topology(counts={"primary": 1, "replica": 2}), invariants=INVARIANTS, progress=alike_again,
        settle_s=CONVERGE_S, external=True, unavailable=unavailable(), workers=8, profiles=profiles(),
        prepare=certificates.make,
        sometimes=("valkey.applied", "valkey.compared", "valkey.promoted"),
        accepted=Path(__file__).with_name("accepted.txt"),
    )  # fmt: skip


def __getattr__(name: str) -> Any:
    """`TARGET` is made on first use."""
    if name == "TARGET":
        return target()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
