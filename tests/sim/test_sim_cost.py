"""What simulation costs, with air for a busy machine; the real bars are in benchmarks/sim.py."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import msgspec
import pytest

import zebra
from zebra import RunSpec, Target, Topology
from zebra.rpc import Message, Request, Rpc, Wire
from zebra.target import find_target

ROOT = Path(__file__).parents[2]


class Ping(Request["Pong"], frozen=True, kw_only=True, tag="ping"):
    n: int


class Pong(Message, frozen=True, kw_only=True, tag="pong"):
    n: int


WIRE = Wire(Ping, Pong, port=7000)


class Config(msgspec.Struct, frozen=True, kw_only=True):
    unused: int = 0


class Server:
    def __init__(self, node: Any) -> None:
        self.node = node

    async def run(self) -> None:
        self.rpc = Rpc(self.node, WIRE)
        await self.rpc.serve({Ping: lambda ping, caller: Pong(n=ping.n + 1)})
        await self.node.ready()
        await asyncio.sleep(1e9)


class Client:
    def __init__(self, node: Any) -> None:
        self.node = node
        self.rpc = Rpc(node, WIRE)

    async def ping(self, n: int, to: str) -> int:
        return (await self.rpc.call(to, Ping(n=n), timeout_s=1.0)).n


async def turns() -> None:
    """Ten thousand turns of plain asyncio's loop, taken by five tasks."""

    async def one() -> None:
        for _ in range(2000):
            await asyncio.sleep(0)

    await asyncio.gather(*(one() for _ in range(5)))


def spent_s(what: Callable[[], object]) -> float:
    began = time.process_time()
    what()
    return time.process_time() - began


def test_a_run_of_five_nodes_and_a_hundred_calls_costs_what_some_thousand_turns_of_asyncio_do() -> None:
    target = Target(
        name="p", config=Config, roles={"server": Server}, client=Client, topology=Topology(counts={"server": 4})
    )

    async def scenario(cluster: Any) -> None:
        for n in range(100):
            assert await cluster.client.ping(n, f"server-{n % 4 + 1}") == n + 1

    ours = min(
        spent_s(lambda: zebra.run(scenario, RunSpec(target="p"), target=target).raise_failure()) for _ in range(5)
    )
    assert ours < 2 * min(spent_s(lambda: asyncio.run(turns())) for _ in range(5))


def test_a_thousand_hosts_cost_what_ten_times_a_hundred_do() -> None:
    def run(hosts: int) -> None:
        topology = Topology(counts={"server": hosts})
        target = Target(name="p", config=Config, roles={"server": Server}, client=Client, topology=topology)

        async def scenario(cluster: Any) -> None:
            assert await cluster.client.ping(1, f"server-{hosts}") == 2
            async with cluster.fault("host.crash", *(f"server-{n}" for n in range(1, 11))):
                pass

        zebra.run(scenario, RunSpec(target="p"), target=target).raise_failure()

    assert spent_s(lambda: run(1000)) < 20 * min(spent_s(lambda: run(100)) for _ in range(5))


def test_the_benchmark_runs_and_no_ratio_is_far_from_its_bar() -> None:
    script = ROOT / "benchmarks" / "sim.py"
    options = ["--rounds", "1", "--idle-hosts", "200", "--owl-peers", "20", "--json"]
    done = subprocess.run([sys.executable, str(script), *options], capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert set(found) == {"rounds", "python", "cpu_us", "ratios", "sleep_times_real", "missing", "scale"}
    assert found["ratios"]["ring.zebra / ring.asyncio"] < 1.6
    assert found["ratios"]["in_turn.asyncio / in_turn.zebra"] > 0.8
    assert found["sleep_times_real"] > 2500
    assert 0 < found["scale"]["idle"]["kib_per_host"] < 80
    assert found["scale"]["owl"]["requests_per_peer"] <= 100
    assert found["scale"]["owl"]["invariants"] >= 5


def test_the_table_says_of_every_bar_whether_it_is_met(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    sim, scale = import_module("sim"), import_module("scale")
    ratios = {f"{above} / {below}": 1.0 for above, below in sim.RATIOS}
    rows = {"idle": {"hosts": 10, "kib_per_host": 36.0},
            "owl": {"peers": scale.OWL_PEERS, "wall_s": 130.0, "peak_gib": 1.5, "requests_per_peer": 30.0}}  # fmt: skip
    judged = {what: met for what, _, bar, met in sim.judged(
        {"ratios": ratios, "sleep_times_real": 4000, "scale": rows}) if bar}  # fmt: skip
    assert list(judged.values()) == [False, False, False, False, False, False, False, True, False, True, True]
    small = scale.judged("owl", {**rows["owl"], "peers": 20})
    assert [line["met"] for line in small] == [None, None, None]


def test_the_cost_of_a_node_does_not_grow_with_the_cluster() -> None:
    """Counted in Python calls, which no busy machine changes."""

    def calls(peers: int) -> float:
        count = 0

        def one_more(frame: Any, event: str, _: Any) -> None:
            nonlocal count
            count += event == "call"

        async def scenario(cluster: Any) -> None:
            await cluster.client.fetch_everywhere(await cluster.client.publish(size="8MiB"))

        spec = RunSpec(target="owl", topology=find_target("owl").topology.with_counts({"peer": peers}))
        sys.setprofile(one_more)
        try:
            outcome = zebra.run(scenario, spec)
        finally:
            sys.setprofile(None)
        outcome.raise_failure()
        return count / peers

    calls(10)  # imports
    assert calls(320) < 1.05 * calls(40)
