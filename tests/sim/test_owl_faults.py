"""The fault table of Owl (../shared/targets/owl.md section 5), as far as a simulation can express it.

The target's invariants hold in every run; a test asserts beside that what its row promises for afterwards.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

import zebra
from zebra import Cluster, Outcome, RunSpec
from zebra.targets.owl import TARGET
from zebra.targets.owl.test_owl import fetching, heard_s, idle_timeout_s, longest_lease_s, served_roots, throttle

Scenario = Callable[[Cluster], Awaitable[None]]
SEEDS = range(3)


def run(scenario: Scenario, seed: int, **counts: int) -> Outcome:
    topology = TARGET.topology.with_counts({"tracker": 2, "peer": 4, **counts})
    return zebra.run(scenario, RunSpec(target="owl", topology=topology, seed=seed))  # type: ignore[arg-type]


def passes(scenario: Scenario, **counts: int) -> None:
    for seed in SEEDS:
        outcome = run(scenario, seed, **counts)
        assert outcome.result == "pass", f"seed {seed}: {outcome.message}"


async def published(cluster: Cluster, *first: str, size: str = "16MiB") -> str:
    """An object that some peers have already."""
    obj: str = await cluster.client.publish(size=size)
    await cluster.client.fetch_everywhere(obj, first)
    return obj


def whys(cluster: Cluster) -> list[str]:
    return [event["why"] for event in cluster.history.of("edge.close")]


# -- application -------------------------------------------------------------------------------------------------


def test_flipped_bit_is_caught_by_the_child_and_its_source_left() -> None:
    async def scenario(cluster: Cluster) -> None:
        obj = await published(cluster, "peer-1")
        await cluster.client.flip("peer-1")
        await cluster.client.flip("superpeer-1")
        await cluster.client.fetch_everywhere(obj)
        assert "checksum" in whys(cluster)

    passes(scenario)


def test_full_disk_keeps_nothing_and_delivers_all() -> None:
    async def scenario(cluster: Cluster) -> None:
        async with cluster.fault("disk.full", "peer-1"):
            obj = await published(cluster, "peer-1")
            await cluster.client.fetch_everywhere(obj)
        assert "peer-1" not in [event["peer"] for event in cluster.history.of("owl.keep")]

    passes(scenario)


def test_tracker_comes_back_without_memory() -> None:
    async def scenario(cluster: Cluster) -> None:
        obj = await published(cluster, "peer-1")
        await cluster.inject("host.restart", "tracker-1", down_s=0.1)
        await cluster.client.fetch_everywhere(obj)
        await cluster.event("owl.reg", within=longest_lease_s(cluster), tracker="tracker-1", epoch=2, peer="peer-1")
        registered = [event for event in cluster.history.of("owl.reg") if event["peer"] == "peer-1"][-1]
        assert registered["cached"], "the new tracker was told of no cache"

    passes(scenario)


def test_hung_tracker_is_given_up() -> None:
    async def scenario(cluster: Cluster) -> None:
        async with cluster.fault("host.pause", "tracker-1"):
            await cluster.client.fetch_everywhere(await published(cluster, "peer-2"))
        assert "owl.failover" in {event.kind for event in cluster.history}

    passes(scenario)


# -- host --------------------------------------------------------------------------------------------------------


def test_children_of_a_crashed_host_go_on_where_they_were() -> None:
    async def scenario(cluster: Cluster) -> None:
        obj = await cluster.client.publish(size="16MiB")
        async with fetching(cluster, (obj, ["peer-1", "peer-3", "peer-5"])):
            await cluster.until(lambda: served_roots(cluster) != [])
            async with cluster.fault("host.crash", served_roots(cluster)[0]):
                await asyncio.sleep(idle_timeout_s(cluster) + 3)

    passes(scenario, peer=6)


def test_slow_card_and_slow_disk_delay_only() -> None:
    async def scenario(cluster: Cluster) -> None:
        async with (
            cluster.fault("network.bandwidth", "peer-1", rate="1Gbit/s"),
            cluster.fault("disk.slow", "peer-1", rate="100MB/s"),
        ):
            await cluster.client.fetch_everywhere(await published(cluster, "peer-1"))

    passes(scenario)


# -- network -----------------------------------------------------------------------------------------------------


def test_cut_between_regions_leaves_each_its_content() -> None:
    async def scenario(cluster: Cluster) -> None:
        obj = await published(cluster, "peer-1", "peer-2")
        mine = ["peer-1", "peer-3", "superpeer-1", "tracker-1", "store-1", "client-1"]
        async with cluster.fault("network.partition", mine):
            await cluster.client.fetch(obj, "peer-3")
            await asyncio.sleep(heard_s(cluster))
        await cluster.client.fetch_everywhere(obj)

    passes(scenario)


def test_cut_mid_stream_leaves_no_orphan_edge_after_two_leases() -> None:
    async def scenario(cluster: Cluster) -> None:
        obj = await cluster.client.publish(size="16MiB")
        await throttle(cluster, 1.0)
        async with fetching(cluster, (obj, ["peer-1", "peer-2", "peer-3", "peer-4"])):
            await cluster.event("owl.serve")
            async with cluster.fault("network.partition", ["peer-1"]):
                await asyncio.sleep(2 * longest_lease_s(cluster))
                open_edges: dict[str, str] = {}
                for event in cluster.history.of("edge.open", "edge.close"):
                    if event.kind == "edge.open":
                        open_edges[event["edge"]] = event["child"]
                    else:
                        open_edges.pop(event["edge"], None)
                assert "peer-1" not in open_edges.values()
            await throttle(cluster, 0)

    passes(scenario)


def test_one_way_loss_from_a_tracker_moves_its_peer() -> None:
    async def scenario(cluster: Cluster) -> None:
        obj = await published(cluster, "peer-1")
        async with cluster.fault("network.partition", ["tracker-1"], ["peer-3"], direction="out"):
            await cluster.client.fetch(obj, "peer-3")
        assert [e.node for e in cluster.history.of("owl.reg") if e["peer"] == "peer-3"][-1] == "tracker-2"

    passes(scenario)


@pytest.mark.parametrize(
    ("fault", "settings"),
    [
        ("network.latency", {"delay": "200ms"}),
        ("network.loss", {"probability": 0.1}),
        ("network.duplicate", {"probability": 0.5}),
        ("network.reorder", {"probability": 0.5}),
        ("network.reset", {"probability": 0.01}),
    ],
)
def test_bad_links_between_trackers_cost_no_content(fault: str, settings: dict[str, str | float]) -> None:
    async def scenario(cluster: Cluster) -> None:
        async with cluster.fault(fault, "all(tracker)", **settings):
            for first in ("peer-1", "peer-2"):
                obj = await published(cluster, first)
                await asyncio.sleep(4 * heard_s(cluster))
                await cluster.client.fetch_everywhere(obj)

    for seed in SEEDS:
        outcome = run(scenario, seed)
        assert outcome.result in ("pass", "inconclusive"), f"seed {seed}: {outcome.message}"


# -- cluster -----------------------------------------------------------------------------------------------------


def test_cached_content_needs_no_store() -> None:
    async def scenario(cluster: Cluster) -> None:
        obj = await published(cluster, "peer-1", "peer-2")
        async with cluster.fault("host.crash", "store-1", "store-2"):
            await cluster.client.fetch_everywhere(obj)

    passes(scenario)


def test_all_trackers_restarted_are_back_within_a_lease() -> None:
    async def scenario(cluster: Cluster) -> None:
        obj = await published(cluster, "peer-1")
        await cluster.inject("host.restart", "all(tracker)", down_s=0.5)
        await asyncio.sleep(longest_lease_s(cluster))
        assert {e["peer"] for e in cluster.history.of("owl.reg") if e["epoch"] == 2} >= set(cluster.nodes("peer"))
        await cluster.client.fetch_everywhere(obj)

    passes(scenario)


def test_flash_crowd_opens_few_edges_to_the_store() -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.client.fetch_everywhere(await cluster.client.publish(size="8MiB"))
        external = [event for event in cluster.history.of("edge.open") if event["parent"] == "EXT"]
        assert len(external) <= len(cluster.nodes("tracker"))

    passes(scenario, peer=16)


def test_bad_policy_slows_and_breaks_nothing() -> None:
    async def scenario(cluster: Cluster) -> None:
        obj = await published(cluster, "peer-1")
        await cluster.client.push_policy("default", external_limit=1, uploads=1)
        await cluster.client.fetch_everywhere(obj)
        await cluster.client.fetch_everywhere(await published(cluster))

    passes(scenario)
