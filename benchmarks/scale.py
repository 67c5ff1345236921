"""What large clusters cost in simulation: idle hosts, and one object that goes to thousands of Owl peers.

    python benchmarks/scale.py [--idle-hosts 1000] [--owl-peers 10000] [--json]

Each is run in a process of its own and judged by its wall time and by its peak of resident memory, so do not run it
beside anything else. `benchmarks/sim.py` has both among its rows.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import msgspec

import zebra
from zebra import RunSpec, Target, Topology
from zebra.events import History
from zebra.params import Assignment

OWL_PEERS = 10_000
OWL_OBJECT = "64MiB"
OWL_TRACKERS = 4
OWL_ASSIGNMENT: Assignment = {"owl.chunk.size": {"*": "16MiB"}, "owl.transfer.frame_max": {"*": "4MiB"}}
"""For an object so large: four chunks in place of eight, and four frames in each."""

SIM_TIMEOUT_S = 1e10

Row = dict[str, float | str]
BARS: dict[str, dict[str, tuple[str, float]]] = {
    "idle": {"kib_per_host": ("<=", 40.0)},
    "owl": {"wall_s": ("<", 120.0), "peak_gib": ("<", 3.0), "requests_per_peer": ("<=", 100.0)},
}
"""What must be reached; the bars of `owl` are those of OWL_PEERS peers."""


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """Nothing to set."""


class Idle:
    """An idle host: a server, and three connections to others."""

    def __init__(self, node: Any) -> None:
        self.node = node

    async def run(self) -> None:
        async def answer(reader: Any, writer: Any) -> None:
            await reader.read()

        self.server = await asyncio.start_server(answer, None, 9004)
        await self.node.ready()
        await asyncio.sleep(1.0)
        self.streams = [await asyncio.open_connection(peer, 9004) for peer in self._some_peers()]
        await asyncio.sleep(1e9)

    def _some_peers(self) -> list[str]:
        peers = self.node.peers("idle")
        mine = int(self.node.name.rpartition("-")[2])
        return [peers[(mine * 31 + n * 97) % len(peers)] for n in range(3)]


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def idle(hosts: int) -> Row:
    """Peak memory per idle host, beyond what the process had before."""
    target = Target(name="idle", config=Config, roles={"idle": Idle}, topology=Topology(counts={"idle": hosts}))

    async def scenario(cluster: Any) -> None:
        await asyncio.sleep(10.0)

    before = _resident_bytes()
    zebra.run(scenario, RunSpec(target="idle", timeout_s=SIM_TIMEOUT_S), target=target).raise_failure()
    return {"hosts": hosts, "kib_per_host": round((_peak_bytes() - before) / hosts / 1024, 1)}


def owl(peers: int) -> Row:
    """One object to all peers in two regions, every invariant of Owl checked, every event written to a file."""
    from zebra.targets.owl import TARGET

    requests: list[int] = []

    async def scenario(cluster: Any) -> None:
        await cluster.client.fetch_everywhere(await cluster.client.publish(size=OWL_OBJECT))
        requests.append(sum(cluster.role(peer).rpc.requests for peer in cluster.nodes("peer")))

    topology = TARGET.topology.with_counts({"peer": peers, "tracker": OWL_TRACKERS})
    began, cpu_began = time.perf_counter(), time.process_time()
    with tempfile.TemporaryDirectory() as directory:
        history = History(Path(directory) / "history.jsonl")
        spec = RunSpec(target="owl", topology=topology, assignment=OWL_ASSIGNMENT, timeout_s=SIM_TIMEOUT_S)
        outcome = zebra.run(scenario, spec, history=history)
    outcome.raise_failure()
    return {
        "peers": peers,
        "wall_s": round(time.perf_counter() - began, 1),
        "cpu_s": round(time.process_time() - cpu_began, 1),
        "peak_gib": round(_peak_bytes() / 2**30, 2),
        "requests_per_peer": round(requests[0] / peers, 1),
        "events_per_peer": round(len(outcome.history) / peers, 1),
        "invariants": len(outcome.exercised),
        "simulated_s": round(outcome.duration_s, 2),
    }


KINDS = {"idle": idle, "owl": owl}
TITLES = {
    "idle.kib_per_host": "KiB per idle host with 3 connections, peak",
    "owl.wall_s": f"s of wall time for {OWL_OBJECT} to {{peers}} Owl peers",
    "owl.peak_gib": "GiB of peak memory for it",
    "owl.requests_per_peer": "requests per peer for it",
}


def in_own_process(kind: str, count: int) -> Row:
    """A row, measured in a new process: its memory is its own."""
    done = subprocess.run([sys.executable, __file__, "--only", kind, str(count)], stdout=subprocess.PIPE, check=True)
    row: Row = json.loads(done.stdout)
    return row


def judged(kind: str, row: Row) -> list[dict[str, Any]]:
    """What a row says of its bars: name, title, result, bar, met (None where the bar is for another size)."""
    lines = []
    for name, (sign, bar) in BARS[kind].items():
        result = float(row[name])
        met = None if kind == "owl" and row["peers"] != OWL_PEERS else result <= bar
        title = TITLES[f"{kind}.{name}"].format(**row)
        lines.append({"name": f"{kind}.{name}", "title": title, "result": result, "bar": f"{sign} {bar:g}", "met": met})
    return lines


def measure(idle_hosts: int, owl_peers: int) -> dict[str, Row]:
    """The rows that are asked for: a count of 0 leaves one out."""
    counts = {"idle": idle_hosts, "owl": owl_peers}
    return {kind: in_own_process(kind, count) for kind, count in counts.items() if count}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--idle-hosts", type=int, default=1000, help="0 leaves them out")
    parser.add_argument("--owl-peers", type=int, default=OWL_PEERS, help="0 leaves them out")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--only", nargs=2, metavar=("KIND", "COUNT"), help="measure one in this very process")
    options = parser.parse_args()
    if options.only:
        print(json.dumps(KINDS[options.only[0]](int(options.only[1]))))
        return
    found = measure(options.idle_hosts, options.owl_peers)
    if options.json:
        print(json.dumps(found, indent=2))
        return
    print("| what | result | bar | met |\n|---|---|---|---|")
    for kind, row in found.items():
        for line in judged(kind, row):
            print(f"| {line['title']} | {line['result']:g} | {line['bar']} | {verdict(line['met'])} |")
    for kind, row in found.items():
        print(f"\n{kind}: " + ", ".join(f"{name} {value:g}" for name, value in row.items()))


def verdict(met: bool | None) -> str:
    """How a table says whether a bar is met."""
    return {True: "met", False: "**not met**", None: ""}[met]


if __name__ == "__main__":
    main()
