"""NATS: three servers with JetStream under their own configuration files, the space from a schema file of ours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from zebra.cluster import Cluster
from zebra.target import Target
from zebra.targets.nats.invariants import CONVERGE_S, INVARIANTS
from zebra.targets.nats.server import Server
from zebra.targets.nats.space import PROFILES, NatsConfig, unavailable
from zebra.targets.valkey import certificates
from zebra.topology import Topology


def client() -> Any:
    """The client, None where the package that it stands on is not installed."""
    if unavailable():
        return None
    from zebra.targets.nats.client import NatsClient

    return NatsClient


async def goes_on(cluster: Cluster) -> None:
    """Progress: once all is healed, messages are acknowledged again, and the servers hold the same."""
    await cluster.client.goes_on("healing", within_s=CONVERGE_S - 1)


TARGET = Target(
    name="nats", config=NatsConfig, roles={"server": Server}, client=client(),
    topology=Topology(counts={"server": 3}), invariants=INVARIANTS, progress=goes_on, settle_s=CONVERGE_S,
    external=True, unavailable=unavailable(), workers=6,
    sometimes=("nats.applied", "nats.compared", "nats.held", "nats.leads"),
    variants=("bug.one_replica", "bug.ephemeral_disk", "bug.no_routes"), profiles=PROFILES,
    prepare=certificates.make, accepted=Path(__file__).with_name("accepted.txt"),
)  # fmt: skip
