"""What simulation costs, with air for a busy machine; the real bars are in benchmarks/sim.py."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import msgspec

import zebra
from zebra import RunSpec, Target, Topology
from zebra.rpc import Message, Request, Rpc, Wire

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


def test_a_run_of_five_nodes_and_a_hundred_calls_takes_milliseconds() -> None:
    target = Target(
        name="p", config=Config, roles={"server": Server}, client=Client, topology=Topology(counts={"server": 4})
    )

    async def scenario(cluster: Any) -> None:
        for n in range(100):
            assert await cluster.client.ping(n, f"server-{n % 4 + 1}") == n + 1

    def spent_s() -> float:
        began = time.process_time()
        zebra.run(scenario, RunSpec(target="p"), target=target).raise_failure()
        return time.process_time() - began

    assert min(spent_s() for _ in range(5)) < 0.05


def test_a_thousand_hosts_start_and_end_in_seconds() -> None:
    target = Target(
        name="p", config=Config, roles={"server": Server}, client=Client, topology=Topology(counts={"server": 1000})
    )

    async def scenario(cluster: Any) -> None:
        assert await cluster.client.ping(1, "server-1000") == 2
        async with cluster.fault("host.crash", *(f"server-{n}" for n in range(1, 11))):
            pass

    began = time.process_time()
    zebra.run(scenario, RunSpec(target="p"), target=target).raise_failure()
    assert time.process_time() - began < 5.0


def test_the_benchmark_runs_and_no_ratio_is_far_from_its_bar() -> None:
    script = ROOT / "benchmarks" / "sim.py"
    done = subprocess.run(
        [sys.executable, str(script), "--rounds", "1", "--json"], capture_output=True, text=True, check=True
    )
    found = json.loads(done.stdout)
    assert set(found) == {"rounds", "python", "cpu_us", "ratios", "sleep_times_real", "bytes_per_idle_host"}
    assert found["ratios"]["ring.zebra/asyncio"] < 1.6
    assert found["ratios"]["in_turn.asyncio/zebra"] > 0.8
    assert found["sleep_times_real"] > 2500
