"""Every invariant of LAD's distribution catches a bug that was planted for it, by name; without the bug the run passes.

Those of the store, the pipeline and the baseline are in tests/sim/test_lad_store.py, test_lad_author.py and
test_lad_fanout.py.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.scenarios import run
from zebra import Cluster
from zebra.invariant import describe
from zebra.targets.lad import VARIANTS, test_lad
from zebra.targets.lad.agreement import AGREEMENT
from zebra.targets.lad.invariants import INVARIANTS
from zebra.targets.lad.liveness import LIVENESS
from zebra.targets.lad.test_lad import CART, LIMITS, commit, late_s


@pytest.mark.zebra("lad", distributor=2, proxy=4, app=8,
                   assignment={"lad.tree.fanout": 1, "lad.lease.ttl": {"*": 10, "proxy": 4}})  # fmt: skip
async def distributor_thinks_that_it_is_ours(cluster: Cluster) -> None:
    """A distributor is cut off from its only proxy, which leaves it before it notices, and then gets another one."""
    first, second = ["app-1", "app-3"], ["app-5", "app-7"]
    await cluster.client.use(CART, apps=first)
    await cluster.client.arrived({CART: (await cluster.client.commit(CART))[0]}, apps=first)
    async with cluster.fault("network.partition", ["distributor-1"], ["proxy-1"]):
        await cluster.event("sub", proxy="proxy-1", distributor="distributor-2", within=late_s(cluster))
    await cluster.client.use(CART, apps=second)
    await cluster.client.arrived({CART: (await cluster.client.commit(CART))[0]}, apps=[*first, *second])


@pytest.mark.zebra("lad", distributor=1, proxy=4, app=8, assignment={"lad.tree.fanout": 2})
async def parent_spoils_content(cluster: Cluster) -> None:
    await cluster.client.use(CART)
    await commit(cluster, CART)
    for proxy in cluster.nodes("proxy"):
        await cluster.client.spoil(proxy)
    await commit(cluster, CART, payload="2MiB")


@pytest.mark.zebra("lad", distributor=1, proxy=2, app=4)
async def power_fails_while_a_proxy_writes(cluster: Cluster) -> None:
    await cluster.client.use(CART)
    await commit(cluster, CART)
    async with cluster.fault("disk.lose_unsynced", "proxy-1", torn=1.0):
        await cluster.client.commit(CART, payload="2MiB")
        await cluster.event("content.ready", proxy="proxy-1")
        async with cluster.fault("host.crash", ["proxy-1", "all(store)", "distributor-1"]):
            pass
        await asyncio.sleep(3 * cluster.config.rpc.timeout)
    await commit(cluster, CART)


async def put(cluster: Cluster, proxies: set[str]) -> None:
    """Put a value that all these get."""
    await test_lad.everywhere(cluster, await cluster.client.put(CART, "1KB"), proxies)


async def wanting(cluster: Cluster) -> set[str]:
    """All proxies, which want the value of a path and have its first one."""
    proxies = set(cluster.nodes("proxy"))
    await cluster.client.want(CART)
    await put(cluster, proxies)
    return proxies


@pytest.mark.zebra("lad", author=0, distributor=1, proxy=40, app=0)
async def everybody_loses_his_distributor(cluster: Cluster) -> None:
    proxies = await wanting(cluster)
    await cluster.inject("host.restart", "distributor-1")
    await put(cluster, proxies)


@pytest.mark.zebra("lad", author=0, distributor=1, proxy=10, app=0, assignment={"lad.tree.fanout": 2})
async def inner_proxies_lose_their_parents(cluster: Cluster) -> None:
    proxies = await wanting(cluster)
    for top in [edge["child"] for edge in cluster.history.of("tree.add") if edge["parent"] == "distributor-1"]:
        proxies.discard(top)
        async with cluster.fault("host.crash", top):
            await put(cluster, proxies)


@pytest.mark.zebra("lad", author=0, distributor=1, proxy=10, app=0, assignment={"lad.tree.fanout": 2})
async def connections_of_a_parent_break(cluster: Cluster) -> None:
    proxies = await wanting(cluster)
    top = next(edge["child"] for edge in cluster.history.of("tree.add") if edge["parent"] == "distributor-1")
    async with cluster.fault("network.reset", top):
        await cluster.client.put(CART, "1KB")
        await cluster.event("parent.lost", proxy=top)
    await put(cluster, proxies)


@pytest.mark.zebra("lad", distributor=1, proxy=2, app=4)
async def other_path_of_a_known_shard_is_used(cluster: Cluster) -> None:
    await cluster.client.use(CART)
    versions = await cluster.client.commit(CART, LIMITS)
    await cluster.client.arrived({CART: versions[0]})
    await cluster.client.use(LIMITS)
    await cluster.client.arrived({LIMITS: versions[1]}, within_s=late_s(cluster))


@pytest.mark.zebra("lad", distributor=1, proxy=2, app=4)
async def apps_read_all_the_time(cluster: Cluster) -> None:
    await cluster.client.use(CART)
    await commit(cluster, CART)
    await asyncio.sleep(3 * cluster.config.rpc.timeout)
    reading = asyncio.create_task(_read(cluster))
    await commit(cluster, CART, payload="50MiB")
    reading.cancel()


async def _read(cluster: Cluster) -> None:
    while True:
        await cluster.client.settings(CART)
        await asyncio.sleep(0.01)


@pytest.mark.zebra("lad", distributor=1, proxy=2, app=4)
async def hosts_restart_without_the_store(cluster: Cluster) -> None:
    await cluster.client.use(CART)
    await commit(cluster, CART)
    await commit(cluster, CART)
    async with cluster.fault("host.crash", "all(store)"):
        await cluster.inject("host.restart", ["all(distributor)", "all(proxy)"])
        await asyncio.sleep(4 * cluster.config.rpc.timeout)
    await commit(cluster, CART)


@pytest.mark.zebra("lad", distributor=1, proxy=4, app=4)
async def some_hosts_use_another_path(cluster: Cluster) -> None:
    await cluster.client.use(CART)
    await cluster.client.commit(LIMITS)
    await commit(cluster, CART)


MUTANTS = [
    ("bug.stale_cache", hosts_restart_without_the_store, "lad.monotone"),
    ("bug.half_update", test_lad.test_paths_of_one_change_arrive_together, "lad.prefix"),
    ("bug.no_verify", parent_spoils_content, "lad.integrity"),
    ("bug.notify_early", apps_read_all_the_time, "lad.integrity"),
    ("bug.torn_cache", power_fails_while_a_proxy_writes, "lad.integrity"),
    ("bug.fetch_all", some_hosts_use_another_path, "lad.interest"),
    ("bug.any_parent", inner_proxies_lose_their_parents, "lad.tree_acyclic"),
    ("bug.ignore_epoch", distributor_thinks_that_it_is_ours, "lad.fencing"),
    ("bug.drop_early", apps_read_all_the_time, "lad.readable"),
    ("bug.hasty_lease", test_lad.test_nothing_happens_for_a_while, "lad.no_spurious_repair"),
    ("bug.silent_relay", inner_proxies_lose_their_parents, "lad.propagation"),
    ("bug.no_replace", connections_of_a_parent_break, "lad.heal"),
    ("bug.faithful", test_lad.test_distributor_is_lost, "lad.distributor_loss"),
    ("bug.no_jitter", everybody_loses_his_distributor, "lad.no_herd"),
    ("bug.late_interest", other_path_of_a_known_shard_is_used, "lad.interest_gain"),
    ("bug.other_digest", test_lad.test_commit_reaches_every_app, "lad.acceptance"),
    ("bug.misread_mode", test_lad.test_commit_reaches_every_app, "lad.same_value"),
    ("bug.keeps_protocol", test_lad.test_peers_change_their_protocol_together, "lad.agreement"),
    ("bug.open_gate", test_lad.test_change_is_exposed_in_stages, "lad.stage_kept"),
    ("bug.split_batch", test_lad.test_paths_of_one_change_arrive_together, "lad.groups_together"),
]


@pytest.mark.parametrize(("variant", "scenario", "name"), MUTANTS, ids=[variant for variant, _, _ in MUTANTS])
def test_invariant_catches_the_bug_planted_for_it(variant: str, scenario: Any, name: str) -> None:
    outcome = run(scenario, seed=1, variant=variant)
    assert outcome.violation is not None, outcome.message
    assert outcome.violation.invariant == name, outcome.message
    healthy = run(scenario, seed=1)
    nothing_to_lose = "inconclusive" if variant == "bug.torn_cache" else "pass"  # a proxy that syncs loses nothing
    assert healthy.result == nothing_to_lose, healthy.message


def test_every_invariant_and_every_planted_bug_is_in_the_table() -> None:
    caught = {"lad.tree_shape" if name == "lad.tree_acyclic" else name for _, _, name in MUTANTS}
    ours = {describe(factory)[0] for factory in (*INVARIANTS, *LIVENESS, *AGREEMENT)}
    assert caught == ours | {"lad.groups_together"}
    assert {variant for variant, _, _ in MUTANTS} == {variant for variant in VARIANTS if variant.startswith("bug.")}
