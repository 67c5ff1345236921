"""Network namespaces beside bare processes: how long small runs take, and what a link carries.

All is measured in rounds, the substrates in turn; the figures are medians of the rounds, ratios those of the rounds'
own. A run is `zebra.run` from call to return over echo servers of which each answers once, with a client beside them.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import time
from typing import Any

import msgspec
from tabulate import tabulate

import zebra
from zebra import Cluster, Node, RunSpec, Target, Topology
from zebra.substrate import Pairs
from zebra.testing import echo

BULK_BYTES = 64 << 20
EXCHANGES = 300
BLOCK = bytes(1 << 18)
PORT = 9


class Config(msgspec.Struct, frozen=True, kw_only=True):
    pass


class Sink:
    """Swallows what begins with `t` and says when it has ended, echoes what begins with `e`."""

    def __init__(self, node: Node[Config]) -> None:
        self.node = node

    async def run(self) -> None:
        self.server = await asyncio.start_server(self.serve, None, PORT)
        await self.node.ready()
        await asyncio.Event().wait()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if await reader.readexactly(1) == b"t":
            while await reader.read(1 << 20):
                pass
            writer.write(b"k")
        else:
            while data := await reader.read(100):
                writer.write(data)
        writer.close()


class Source:
    def __init__(self, node: Node[Config]) -> None:
        self.node = node

    async def throughput(self, to: str, size: int) -> float:
        """Bytes per second of one stream."""
        reader, writer = await asyncio.open_connection(to, PORT)
        writer.write(b"t")
        started = time.perf_counter()
        for _ in range(size // len(BLOCK)):
            writer.write(BLOCK)
            await writer.drain()
        writer.write_eof()
        await reader.read(1)
        writer.close()
        return size / (time.perf_counter() - started)

    async def exchange_s(self, to: str) -> float:
        """The median time of a small request and its answer."""
        reader, writer = await asyncio.open_connection(to, PORT)
        writer.write(b"e")
        times = []
        for _ in range(EXCHANGES):
            started = time.perf_counter()
            writer.write(b"x" * 64)
            await reader.readexactly(64)
            times.append(time.perf_counter() - started)
        writer.close()
        return statistics.median(times)


LINK = Target(name="link", config=Config, roles={"sink": Sink}, client=Source, topology=Topology(counts={"sink": 1}))


def run_s(substrate: str, nodes: int) -> float:
    """Seconds of a whole run in which each of some servers answers once."""

    async def ask_all(cluster: Cluster) -> None:
        await asyncio.gather(*(cluster.client.say(server, "x") for server in cluster.nodes("server")))

    spec = RunSpec(target="echo", substrate=substrate, topology=Topology(counts={"server": nodes - 1}))
    started = time.perf_counter()
    zebra.run(ask_all, spec, target=echo).raise_failure()
    return time.perf_counter() - started


def link(substrate: str, *, slow: bool = False) -> dict[str, float]:
    """What one link carries; `slow` lets it pass through userspace, by a latency that is next to nothing."""
    found: dict[str, float] = {}

    async def measure(cluster: Cluster) -> None:
        if slow:
            everybody = frozenset(cluster.nodes())
            await cluster._running.capabilities["links"].add(Pairs([(everybody, everybody)]), latency_s=1e-6)
        found["MB/s"] = await cluster.client.throughput("sink-1", BULK_BYTES // (8 if slow else 1)) / 1e6
        found["us"] = await cluster.client.exchange_s("sink-1") * 1e6

    zebra.run(measure, RunSpec(target="link", substrate=substrate, timeout_s=120), target=LINK).raise_failure()
    return found


def compared(name: str, unit: str, rounds: list[tuple[float, ...]], columns: tuple[str, ...]) -> dict[str, Any]:
    """A line of the table: medians, and of each further column the median ratio to the first."""
    row: dict[str, Any] = {"what": f"{name}, {unit}"}
    for index, column in enumerate(columns):
        row[column] = round(statistics.median(each[index] for each in rounds), 3)
    for index, column in enumerate(columns[1:], 1):
        row[f"{column} / {columns[0]}"] = round(statistics.median(each[index] / each[0] for each in rounds), 2)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    table = []
    for nodes in (5, 20):
        rounds = [(run_s("process", nodes), run_s("netns", nodes)) for _ in range(options.rounds + 1)][1:]
        table.append(compared(f"a run of {nodes} nodes", "s", list(rounds), ("process", "netns")))
    links = [(link("process"), link("netns"), link("netns", slow=True)) for _ in range(options.rounds)]
    columns = ("process", "netns", "netns, by the wire")
    for name, unit in (("one stream", "MB/s"), ("an exchange of 64 bytes", "us")):
        table.append(compared(name, unit, [tuple(each[unit] for each in found) for found in links], columns))
    print(json.dumps(table) if options.json else tabulate(table, headers="keys"))
    load = os.getloadavg()[0]
    if load > 2 and not options.json:
        print(f"the machine is busy (load {load:.1f}): only the ratios mean something")


if __name__ == "__main__":
    main()
