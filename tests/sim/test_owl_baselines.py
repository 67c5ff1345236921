"""Owl's baselines are what they claim to be, are measured by one measure, and the benchmark says what it found."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import zebra
from zebra import Cluster, Failed, Outcome, RunSpec, Target, Topology
from zebra.spec import decode_token
from zebra.target import find_target
from zebra.targets.owl import TARGET
from zebra.targets.owl.baselines import BITTORRENT, HIERARCHICAL_CACHE, STATIC_TREE
from zebra.targets.owl.baselines.bittorrent import Neighbour, Torrent
from zebra.targets.owl.baselines.experiments import Workload, spread
from zebra.targets.owl.baselines.load import LOAD, Meter
from zebra.targets.owl.baselines.measure import measure, quantile
from zebra.targets.owl.baselines.tree import ancestors
from zebra.targets.owl.messages import Manifest
from zebra.testing import event, history

BASELINES = {"BITTORRENT": BITTORRENT, "STATIC_TREE": STATIC_TREE, "HIERARCHICAL_CACHE": HIERARCHICAL_CACHE}
MIB = 1 << 20
CHUNK = 8 * MIB
ROOT = Path(__file__).parents[2]


def run(scenario: Any, target: Target, seed: int = 0, settings: dict[str, Any] | None = None,
        counts: dict[str, int] | None = None) -> Outcome:  # fmt: skip
    """One run on two racks; a setting is a value for all nodes, or values by node or role."""
    topology = Topology(counts={**target.topology.counts, **(counts or {})}, racks=2)
    assignment = {
        f"{target.name}.{name}": value if isinstance(value, dict) else {"*": value}
        for name, value in (settings or {}).items()
    }
    spec = RunSpec(target=target.name, topology=topology, seed=seed, assignment=assignment)
    return zebra.run(scenario, spec, target=target)


async def everywhere(cluster: Cluster) -> None:
    await cluster.client.fetch_everywhere(await cluster.client.publish(3 * CHUNK + 5))


@pytest.mark.parametrize("name", BASELINES)
def test_an_object_reaches_every_peer_whole(name: str) -> None:
    for seed in range(3):
        outcome = run(everywhere, BASELINES[name], seed)
        assert outcome.result == "pass", outcome.message
        assert "owl.integrity" in outcome.exercised
        ends = [e for e in outcome.history.of("get.end") if e["object"].endswith("-1")]
        assert len(ends) == 4 and all(e["ok"] for e in ends)


@pytest.mark.parametrize("name", BASELINES)
def test_one_seed_gives_one_history(name: str) -> None:
    first, second, other = (run(everywhere, BASELINES[name], seed) for seed in (3, 3, 4))
    assert first.history.digest() == second.history.digest() != other.history.digest()


@pytest.mark.parametrize("name", BASELINES)
def test_a_token_can_name_a_baseline(name: str) -> None:
    target = f"zebra.targets.owl.baselines:{name}"
    assert find_target(target) is BASELINES[name]
    spec, _ = decode_token(RunSpec(target=target).token())
    assert zebra.run(everywhere, spec).result == "pass"


@pytest.mark.parametrize("name", BASELINES)
def test_content_that_does_not_verify_is_not_delivered(name: str) -> None:
    """Neighbours that disagree about the checksum see each other's content as damaged."""
    failed: list[str] = []

    async def scenario(cluster: Cluster) -> None:
        obj = await cluster.client.publish(MIB)
        for peer in cluster.nodes("peer"):
            try:
                await cluster.client.fetch(obj, peer)
            except Failed:
                failed.append(peer)

    target = BASELINES[name]
    odd = {"BITTORRENT": "store", "STATIC_TREE": "peer:odd", "HIERARCHICAL_CACHE": "rackcache"}[name]
    settings = {"checksum.algorithm": {"*": "crc32c", odd: "sha256"}}
    outcome = run(scenario, replace(target, progress=None), settings=settings)
    assert outcome.result == "pass", outcome.message
    assert failed
    assert any(not e["ok"] for e in outcome.history.of("owl.verify"))
    assert all(e["digest"] for e in outcome.history.of("get.end") if e["ok"])


# -- the static tree -------------------------------------------------------------------------------------------------


@given(st.integers(1, 40), st.integers(1, 5), st.text(max_size=5))
def test_rendezvous_order_makes_one_tree_of_the_degree(hosts: int, degree: int, key: str) -> None:
    names = [f"peer-{n}" for n in range(hosts)]
    above = {name: ancestors(name, [n for n in names if n != name], key, degree) for name in names}
    (root,) = [name for name in names if not above[name]]
    for line in above.values():
        if line:
            assert line[-1] == root and above[line[0]] == line[1:]
    children = Counter(line[0] for line in above.values() if line)
    assert max(children.values(), default=0) <= degree


def test_a_dead_parent_is_skipped_after_the_idle_timeout_and_not_before() -> None:
    async def scenario(cluster: Cluster) -> None:
        obj = await cluster.client.publish(CHUNK)
        line = ancestors("peer-1", [p for p in cluster.nodes("peer") if p != "peer-1"], obj, 1)
        child = "peer-1" if line else "peer-2"
        parent = (line or ancestors("peer-2", [p for p in cluster.nodes("peer") if p != "peer-2"], obj, 1))[0]
        await cluster.inject("host.crash", parent)
        await cluster.client.fetch(obj, child)

    outcome = run(scenario, STATIC_TREE, settings={"tree.degree": 1})
    assert outcome.result == "pass", outcome.message
    crash, skip = outcome.history.of("node.crash")[0], outcome.history.of("owl.skip")[0]
    assert skip["parent"] == crash.node
    assert 5.0 <= skip.t - outcome.history.of("get.start")[0].t < 6.5


def test_a_striped_tree_has_other_roots_for_other_chunks() -> None:
    def roots(per: str) -> int:
        async def scenario(cluster: Cluster) -> None:
            await cluster.client.fetch_everywhere(await cluster.client.publish(12 * CHUNK))

        outcome = run(scenario, STATIC_TREE, settings={"tree.per": per, "cache.capacity": 1 << 30}, counts={"peer": 12})
        assert outcome.result == "pass", outcome.message
        external = [e for e in outcome.history.of("edge.open") if e["parent"] == "EXT"]
        return len({e["child"] for e in external if "object-1#" in e["chunk"]})

    assert roots("object") == 1 < roots("chunk")


# -- the hierarchical cache ------------------------------------------------------------------------------------------


def test_hosts_read_from_the_cache_of_their_rack_only_and_the_store_is_read_once() -> None:
    outcome = run(everywhere, HIERARCHICAL_CACHE, counts={"peer": 12})
    assert outcome.result == "pass", outcome.message
    racks = {place["node"]: place["rack"] for place in outcome.history.of("run")[0]["places"]}
    edges = [e for e in outcome.history.of("edge.open") if "object-1#" in e["chunk"]]
    for edge in edges:
        if edge["child"].startswith("peer"):
            assert edge["src"].startswith("rackcache") and racks[edge["src"]] == racks[edge["child"]]
        elif edge["child"].startswith("rackcache"):
            assert edge["src"] == "regioncache-1"
    assert sum(edge["parent"] == "EXT" for edge in edges) == 4


@pytest.mark.parametrize(("settings", "limit"), [({"hierarchy.quota": 1}, 1), ({"hierarchy.streams": 2}, 2)])
def test_quota_and_overload_refuse_and_everybody_still_gets_the_object(settings: dict[str, Any], limit: int) -> None:
    outcome = run(everywhere, HIERARCHICAL_CACHE, settings=settings, counts={"peer": 8})
    assert outcome.result == "pass", outcome.message
    busy = [e for e in outcome.history.of("edge.close") if e["why"] == "busy"]
    assert busy
    refused, going, most = {e["edge"] for e in busy}, Counter[str](), 0
    edges = {e["edge"]: e for e in outcome.history.of("owl.recv")}
    opened = {e["edge"]: e for e in outcome.history.of("edge.open") if e["src"].startswith("rackcache")}
    for e in outcome.history.of("owl.recv", "edge.close"):
        if e["edge"] in opened and e["edge"] not in refused and e["edge"] in edges:
            key = (opened[e["edge"]]["child"] if "hierarchy.quota" in settings else "") + opened[e["edge"]]["src"]
            if e.kind == "owl.recv" and e["off"] == 0:
                going[key] += 1
                most = max(most, going[key])
            elif e.kind == "edge.close":
                going[key] -= 1
    assert most == limit


# -- BitTorrent ------------------------------------------------------------------------------------------------------


def test_pieces_travel_whole_and_no_member_lets_more_than_its_slots() -> None:
    async def scenario(cluster: Cluster) -> None:
        obj = await cluster.client.publish(6 * CHUNK)
        await cluster.client.fetch_everywhere(obj)
        for node in cluster.nodes("peer"):
            (torrent,) = cluster.role(node).torrents.values()
            assert sum(neighbour.unchoked for neighbour in torrent.neighbours.values()) <= 4

    for free_slots in ("wait", "at_once"):
        outcome = run(scenario, BITTORRENT, settings={"swarm.free_slots": free_slots}, counts={"peer": 12})
        assert outcome.result == "pass", outcome.message
        assert {e["len"] for e in outcome.history.of("owl.recv") if "object-1#" in e["chunk"]} == {CHUNK}
        uploads: Counter[str] = Counter()
        for e in outcome.history.of("edge.open", "edge.close"):
            uploads[e["src"]] += 1 if e.kind == "edge.open" else -1
            assert uploads[e["src"]] <= (40 if e["src"].startswith("store") else 8)  # choked ones may finish a piece
        assert uploads


def test_slots_are_given_at_the_periods_unless_free_ones_are_given_at_once() -> None:
    def first_byte_s(free_slots: str) -> float:
        async def scenario(cluster: Cluster) -> None:
            await cluster.client.fetch(await cluster.client.publish(CHUNK), "peer-1")

        outcome = run(scenario, BITTORRENT, settings={"swarm.free_slots": free_slots})
        assert outcome.result == "pass", outcome.message
        return outcome.history.of("owl.recv")[0].t - outcome.history.of("get.start")[0].t

    assert first_byte_s("at_once") < 0.1
    assert 1.0 < first_byte_s("wait") < 2.1


def test_the_rarest_piece_is_asked_for_first() -> None:
    manifest = Manifest(object="o", length=4 * CHUNK, digest="")

    async def scenario(cluster: Cluster) -> None:
        torrent = Torrent(manifest, cluster.config, cluster._running.loop)  # type: ignore[attr-defined]
        for have in (0b0011, 0b0111, 0b1011):
            torrent.see(Neighbour(), have)
        assert torrent.copies == [3, 3, 1, 1]
        assert torrent.rarest(0b0111) == [2] and torrent.rarest(0b0011) == [0, 1] and torrent.rarest(0b1111) == [2, 3]
        torrent.see(Neighbour(have=0b0100), 0)
        assert torrent.copies == [3, 3, 0, 1]

    assert run(scenario, BITTORRENT).result == "pass"


# -- measuring -------------------------------------------------------------------------------------------------------


def places(**racks: str) -> list[dict[str, str]]:
    return [{"node": n.replace("_", "-"), "role": n[:-2], "rack": r, "region": r[:2]} for n, r in racks.items()]


def get(peer: str, start_s: float, end_s: float, ok: bool = True) -> list[zebra.Event]:
    fields = {"peer": peer, "object": "o"}
    return [event("get.start", node=peer, t=start_s, length=100, **fields),
            event("get.end", node=peer, t=end_s, ok=ok, why="late", **fields)]  # fmt: skip


def test_measures_are_what_the_history_says() -> None:
    one, two = get("peer-1", 2.0, 3.0), get("peer-2", 3.0, 7.0)
    edge = {"chunk": "o#0", "bucket": ""}
    found = measure(history(
        event("run", places=places(peer_1="r1-a", peer_2="r2-a", store_1="r1-b")),
        event("op.ok", node="client-1", t=1.0, f="publish"),
        one[0],
        event("edge.open", t=2.0, edge="a", child="peer-1", parent="EXT", src="store-1", **edge),
        event("owl.recv", node="peer-1", t=2.5, edge="a", len=100),
        one[1], two[0],
        event("edge.open", t=3.0, edge="b", child="peer-2", parent="peer-1", src="peer-1", **edge),
        event("owl.recv", node="peer-2", t=4.0, edge="b", len=100),
        two[1],
    ), slow=["peer-2"])  # fmt: skip
    assert (found.published_p50_s, found.published_last_s, found.get_p50_s, found.get_p99_s) == (2.0, 6.0, 1.0, 4.0)
    assert (found.healthy_p99_s, found.racks, found.regions, found.store) == (1.0, 1.0, 0.5, 0.5)
    assert (found.peers, found.reads, found.external, found.depth) == (2, 1, 1, 2)


def test_a_run_in_which_a_get_failed_or_nothing_happened_has_no_measures() -> None:
    start = [event("run", places=places(peer_1="r1-a"))]
    with pytest.raises(ValueError, match="did not get"):
        measure(history(*start, *get("peer-1", 1.0, 2.0, ok=False)))
    with pytest.raises(ValueError, match="no peer"):
        measure(history(*start))


@given(st.lists(st.integers(), min_size=1), st.floats(0.01, 1))
def test_a_quantile_is_a_value_that_a_share_does_not_exceed(values: list[int], share: float) -> None:
    found = quantile(values, share)
    assert found in values
    assert sum(v <= found for v in values) >= share * len(values) - 1e-6
    assert sum(v < found for v in values) < share * len(values)


def test_the_load_generator_meets_the_real_tracker() -> None:
    chunks, meter, ticks = ["hot#0", "hot#1"], Meter(), iter(range(10**9))
    meter.cpu_ns = lambda: next(ticks)

    async def scenario(cluster: Cluster) -> None:
        tracker = cluster.role("tracker-1")
        tracker.invite(300, 280, chunks)
        tracker.meter = tracker.delegation.meter = meter
        await cluster.client.play(280, 20, Manifest(object="hot", length=2 * CHUNK, digest=""), chunks)
        assert len(tracker.members) == 300
        assert all(list(member.kept) == chunks for member in tracker.members.values())

    outcome = zebra.run(scenario, RunSpec(target="owl"), target=LOAD)
    assert outcome.result == "pass", outcome.message
    assert {kind: meter.calls[kind] for kind in ("Register", "GetSource", "Done", "Heartbeat")} == {
        "Register": 20, "GetSource": 40, "Done": 40, "Heartbeat": 20,
    }  # fmt: skip
    assert all(meter.spent_ns[kind] > 0 for kind in meter.calls)
    opened = outcome.history.of("edge.open")
    assert len(opened) == 40 and not any(e["parent"] == "EXT" for e in opened)


def test_an_oversubscribed_uplink_slows_down_what_crosses_racks_and_nothing_else() -> None:
    def took_s(system: str, oversubscription: float, racks: int) -> float:
        load = Workload(peers=16, chunks=4, window_s=(0.01, 0.01), racks=racks, oversubscription=oversubscription)
        return spread(system, load, 0)["published_last_s"]

    assert took_s("stripes", 16.0, 4) > 2 * took_s("stripes", 1.0, 4)
    assert took_s("stripes", 16.0, 1) == took_s("stripes", 1.0, 1)


# -- the benchmark ---------------------------------------------------------------------------------------------------


def test_the_quick_benchmark_has_its_shape_and_its_direction() -> None:
    command = [sys.executable, str(ROOT / "benchmarks" / "owl.py"), "--quick", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    claims = {line["claim"]: line for line in found["claims"]}
    assert len(claims) == len(found["claims"]) > 40
    for line in claims.values():
        assert len(line["values"]) == 1 and line["verdict"] in ("reproduced", "NOT reproduced", "-")
        assert (line["verdict"] == "-") == (line["holds"] is None)
    value = {claim: line["values"][0] for claim, line in claims.items()}
    for trackers in (1, 2, 8):
        assert value[f"{'null: ' * (trackers == 1)}store reads of a chunk, {trackers} trackers, with delegation"] == 1
    assert value["store reads of a chunk, 8 trackers, without delegation"] > 1
    racks = {system: value[f"bytes across racks per byte delivered, {system}"] for system in ("owl", "bt", "hcache")}
    assert racks["owl"] < 0.15 < 0.8 < racks["bt"] and racks["hcache"] < racks["bt"]
    assert value["null: one rack, bytes across racks of Owl and BitTorrent"] == 0
    assert value["Owl against BitTorrent: median since publication, crowd"] > 1.8
    depths = [value[claim] for claim in value if claim.startswith("depth: a chain of 10")]
    assert depths[1] < depths[0] < depths[2]  # frames of 256 KiB, 1 MiB, and of a chunk
    assert value["requests to a tracker per chunk fetched (GetSource, Done)"] <= 3
    systems = {(row["workload"], row["system"]) for row in found["measures"]}
    assert systems >= {("crowd", name) for name in ("owl", "bt", "tree2", "hcache")}


def test_bad_numbers_are_refused_in_one_line() -> None:
    command = [sys.executable, str(ROOT / "benchmarks" / "owl.py"), "--seeds", "0"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2 and "at least 1" in done.stderr.splitlines()[-1]


def test_owl_itself_is_not_changed_by_being_measured() -> None:
    """A metered tracker makes the very history that Owl's own makes."""
    from zebra.targets.owl.baselines.experiments import METERED

    histories = [run(everywhere, target, 5).history.digest() for target in (TARGET, METERED)]
    assert histories[0] == histories[1]
