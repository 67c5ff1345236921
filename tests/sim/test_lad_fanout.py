"""The baseline does what ZooKeeper does: one-shot watches, everybody reads everything, one pipeline per member."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

import pytest

import zebra
from zebra import Cluster, Outcome, RunSpec, Target, Topology
from zebra.blob import Blob
from zebra.node import Node
from zebra.rpc import Rpc
from zebra.targets.lad.config import LadConfig
from zebra.targets.lad.fanout import REQUEST_S, SERVE_RATE, Observer, Watcher
from zebra.targets.lad.store import Store
from zebra.targets.lad.store_client import StoreClient
from zebra.targets.lad.store_invariants import STORE_INVARIANTS, VARIANTS, WatchersFresh
from zebra.targets.lad.store_messages import WIRE, Follow, Forward, Put, Write
from zebra.testing import check_invariant, event, history


class Writer:
    """Writes through an observer, or to the store directly, and tells watchers what to follow."""

    def __init__(self, node: Node[LadConfig]) -> None:
        self.node, self.number = node, 0

    async def run(self) -> None:
        self.store, self.rpc = StoreClient(self.node), Rpc(self.node, WIRE)
        await self.node.ready()
        await asyncio.Event().wait()

    async def write(self, path: str, size: int = 100, through: str = "") -> float:
        """Write a value; how long that took, in seconds."""
        began_s, blob = asyncio.get_running_loop().time(), Blob.random(self.number, size, materialise=False)
        self.number += 1
        if through:
            put = Put(path=path, data=blob)
            await self.rpc.call(through, Forward(write=Write(id=f"w{self.number}", ops=(put,))), 600.0)
        else:
            await self.store.write(path, blob)
        return asyncio.get_running_loop().time() - began_s

    async def follow(self, path: str) -> None:
        await asyncio.gather(*(self.rpc.call(w, Follow(path=path), 600.0) for w in self.node.up("watcher")))


async def everybody_reads(cluster: Cluster) -> None:
    await cluster.client.follow("/progress")
    await cluster.client.write("/progress")
    version = [e for e in cluster.history if e.kind == "commit"][-1]["version"]
    await cluster.until(lambda: fresh(cluster, "/progress", version))


BASELINE = Target(
    name="fanout",
    config=LadConfig,
    roles={"store": Store, "observer": Observer, "watcher": Watcher},
    client=Writer,
    topology=Topology(counts={"store": 3, "observer": 2, "watcher": 10}),
    invariants=STORE_INVARIANTS,
    variants=VARIANTS,
    progress=everybody_reads,
)


def run(scenario: Any, seed: int = 0, variant: str = "", counts: dict[str, int] | None = None) -> Outcome:
    topology = BASELINE.topology.with_counts(counts or {})
    return zebra.run(scenario, RunSpec(target="fanout", topology=topology, seed=seed, variant=variant), target=BASELINE)


def passes(scenario: Any, seed: int = 0, **counts: int) -> Outcome:
    outcome = run(scenario, seed, counts=counts)
    assert outcome.result == "pass", f"seed {seed}: {outcome.message}"
    return outcome


def fresh(cluster: Cluster, path: str, version: int) -> bool:
    have = {e.node for e in cluster.history if e.kind == "watch.read" and (e["path"], e["version"]) == (path, version)}
    return have >= set(cluster.up("watcher"))


async def two_quick_writes(cluster: Cluster) -> None:
    await cluster.client.follow("/a")
    for _ in range(6):
        for _ in range(2):
            await cluster.client.write("/a")
        await asyncio.sleep(0.5)
    await asyncio.sleep(7.0)


async def quick_writes_between_read_and_arming(cluster: Cluster) -> None:
    """Writes so close that some fall between a read and the arming that follows it, if those are two steps."""
    await cluster.client.follow("/a")
    for number in range(20):
        first = asyncio.ensure_future(cluster.client.write("/a"))
        await asyncio.sleep(number * 100e-6)
        await cluster.client.write("/a")
        await first
        await asyncio.sleep(7.0)


def test_every_watcher_reads_every_change_in_full() -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.client.follow("/a")
        for version in range(1, 4):
            await cluster.client.write("/a", 1 << 20)
            await cluster.until(partial(fresh, cluster, "/a", version))

    outcome = passes(scenario)
    reads = [e for e in outcome.history.of("store.read") if e["path"] == "/a"]
    assert len(reads) == 3 * 10


def test_watchers_end_at_the_last_version_of_a_burst() -> None:
    for seed in range(8):
        passes(two_quick_writes, seed)
        passes(quick_writes_between_read_and_arming, seed)


def test_watchers_go_to_another_observer_when_theirs_is_lost() -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.client.follow("/a")
        await cluster.client.write("/a")
        async with cluster.fault("host.stop", "observer-1"):
            await cluster.client.write("/a")
            await cluster.until(lambda: fresh(cluster, "/a", 2))
        await cluster.client.write("/a")
        await cluster.until(lambda: fresh(cluster, "/a", 3))

    passes(scenario)


def test_observer_that_was_away_learns_what_it_missed() -> None:
    async def scenario(cluster: Cluster) -> None:
        async with cluster.fault("host.crash", "observer-2"):
            for number in range(1500):
                await cluster.client.write(f"/b/{number % 50}")
        await cluster.client.follow("/b/7")
        await cluster.until(lambda: fresh(cluster, "/b/7", 30))

    passes(scenario)


def test_pipeline_serves_one_after_the_other() -> None:
    """Ten reads of 10 MB and a write behind them: the write waits for all of them."""
    took: list[float] = []

    async def scenario(cluster: Cluster) -> None:
        await cluster.client.follow("/hot")
        await cluster.client.write("/hot", 10_000_000)
        await cluster.event("watch.read", path="/hot")
        took.append(await cluster.client.write("/cold", through="observer-1"))
        took.append(await cluster.client.write("/colder"))
        await cluster.until(lambda: fresh(cluster, "/hot", 1))

    passes(scenario, observer=1)
    through, direct = took
    assert 8 * 10_000_000 / SERVE_RATE < through < 12 * (10_000_000 / SERVE_RATE + REQUEST_S) + 0.05
    assert direct < through / 10


def test_invariant_catches_a_watch_that_is_lost_between_read_and_arming() -> None:
    outcome = run(quick_writes_between_read_and_arming, variant="bug.watch_gap")
    assert outcome.violation is not None and outcome.violation.invariant == "lad.watchers_fresh", outcome.message
    passes(quick_writes_between_read_and_arming)


def test_watchers_fresh_accepts_and_refuses() -> None:
    events = [
        event("watch.follow", node="w", t=0.0, path="/a"),
        event("commit", node="s", t=1.0, path="/a", zxid=1, full=1),
    ]
    read = event("watch.read", node="w", t=4.0, path="/a", version=1)
    later = event("x", t=20.0)
    assert check_invariant(WatchersFresh, history(*events, read, later)) is None
    found = check_invariant(WatchersFresh, history(*events, later))
    assert found is not None and "w never read /a version 1" in found.message


@pytest.mark.parametrize("watchers", [1, 40])
def test_one_seed_gives_one_history(watchers: int) -> None:
    first, second = (run(two_quick_writes, 5, counts={"watcher": watchers}).history.digest() for _ in range(2))
    assert first == second
