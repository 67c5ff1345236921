"""Runs in which Owl and its baselines do the same work on the same simulated network, and what each run came to.

Every function is one run from one seed, and returns figures by name; `benchmarks/owl.py` says which claims they bear
out. Source: ../shared/targets/owl.md section 6.
"""

from __future__ import annotations

import asyncio
from dataclasses import asdict, dataclass, replace
from random import Random
from statistics import median
from typing import Any

from zebra.cluster import Cluster
from zebra.events import History
from zebra.outcome import Outcome
from zebra.run import run
from zebra.spec import RunSpec
from zebra.target import Target
from zebra.targets.owl import TARGET
from zebra.targets.owl.baselines import BITTORRENT, HIERARCHICAL_CACHE, STATIC_TREE
from zebra.targets.owl.baselines.load import MeteredTracker
from zebra.targets.owl.baselines.measure import measure
from zebra.targets.owl.client import PeerWentDown
from zebra.targets.owl.config import ADVERT_EVERY_S
from zebra.targets.owl.forest import EXT
from zebra.targets.owl.invariants import Integrity
from zebra.targets.owl.policies import Bucket
from zebra.topology import Topology

MIB = 1 << 20
CHUNK = 8 * MIB
PER_RACK = 20
SLOW_RATE = "1Gbit/s"
"""A slow host's card: a tenth of the others'."""

METERED = replace(TARGET, roles={**TARGET.roles, "tracker": MeteredTracker})
SYSTEMS: dict[str, tuple[Target, dict[str, Any]]] = {
    "owl": (METERED, {}),
    "bt": (BITTORRENT, {}),
    "bt at once": (BITTORRENT, {"swarm.free_slots": "at_once"}),
    "tree2": (STATIC_TREE, {"tree.degree": 2}),
    "tree4": (STATIC_TREE, {"tree.degree": 4}),
    "stripes": (STATIC_TREE, {"tree.degree": 2, "tree.per": "chunk"}),
    "hcache": (HIERARCHICAL_CACHE, {}),
}


@dataclass(frozen=True, kw_only=True)
class Workload:
    """One object of `chunks` chunks, wanted by all peers (or the first `wanted`) at random times within `window_s`.

    Shares `slow` and `crash` of the peers have a tenth of the bandwidth, or lose their power at such a time.
    """

    peers: int
    chunks: int
    window_s: tuple[float, float]
    slow: float = 0.0
    crash: float = 0.0
    regions: int = 1
    racks: int = 0
    wanted: int = 0
    oversubscription: float = 4.0


def counts(target: Target, workload: Workload, racks: int) -> dict[str, int]:
    """Nodes per role. Owl has no superpeers here: no system gets helpers but those that it cannot do without."""
    extra = {"bt": {"tracker": 1}, "hcache": {"rackcache": racks * workload.regions, "regioncache": workload.regions}}
    roles = extra.get(target.name, {"tracker": 2 * workload.regions, "superpeer": 0} if target.name == "owl" else {})
    return {"store": workload.regions, "peer": workload.peers, **roles}


def simulate(scenario: Any, target: Target, topology: Topology, seed: int, settings: dict[str, Any],
             history: History | None = None) -> Outcome:  # fmt: skip
    """One run without the liveness phase, judged by integrity alone; raises what went wrong."""
    # chunks are not evicted for want of room, except where a workload is about that
    given = {"cache.capacity": 8 << 30, **settings}
    spec = RunSpec(
        target=target.name, topology=topology, seed=seed, timeout_s=3600.0,
        assignment={f"{target.name}.{name}": {"*": value} for name, value in given.items()},
    )  # fmt: skip
    judged = replace(target, invariants=(Integrity,), progress=None)
    outcome = run(scenario, spec, target=judged, history=history)
    outcome.raise_failure()
    return outcome


def spread(system: str, workload: Workload, seed: int) -> dict[str, float]:
    """One system distributes one object."""
    target, settings = SYSTEMS[system]
    racks = workload.racks or max(1, workload.peers // workload.regions // PER_RACK)
    random = Random(f"{seed}/workload")  # the same arrivals and the same slow hosts for every system
    peers = [f"peer-{n + 1}" for n in range(workload.peers)]
    window_s = random.uniform(*workload.window_s)
    starts = {peer: random.uniform(0, window_s) for peer in peers[: workload.wanted or None]}
    slow = random.sample(peers, round(workload.slow * workload.peers))
    doomed = random.sample(peers, round(workload.crash * workload.peers))
    crashes = {peer: random.uniform(0.1, window_s) for peer in doomed}
    control: dict[str, float] = {}

    async def scenario(cluster: Cluster) -> None:
        if slow:
            await cluster.inject("network.bandwidth", slow, rate=SLOW_RATE)
        name = await cluster.client.publish(workload.chunks * CHUNK)

        async def fetch(peer: str) -> None:
            await asyncio.sleep(starts[peer])
            try:
                await cluster.client.fetch(name, peer)
            except PeerWentDown:
                assert peer in crashes

        async def crash(peer: str) -> None:
            await asyncio.sleep(crashes[peer])
            await cluster.inject("host.crash", peer)

        await asyncio.gather(*map(fetch, starts), *map(crash, crashes))
        if target is METERED:
            meters = [cluster.role(tracker).meter for tracker in cluster.nodes("tracker")]
            control.update({kind: sum(meter.calls.get(kind, 0) for meter in meters) for kind in ("GetSource", "Done")})

    topology = Topology(counts=counts(target, workload, racks), regions=workload.regions, racks=racks,
                        oversubscription=workload.oversubscription)  # fmt: skip
    outcome = simulate(scenario, target, topology, seed, settings)
    found = asdict(measure(outcome.history, slow=slow))
    if control:
        fetched = sum(event["why"] == "done" for event in outcome.history.of("edge.close"))
        found["own_messages"] = (control["GetSource"] + control["Done"]) / fetched
    return found


def delegation(trackers: int, on: bool, seed: int) -> dict[str, float]:
    """24 peers ask one after the other, further apart than two advertisements; the most store reads of a chunk."""

    async def scenario(cluster: Cluster) -> None:
        name = await cluster.client.publish(2 * CHUNK)
        for peer in cluster.nodes("peer"):
            await cluster.client.fetch(name, peer)
            await asyncio.sleep(1.5 * ADVERT_EVERY_S)
        meters = [cluster.role(tracker).meter for tracker in cluster.nodes("tracker")]
        messages.append(sum(meter.calls.get(kind, 0) for meter in meters for kind in ("Delegate", "EdgeClosed")))

    messages: list[int] = []
    topology = Topology(counts={"tracker": trackers, "superpeer": 0, "store": 1, "peer": 24})
    variant = "" if on else "bug.lend_nothing"
    target = replace(METERED, invariants=(Integrity,), progress=None)
    spec = RunSpec(target="owl", topology=topology, seed=seed, variant=variant)
    outcome = run(scenario, spec, target=target)
    outcome.raise_failure()
    used = {event["tracker"] for event in outcome.history.of("owl.reg")}
    loans = sum(event["lent"] for event in outcome.history.of("edge.open"))
    found = {"external": measure(outcome.history).external, "trackers": len(used), "loans": loans}
    return {**found, "per_loan": messages[0] / loans if loans else 0.0}


def chain(length: int, frame: int, seed: int) -> dict[str, float]:
    """Each peer may serve one other: how long until the last of a chain has the object, and how deep it was."""

    async def scenario(cluster: Cluster) -> None:
        await cluster.client.push_policy("default", external_limit=1, uploads=1)
        name = await cluster.client.publish(32 * CHUNK)
        await cluster.client.fetch_everywhere(name)

    topology = Topology(counts={"tracker": 1, "superpeer": 0, "store": 1, "peer": length}, racks=1)
    found = measure(simulate(scenario, TARGET, topology, seed, {"transfer.frame_max": frame}).history)
    return {"last_s": found.published_last_s, "depth": found.depth, "hop_s": 1.2 * topology.latency_rack_s}


POLICIES = {
    "nearest, keep": Bucket(selection="nearest"),
    "random, keep": Bucket(selection="random"),
    "least loaded, keep": Bucket(selection="least_loaded"),
    "hash, superpeers": Bucket(selection="hash_superpeer", caching="superpeers"),
    "nearest, superpeers": Bucket(selection="nearest", caching="superpeers"),
    "nearest, copies": Bucket(selection="nearest", caching="copies"),
}
USES = {
    # name: (MiB of an object, objects, gets of each, window in s, MiB of a peer's cache, what it is judged by)
    "tiny hot": (1, 2, 160, 10.0, 256, "median get, ms"),
    "huge cold": (128, 4, 8, 60.0, 16, "copies read from the store"),
    "little memory": (64, 1, 40, 10.0, 16, "MiB left in ordinary peers' caches"),
}


def policy(name: str, use: str, seed: int) -> dict[str, float]:
    """One bucket policy on one workload: what the workload is judged by, lower is better."""
    size, objects, gets, window_s, cache, _ = USES[use]
    random = Random(f"{seed}/{use}")

    async def scenario(cluster: Cluster) -> None:
        for tracker in cluster.nodes("tracker"):
            cluster.role(tracker).buckets["default"] = POLICIES[name]
        names = [await cluster.client.publish(size * MIB) for _ in range(objects)]
        peers = cluster.nodes("peer")
        wishes = [(obj, peers[(at + n) % len(peers)]) for at, obj in enumerate(names) for n in range(gets)]

        async def fetch(obj: str, peer: str, at_s: float) -> None:
            await asyncio.sleep(at_s)
            await cluster.client.fetch(obj, peer)

        await asyncio.gather(*(fetch(obj, peer, random.uniform(0, window_s)) for obj, peer in wishes))
        await asyncio.sleep(2 * cluster.config.lease.ttl)

    topology = Topology(counts={"tracker": 2, "superpeer": 2, "store": 1, "peer": 40}, regions=2, oversubscription=4.0)
    history = simulate(scenario, TARGET, topology, seed, {"cache.capacity": cache * MIB}).history
    began, took = dict[tuple[str, str], list[float]](), list[float]()
    for event in history.of("get.start", "get.end"):  # gets of one object by one peer end in the order of their starts
        times = began.setdefault((event.node, event["object"]), [])
        if event.kind == "get.start":
            times.append(event.t)
        else:
            took.append(event.t - times.pop(0))
    if use == "huge cold":
        stores = {e["edge"] for e in history.of("edge.open") if e["parent"] == EXT}
        read = sum(event["len"] for event in history.of("owl.recv") if event["edge"] in stores)
        return {"score": read / (size * MIB * objects)}
    if use == "little memory":
        held: set[tuple[str, str]] = set()
        for event in history.of("owl.keep", "owl.evict"):
            (held.add if event.kind == "owl.keep" else held.discard)((event.node, event["chunk"]))
        kept = sum(not peer.startswith("superpeer") for peer, _ in held)
        return {"score": kept * CHUNK / MIB}
    return {"score": 1000 * median(took)}
