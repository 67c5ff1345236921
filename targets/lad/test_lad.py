"""Whole-system scenarios of LAD: each is short, waits for conditions, and follows the parameters of its nodes."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import pytest

from zebra.cluster import Cluster
from zebra.targets.lad.client import Rejected
from zebra.targets.lad.selectors import leader

CART, LIMITS, QUEUE = "/shop/cart/limits/eu", "/shop/cart/limits/us", "/mail/out/queue/size"


def longest(cluster: Cluster, group: str, name: str, roles: Iterable[str] = ("proxy", "distributor")) -> float:
    """The largest value that any node of some roles has of a number."""
    return max(
        float(getattr(getattr(cluster.config_of(node), group), name)) for role in roles for node in cluster.nodes(role)
    )


def late_s(cluster: Cluster) -> float:
    """By then whatever can still arrive after a fault has arrived, and the invariants have said so if not."""
    leases_s = 2 * longest(cluster, "lease", "ttl")
    propagation_s = float(cluster.config.limit.propagation)
    return leases_s + longest(cluster, "poll", "interval", ["distributor"]) + 3 * propagation_s


async def commit(cluster: Cluster, *paths: str, **how: object) -> None:
    """Commit, and wait until every app that is up has it; a change that is refused is nobody's."""
    try:
        versions = await cluster.client.commit(*paths, **how)
    except Rejected:
        return
    await cluster.client.arrived(dict(zip(paths, versions, strict=True)), within_s=late_s(cluster))


@pytest.mark.zebra("lad", distributor=2, proxy=4, app=8)
async def test_commit_reaches_every_app(cluster: Cluster) -> None:
    await cluster.client.use(CART)
    await commit(cluster, CART)
    await commit(cluster, CART)


@pytest.mark.zebra("lad", distributor=2, proxy=6, app=12, assignment={"lad.tree.fanout": 2})
async def test_two_shards_take_turns(cluster: Cluster) -> None:
    """Each shard sees every other transaction only."""
    await cluster.client.use(CART, QUEUE)
    for path in (CART, QUEUE, CART, QUEUE, CART):
        await commit(cluster, path)


@pytest.mark.zebra("lad", distributor=1, proxy=4, app=8, assignment={"lad.tree.fanout": 2})
async def test_large_value_arrives_or_is_refused(cluster: Cluster) -> None:
    await cluster.client.use(CART)
    await commit(cluster, CART)
    await commit(cluster, CART, payload="12MiB")


@pytest.mark.zebra("lad", distributor=2, proxy=4, app=8)
async def test_nothing_happens_for_a_while(cluster: Cluster) -> None:
    """Leases are kept though nothing is sent."""
    await cluster.client.use(CART)
    await commit(cluster, CART)
    await asyncio.sleep(1.1 * longest(cluster, "lease", "ttl"))
    await commit(cluster, CART)


@pytest.mark.zebra("lad", distributor=1, proxy=4, app=8, assignment={"lad.content.codec": "zlib", "lad.tree.fanout": 2})
async def test_compressible_value_is_read_by_all(cluster: Cluster) -> None:
    await cluster.client.use(CART)
    await commit(cluster, CART, payload="2MiB")


@pytest.mark.zebra("lad", distributor=2, proxy=4, app=8)
async def test_distributors_are_restarted(cluster: Cluster) -> None:
    """They remember nothing; their proxies miss nothing."""
    await cluster.client.use(CART)
    for _ in range(3):
        await commit(cluster, CART)
    await cluster.inject("host.restart", "all(distributor)")
    await commit(cluster, CART)


@pytest.mark.zebra("lad", distributor=2, proxy=4, app=8)
async def test_distributor_is_lost(cluster: Cluster) -> None:
    """Its proxies go to another one."""
    await cluster.client.use(CART)
    await commit(cluster, CART)
    async with cluster.fault("host.crash", "distributor-1"):
        await commit(cluster, CART)
    await commit(cluster, CART)


@pytest.mark.zebra("lad", distributor=2, proxy=6, app=12, assignment={"lad.tree.fanout": 2})
async def test_distributor_drains(cluster: Cluster) -> None:
    """A planned stop costs nobody his parent."""
    await cluster.client.use(CART)
    await commit(cluster, CART)
    async with cluster.fault("host.stop", "distributor-1"):
        await commit(cluster, CART)
    assert not cluster.history.of("parent.lost", "lease.lost"), "a drained distributor was missed"


@pytest.mark.zebra("lad", distributor=2, proxy=4, app=8)
async def test_store_loses_its_leader(cluster: Cluster) -> None:
    await cluster.client.use(CART)
    await commit(cluster, CART)
    async with cluster.fault("host.crash", *leader(cluster)):
        await commit(cluster, CART)
    await commit(cluster, CART)


@pytest.mark.zebra("lad", distributor=2, proxy=8, app=16)
async def test_change_is_exposed_in_stages(cluster: Cluster) -> None:
    """A canary, then more and more hosts, then all."""
    await cluster.client.use(CART)
    await commit(cluster, CART)
    for _ in range(3):
        await commit(cluster, CART, staged=True)


@pytest.mark.zebra("lad", distributor=2, proxy=4, app=8)
async def test_new_mode_is_understood_or_refused(cluster: Cluster) -> None:
    """The second revision of the schema has one more mode: all apps run it, or nobody does."""
    await cluster.client.use(CART)
    await commit(cluster, CART)
    try:
        (version,) = await cluster.client.commit(CART, mode="auto")
    except Rejected:
        return
    await cluster.client.arrived({CART: version}, within_s=late_s(cluster))
    await cluster.inject("host.restart", "all(proxy)", planned=True)
    await cluster.client.arrived({CART: version}, within_s=late_s(cluster))
    wrong = {
        app: reading.mode
        for app, reading in (await cluster.client.settings(CART)).items()
        if reading.runs == version and reading.mode != "auto"
    }
    assert not wrong, f"mode auto was committed, but there are {wrong}"


@pytest.mark.zebra("lad", distributor=1, proxy=4, app=8, assignment={"lad.tree.fanout": 2})
async def test_paths_of_one_change_arrive_together(cluster: Cluster) -> None:
    await cluster.client.use(CART, LIMITS)
    await commit(cluster, CART, LIMITS)
    await commit(cluster, CART, payload="1MiB")
    await commit(cluster, CART, LIMITS, payload="1MiB")


@pytest.mark.zebra("lad", distributor=2, proxy=4, app=8)
async def test_everything_starts_again_without_the_store(cluster: Cluster) -> None:
    """Power fails everywhere, and the store does not come back for a while: apps run by what their hosts have."""
    await cluster.client.use(CART)
    await commit(cluster, CART, protocol=2)
    async with cluster.fault("host.crash", "all(store)"):
        await cluster.inject("host.restart", ["all(distributor)", "all(proxy)"])
        await asyncio.sleep(2 * cluster.config.limit.propagation)
    await commit(cluster, CART, protocol=2)


@pytest.mark.zebra("lad", distributor=2, proxy=4, app=8)
async def test_peers_change_their_protocol_together(cluster: Cluster) -> None:
    """All take it at once, or none before all are started again."""
    await cluster.client.use(CART)
    await commit(cluster, CART, protocol=1)
    await commit(cluster, CART, protocol=2)
    await asyncio.sleep(1.5 * cluster.config.limit.propagation)
    await cluster.inject("host.restart", "all(proxy)", planned=True)
    await commit(cluster, CART, protocol=2)


@pytest.mark.zebra("lad", author=0, distributor=2, proxy=24, app=0, substrates=("sim",))  # too many for two cores
async def test_many_hosts_share_one_distributor(cluster: Cluster) -> None:
    """Two regions' hosts get a value from their own distributors, and another one from the only one that is left."""
    proxies = set(cluster.nodes("proxy"))
    await cluster.client.want(CART)
    await everywhere(cluster, await cluster.client.put(CART, "1MiB"), proxies)
    async with cluster.fault("host.crash", "distributor-1"):
        await everywhere(cluster, await cluster.client.put(CART, "1MiB"), proxies)


async def everywhere(cluster: Cluster, version: int, proxies: set[str]) -> None:
    """Wait until a version is ready at all these proxies."""

    def ready() -> bool:
        found = cluster.history.of("content.ready")
        return {event["proxy"] for event in found if event["version"] == version} == proxies

    await cluster.until(ready, within=late_s(cluster))


@pytest.mark.zebra("lad", author=2, distributor=2, proxy=4, app=8)
async def test_two_authors_take_turns(cluster: Cluster) -> None:
    await cluster.client.use(CART, QUEUE)
    for staged in (False, True):
        await commit(cluster, CART, staged=staged)
        await commit(cluster, QUEUE, staged=staged)


@pytest.mark.zebra("lad", distributor=1, proxy=4, app=8, assignment={"lad.tree.fanout": 2})
async def test_inner_proxy_is_upgraded(cluster: Cluster) -> None:
    """Every proxy is stopped as planned, one after the other: its children have other parents before it goes."""
    await cluster.client.use(CART)
    await commit(cluster, CART)
    for proxy in cluster.nodes("proxy")[:3]:
        await cluster.inject("host.restart", proxy, planned=True, down_s=0.5)
        await commit(cluster, CART)
