"""Whole-system scenarios of Valkey. One holds all phases, so that a campaign starts a cluster once for all of them."""

from __future__ import annotations

import asyncio

import pytest

from zebra.cluster import Cluster

IDLE_S = 1.05
"""The idle phase: longer than a server's own timer tick."""

PROMISED = "replica-1"


@pytest.mark.zebra("valkey", primary=1, replica=2, timeout="40s")
async def test_replicas_hold_what_the_primary_holds(cluster: Cluster) -> None:
    """Command stream, idle phase, full copy to a replica that is started again, promotion of the other."""
    client = cluster.client
    configs = {node: cluster.config_of(node) for node in cluster.nodes()}
    await client.know(configs)
    await client.compare("start")
    await client.load("stream", configs)
    await client.write()
    await client.compare("the command stream")
    await client.idle(IDLE_S)
    await client.detach("replica-2")
    await cluster.configure("replica-2", {})
    await client.load("copied", configs)
    await client.compare("a full copy")
    await client.promote(PROMISED)
    await asyncio.gather(cluster.configure("replica-2", {}), cluster.configure("primary-1", {}))
    await client.compare("the attachment to the new primary")
    await client.load("promoted", configs, shared=True)
    await client.write()
    await client.compare("a promotion")
    await client.read_back()
