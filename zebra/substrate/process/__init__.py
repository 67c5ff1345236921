"""Real processes: one per node, each on its own loopback address, joined by the fault proxy, without root.

The session holds the proxy, the order of events and the test; `running` is its side of a run, `ports` where the nodes
are reached. The `zygote`, a fork from before the session's loop, forks the nodes; `life` is what a node's process does,
on the `loop` that makes names and addresses mean the same as in simulation. `order` puts events of all processes in one
order, `board` is shared memory.
"""

from __future__ import annotations

import asyncio
import os
import resource
import shutil
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

from zebra.errors import ConfigError, Hang
from zebra.injection.warden import warden
from zebra.substrate import Plan, Running
from zebra.substrate.process.addresses import NODES_MAX, Addressing, Block
from zebra.substrate.process.board import Board
from zebra.substrate.process.life import Ground, write_run
from zebra.substrate.process.network import Network
from zebra.substrate.process.running import ProcessRunning
from zebra.substrate.process.toxiproxy import TOXIPROXY

T = TypeVar("T")

MACHINERY = (os.path.dirname(asyncio.__file__), os.path.dirname(os.path.dirname(__file__)))
"""Where the code lies of tasks that are nobody's test."""


class ProcessSubstrate:
    """`zebra.Substrate` on processes of this machine."""

    name = "process"
    capabilities = ("processes", "links", "clocks", "disks", "resources", "application", "names")

    nodes_max = NODES_MAX
    toxiproxied = True
    """Whether links may be those of a Toxiproxy server."""

    running: type[ProcessRunning] = ProcessRunning

    def joined(self, plan: Plan) -> tuple[Addressing, Network | None]:
        """The addresses of a run's nodes, and what joins them if it is not the proxy."""
        return Block(), None

    def board(self, nodes: int, directory: Path) -> Board:
        """What the session and the nodes of a run share, which has its files in a directory."""
        return Board(nodes)

    def unavailable(self) -> str:
        if not sys.platform.startswith("linux"):
            return f"it needs Linux, this is {sys.platform}"
        if not hasattr(os, "pidfd_open"):
            return "it needs pidfd_open (Linux 5.3 or later)"
        try:
            os.close(os.pidfd_open(os.getpid()))
        except OSError as error:
            return f"pidfd_open does not work here ({error})"
        return ""

    def run(self, plan: Plan, main: Callable[[Running], Coroutine[Any, Any, T]]) -> T:
        """Run `main` over the nodes. They are dead, and their files deleted, when this returns."""
        if len(plan.places) > self.nodes_max:
            raise ConfigError(f"substrate {self.name}: {len(plan.places)} nodes, at most {self.nodes_max} fit")
        _many_files()
        mine = warden()
        nodes = {place.node: number for number, place in enumerate(plan.places, 1)}
        block, network = self.joined(plan)
        directory = mine.run_directory()
        board = self.board(len(nodes), directory)
        ground = Ground(plan=plan, directory=directory, block=block, board=board, nodes=nodes, network=network,
                        toxiproxy=os.environ.get(TOXIPROXY, "") if self.toxiproxied else "")  # fmt: skip
        try:
            running = self.running(ground, mine.ledger)
            write_run(ground, lambda: next(iter(running.log.history)).fields)
            try:
                with asyncio.Runner() as runner:
                    return runner.run(_bounded(running, main))
            finally:
                running.close()
        finally:
            ground.block.release()
            shutil.rmtree(ground.directory, ignore_errors=True)


async def _bounded(running: ProcessRunning, main: Callable[[Running], Coroutine[Any, Any, T]]) -> T:
    running.begin()
    task = asyncio.ensure_future(main(running))
    try:
        done, _ = await asyncio.wait([task], timeout=running.plan.timeout_s)
        if not done:
            raise Hang(_who_waits(running))
        return task.result()
    finally:
        if not task.done():
            task.cancel()
            await asyncio.wait([task], timeout=1.0)
        running.end()


def _who_waits(running: ProcessRunning) -> str:
    """Where the tasks of the test stand: the innermost line of each that is not asyncio's."""
    lines = [f"not done after {running.plan.timeout_s:g} s"]
    for task in asyncio.all_tasks():
        waits = ""
        inner: Any = task.get_coro()
        while (frame := getattr(inner, "cr_frame", None)) is not None:
            code = frame.f_code
            if not code.co_filename.startswith(MACHINERY):
                waits = f"{os.path.basename(code.co_filename)}:{frame.f_lineno} in {code.co_name}"
            inner = getattr(inner, "cr_await", None)
        if waits:
            lines.append(f"test: {waits}")
    return "\n  ".join(dict.fromkeys(lines))


def _many_files() -> None:
    """Let the proxy have as many descriptors as the machine allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


SUBSTRATE = ProcessSubstrate()
