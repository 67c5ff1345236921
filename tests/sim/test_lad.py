"""LAD works: its scenarios pass for many seeds, one seed gives one history, and its parts do what they say.

Store, author and baseline have their own files, faults too: tests/sim/test_lad_*.py.
"""

from __future__ import annotations

import asyncio
from itertools import pairwise
from typing import Annotated, Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

import zebra
from tests.scenarios import mixture, run, scenarios_of
from zebra import Cluster, Node, RunSpec, Target
from zebra.blob import Blob
from zebra.params import Param
from zebra.rpc import Message, Request, Rpc, Unreachable, Wire
from zebra.target import find_target
from zebra.targets.lad import TARGET, test_lad
from zebra.targets.lad.app import ConfigLibrary
from zebra.targets.lad.cache import Dropped, Meta, Whole, pack, unpack
from zebra.targets.lad.config import LadConfig, shard_of
from zebra.targets.lad.content import digest_of
from zebra.targets.lad.distributor import Distributor
from zebra.targets.lad.feed import Feed
from zebra.targets.lad.proxy import Proxy
from zebra.targets.lad.selectors import find_hops
from zebra.targets.lad.store import Store
from zebra.targets.lad.store_client import StoreClient
from zebra.targets.lad.store_messages import Entry, NoQuorum, Version
from zebra.targets.lad.test_lad import CART, QUEUE, commit
from zebra.targets.lad.trees import DEPTH_MAX, DistributionTree
from zebra.topology import Place, Topology

SCENARIOS = scenarios_of(test_lad)
SAFE = (
    "store.tick",
    "content.codec",
    "digest.algorithm",
    "session.timeout",
    "proxy.max_children",
    "content.range",
    "pick.seed",
    "retain.versions",
    "canary.duration",
    "compile.workers",
    "artefact.encoding",
)


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
def test_scenario_passes_for_many_seeds(scenario: Any) -> None:
    for seed in range(5):
        outcome = run(scenario, seed=seed)
        assert outcome.result == "pass", f"seed {seed}: {outcome.message}"


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
def test_safe_parameters_may_be_mixed_at_will(scenario: Any) -> None:
    for seed in range(2):
        assignment = mixture(TARGET, SAFE, ("proxy", "proxy:odd", "distributor:odd", "store:even", "store:odd"), seed)
        outcome = run(scenario, assignment, seed=seed)
        assert outcome.result == "pass", f"{assignment}: {outcome.message}"


def test_one_seed_gives_one_history() -> None:
    first, second, other = (run(test_lad.test_distributor_is_lost, seed=seed) for seed in (3, 3, 4))
    assert first.history.digest() == second.history.digest() != other.history.digest()


def test_scenarios_together_show_what_sometimes_happens_and_exercise_the_invariants() -> None:
    outcomes = [run(scenario) for scenario in SCENARIOS]
    assert set(TARGET.sometimes) <= frozenset[str]().union(*(outcome.kinds for outcome in outcomes))
    seen = {name for outcome in outcomes for name in outcome.exercised}
    baseline = {"lad.watchers_fresh"}  # no scenario here has observers
    assert seen >= {factory.zebra_name for factory in TARGET.invariants} - baseline


def test_lad_is_found_by_its_name() -> None:
    assert find_target("lad") is TARGET


def test_history_tells_the_way_of_a_value_to_each_proxy() -> None:
    outcome = run(test_lad.test_paths_of_one_change_arrive_together)
    parents = {(e["child"], e["parent"]) for e in outcome.history.of("tree.add")}
    lengths = set()
    for proxy in ("proxy-1", "proxy-2", "proxy-3", "proxy-4"):
        hops = find_hops(outcome.history, proxy, CART, 1)
        assert hops[0] == proxy and hops[-1].startswith("store-") and hops[-2].startswith("distributor-")
        assert all(pair in parents for pair in pairwise(hops[:-1]))
        lengths.add(len(hops))
    assert len(lengths) > 1, "all hang on the distributor itself"
    assert find_hops(outcome.history, "proxy-1", "/no/such/path") == []


def test_files_outside_its_shards_cost_a_proxy_nothing() -> None:
    """Ten times more paths in other shards: what a proxy is sent stays the same."""

    def entries(others: int) -> int:
        @pytest.mark.zebra("lad", distributor=1, proxy=2, app=4)
        async def scenario(cluster: Cluster) -> None:
            await cluster.client.use(CART)
            for number in range(others):
                await cluster.client.put(f"/other/dir{number % 7}/file{number}", 100)
            await commit(cluster, CART)

        outcome = run(scenario)
        assert outcome.result == "pass", outcome.message
        return sum(len(event["entries"]) for event in outcome.history.of("meta.apply"))

    assert entries(10) == entries(100)


# -- races -------------------------------------------------------------------------------------------------------


SMALL = {"author": 0, "proxy": 6, "app": 0, "assignment": {"lad.poll.interval": 0.1, "lad.tree.fanout": 2}}
"""Proxies that ask often, two below each."""


def test_commit_overtakes_the_content_of_the_one_before() -> None:
    @pytest.mark.zebra("lad", distributor=1, **SMALL)
    async def scenario(cluster: Cluster) -> None:
        await cluster.client.want(CART)
        await cluster.client.put(CART, "90MiB")
        await cluster.event("meta.apply", proxy="proxy-1")
        version = await cluster.client.put(CART, "1KB")
        await test_lad.everywhere(cluster, version, set(cluster.nodes("proxy")))
        await asyncio.sleep(2.0)
        ready = [event["version"] for event in cluster.history.of("content.ready") if event["proxy"] == "proxy-1"]
        assert ready == sorted(ready) and ready[-1] == version

    for seed in range(4):
        outcome = run(scenario, seed=seed)
        assert outcome.result == "pass", outcome.message


def test_subscriptions_while_updates_are_in_flight() -> None:
    @pytest.mark.zebra("lad", distributor=2, **SMALL)
    async def scenario(cluster: Cluster) -> None:
        proxies = cluster.nodes("proxy")
        await cluster.client.want(CART, proxies=proxies[:1])
        burst = asyncio.create_task(cluster.client.burst([CART, QUEUE], times=30))
        for proxy in proxies[1:]:
            await cluster.client.want(CART, proxies=[proxy])
            await asyncio.sleep(0.11)
        versions = await burst
        await cluster.until(
            lambda: (
                {e["proxy"] for e in cluster.history.of("meta.apply") if [CART, versions[CART]] in e["entries"]}
                == set(proxies)
            )
        )

    for seed in range(4):
        outcome = run(scenario, seed=seed)
        assert outcome.result == "pass", outcome.message


# -- in another target -------------------------------------------------------------------------------------------


class Limits(msgspec.Struct, frozen=True):
    per_second: int = 10


class ShopConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Another target's configuration, with LAD's in it."""

    color: Annotated[str, Param(why="of no importance")] = "red"
    lad: LadConfig = LadConfig()


class Said(Message, frozen=True, kw_only=True, tag="said"):
    per_second: int
    version: int


class Ask(Request[Said], frozen=True, kw_only=True, tag="ask"):
    pass


SHOP = Wire(Ask, Said, port=7600)
LIMITS_AT = "/shop/limits/till"


class Till:
    """A role of another target: its limits come from LAD, its own data go to the store."""

    def __init__(self, node: Node[ShopConfig]) -> None:
        self.node = node

    async def run(self) -> None:
        held = await ConfigLibrary(self.node).use(
            LIMITS_AT, lambda blob: msgspec.json.decode(bytes(blob), type=Limits), Limits()
        )
        await Rpc(self.node, SHOP).serve(
            {Ask: lambda ask, caller: Said(per_second=held.value.per_second, version=held.version)}
        )
        await self.node.ready()
        store = StoreClient(self.node)
        while True:
            try:
                await store.write(f"/shop/tills/{self.node.name}", b"open")
                break
            except NoQuorum:
                pass
        await asyncio.get_running_loop().create_future()


class Shopper:
    def __init__(self, node: Node[ShopConfig]) -> None:
        self.node, self.rpc, self.store = node, Rpc(node, SHOP), StoreClient(node)

    async def set_limit(self, per_second: int) -> None:
        await self.store.write(LIMITS_AT, msgspec.json.encode(Limits(per_second)))

    async def limits(self) -> list[int]:
        return [await self.limit(till) for till in self.node.up("till")]

    async def limit(self, till: str) -> int:
        while True:
            try:
                return (await self.rpc.call(till, Ask(), 5.0)).per_second
            except Unreachable:  # it was started anew since we talked to it
                await asyncio.sleep(0.1)

    async def until_limit(self, per_second: int) -> None:
        for till in self.node.up("till"):
            for _ in range(100):
                if await self.limit(till) == per_second:
                    break
                await asyncio.sleep(0.1)

    async def tills(self) -> list[str]:
        return [entry.path for entry in (await self.store.poll(0, ["/shop/tills"])).entries]


SHOP_TARGET = Target(
    name="shop", config=ShopConfig,
    roles={"store": Store, "distributor": Distributor, "proxy": Proxy, "till": Till}, client=Shopper,
    topology=Topology(counts={"store": 3, "distributor": 1, "proxy": 2, "till": 4}, per_host={"till": 2},
                      beside={"till": "proxy"}),
    invariants=TARGET.invariants,
)  # fmt: skip


def test_another_target_has_its_configuration_from_lad() -> None:
    async def scenario(cluster: Cluster) -> None:
        assert await cluster.client.limits() == [10] * 4
        await cluster.client.set_limit(25)
        await cluster.client.until_limit(25)
        assert sorted(await cluster.client.tills()) == [f"/shop/tills/till-{n}" for n in range(1, 5)]
        async with cluster.fault("host.crash", ["all(store)", "distributor-1"]):
            await cluster.inject("host.restart", "all(proxy)")
            await cluster.until(lambda: len(cluster.up("till")) == 4)
            assert await cluster.client.limits() == [25] * 4, "what was good last is lost"

    for seed in range(3):
        outcome = zebra.run(scenario, RunSpec(target="shop", seed=seed), target=SHOP_TARGET)
        assert outcome.result == "pass", outcome.message


def test_parameters_of_lad_are_parameters_of_a_target_that_includes_it() -> None:
    assert "shop.lad.lease.ttl" in SHOP_TARGET.space and len(SHOP_TARGET.space) == len(TARGET.space) + 1


# -- parts -------------------------------------------------------------------------------------------------------


def test_shard_is_the_beginning_of_a_path() -> None:
    assert [shard_of("/a/b/c/d", depth) for depth in (1, 2, 3)] == ["/a", "/a/b", "/a/b/c"]
    assert shard_of("/a", 2) == "/a"


def places(count: int, **more: Any) -> dict[str, Place]:
    topology = Topology(counts={"distributor": 1, "proxy": count}, **more)
    return {place.node: place for place in topology.places()}


def test_placement_prefers_the_own_rack_then_the_least_depth() -> None:
    tree = DistributionTree("distributor-1", 2, places(8, racks=2))
    for number in range(1, 9):
        parent = tree.find_parent(f"proxy-{number}")
        tree.put(f"proxy-{number}", parent)
    assert [tree.nodes[f"proxy-{n}"].parent for n in (1, 2, 3)] == ["distributor-1", "distributor-1", "proxy-1"]
    even = [tree.nodes[f"proxy-{n}"].parent for n in (4, 6, 8)]
    assert all(parent.startswith("proxy-") and int(parent[-1]) % 2 == 0 for parent in even)


@given(st.integers(1, 4), st.lists(st.tuples(st.integers(0, 3), st.integers(1, 30)), max_size=80))
def test_tree_stays_a_tree(fanout: int, steps: list[tuple[int, int]]) -> None:
    tree = DistributionTree("distributor-1", fanout, places(30))
    for what, number in steps:
        name = f"proxy-{number}"
        if what < 2:
            parent = tree.find_parent(name)
            if parent:
                tree.put(name, parent)
        elif what == 2:
            for child in tree.remove(name):
                assert not tree.nodes[child].parent
        elif name in tree:
            tree.shun(name, not tree.nodes[name].shunned)
        for node in tree.nodes.values():
            assert len(node.children) <= fanout and node.depth <= DEPTH_MAX + len(tree.nodes)
            assert all(tree.nodes[child].parent == node.name for child in node.children)
            above = list(tree.way_up(node.name))
            assert len(set(above)) == len(above) and node.name not in above
            if above and above[-1] == tree.root:
                assert node.depth == len(above)


def entry(path: str, zxid: int) -> Entry:
    return Entry(path=path, version=zxid, zxid=zxid)


@given(st.lists(st.sampled_from("abcde"), max_size=30), st.integers(0, 30))
def test_feed_gives_what_changed_after_a_zxid(touched: list[str], have: int) -> None:
    feed = Feed("/s")
    for zxid, path in enumerate(touched, 1):
        feed.apply([entry(path, zxid)])
    latest = {path: zxid for zxid, path in enumerate(touched, 1)}
    expected = sorted((zxid, path) for path, zxid in latest.items() if zxid > have)
    assert [(one.zxid, one.path) for one in feed.since(have)] == expected


def test_feed_takes_no_old_news() -> None:
    feed = Feed("/s")
    assert feed.apply([entry("a", 5)]) and not feed.apply([entry("a", 4)]) and feed.zxid == 5


@given(st.lists(st.integers(1, 99), max_size=6), st.data())
def test_torn_index_ends_at_the_torn_record(zxids: list[int], data: st.DataObject) -> None:
    records = [Meta(shard="/s", seq=zxid, zxid=zxid, entries=(entry("p", zxid),)) for zxid in zxids]
    packed = [*(pack(record) for record in records), pack(Whole()), pack(Dropped(path="p"))]
    whole = b"".join(packed)
    cut = data.draw(st.integers(0, len(whole)))
    kept = unpack(whole[:cut])
    ends = [len(b"".join(packed[: n + 1])) for n in range(len(packed))]
    assert len(kept) == sum(end <= cut for end in ends)


@pytest.mark.parametrize("codec", ["none", "zlib"])
@pytest.mark.parametrize("materialise", [False, True])
def test_digest_covers_the_value_or_its_stored_form(codec: str, materialise: bool) -> None:
    raw = Blob.random(7, 5000, materialise=materialise)
    stored = raw.compress(codec)
    version = Version(version=1, zxid=1, codec=codec, alg="sha256")
    assert digest_of(stored, codec, version, "raw") == raw.checksum("sha256")
    assert digest_of(stored, codec, version, "wire") == stored.checksum("sha256")
    assert digest_of(raw, "none", version, "wire") == stored.checksum("sha256"), "in whatever form it is held"
    assert digest_of(stored.flip(3), codec, version, "raw") != raw.checksum("sha256")
