"""What a step, a request, a sleeping task and an idle host cost in simulation, beside asyncio, uvloop and detangle.

    python benchmarks/sim.py [--rounds 15] [--json]

All kinds run in one process, interleaved in short rounds (A, B, C, A, B, C ...) because a shared machine's speed drifts
by a factor of two within minutes: only ratios within a round mean something. Shown are medians over the rounds, in CPU
microseconds, and the median of the ratios to stock asyncio within each round. zebra runs as in a test: a target's
nodes, isolation, and the recording of every event.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import sys
import time
from collections.abc import Awaitable, Callable
from statistics import median
from typing import Any

import msgspec

import zebra
from zebra import RunSpec, Target, Topology
from zebra.rpc import Message, Request, Rpc, Wire

try:
    import uvloop
except ImportError:
    uvloop = None  # type: ignore[assignment]
try:
    import detangle
except ImportError:
    detangle = None  # type: ignore[assignment]

RING_TASKS, RING_STEPS = 100, 30_000
CONNECTIONS, REQUESTS = 100, 20
PAYLOAD = b"x" * 100
SLEEPERS, SLEEP_S = 20, 1000
IDLE_HOSTS = 500

Work = Callable[[Any], Awaitable[None]]


# -- the work, in plain asyncio --------------------------------------------------------------------------------------


async def ring(node: Any) -> None:
    """A token goes round a ring of tasks, each waiting on its own queue; recorded once a round."""
    queues: list[asyncio.Queue[int]] = [asyncio.Queue() for _ in range(RING_TASKS)]
    done = asyncio.get_running_loop().create_future()

    async def member(index: int) -> None:
        mine, following = queues[index], queues[(index + 1) % RING_TASKS]
        while True:
            token = await mine.get()
            if token == RING_STEPS:
                done.set_result(None)
            if index == 0 and node is not None:
                node.emit("ring.round", token=token)
            following.put_nowait(token + 1)

    members = [asyncio.ensure_future(member(index)) for index in range(RING_TASKS)]
    queues[0].put_nowait(0)
    await done
    for task in members:
        task.cancel()
    await asyncio.gather(*members, return_exceptions=True)


async def streams(node: Any) -> None:
    """Requests of 100 bytes, answered, over `start_server` and `open_connection`: all connections at once."""
    await _streams(node, at_once=True)


async def in_turn(node: Any) -> None:
    """The same, but the connections take turns: one request is under way at a time."""
    await _streams(node, at_once=False)


async def _streams(node: Any, at_once: bool) -> None:
    async def answer(reader: Any, writer: Any) -> None:
        try:
            while True:
                writer.write(await reader.readexactly(len(PAYLOAD)))
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    async def ask(reader: Any, writer: Any, times: int) -> None:
        for _ in range(times):
            writer.write(PAYLOAD)
            await writer.drain()
            await reader.readexactly(len(PAYLOAD))
            if node is not None:
                node.emit("request.done")

    server = await asyncio.start_server(answer, "127.0.0.1", 9001)
    made = [await asyncio.open_connection("127.0.0.1", 9001) for _ in range(CONNECTIONS)]
    if at_once:
        await asyncio.gather(*(ask(*stream, REQUESTS) for stream in made))
    else:
        for _ in range(REQUESTS):
            for stream in made:
                await ask(*stream, 1)
    for _, writer in made:
        writer.close()
    server.close()
    await server.wait_closed()
    await asyncio.sleep(0.01)


class Echo(asyncio.Protocol):
    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)


class Asker(asyncio.Protocol):
    def __init__(self, node: Any) -> None:
        self.node, self.left, self.done = node, REQUESTS, asyncio.get_running_loop().create_future()

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        transport.write(PAYLOAD)

    def data_received(self, data: bytes) -> None:
        self.left -= 1
        if self.node is not None:
            self.node.emit("request.done")
        if self.left:
            self.transport.write(PAYLOAD)
        else:
            self.transport.close()
            self.done.set_result(None)


async def protocol(node: Any) -> None:
    """The same over a bare Protocol."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Echo, "127.0.0.1", 9002)
    made = await asyncio.gather(
        *(loop.create_connection(lambda: Asker(node), "127.0.0.1", 9002) for _ in range(CONNECTIONS))
    )
    await asyncio.gather(*(asker.done for _, asker in made))
    server.close()
    await server.wait_closed()
    await asyncio.sleep(0.01)


async def sleepers(node: Any) -> None:
    async def sleeper() -> None:
        for _ in range(SLEEP_S):
            await asyncio.sleep(1.0)

    await asyncio.gather(*(sleeper() for _ in range(SLEEPERS)))


# -- zebra's own RPC -------------------------------------------------------------------------------------------------


class Get(Request["Got"], frozen=True, kw_only=True, tag="get"):
    key: bytes


class Got(Message, frozen=True, kw_only=True, tag="got"):
    value: bytes


WIRE = Wire(Get, Got, port=9003)


async def rpc(node: Any) -> None:
    """The same with typed messages over zebra's RPC."""
    server, client = Rpc(node, WIRE), Rpc(node, WIRE)
    await server.serve({Get: lambda get, caller: Got(value=get.key)})

    async def asker() -> None:
        for _ in range(REQUESTS):
            await client.call(node.name, Get(key=PAYLOAD), timeout_s=5.0)
            node.emit("request.done")

    await asyncio.gather(*(asker() for _ in range(CONNECTIONS)))  # over one connection, as zebra's RPC does it
    await client.close()
    await server.close()


# -- where it runs ---------------------------------------------------------------------------------------------------


class Config(msgspec.Struct, frozen=True, kw_only=True):
    unused: int = 0


class Client:
    def __init__(self, node: Any) -> None:
        self.node = node

    async def go(self, work: Work) -> float:
        began = time_cpu()
        await work(self.node)
        return time_cpu() - began


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


TARGET = Target(name="bench", config=Config, roles={}, client=Client, topology=Topology())
IDLE = Target(name="idle", config=Config, roles={"idle": Idle}, topology=Topology(counts={"idle": IDLE_HOSTS}))
time_cpu = time.process_time


def on_zebra(work: Work) -> float:
    spent: list[float] = []

    async def scenario(cluster: Any) -> None:
        spent.append(await cluster.client.go(work))

    global time_cpu
    time_cpu = REAL_CPU
    zebra.run(scenario, RunSpec(target="bench", timeout_s=1e6), target=TARGET).raise_failure()
    return spent[0]


class RealCpu:
    """CPU seconds, read below what a simulation replaces."""

    def __call__(self) -> float:
        import resource

        used = resource.getrusage(resource.RUSAGE_SELF)
        return used.ru_utime + used.ru_stime


REAL_CPU = RealCpu()


async def _timed(work: Work) -> float:
    began = REAL_CPU()
    await work(None)
    return REAL_CPU() - began


def on_asyncio(work: Work) -> float:
    return asyncio.run(_timed(work))


def on_uvloop(work: Work) -> float:
    return uvloop.run(_timed(work))


def on_detangle(work: Work) -> float:
    spent: list[float] = []

    async def main() -> None:
        spent.append(await _timed(work))

    detangle.run(main, max_steps=10**9)
    return spent[0]


_ASKED = CONNECTIONS * REQUESTS
STEPS = {
    "ring": RING_STEPS,
    "streams": _ASKED,
    "in_turn": _ASKED,
    "protocol": _ASKED,
    "rpc": _ASKED,
    "sleep": SLEEPERS * SLEEP_S,
}
WORK: dict[str, Work] = {
    "ring": ring,
    "streams": streams,
    "in_turn": in_turn,
    "protocol": protocol,
    "rpc": rpc,
    "sleep": sleepers,
}


def idle_bytes() -> float:
    """Bytes of memory per idle simulated host, by resident set size."""
    found: list[float] = []

    def resident() -> int:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * 4096

    async def scenario(cluster: Any) -> None:
        await asyncio.sleep(10.0)
        gc.collect()
        found.append((resident() - before) / IDLE_HOSTS)

    gc.collect()
    before = resident()
    zebra.run(scenario, RunSpec(target="idle", timeout_s=1e10), target=IDLE).raise_failure()
    return found[0]


def measure(rounds: int) -> dict[str, Any]:
    """Runs all kinds round by round; the medians, in microseconds per step, and the ratios within rounds."""
    kinds: list[tuple[str, str, Callable[[Work], float]]] = []
    for name in WORK:
        kinds.append((name, "zebra", on_zebra))
        if name in ("ring", "streams", "in_turn", "protocol"):
            kinds.append((name, "asyncio", on_asyncio))
            if uvloop is not None:
                kinds.append((name, "uvloop", on_uvloop))
        if detangle is not None and name != "rpc":
            kinds.append((name, "detangle", on_detangle))
    memory = idle_bytes()
    times: dict[tuple[str, str], list[float]] = {(name, where): [] for name, where, _ in kinds}
    for round_ in range(rounds + 1):
        for name, where, run in kinds:
            gc.collect()
            spent = run(WORK[name]) / STEPS[name] * 1e6
            if round_:  # the first one warms up
                times[name, where].append(spent)

    def ratio(a: tuple[str, str], b: tuple[str, str]) -> float | None:
        if a not in times or b not in times:
            return None
        return round(median(x / y for x, y in zip(times[a], times[b], strict=True)), 3)

    sleep_us = median(times["sleep", "zebra"])
    return {
        "rounds": rounds,
        "python": sys.version.split()[0],
        "cpu_us": {f"{name}.{where}": round(median(found), 3) for (name, where), found in times.items()},
        "ratios": {
            "ring.zebra/asyncio": ratio(("ring", "zebra"), ("ring", "asyncio")),
            "ring.zebra/uvloop": ratio(("ring", "zebra"), ("ring", "uvloop")),
            "streams.asyncio/zebra": ratio(("streams", "asyncio"), ("streams", "zebra")),
            "streams.detangle/zebra": ratio(("streams", "detangle"), ("streams", "zebra")),
            "in_turn.asyncio/zebra": ratio(("in_turn", "asyncio"), ("in_turn", "zebra")),
            "in_turn.detangle/zebra": ratio(("in_turn", "detangle"), ("in_turn", "zebra")),
            "protocol.asyncio/zebra": ratio(("protocol", "asyncio"), ("protocol", "zebra")),
            "rpc.detangle_streams/zebra": ratio(("streams", "detangle"), ("rpc", "zebra")),
            "sleep.detangle/zebra": ratio(("sleep", "detangle"), ("sleep", "zebra")),
        },
        "sleep_times_real": round(1e6 / SLEEPERS / sleep_us),
        "bytes_per_idle_host": round(memory),
    }


BARS = {
    "ring.zebra/asyncio": ("<=", 0.8), "streams.asyncio/zebra": (">=", 1.6), "in_turn.asyncio/zebra": (">=", 1.6),
    "streams.detangle/zebra": (">=", 3.0),
    "rpc.detangle_streams/zebra": (">=", 4.5), "sleep.detangle/zebra": (">=", 3.0),
}  # fmt: skip
TITLES = {
    "ring": "a step of a ring of 100 tasks",
    "streams": "a request over 100 streams, all at once", "in_turn": "a request over 100 streams, in turn",
    "protocol": "a request over a bare Protocol",
    "rpc": "a request over zebra's RPC", "sleep": "a task sleeping for 1 s",
}  # fmt: skip


def table(found: dict[str, Any]) -> str:
    """The measurement as Markdown."""
    places = ["zebra", "asyncio", "uvloop", "detangle"]
    lines = ["| CPU microseconds | " + " | ".join(places) + " |", "|---|" + "---|" * len(places)]
    for name, title in TITLES.items():
        cells = [
            f"{found['cpu_us'][key]:.2f}" if (key := f"{name}.{place}") in found["cpu_us"] else "" for place in places
        ]
        lines.append(f"| {title} | " + " | ".join(cells) + " |")
    lines += ["", "| ratio within a round (median) | measured | bar |", "|---|---|---|"]
    for name, value in found["ratios"].items():
        bar = " ".join(map(str, BARS[name])) if name in BARS else ""
        lines.append(f"| {name} | {'' if value is None else f'{value:.2f}'} | {bar} |")
    lines.append(f"| simulated seconds per CPU second, {SLEEPERS} tasks | {found['sleep_times_real']} | >= 5000 |")
    lines.append(f"| KiB per idle host with 3 connections | {found['bytes_per_idle_host'] / 1024:.1f} | |")
    return "\n".join([*lines, "", f"Python {found['python']}, {found['rounds']} rounds"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15, help="rounds after the one that warms up")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    found = measure(options.rounds)
    print(json.dumps(found, indent=2) if options.json else table(found))


if __name__ == "__main__":
    main()
