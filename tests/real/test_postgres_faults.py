"""Faults on PostgreSQL: what a standby had is never lost, and the nodes become alike again once all is healed."""

from __future__ import annotations

import asyncio

import pytest

from zebra.cluster import Cluster
from zebra.targets.postgres.install import unavailable

pytestmark = pytest.mark.skipif(bool(unavailable()), reason=unavailable() or "there is a server")

SOON_S = 0.3
"""How long a write waits for standbys that cannot have it."""

RECOVERS_S = 15.0


async def some_writes(cluster: Cluster, count: int = 3) -> None:
    for _ in range(count):
        assert await cluster.client.write() == 1


async def alike_with_all(cluster: Cluster, phase: str) -> None:
    await cluster.client.compare(phase, within_s=RECOVERS_S)
    await some_writes(cluster)
    await cluster.client.read_back()


@pytest.mark.parametrize("direction", ["both", "out", "in"])
@pytest.mark.zebra("postgres", timeout="100s")
async def test_a_standby_that_was_cut_off_catches_up(cluster: Cluster, direction: str) -> None:
    configs = {node: cluster.config_of(node) for node in cluster.nodes()}
    await cluster.client.compare("start")
    async with cluster.fault("network.partition", ["standby-1"], ["primary-1"], direction=direction):
        await cluster.client.load("partitioned", configs)
        seen = await cluster.client.write(within_s=SOON_S)
        assert not seen or direction == "out", "only its answers are held up then"
    await alike_with_all(cluster, "the partition")


@pytest.mark.zebra("postgres", timeout="100s")
async def test_a_standby_that_crashes_catches_up(cluster: Cluster) -> None:
    configs = {node: cluster.config_of(node) for node in cluster.nodes()}
    await cluster.client.compare("start")
    async with cluster.fault("host.crash", "standby-1"):
        await cluster.client.load("crashed", configs)
    await alike_with_all(cluster, "the crash")


@pytest.mark.zebra("postgres", timeout="100s")
async def test_a_primary_that_crashes_has_lost_nothing_when_it_is_back(cluster: Cluster) -> None:
    await cluster.client.compare("start")
    await some_writes(cluster)
    async with cluster.fault("host.crash", "primary-1"):
        pass
    await alike_with_all(cluster, "the crash")


@pytest.mark.zebra("postgres", timeout="100s")
async def test_a_promoted_standby_has_all_and_the_old_primary_comes_back_as_its_copy(cluster: Cluster) -> None:
    await cluster.client.compare("start")
    await some_writes(cluster)
    async with cluster.fault("host.crash", "primary-1"):
        await cluster.client.promote("standby-1")
        await cluster.client.read_back()
        assert await cluster.client.write() == 0
    copied = cluster.history.of("postgres.copied")
    assert [(event.node, event["of"]) for event in copied] == [("standby-1", "primary-1"), ("primary-1", "standby-1")]
    await alike_with_all(cluster, "the return of the old primary")


@pytest.mark.zebra("postgres", timeout="100s")
async def test_a_row_reaches_the_standby_as_late_as_the_link(cluster: Cluster) -> None:
    await cluster.client.compare("start")
    delay_s, loop = 0.15, asyncio.get_running_loop()
    async with cluster.fault("network.latency", ["primary-1"], ["standby-1"], delay=delay_s):
        began = loop.time()
        assert await cluster.client.write() == 1
        assert loop.time() - began >= delay_s
    await alike_with_all(cluster, "the latency")


@pytest.mark.zebra("postgres", standby=2, timeout="100s")
async def test_two_standbys_follow_and_one_of_them_the_other_once_it_is_promoted(cluster: Cluster) -> None:
    await cluster.client.compare("start")
    assert await cluster.client.write() == 2
    async with cluster.fault("host.crash", "primary-1"):
        await cluster.client.promote("standby-1")
        await cluster.configure("standby-2", {})
        assert await cluster.client.write() == 1
    await cluster.client.compare("the return of the old primary", within_s=RECOVERS_S)
    assert await cluster.client.write() == 2
    await cluster.client.read_back()
