"""The fault table of LAD (../shared/targets/lad.md section 5), and its planned events.

The target's invariants hold in every run; a test asserts beside that what its row promises for afterwards.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import zebra
from zebra import Cluster, Outcome, RunSpec
from zebra.params.assignment import parse
from zebra.targets.lad import TARGET
from zebra.targets.lad.selectors import edges, leader
from zebra.targets.lad.test_lad import CART, LIMITS, QUEUE, commit, everywhere, late_s

Scenario = Callable[[Cluster], Awaitable[None]]
SEEDS = range(3)
NARROW = {"lad.tree.fanout": 2}


def run(scenario: Scenario, seed: int, assignment: dict[str, Any], **counts: int) -> Outcome:
    topology = TARGET.topology.with_counts({"distributor": 2, "proxy": 4, "app": 8, **counts})
    spec = RunSpec(target="lad", topology=topology, seed=seed, assignment=parse(assignment))
    return zebra.run(scenario, spec)  # type: ignore[arg-type]


def passes(scenario: Scenario, assignment: dict[str, Any] | None = None, **counts: int) -> None:
    for seed in SEEDS:
        outcome = run(scenario, seed, assignment or {}, **counts)
        assert outcome.result == "pass", f"seed {seed}: {outcome.message}"


async def begun(cluster: Cluster) -> None:
    """All apps use a path, and have a first version of it."""
    await cluster.client.use(CART)
    await commit(cluster, CART)


def inner(cluster: Cluster) -> str:
    """A proxy that has children now."""
    return next(str(edge["parent"]) for edge in edges(cluster) if edge["parent"].startswith("proxy"))


def children(cluster: Cluster, parent: str) -> set[str]:
    return {edge["child"] for edge in edges(cluster) if edge["parent"] == parent}


# -- application -------------------------------------------------------------------------------------------------


def test_torn_cache_is_noticed_and_got_again() -> None:
    """Power fails while the content, and while its record in the index, is written and not synced."""

    async def scenario(cluster: Cluster, after_s: float = 0.0) -> None:
        await begun(cluster)
        async with cluster.fault("disk.lose_unsynced", "proxy-1", torn=1.0):
            await cluster.client.commit(CART, payload="1MiB")
            await cluster.event("content.sent", to="proxy-1")
            if after_s:
                await asyncio.sleep(after_s)
                await cluster.inject("host.restart", "proxy-1")
            else:
                await cluster.event("content.ready", proxy="proxy-1")
        await commit(cluster, CART, payload="1MiB")

    few = {"distributor": 1, "proxy": 2, "app": 4}
    for seed in SEEDS:
        calm = run(scenario, seed, {}, **few).history
        sent = [event for event in calm.of("content.sent") if event["to"] == "proxy-1"][1]
        ready = [event for event in calm.of("content.ready") if event["proxy"] == "proxy-1"][1]
        for before_s in (175e-6, 75e-6):  # each step of a write takes 50 us, the last one removes the old file
            after_s = ready.t - sent.t - before_s
            outcome = run(lambda cluster, after_s=after_s: scenario(cluster, after_s), seed, {}, **few)  # type: ignore[misc]
            assert outcome.result == "pass", outcome.message


def test_hung_proxy_that_answers_pings_starves_nobody_for_long() -> None:
    async def scenario(cluster: Cluster) -> None:
        await begun(cluster)
        hung = inner(cluster)
        below = children(cluster, hung)
        await cluster.client.hang(hung, on=True)
        await cluster.client.commit(CART)
        for child in below:
            await cluster.event("meta.apply", proxy=child, within=late_s(cluster))
        await cluster.client.hang(hung, on=False)
        await commit(cluster, CART)

    passes(scenario, NARROW, distributor=1)


def test_spoilt_content_is_left_and_got_from_above() -> None:
    async def scenario(cluster: Cluster) -> None:
        await begun(cluster)
        await cluster.client.spoil(inner(cluster))
        await commit(cluster, CART, payload="2MiB")
        rejects = cluster.history.of("content.reject")
        ready = {(e["proxy"], e["version"]): e["source"] for e in cluster.history.of("content.ready")}
        assert rejects, "nothing was rejected"
        for reject in rejects:
            assert ready[reject["proxy"], reject["version"]] != reject["source"]

    passes(scenario, NARROW, distributor=1)


def test_poisoned_value_stops_at_the_canary() -> None:
    async def scenario(cluster: Cluster) -> None:
        await begun(cluster)
        await commit(cluster, CART, staged=True, poison=True)
        runs = [event["rev"] for event in cluster.history.of("app.runs")]
        states = [event["state"] for event in cluster.history.of("change.state")]
        assert "ROLLED_BACK" in states and max(runs) >= 1
        await commit(cluster, CART)

    passes(scenario, proxy=8, app=16)


def test_validator_that_is_down_blocks_the_commit() -> None:
    async def scenario(cluster: Cluster) -> None:
        await begun(cluster)
        await cluster.client.validator(up=False)
        await commit(cluster, CART)
        assert cluster.history.of("change.state")[-1]["state"] == "REJECTED"
        await cluster.client.validator(up=True)
        await commit(cluster, CART)

    passes(scenario)


# -- host --------------------------------------------------------------------------------------------------------


def test_inner_host_dies_and_only_its_subtree_is_late() -> None:
    async def scenario(cluster: Cluster) -> None:
        await begun(cluster)
        dead = inner(cluster)
        async with cluster.fault("host.crash", dead):
            await commit(cluster, CART)
        await commit(cluster, CART)

    passes(scenario, NARROW, distributor=1)


def test_hung_host_is_given_up() -> None:
    async def scenario(cluster: Cluster) -> None:
        await begun(cluster)
        async with cluster.fault("host.pause", inner(cluster)):
            await cluster.client.commit(CART)
            await cluster.event("lease.expired", within=late_s(cluster))
        await commit(cluster, CART)

    passes(scenario, NARROW, distributor=1)


def test_slow_inner_host_becomes_a_leaf_within_three_updates() -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.client.want(CART)
        proxies = set(cluster.nodes("proxy"))
        await everywhere(cluster, await cluster.client.put(CART, "1KB"), proxies)
        slow = inner(cluster)
        async with cluster.fault("network.bandwidth", slow, rate="12MB/s"):
            for _ in range(3):
                await everywhere(cluster, await cluster.client.put(CART, "20MiB"), proxies)
                await asyncio.sleep(cluster.config.lease.ttl / 3)
            assert slow in [event["proxy"] for event in cluster.history.of("tree.demote")]
            assert not children(cluster, slow)

    passes(scenario, NARROW, distributor=1, author=0, proxy=6, app=0)


def test_full_disk_keeps_nothing_and_serves_all() -> None:
    async def scenario(cluster: Cluster) -> None:
        async with cluster.fault("disk.full", "proxy-1"):
            await begun(cluster)
            await commit(cluster, CART)
        await commit(cluster, CART)

    passes(scenario)


# -- network -----------------------------------------------------------------------------------------------------


def test_rack_is_cut_off_and_comes_back() -> None:
    async def scenario(cluster: Cluster) -> None:
        await begun(cluster)
        async with cluster.fault("network.partition", ["proxy-1", "app-1", "app-3"]):
            await cluster.client.commit(CART)
            await asyncio.sleep(1.5 * cluster.config.lease.ttl)
        await commit(cluster, CART)

    passes(scenario)


def test_one_way_loss_from_a_parent_moves_its_child() -> None:
    async def scenario(cluster: Cluster) -> None:
        await begun(cluster)
        parent = inner(cluster)
        child = min(children(cluster, parent))
        async with cluster.fault("network.partition", [parent], [child], direction="out"):
            await cluster.client.commit(CART)
            await cluster.event("meta.apply", proxy=child, within=late_s(cluster))
            assert child not in children(cluster, parent)
        await commit(cluster, CART)

    passes(scenario, NARROW, distributor=1)


def test_control_is_cut_and_data_goes_on() -> None:
    """Pings do not come through to a proxy below another one: updates of the known tree go on meanwhile."""

    async def scenario(cluster: Cluster) -> None:
        await begun(cluster)
        child = min(children(cluster, inner(cluster)))
        async with cluster.fault("network.partition", ["distributor-1"], [child]):
            version = (await cluster.client.commit(CART))[0]
            await cluster.event("content.ready", proxy=child, version=version, within=cluster.config.limit.propagation)
            await asyncio.sleep(2 * cluster.config.lease.ttl)
        await commit(cluster, CART)

    passes(scenario, NARROW, distributor=1)


def test_data_is_cut_and_control_goes_on() -> None:
    async def scenario(cluster: Cluster) -> None:
        await begun(cluster)
        parent = inner(cluster)
        async with cluster.fault("network.partition", [parent], sorted(children(cluster, parent))):
            await commit(cluster, CART)
        await commit(cluster, CART)

    passes(scenario, NARROW, distributor=1)


# -- cluster -----------------------------------------------------------------------------------------------------


def test_store_without_a_majority_commits_nothing_and_all_is_readable() -> None:
    async def scenario(cluster: Cluster) -> None:
        await begun(cluster)
        async with cluster.fault("host.crash", "majority(store)"):
            change = asyncio.create_task(cluster.client.commit(CART))
            await asyncio.sleep(2 * cluster.config.limit.propagation)
            assert not change.done()
            for reading in (await cluster.client.settings(CART)).values():
                assert reading.ok and reading.version == 1
            change.cancel()
        await commit(cluster, CART)

    passes(scenario)


def test_store_without_a_minority_goes_on() -> None:
    async def scenario(cluster: Cluster) -> None:
        await begun(cluster)
        async with cluster.fault("host.crash", "minority(store)"):
            await commit(cluster, CART)

    passes(scenario)


def test_store_loses_leader_after_leader() -> None:
    async def scenario(cluster: Cluster) -> None:
        await begun(cluster)
        for _ in range(2):
            async with cluster.fault("host.crash", *leader(cluster)):
                await commit(cluster, CART)

    passes(scenario)


def test_region_is_cut_off() -> None:
    async def scenario(cluster: Cluster) -> None:
        await begun(cluster)
        async with cluster.fault("network.partition", ["region(r2)"]):
            await asyncio.sleep(cluster.config.lease.ttl)
        await commit(cluster, CART)

    passes(scenario)


def test_burst_is_compacted_to_the_last_version_of_each_path() -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.client.want(CART)
        await cluster.client.want(QUEUE)
        proxies = set(cluster.nodes("proxy"))
        paths = [CART, LIMITS, QUEUE]
        began_s = cluster.now
        versions = await cluster.client.burst(paths * 20, times=17)
        await everywhere(cluster, max(versions.values()), proxies)
        ready = [event for event in cluster.history.of("content.ready") if event["proxy"] == "proxy-1"]
        assert sum(versions.values()) >= 1000
        assert len(ready) < sum(versions.values()) / 4, f"{len(ready)} fetched in {cluster.now - began_s:.1f} s"

    passes(scenario, author=0, app=0)


def test_herd_comes_back_spread_out() -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.client.want(CART)
        proxies = set(cluster.nodes("proxy"))
        await everywhere(cluster, await cluster.client.put(CART, "1KB"), proxies)
        await cluster.inject("host.restart", "all(distributor)")
        await everywhere(cluster, await cluster.client.put(CART, "1KB"), proxies)

    passes(scenario, author=0, app=0, proxy=60)


# -- planned -----------------------------------------------------------------------------------------------------


def test_drained_distributor_orphans_nobody() -> None:
    async def scenario(cluster: Cluster) -> None:
        await begun(cluster)
        await cluster.inject("host.restart", "distributor-1", planned=True)
        await commit(cluster, CART)
        assert not cluster.history.of("parent.lost", "lease.lost")

    passes(scenario, NARROW, proxy=8, app=16)


def test_upgraded_proxy_hands_its_children_over_first() -> None:
    async def scenario(cluster: Cluster) -> None:
        await begun(cluster)
        parent = inner(cluster)
        below = children(cluster, parent)
        await cluster.inject("host.restart", parent, planned=True)
        await commit(cluster, CART)
        lost = [event for event in cluster.history.of("parent.lost") if event["proxy"] in below]
        assert not lost

    passes(scenario, NARROW, distributor=1)
