"""What a step, a request and a sleeping task cost in simulation, beside asyncio, uvloop, detangle and seedloop.

    python benchmarks/sim.py [--rounds 15] [--owl-peers 10000] [--json]

All kinds run in one process, interleaved in short rounds (A, B, C, A, B, C ...) because a shared machine's speed drifts
by a factor of two within minutes: only ratios within a round mean something. Shown are medians over the rounds, in CPU
microseconds, and the medians of the ratios within each round, with the bar that each has to meet. zebra runs as in a
test: a target's nodes, isolation, and the recording of every event. seedloop needs Python 3.12 and has no streams, so
it is in few rows. The rows on memory, and on a cluster of thousands with `--owl-peers`, are those of
`benchmarks/scale.py`, each in a process of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from importlib import import_module
from statistics import median
from typing import Any

import msgspec
import scale

import zebra
from zebra import RunSpec, Target
from zebra.rpc import Message, Request, Rpc, Wire

try:
    import uvloop
except ImportError:
    uvloop = None  # type: ignore[assignment]
try:
    import detangle
except ImportError:
    detangle = None  # type: ignore[assignment]
seedloop: Any = None
with suppress(ImportError):
    seedloop = import_module("seedloop")

RING_TASKS, RING_STEPS = 100, 30_000
CONNECTIONS, REQUESTS = 100, 20
PAYLOAD = b"x" * 100
SLEEPERS, SLEEP_S = 20, 1000
IDLE_HOSTS = 1000

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

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    address = server.sockets[0].getsockname()
    made = [await asyncio.open_connection(*address) for _ in range(CONNECTIONS)]
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
    server = await loop.create_server(Echo, "127.0.0.1", 0)
    address = server.sockets[0].getsockname()
    made = await asyncio.gather(*(loop.create_connection(lambda: Asker(node), *address) for _ in range(CONNECTIONS)))
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


TARGET = Target(name="bench", config=Config, roles={}, client=Client)
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


def on_seedloop(work: Work) -> float:
    spent: list[float] = []

    async def scenario(world: Any) -> None:
        spent.append(await _timed(work))

    seedloop.replay(scenario, seed=0)
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
        if seedloop is not None and name in ("ring", "sleep"):
            kinds.append((name, "seedloop", on_seedloop))
    times: dict[tuple[str, str], list[float]] = {(name, where): [] for name, where, _ in kinds}
    for round_ in range(rounds + 1):
        for name, where, run in kinds:
            gc.collect()
            spent = run(WORK[name]) / STEPS[name] * 1e6
            if round_:  # the first one warms up
                times[name, where].append(spent)

    def ratio(above: str, below: str) -> float | None:
        over, under = (times.get((name, where), []) for name, _, where in (a.partition(".") for a in (above, below)))
        return round(median(x / y for x, y in zip(over, under, strict=True)), 3) if over and under else None

    sleep_us = median(times["sleep", "zebra"])
    return {
        "rounds": rounds,
        "python": sys.version.split()[0],
        "cpu_us": {f"{name}.{where}": round(median(found), 3) for (name, where), found in times.items()},
        "ratios": {f"{above} / {below}": ratio(above, below) for above, below in RATIOS},
        "sleep_times_real": round(1e6 / SLEEPERS / sleep_us),
        "missing": missing(),
    }


def missing() -> list[str]:
    """Which of those beside us were not measured, and why."""
    python = ".".join(map(str, sys.version_info[:2]))
    too_old = f": it needs Python 3.12, this is {python}" if sys.version_info < (3, 12) else ": it is not installed"
    others = {"uvloop": (uvloop, ": it is not installed"), "detangle": (detangle, ": it is not installed"),
              "seedloop": (seedloop, too_old)}  # fmt: skip
    return [f"{name} was not measured{why}" for name, (module, why) in others.items() if module is None]


RATIOS: dict[tuple[str, str], tuple[str, float] | None] = {
    ("ring.zebra", "ring.asyncio"): ("<=", 0.8),
    ("ring.zebra", "ring.uvloop"): None,
    ("ring.zebra", "ring.seedloop"): None,
    ("streams.asyncio", "streams.zebra"): (">=", 1.6),
    ("streams.uvloop", "streams.zebra"): None,
    ("streams.detangle", "streams.zebra"): (">=", 3.0),
    ("in_turn.asyncio", "in_turn.zebra"): (">=", 1.6),
    ("in_turn.uvloop", "in_turn.zebra"): None,
    ("in_turn.detangle", "in_turn.zebra"): None,
    ("protocol.asyncio", "protocol.zebra"): None,
    ("streams.detangle", "rpc.zebra"): (">=", 4.5),
    ("sleep.detangle", "sleep.zebra"): (">=", 3.0),
    ("sleep.seedloop", "sleep.zebra"): None,
}
"""What is divided by what within each round, and the bar."""

SLEEP_BAR = 5000
TITLES = {
    "ring": "a step of a ring of 100 tasks",
    "streams": "a request over 100 streams, all at once", "in_turn": "a request over 100 streams, in turn",
    "protocol": "a request over a bare Protocol",
    "rpc": "a request over zebra's RPC", "sleep": "a task sleeping for 1 s",
}  # fmt: skip


def judged(found: dict[str, Any]) -> list[tuple[str, float, str, bool | None]]:
    """What is compared, the result, its bar ("" if it has none), and whether that is met."""
    rows: list[tuple[str, float, str, bool | None]] = []
    for (above, below), bar in RATIOS.items():
        value = found["ratios"][f"{above} / {below}"]
        if value is not None:
            met = None if bar is None else value <= bar[1] if bar[0] == "<=" else value >= bar[1]
            rows.append((f"{above} / {below}", value, "" if bar is None else f"{bar[0]} {bar[1]}", met))
    slept = found["sleep_times_real"]
    rows.append((f"simulated s per CPU s, {SLEEPERS} tasks sleeping", slept, f">= {SLEEP_BAR}", slept >= SLEEP_BAR))
    for kind, row in found["scale"].items():
        rows += [(line["title"], line["result"], line["bar"], line["met"]) for line in scale.judged(kind, row)]
    return rows


def table(found: dict[str, Any]) -> str:
    """The measurement as Markdown."""
    places = ["zebra", "asyncio", "uvloop", "detangle", "seedloop"]
    lines = ["| CPU microseconds | " + " | ".join(places) + " |", "|---|" + "---|" * len(places)]
    for name, title in TITLES.items():
        cells = [
            f"{found['cpu_us'][key]:.2f}" if (key := f"{name}.{place}") in found["cpu_us"] else "" for place in places
        ]
        lines.append(f"| {title} | " + " | ".join(cells) + " |")
    lines += ["", "| ratio within a round (median), or figure | result | bar | met |", "|---|---|---|---|"]
    lines += [f"| {what} | {value:g} | {bar} | {scale.verdict(met)} |" for what, value, bar, met in judged(found)]
    return "\n".join([*lines, "", f"Python {found['python']}, {found['rounds']} rounds", *found["missing"]])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15, help="rounds after the one that warms up")
    parser.add_argument("--idle-hosts", type=int, default=IDLE_HOSTS, help="idle hosts to weigh; 0 leaves them out")
    parser.add_argument("--owl-peers", type=int, default=0, help="also run so many Owl peers; the bars are for 10000")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    found = measure(options.rounds)
    found["scale"] = scale.measure(options.idle_hosts, options.owl_peers)
    print(json.dumps(found, indent=2) if options.json else table(found))


if __name__ == "__main__":
    main()
