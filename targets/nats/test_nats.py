"""Whole-system scenarios of NATS. One holds all phases, so that a campaign starts a cluster once for all of them."""

from __future__ import annotations

import asyncio

import pytest

from zebra.cluster import Cluster

IDLE_S = 1.2
"""The idle phase: longer than a heartbeat between replicas, and than a short ping interval."""

STOPPED = "server-2"


@pytest.mark.zebra("nats", server=3, timeout="90s")
async def test_every_server_holds_the_same_streams(cluster: Cluster) -> None:
    """Streams, messages, requests between servers, an idle phase, consumers, a change of every leader, a restart."""
    client = cluster.client
    await client.know({node: cluster.config_of(node) for node in cluster.nodes()})
    await client.compare("start")
    await client.create()
    await client.compare("streams were made")
    await client.load("loaded")
    await client.call_each_other()
    await asyncio.sleep(IDLE_S)
    await client.consume()
    await client.compare("an idle phase and consumers")
    await client.read_everywhere("changes of leader")
    async with cluster.fault("host.stop", STOPPED):
        await client.load("without one")
    await client.compare("a restart")
    await client.read_everywhere("a restart", [STOPPED])
    await client.load("restarted")
    await client.compare("the end")
