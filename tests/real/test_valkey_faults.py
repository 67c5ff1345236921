"""Faults on Valkey: what two replicas confirmed is never lost, and the nodes become alike again once all is healed."""

from __future__ import annotations

import asyncio

import pytest

from zebra.cluster import Cluster

ONE_REPLICA = "replica-1"
SOON_MS = 300
"""How long a write waits for replicas that cannot confirm it."""

RECOVERS_S = 10.0


async def some_writes(cluster: Cluster, count: int = 5) -> None:
    for _ in range(count):
        assert await cluster.client.write() == 2


async def alike_with_all(cluster: Cluster, phase: str) -> None:
    await cluster.client.compare(phase, within_s=RECOVERS_S)
    await some_writes(cluster)
    await cluster.client.read_back()


@pytest.mark.zebra("valkey", timeout="60s")
async def test_a_replica_that_crashes_catches_up(cluster: Cluster) -> None:
    await cluster.client.compare("start")
    await some_writes(cluster)
    async with cluster.fault("host.crash", ONE_REPLICA):
        assert await cluster.client.write(timeout_ms=SOON_MS) == 1
    await alike_with_all(cluster, "the crash")


@pytest.mark.zebra("valkey", timeout="60s")
async def test_a_paused_primary_loses_nothing_and_goes_on(cluster: Cluster) -> None:
    await cluster.client.compare("start")
    await some_writes(cluster)
    async with cluster.fault("host.pause", "primary-1"):
        with pytest.raises(TimeoutError):
            await cluster.client.write(timeout_ms=SOON_MS)
    await alike_with_all(cluster, "the pause")


@pytest.mark.zebra("valkey", timeout="60s")
async def test_a_promoted_replica_has_all_that_two_confirmed(cluster: Cluster) -> None:
    await cluster.client.compare("start")
    await some_writes(cluster, 20)
    async with cluster.fault("host.crash", "primary-1"):
        await cluster.client.promote(ONE_REPLICA)
        await cluster.configure("replica-2", {})
        await cluster.client.compare("the promotion", within_s=10)
        await cluster.client.read_back()
        assert await cluster.client.write(replicas=1) == 1
    await alike_with_all(cluster, "the return of the old primary")


@pytest.mark.parametrize("direction", ["both", "out", "in"])
@pytest.mark.zebra("valkey", timeout="60s")
async def test_a_replica_that_was_cut_off_catches_up(cluster: Cluster, direction: str) -> None:
    await cluster.client.compare("start")
    await some_writes(cluster)
    async with cluster.fault("network.partition", [ONE_REPLICA], ["primary-1"], direction=direction):
        assert await cluster.client.write(timeout_ms=SOON_MS) == 1
    await alike_with_all(cluster, "the partition")


@pytest.mark.zebra("valkey", timeout="60s")
async def test_a_confirmation_takes_as_long_as_the_link(cluster: Cluster) -> None:
    await cluster.client.compare("start")
    delay_s, loop = 0.15, asyncio.get_running_loop()
    async with cluster.fault("network.latency", ONE_REPLICA, delay=delay_s):
        began = loop.time()
        assert await cluster.client.write(timeout_ms=2000) == 2
        assert loop.time() - began >= delay_s
    await cluster.client.compare("the latency")
    await cluster.client.read_back()


@pytest.mark.zebra("valkey", timeout="60s")
async def test_a_full_copy_over_a_narrow_link_arrives_whole(cluster: Cluster) -> None:
    client, loop = cluster.client, asyncio.get_running_loop()
    await client.compare("start")
    await client.load("copied", {node: cluster.config_of(node) for node in cluster.nodes()})
    await client.compare("the stream")
    began = loop.time()
    async with cluster.fault("network.bandwidth", "replica-2", rate="1MB/s"):
        await client.detach("replica-2")
        await cluster.configure("replica-2", {})
        await client.compare("a narrow full copy", within_s=15)
        assert loop.time() - began > 2.0, "three megabytes at one a second"
    await some_writes(cluster)
    await client.read_back()
