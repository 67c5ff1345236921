"""Faults on NATS: what a stream acknowledged is never lost, and all servers become alike once all is healed."""

from __future__ import annotations

import pytest

from zebra.cluster import Cluster

ONE = "server-1"
STREAM = "file-server-2"
ELECTION_S = 25.0
"""Two elections at their longest: a server that hears nothing for nine seconds stands for election."""


async def made(cluster: Cluster) -> None:
    """Streams with consumers, and a server that leads all of them."""
    await cluster.client.know({node: cluster.config_of(node) for node in cluster.nodes()})
    await cluster.client.compare("start")
    await cluster.client.create()
    await cluster.client.lead(ONE, "made")
    await cluster.client.write(STREAM, "server-2")


async def same_again(cluster: Cluster, phase: str) -> None:
    await cluster.client.compare(phase, within_s=ELECTION_S)
    await cluster.client.write(STREAM, ONE)
    await cluster.client.read_everywhere(phase)


@pytest.mark.zebra("nats", timeout="90s")
async def test_the_leader_of_everything_crashes_and_comes_back(cluster: Cluster) -> None:
    await made(cluster)
    async with cluster.fault("host.crash", ONE):
        await cluster.client.write(STREAM, "server-3", within_s=ELECTION_S)
    await same_again(cluster, "the crash")


@pytest.mark.zebra("nats", timeout="90s")
async def test_the_leader_of_everything_is_cut_off_and_rejoins(cluster: Cluster) -> None:
    await made(cluster)
    async with cluster.fault("network.partition", [ONE], ["server-2", "server-3"]):
        await cluster.client.write(STREAM, "server-3", within_s=ELECTION_S)
        await cluster.configure("server-2", {})  # started again, it tells each where the other is
        with pytest.raises(TimeoutError):
            await cluster.client.write(STREAM, ONE, within_s=3.0)
    await same_again(cluster, "the partition")
    for node in cluster.nodes("server"):
        routes = (await cluster.client.page(node, "/routez"))["routes"]
        assert all(route["is_configured"] for route in routes if route["did_solicit"]), "none leads around the proxies"


@pytest.mark.zebra("nats", timeout="90s")
async def test_all_servers_are_restarted_as_planned(cluster: Cluster) -> None:
    await made(cluster)
    for node in cluster.nodes("server"):
        async with cluster.fault("host.stop", node):
            await cluster.client.write(STREAM, "server-1" if node != "server-1" else "server-2", within_s=ELECTION_S)
        await cluster.client.compare(f"the restart of {node}", within_s=ELECTION_S)
    await same_again(cluster, "a rolling restart")


@pytest.mark.zebra("nats", timeout="90s")
async def test_a_paused_leader_loses_nothing_and_goes_on(cluster: Cluster) -> None:
    await made(cluster)
    async with cluster.fault("host.pause", ONE):
        await cluster.client.write(STREAM, "server-2", within_s=ELECTION_S)
    await same_again(cluster, "the pause")
