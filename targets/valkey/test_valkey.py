"""Whole-system scenarios of Valkey. One holds all phases, so that a campaign starts a cluster once for all of them."""

from __future__ import annotations

import asyncio

import pytest

from zebra.cluster import Cluster

IDLE_S = 1.05
"""The idle phase: longer than a server's own timer tick."""

WRITES_S = 1.0
"""How long the second scenario writes: until replicas have joined, which takes them a second."""

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


@pytest.mark.zebra("valkey", primary=1, replica=2, timeout="40s", assignment={"valkey.save": {"*": "3600 1"}})
async def test_what_is_confirmed_outlives_restarts(cluster: Cluster) -> None:
    """Values of every type, then small writes: servers save when they are stopped, so they may be restarted meanwhile.

    What was confirmed is read back when all restarts are over.
    """
    client = cluster.client
    configs = {node: cluster.config_of(node) for node in cluster.nodes()}
    await client.know(configs)
    await client.write_on(0.0)
    await client.load_on("load", configs)
    await client.write_on(WRITES_S)
    await client.compare("writes")
