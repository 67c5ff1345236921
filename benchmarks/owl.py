"""Owl beside three baselines: which of its published claims the simulation reproduces, and which it does not.

    python benchmarks/owl.py [--seeds 5] [--peers 100] [--chunks 64] [--quick] [--json]

Each line of the table is a claim with the figure of its source, what was measured here (median over the seeds, lowest
and highest in brackets) and whether it counts as reproduced, by the bounds of ../shared/targets/owl.md section 6. Owl,
the BitTorrent-like swarm, the static tree and the hierarchical cache are roles on one simulated network: the same
cards, uplinks, latencies and contents, checked by each receiver.
Null cases are set up so that the claim should show no advantage.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import multiprocessing
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import median
from time import thread_time_ns  # as it is outside of simulations
from typing import Any

import zebra
from zebra import Cluster, History, RunSpec, Topology
from zebra.targets.owl import TARGET
from zebra.targets.owl.baselines.experiments import (
    CHUNK,
    MIB,
    PER_RACK,
    POLICIES,
    USES,
    Workload,
    chain,
    delegation,
    policy,
    simulate,
    spread,
)
from zebra.targets.owl.baselines.load import LOAD, Meter
from zebra.targets.owl.messages import Manifest


def control(peers: int, seed: int) -> dict[str, float]:
    """CPU time of one real tracker per operation, when so many peers are registered and keep the hot chunks."""
    chunks = [f"hot#{n}" for n in range(4)]
    manifest = Manifest(object="hot", length=len(chunks) * CHUNK, digest="")
    played = 400

    async def scenario(cluster: Cluster) -> None:
        tracker = cluster.role("tracker-1")
        tracker.invite(peers, peers - played, chunks)
        first, share = peers - played, played // len(cluster.clients)
        await cluster.client.play(first, share, manifest, chunks)  # a tracker indexes a forest when it is first asked
        tracker.meter = tracker.delegation.meter = meter
        for index, driver in enumerate(cluster.clients[1:], 1):
            await driver.play(first + index * share, share, manifest, chunks)
        await asyncio.sleep(3.0)

    meter = Meter()
    meter.cpu_ns = thread_time_ns
    spec = RunSpec(target="owl", seed=seed, assignment={"owl.lease.ttl": {"*": 60.0}})
    zebra.run(scenario, spec, target=LOAD).raise_failure()
    per_call = {kind: meter.spent_ns[kind] / calls / 1000 for kind, calls in meter.calls.items()}
    operations = ("Register", "GetSource", "Done", "Heartbeat")
    spent = sum(meter.spent_ns[kind] for kind in operations) / sum(meter.calls[kind] for kind in operations)
    return {"operation_us": spent / 1000, "upkeep_us_per_peer": per_call["upkeep"] / peers,
            "messages": (meter.calls["GetSource"] + meter.calls["Done"]) / meter.calls["Done"],
            **per_call}  # fmt: skip


def whole_peers(peers: int, seed: int) -> dict[str, float]:
    """Bytes of memory, and CPU seconds, that one whole peer takes that gets four hot chunks; events go to a file."""
    found: dict[str, float] = {}

    def resident() -> int:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    async def scenario(cluster: Cluster) -> None:
        await cluster.client.fetch_everywhere(await cluster.client.publish(4 * CHUNK))
        gc.collect()
        found["bytes"] = (resident() - before) / peers

    gc.collect()
    before, began_ns = resident(), thread_time_ns()
    topology = Topology(counts={"tracker": 2, "superpeer": 0, "store": 1, "peer": peers}, racks=-(-peers // PER_RACK))
    with tempfile.TemporaryDirectory() as directory:
        history = History(Path(directory) / "history.jsonl")
        simulate(scenario, TARGET, topology, seed, {}, history)
    return {**found, "cpu_s": (thread_time_ns() - began_ns) / 1e9 / peers}


# -- which runs ------------------------------------------------------------------------------------------------------

Job = tuple[Callable[..., dict[str, float]], tuple[Any, ...]]


@dataclass
class Runs:
    """The jobs to do, and afterwards what each came to."""

    seeds: int
    jobs: list[Job] = field(default_factory=list)
    results: dict[tuple[Any, ...], dict[str, float]] = field(default_factory=dict)

    def want(self, function: Callable[..., dict[str, float]], *arguments: Any) -> None:
        for seed in range(self.seeds):
            self.jobs.append((function, (*arguments, seed)))

    def carry_out(self, workers: int) -> None:
        """Each job in one of the worker processes, the long ones first as they were wanted."""
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(workers, mp_context=context) as pool:
            futures = [(job, pool.submit(job[0], *job[1])) for job in dict.fromkeys(self.jobs)]
            for done, ((function, arguments), future) in enumerate(futures, 1):
                self.results[(function.__name__, *arguments)] = future.result()
                print(f"\r{done} of {len(futures)} runs", end="", file=sys.stderr, flush=True)
        print(file=sys.stderr)

    def of(self, key: str, function: Callable[..., Any], *arguments: Any) -> list[float]:
        """One figure of a job, for each seed."""
        return [self.results[(function.__name__, *arguments, seed)][key] for seed in range(self.seeds)]

    def ratio(self, key: str, workload: Workload, other: str, system: str) -> list[float]:
        """How many times as long another system takes, for each seed."""
        theirs, ours = (self.of(key, spread, name, workload) for name in (other, system))
        return [a / b for a, b in zip(theirs, ours, strict=True)]


@dataclass(frozen=True, kw_only=True)
class Workloads:
    """`staggered` is the specification's; `crowd` is its flash crowd; the others vary these."""

    staggered: Workload
    crowd: Workload
    slow_crowd: Workload
    crashes: Workload
    two_regions: Workload
    one_rack: Workload
    wide: Workload
    alone: Workload

    @classmethod
    def of(cls, peers: int, chunks: int) -> Workloads:
        crowd = Workload(peers=peers, chunks=chunks // 2, window_s=(0.5, 0.5))
        return cls(
            staggered=Workload(peers=peers, chunks=chunks, window_s=(5.0, 10.0), slow=0.05),
            crowd=crowd,
            slow_crowd=replace(crowd, slow=0.05, chunks=chunks // 4),
            crashes=Workload(peers=peers, chunks=chunks // 4, window_s=(5.0, 10.0), crash=0.05),
            two_regions=replace(crowd, peers=peers // 2, chunks=chunks // 4, regions=2),
            wide=replace(crowd, peers=10 * PER_RACK, chunks=max(1, chunks // 16)),
            one_rack=replace(crowd, peers=PER_RACK, racks=1),
            alone=replace(crowd, peers=PER_RACK, wanted=1),
        )


MAIN = ("owl", "bt", "bt at once", "tree2", "tree4", "hcache")
CROWD = tuple(system for system in MAIN if system != "tree4")


def plan(runs: Runs, loads: Workloads, sizes: Sequence[int], whole: int, uses: Sequence[str]) -> None:
    runs.jobs.append((whole_peers, (whole, 0)))  # first, in a process whose memory nobody has used yet
    for workload, systems in (
        (loads.staggered, MAIN),
        (loads.crowd, (*CROWD, "stripes")),
        (loads.slow_crowd, ("owl", "stripes")),
        (loads.crashes, ("owl", "tree2")),
        (loads.two_regions, ("owl", "bt", "tree2", "hcache")),
        (loads.one_rack, ("owl", "bt")),
        (loads.wide, ("owl", "bt", "tree2", "hcache")),
        (loads.alone, ("owl", "bt at once", "tree2")),
    ):
        for system in systems:
            runs.want(spread, system, workload)
    for size in sizes:
        runs.want(control, size)
    for trackers in (1, 2, 8):
        for on in (True, False):
            runs.want(delegation, trackers, on)
    for length, frame in ((n, size) for size in (MIB, MIB // 4, CHUNK) for n in (1, 10)):
        runs.want(chain, length, frame)
    for use in uses:
        for name in POLICIES:
            runs.want(policy, name, use)


# -- what they say ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Line:
    """One line of the table: `values` per seed; `holds` says whether a claim counts as reproduced; None: it is none."""

    claim: str
    source: str
    values: list[float]
    bound: str
    holds: bool | None
    note: str = ""

    @property
    def verdict(self) -> str:
        if self.holds is None:
            return "-"
        return "reproduced" if self.holds else "NOT reproduced"


def judge(runs: Runs, loads: Workloads, sizes: Sequence[int], whole: int, uses: Sequence[str]) -> list[Line]:
    """All claims, in the order of the specification."""
    lines = [*speed(runs, loads), *places(runs, loads), *lending(runs), *depth(runs)]
    return [*lines, *central(runs, loads, sizes, whole), *many_policies(runs, uses)]


def floor_s(workload: Workload) -> float:
    """How long a card needs for the object alone."""
    return workload.chunks * CHUNK / Topology().nic_rate


WHY = {
    "median get, staggered": "few download at a time and who is done serves, so both run near the rate of a card",
    "p99, 5 % crash": "Owl offers a dead peer until somebody has waited for it, 1 s to connect or 5 s of silence",
}
"""What was found to be behind a result below its bound."""

SLOTS = "above the band: a member waits up to 2 s for slots, which is long beside this object, compare `at once`"


def speed(runs: Runs, loads: Workloads) -> list[Line]:
    lines: list[Line] = []

    def times(key: str, workload: Workload, *systems: str) -> str:
        found = ", ".join(f"{system} {median(runs.of(key, spread, system, workload)):.3f}" for system in systems)
        return f"{found} s; the object alone takes a card {floor_s(workload):.3f} s"

    def faster(than: str, name: str, workload: Workload, key: str, what: str, low: float, high: float) -> None:
        bound = f"{low:g} to {high:g}" if high < 100 else f">= {low:g}"
        values = runs.ratio(key, workload, than, "owl")
        ratio = median(values)
        why = SLOTS if ratio > high else WHY.get(what, "") if ratio < low else ""
        lines.append(Line(
            claim=f"Owl against {name}: {what}", source="2-3x", values=values, bound=bound,
            holds=low <= ratio <= high, note=f"{times(key, workload, than, 'owl')}{'; ' * bool(why)}{why}",
        ))  # fmt: skip

    others = {"bt": ("BitTorrent", 3.5), "bt at once": ("BitTorrent that gives free slots away at once", 3.5)}
    others |= {"tree2": ("tree of degree 2", 1e9), "tree4": ("tree of degree 4", 1e9), "hcache": ("hierarchy", 1e9)}
    for than, (name, high) in others.items():
        faster(than, name, loads.staggered, "get_p50_s", "median get, staggered", 1.8, high)
        faster(than, name, loads.staggered, "healthy_p99_s", "p99 of healthy hosts, staggered", 1.8, 1e9)
        if than in CROWD:
            faster(than, name, loads.crowd, "published_p50_s", "median since publication, crowd", 1.8, 1e9)
    faster("tree2", "tree of degree 2", loads.crashes, "get_p99_s", "p99, 5 % crash", 1.8, 1e9)
    faster("stripes", "striped tree", loads.slow_crowd, "healthy_p99_s", "p99 of healthy hosts, slow hosts", 1.8, 1e9)

    def null(claim: str, values: list[float], low: float, high: float, note: str) -> None:
        holds = low <= median(values) <= high
        lines.append(Line(claim=f"null: {claim}", source="about 1", values=values, bound=f"{low:g} to {high:g}",
                          holds=holds, note=note))  # fmt: skip

    null("striped tree, no slow hosts, median since publication",
         runs.ratio("published_p50_s", loads.crowd, "stripes", "owl"), 0.7, 1.4,
         times("published_p50_s", loads.crowd, "stripes", "owl"))  # fmt: skip
    null("BitTorrent, p99 over all hosts, the slow ones too, staggered",
         runs.ratio("get_p99_s", loads.staggered, "bt", "owl"), 0.7, 1.4,
         times("get_p99_s", loads.staggered, "bt", "owl"))  # fmt: skip
    null("BitTorrent that gives free slots away at once, one peer alone",
         runs.ratio("get_p50_s", loads.alone, "bt at once", "owl"), 0.7, 1.4,
         times("get_p50_s", loads.alone, "bt at once", "owl"))  # fmt: skip
    null("tree, one peer alone", runs.ratio("get_p50_s", loads.alone, "tree2", "owl"), 0.7, 1.4,
         times("get_p50_s", loads.alone, "tree2", "owl"))  # fmt: skip
    return lines


def places(runs: Runs, loads: Workloads) -> list[Line]:
    lines = []
    for system, bound in (("owl", "< 0.15"), ("bt", "> 0.8"), ("tree2", ""), ("hcache", "")):
        values = runs.of("racks", spread, system, loads.wide)
        holds = {"owl": median(values) < 0.15, "bt": median(values) > 0.8}.get(system)
        lines.append(Line(claim=f"bytes across racks per byte delivered, {system}", source="in-rack is cheaper",
                          values=values, bound=bound, holds=holds, note="ten racks"))  # fmt: skip
        values = runs.of("regions", spread, system, loads.two_regions)
        lines.append(Line(claim=f"bytes across regions per byte delivered, {system}", source="in-rack is cheaper",
                          values=values, bound="", holds=None, note="two regions, a store in each"))  # fmt: skip
    values = [a + b for a, b in zip(runs.of("racks", spread, "owl", loads.one_rack),
                                    runs.of("racks", spread, "bt", loads.one_rack), strict=True)]  # fmt: skip
    lines.append(Line(claim="null: one rack, bytes across racks of Owl and BitTorrent", source="0", values=values,
                      bound="0", holds=max(values) == 0))  # fmt: skip
    for system in ("owl", "bt", "tree2", "hcache"):
        values = runs.of("store", spread, system, loads.staggered)
        lines.append(Line(claim=f"copies read from the store, {system}", source="", values=values, bound="",
                          holds=None))  # fmt: skip
    return lines


def lending(runs: Runs) -> list[Line]:
    lines = []
    for trackers in (1, 2, 8):
        for on in (True, False):
            values = runs.of("external", delegation, trackers, on)
            used = runs.of("trackers", delegation, trackers, on)
            expected = [1.0] * len(values) if on else used
            what = "null: " if trackers == 1 else ""
            lines.append(Line(
                claim=f"{what}store reads of a chunk, {trackers} trackers, {'with' if on else 'without'} delegation",
                source="1" if on else "one per tracker", values=values, bound=f"= {median(expected):g}",
                holds=values == expected, note=f"trackers that had peers: {', '.join(f'{n:g}' for n in used)}",
            ))  # fmt: skip
    return lines


def depth(runs: Runs) -> list[Line]:
    lines = []
    for frame, title in ((MIB, "frames of 1 MiB"), (MIB // 4, "frames of 256 KiB"), (CHUNK, "null: frames of a chunk")):
        short, long = (runs.of("last_s", chain, length, frame) for length in (1, 10))
        allowed = [10 * hop + 0.05 * t for hop, t in zip(runs.of("hop_s", chain, 10, frame), short, strict=True)]
        values = [1000 * (b - a) for a, b in zip(short, long, strict=True)]
        within, null = median(values) <= 1000 * median(allowed), frame == CHUNK
        shared = 1000 * 4 * frame / Topology().nic_rate
        deep = runs.of("depth", chain, 10, frame)
        lines.append(Line(claim=f"depth: a chain of 10 takes longer than one peer by ms, {title}",
                          source="more" if null else "hardly any", values=values,
                          bound=f"{'>' if null else '<='} {1000 * median(allowed):.1f}",
                          holds=within != null and min(deep) == 10,
                          note=f"one peer {1000 * median(short):.0f} ms, depth {min(deep):g}; a hop is a frame, "
                               f"{shared:.1f} ms while 4 chunks share the card"))  # fmt: skip
    return lines


def central(runs: Runs, loads: Workloads, sizes: Sequence[int], whole: int) -> list[Line]:
    own = runs.of("own_messages", spread, "owl", loads.staggered)
    lent = runs.of("per_loan", delegation, 8, True)
    small, large = sizes[0], sizes[-1]
    lines = [
        Line(claim="requests to a tracker per chunk fetched (GetSource, Done)", source="<= 3", values=own, bound="<= 3",
             holds=median(own) <= 3, note="each is answered; with the answers twice as many messages"),
        Line(claim="messages between trackers per loan (Delegate, EdgeClosed)", source="<= 2", values=lent,
             bound="<= 2", holds=0 < median(lent) <= 2, note="8 trackers; refused requests count too"),
    ]  # fmt: skip
    for key, title in (("operation_us", "operation"), ("GetSource", "GetSource"), ("Done", "Done"),
                       ("upkeep_us_per_peer", "peer of the upkeep each second")):  # fmt: skip
        costs = {size: runs.of(key, control, size) for size in sizes}
        growth = [b / a for a, b in zip(costs[small], costs[large], strict=True)]
        cpu = ", ".join(f"{size:,}: {median(cost):.2f}" for size, cost in costs.items())
        judged = key == "operation_us"
        lines.append(Line(claim=f"tracker's CPU per {title}, {large:,} peers against {small:,}",
                          source="< 1.2" if judged else "", values=growth, bound="< 1.2" if judged else "",
                          holds=median(growth) < 1.2 if judged else None, note=f"us, by peers: {cpu}"))  # fmt: skip
    each, cpu_s = (runs.results["whole_peers", whole, 0][key] for key in ("bytes", "cpu_s"))
    note = f"from {whole}: {each / 1024:.0f} KiB and {1000 * cpu_s:.1f} ms of CPU each for 4 chunks; above, the "
    lines.append(Line(claim="GiB that 100,000 whole peers would take", source="", values=[each * 1e5 / 2**30], bound="",
                      holds=None, note=f"{note}tracker is real and its peers are a load generator's"))  # fmt: skip
    return lines


def many_policies(runs: Runs, uses: Sequence[str]) -> list[Line]:
    scores = {use: {name: median(runs.of("score", policy, name, use)) for name in POLICIES} for use in uses}
    best = {use: {n for n in POLICIES if scores[use][n] <= 1.05 * min(scores[use].values())} for use in uses}
    lines = []
    for use in uses:
        ranked = "; ".join(f"{name}: {scores[use][name]:.3g}" for name in sorted(POLICIES, key=scores[use].__getitem__))
        lines.append(Line(claim=f"policies on {use!r}: best of six ({USES[use][5]})", source="", bound="", holds=None,
                          values=[min(scores[use].values())], note=ranked))  # fmt: skip
    everywhere = set(POLICIES).intersection(*best.values())
    lines.append(Line(claim="policies that are best (within 5 %) on all workloads", source="0 (55 policies in use)",
                      values=[float(len(everywhere))], bound="0", holds=not everywhere,
                      note="; ".join(sorted(everywhere)) or "none"))  # fmt: skip
    return lines


def figure(values: Sequence[float]) -> str:
    """Median, and the spread if there is one."""
    texts = [f"{value:.3g}" for value in (median(values), min(values), max(values))]
    return texts[0] if len(values) == 1 else f"{texts[0]} [{texts[1]}..{texts[2]}]"


def measures(runs: Runs, loads: Workloads) -> list[dict[str, Any]]:
    """The same figures of every system on the main workloads: medians over the seeds."""
    keys = ("published_p50_s", "published_p99_s", "published_last_s", "get_p50_s", "healthy_p99_s", "racks", "store")
    found = []
    for name, workload, systems in (("staggered", loads.staggered, MAIN), ("crowd", loads.crowd, CROWD)):
        for system in systems:
            row = {key: round(median(runs.of(key, spread, system, workload)), 3) for key in keys}
            found.append({"workload": name, "system": system, **row})
    return found


def table(found: dict[str, Any]) -> str:
    """The measurement as Markdown."""
    rows = [[line["claim"], line["source"], line["result"], line["bound"], line["verdict"], line["note"]]
            for line in found["claims"]]  # fmt: skip
    text = [f"{found['peers']} peers, {found['chunks']} chunks of 8 MiB, seeds 0 to {found['seeds'] - 1}", ""]
    text += _markdown(["claim", "source", "median [spread]", "counts if", "verdict", "note"], rows)
    text += ["", *_markdown(list(found["measures"][0]), [list(row.values()) for row in found["measures"]])]
    return "\n".join(text)


def _markdown(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[str]:
    lines = ["| " + " | ".join(map(str, row)) + " |" for row in (head, *rows)]
    return [lines[0], "|" + "---|" * len(head), *lines[1:]]


def run(seeds: int, peers: int, chunks: int, quick: bool, workers: int) -> dict[str, Any]:
    """Everything; `quick` on fewer sizes and policies."""
    loads = Workloads.of(peers, chunks)
    sizes, whole = ((1_000, 4_000), 100) if quick else ((1_000, 10_000, 100_000), 1_000)
    uses = list(USES)
    runs = Runs(seeds)
    plan(runs, loads, sizes, whole, uses)
    runs.carry_out(workers)
    lines = judge(runs, loads, sizes, whole, uses)
    claims = [{**asdict(line), "result": figure(line.values), "verdict": line.verdict} for line in lines]
    return {"seeds": seeds, "peers": peers, "chunks": chunks, "quick": quick, "claims": claims,
            "measures": measures(runs, loads)}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5, help="seeds 0 to N-1")
    parser.add_argument("--peers", type=int, default=100, help="peers of the main workloads, 20 to a rack")
    parser.add_argument("--chunks", type=int, default=64, help="chunks of 8 MiB of an object")
    parser.add_argument("--workers", type=int, default=2, help="processes")
    parser.add_argument("--quick", action="store_true", help="one seed, 40 peers, 8 chunks: shape and direction only")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    if min(options.seeds, options.workers) < 1 or options.peers < 40 or options.chunks < 8:
        parser.error("--seeds and --workers are at least 1, --peers at least 40, --chunks at least 8")
    seeds, peers, chunks = (1, 40, 8) if options.quick else (options.seeds, options.peers, options.chunks)
    found = run(seeds, peers, chunks, options.quick, options.workers)
    print(json.dumps(found, indent=2) if options.json else table(found))


if __name__ == "__main__":
    main()
