"""A target whose nodes use what their hosts have, for faults that limit it."""

from __future__ import annotations

import asyncio
import os
import resource
import subprocess
import time
from pathlib import Path
from typing import Any

import msgspec

from zebra import Cluster, Node, Outcome, RunSpec, Target, Topology, run


class Config(msgspec.Struct, frozen=True, kw_only=True):
    unused: int = 0


class Worker:
    """Uses what its host has, and says what it got."""

    def __init__(self, node: Node[Config]) -> None:
        self.node = node
        self.held: list[bytes] = []

    async def about(self) -> tuple[int, str, int]:
        """Its process, where the kernel has it, and what it may open."""
        return os.getpid(), Path("/proc/self/cgroup").read_text(), resource.getrlimit(resource.RLIMIT_NOFILE)[0]

    async def gap(self, for_s: float) -> float:
        """The longest time between two looks at the clock."""
        loop = asyncio.get_running_loop()
        seen_s = began_s = loop.time()
        gap_s = 0.0
        while seen_s < began_s + for_s:
            await asyncio.sleep(2e-3)
            gap_s, seen_s = max(gap_s, loop.time() - seen_s), loop.time()
        return gap_s

    async def burn(self, cpu_s: float) -> float:
        """How long it takes to work for `cpu_s` of processor time."""
        began_s, done_s = time.monotonic(), time.process_time() + cpu_s
        while time.process_time() < done_s:
            pass
        return time.monotonic() - began_s

    async def hold(self, size: int) -> int:
        self.held.append(os.urandom(size))
        return sum(map(len, self.held))

    async def open_files(self, count: int) -> int:
        """How many of so many files it can have open at a time."""
        files: list[Any] = []
        try:
            for _ in range(count):
                files.append(open(os.devnull))  # noqa: SIM115
        except OSError:
            pass
        for file in files:
            file.close()
        return len(files)

    async def start(self, count: int) -> int:
        """How many of so many programs it can have running at a time."""
        started: list[subprocess.Popen[bytes]] = []
        try:
            for _ in range(count):
                started.append(subprocess.Popen(["sleep", "100"]))
        except OSError:
            pass
        for program in started:
            program.kill()
            program.wait()
        return len(started)


def workers(count: int, **more: Any) -> Target:
    return Target(name="limited", config=Config, roles={"worker": Worker}, client=Worker,
                  topology=Topology(counts={"worker": count}), **more)  # fmt: skip


def go(scenario: Any, target: Target, substrate: str) -> Outcome:
    return run(scenario, RunSpec(test="test", target="limited", substrate=substrate, timeout_s=60), target=target)


def on(cluster: Cluster, method: str, *args: Any, node: str = "worker-1") -> Any:
    return cluster._running.call(node, method, *args)
