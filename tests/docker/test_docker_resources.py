"""Limits of containers: the engine sets them, the kernel keeps them, healing takes them away."""

from __future__ import annotations

import asyncio
from typing import Any

from tests.docker import engines
from tests.resource_use import go, on, workers
from zebra import Cluster

pytestmark = engines.needs_engine

MIB = 1 << 20


def passes(scenario: Any) -> None:
    go(scenario, workers(1), "docker").raise_failure()


def quota(cluster: Cluster) -> int:
    """How many microseconds in each tenth of a second the engine lets the worker's container have."""
    running: Any = cluster._running
    status, found = engines.ask("GET", f"/containers/{running.container_of('worker-1')}/json")
    assert status == 200, found
    return int(found["HostConfig"]["CpuQuota"])


def test_a_slow_host_takes_longer_until_it_is_healed() -> None:
    async def scenario(cluster: Cluster) -> None:
        async with cluster.fault("host.slow", "worker-1", cpu=0.1) as slow:
            assert quota(cluster) == 10_000
            assert await on(cluster, "burn", 0.1) > 0.5
        assert slow.hits >= 3
        assert quota(cluster) == -1

    passes(scenario)


def test_a_node_that_needs_too_much_memory_is_killed_and_healing_starts_it_again() -> None:
    async def scenario(cluster: Cluster) -> None:
        assert await on(cluster, "hold", 8 * MIB) == 8 * MIB
        async with cluster.fault("host.memory", "worker-1", spare_bytes="32MiB") as short:
            assert await on(cluster, "hold", 8 * MIB) == 16 * MIB
            asked = asyncio.ensure_future(on(cluster, "hold", 128 * MIB))
            gone = await cluster.event("node.exit", within=20)
            assert (gone.node, gone["error"]) == ("worker-1", "out of memory")
            await asyncio.wait([asked])
            assert asked.exception() is not None
        assert short.hits
        assert await on(cluster, "hold", 128 * MIB) == 128 * MIB

    passes(scenario)


def test_files_and_processes_are_limited_until_healed() -> None:
    async def scenario(cluster: Cluster) -> None:
        async with cluster.fault("host.file_limit", "worker-1", spare=5) as files:
            assert await on(cluster, "open_files", 20) == 5
        assert await on(cluster, "open_files", 20) == 20
        async with cluster.fault("host.process_limit", "worker-1", spare=3) as processes:
            assert await on(cluster, "start", 10) == 3
        assert await on(cluster, "start", 10) == 10
        assert files.hits and processes.hits

    passes(scenario)


def test_an_unfair_host_stands_still_now_and_then_but_is_up() -> None:
    async def scenario(cluster: Cluster) -> None:
        async with cluster.fault("host.unfair", "worker-1", stall_s="200ms", every_s="300ms") as unfair:
            assert await on(cluster, "burn", 0.5) > 0.5
            assert "worker-1" in cluster.up()
        assert unfair.hits
        assert not cluster.history.of("node.pause")

    passes(scenario)
