"""Whole-system scenarios of Owl: each is short, waits for conditions, and follows the parameters of its nodes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

import pytest

from zebra.cluster import Cluster
from zebra.targets.owl.selectors import roots


def chunk_size(cluster: Cluster) -> int:
    """The longest chunk that any peer cuts."""
    return max(int(cluster.config_of(peer).chunk.size) for peer in cluster.nodes("peer"))


def heard_s(cluster: Cluster) -> float:
    """After so long every tracker has heard of what another one can lend."""
    return 1.5 * max(float(cluster.config_of(tracker).advert.every) for tracker in cluster.nodes("tracker"))


def idle_timeout_s(cluster: Cluster) -> float:
    """The longest silence that any peer bears."""
    return max(
        float(cluster.config_of(node).transfer.idle_timeout)
        for node in (*cluster.nodes("peer"), *cluster.nodes("superpeer"))
    )


def longest_lease_s(cluster: Cluster) -> float:
    """The longest lease that any tracker grants."""
    return max(float(cluster.config_of(tracker).lease.ttl) for tracker in cluster.nodes("tracker"))


def _registered(cluster: Cluster, peer: str) -> str:
    """The tracker with which a peer registered last."""
    return next((e.node for e in reversed(cluster.history.of("owl.reg")) if e["peer"] == peer), "")


def sources(cluster: Cluster) -> set[str]:
    """The nodes from which somebody has received a frame."""
    served = {event["edge"] for event in cluster.history.of("owl.recv")}
    return {event["parent"] for event in cluster.history.of("edge.open") if event["edge"] in served}


def served_roots(cluster: Cluster) -> list[str]:
    """The peers at the top of a tree from which somebody has received a frame."""
    return sorted(sources(cluster).intersection(roots(cluster)))


async def throttle(cluster: Cluster, pause_s: float) -> None:
    """Let every store pause before each block."""
    for store in cluster.nodes("store"):
        await cluster.client.throttle(store, pause_s)


def first_of_each_kind(cluster: Cluster) -> list[str]:
    """The first peer of each region; of each scheme too where schemes differ, for they share no chunks."""
    regions = {place.node: place.region for place in cluster.places}
    found: dict[tuple[str, str], str] = {}
    for peer in cluster.nodes("peer"):
        found.setdefault((regions[peer], cluster.config_of(peer).chunk.id_scheme), peer)
    return list(found.values())


def others(cluster: Cluster, first: str) -> list[str]:
    """The other peers that are up."""
    return [peer for peer in cluster.up("peer") if peer != first]


@asynccontextmanager
async def fetching(cluster: Cluster, *wanted: tuple[str, Iterable[str]]) -> AsyncIterator[None]:
    """Let peers get objects meanwhile, (object, peers) each; at the end all of them must have them."""
    tasks = [asyncio.create_task(cluster.client.fetch_everywhere(obj, list(peers))) for obj, peers in wanted]
    try:
        yield
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()


@pytest.mark.zebra("owl", tracker=2, peer=12)
async def test_object_reaches_every_peer(cluster: Cluster) -> None:
    obj = await cluster.client.publish(size="8MiB")
    async with cluster.fault("host.crash", "peer-3"):
        await cluster.client.fetch_everywhere(obj)  # every peer that is up


@pytest.mark.zebra("owl", tracker=2, peer=4)
async def test_chunks_cross_every_divide(cluster: Cluster) -> None:
    """Content begins in each region in turn, goes to the superpeers, and on to the peers of both regions."""
    for first in ("peer-1", "peer-2"):
        obj = await cluster.client.publish(size=chunk_size(cluster) * 3 // 2, bucket="hot")
        await cluster.client.fetch(obj, first)
        await asyncio.sleep(heard_s(cluster))
        await cluster.client.fetch_everywhere(obj, others(cluster, first))


@pytest.mark.zebra("owl", tracker=2, peer=4)
async def test_slow_store_is_waited_for(cluster: Cluster) -> None:
    """The store pauses for longer than any idle timeout: who waits for it keeps its children by keepalives."""
    tops = [(await cluster.client.publish(size="1MiB", bucket="hot"), peer) for peer in ("peer-1", "peer-2")]
    silence_s = 1.3 * idle_timeout_s(cluster)
    await throttle(cluster, 2 * heard_s(cluster) + silence_s)
    async with fetching(cluster, *((obj, [top]) for obj, top in tops)):
        await asyncio.sleep(heard_s(cluster))
        async with fetching(cluster, *((obj, others(cluster, top)) for obj, top in tops)):
            await asyncio.sleep(silence_s)
            await throttle(cluster, 0)


@pytest.mark.zebra("owl", tracker=2, superpeer=0, peer=2)
async def test_tops_of_trees_lose_the_store(cluster: Cluster) -> None:
    """Each tracker has a peer at the top of a tree in which the other's peer hangs; then the store breaks off."""
    tops = [(await cluster.client.publish(size="2MiB"), peer) for peer in cluster.nodes("peer")]
    pause_s = 4 * heard_s(cluster)
    await throttle(cluster, pause_s)
    async with fetching(cluster, *((obj, [top]) for obj, top in tops)):
        await asyncio.sleep(heard_s(cluster))
        async with fetching(cluster, *((obj, others(cluster, top)) for obj, top in tops)):
            await asyncio.sleep(heard_s(cluster))
            for store in cluster.nodes("store"):
                await cluster.client.cut_reads(store, pause_s)
            await asyncio.sleep(heard_s(cluster))
            await throttle(cluster, 0)


@pytest.mark.zebra("owl", tracker=2, peer=4)
async def test_cached_content_outlives_the_store(cluster: Cluster) -> None:
    """Once one peer of each region has an object the stores may close, even if one of the two spoils a frame."""
    obj = await cluster.client.publish(size=chunk_size(cluster))
    await cluster.client.fetch_everywhere(obj, first_of_each_kind(cluster))
    for store in cluster.nodes("store"):
        await cluster.client.close_store(store)
    await cluster.client.flip("peer-1")
    await cluster.client.fetch_everywhere(obj)
    await throttle(cluster, 0)


@pytest.mark.zebra("owl", tracker=2, superpeer=0, peer=4)
async def test_crossed_trees_lose_the_store(cluster: Cluster) -> None:
    """Two trackers each have a tree of one chunk and a peer in the other's tree; then both trees lose the store."""
    obj = await cluster.client.publish(size="2MiB")
    pause_s = 5 * heard_s(cluster)
    await throttle(cluster, pause_s)
    async with fetching(cluster, (obj, ["peer-1", "peer-2"])):
        await asyncio.sleep(heard_s(cluster))
        await cluster.client.push_policy(
            "default", external_limit=4, uploads=0
        )  # a mistake: nobody may serve his neighbours
        async with fetching(cluster, (obj, ["peer-3", "peer-4"])):
            await asyncio.sleep(heard_s(cluster))
            await cluster.client.push_policy("default", external_limit=4, uploads=4)
            for store in cluster.nodes("store"):
                await cluster.client.cut_reads(store, pause_s)
            await asyncio.sleep(heard_s(cluster))
            await throttle(cluster, 0)


@pytest.mark.zebra("owl", tracker=2, peer=4)
async def test_superpeers_take_copies_over(cluster: Cluster) -> None:
    """In a bucket that wants few copies a peer evicts its own, once told, when a superpeer has one."""
    obj = await cluster.client.publish(size=chunk_size(cluster), bucket="models")
    await cluster.client.fetch(obj, "peer-1")
    await cluster.until(lambda: bool(cluster.history.of("owl.evict")), within=2 * longest_lease_s(cluster) + 2)
    await cluster.client.fetch_everywhere(obj)


@pytest.mark.zebra("owl", tracker=2, peer=6)
async def test_source_crashes_mid_stream(cluster: Cluster) -> None:
    """The peer at the top of a tree dies: those below it go on from where they were."""
    obj = await cluster.client.publish(size=2 * chunk_size(cluster))
    async with fetching(cluster, (obj, ["peer-5", "peer-1", "peer-3"])):
        await cluster.until(lambda: served_roots(cluster) != [])
        async with cluster.fault("host.crash", served_roots(cluster)[0]):
            await asyncio.sleep(idle_timeout_s(cluster))
            await cluster.client.fetch_everywhere(obj)


@pytest.mark.zebra("owl", tracker=2, peer=4)
async def test_planned_restart_stalls_nobody(cluster: Cluster) -> None:
    """A peer that is stopped as planned sends its children elsewhere before it goes."""
    obj = await cluster.client.publish(size=chunk_size(cluster))
    await throttle(cluster, 0.1)
    async with fetching(cluster, (obj, ["peer-1"])):
        await cluster.event("edge.open", child="peer-1")
        async with fetching(cluster, (obj, ["peer-2", "peer-3", "peer-4"])):
            await cluster.until(lambda: "peer-1" in sources(cluster))
            await cluster.inject("host.restart", "peer-1", planned=True)
            await throttle(cluster, 0)
    await cluster.client.fetch_everywhere(obj)
    stalls = [event for event in cluster.history.of("edge.close") if event["why"] == "stall"]
    assert not stalls, f"a planned restart costs no stall, but there was {stalls[0]!r}"


@pytest.mark.zebra("owl", tracker=2, peer=4)
async def test_tracker_loss_interrupts_no_download(cluster: Cluster) -> None:
    """A tracker dies while its peers download: they go on, and register with the other one."""
    obj = await cluster.client.publish(size=chunk_size(cluster))
    kept = await cluster.client.publish(size="1MiB")
    await cluster.client.fetch_everywhere(kept)
    lost, peers = "tracker-1", list(cluster.up("peer"))
    await throttle(cluster, cluster.config.lease.ttl / 4)
    async with fetching(cluster, (obj, peers)):
        await cluster.event("owl.recv")
        mine = [e["peer"] for e in cluster.history.of("owl.reg") if e.node == lost]
        async with cluster.fault("host.crash", lost):
            await cluster.until(
                lambda: all(_registered(cluster, peer) != lost for peer in mine),
                within=2 * longest_lease_s(cluster) + 2,
            )
            await throttle(cluster, 0)
    await cluster.client.fetch_everywhere(obj)


@pytest.mark.zebra("owl", tracker=3, peer=6)
async def test_flash_crowd_spares_the_store(cluster: Cluster) -> None:
    """Everybody wants the same objects within half a second, while one tracker is restarted as planned."""
    objects = [
        await cluster.client.publish(size=chunk_size(cluster) * 3 // 2, bucket=b) for b in ("default", "models", "logs")
    ]
    async with fetching(cluster, *((obj, cluster.up("peer")) for obj in objects)):
        await cluster.inject("host.restart", "tracker-1", planned=True)
    async with fetching(cluster, *((obj, cluster.up("peer")) for obj in objects)):
        pass
