"""Whole-system scenarios of PostgreSQL. One holds all phases, so that a campaign starts a cluster once for all."""

from __future__ import annotations

import pytest

from zebra.cluster import Cluster

IDLE_S = 1.05
"""The idle phase: longer than what has a second for its least value."""


@pytest.mark.zebra("postgres", primary=1, standby=1, timeout="100s")
async def test_a_standby_holds_what_the_primary_holds(cluster: Cluster) -> None:
    """Full copy, stream, idle phase, restart of each, promotion; what one node tells is written on the other."""
    client = cluster.client
    configs = {node: cluster.config_of(node) for node in cluster.nodes()}
    await client.compare("a full copy")
    await client.load("stream", configs)
    assert await client.write() == 1
    await client.compare("the stream")
    await client.write_back("standby-1", "primary-1")
    await client.idle(IDLE_S)
    await cluster.configure("standby-1", {})
    await client.load("restarted", configs)
    await client.compare("the restart of the standby")
    await cluster.configure("primary-1", {})
    assert await client.write() == 1
    await client.compare("the restart of the primary")
    await client.promote("standby-1", fenced=True)
    await client.write_back("primary-1", "standby-1")
    await client.finish_prepared()
    await client.load("promoted", configs)
    await client.read_back()
    await client.compare("a promotion")
