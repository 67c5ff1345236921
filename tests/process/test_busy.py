"""What a busy machine did to a run: how long nodes waited for a processor."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from typing import Any

import pytest

from zebra import Cluster, Node, RunSpec, Target, Topology, run
from zebra.outcome import BUSY, BUSY_S
from zebra.substrate.process import SUBSTRATE, busy
from zebra.substrate.process.busy import Waits, waited_ns
from zebra.testing import EchoConfig

pytestmark = pytest.mark.skipif(bool(SUBSTRATE.unavailable()), reason=SUBSTRATE.unavailable())

HOG = "while True: pass"


def test_who_shares_a_processor_with_another_waits_for_it() -> None:
    [cpu, *_] = before = os.sched_getaffinity(0)
    hog = subprocess.Popen([sys.executable, "-c", HOG])
    try:
        os.sched_setaffinity(hog.pid, {cpu})
        os.sched_setaffinity(0, {cpu})
        waits = Waits()
        waits.look({"me": os.getpid(), "hog": hog.pid})
        begun = waited_ns(os.getpid())
        while waited_ns(os.getpid()) < begun + 2 * 10**8 or waited_ns(hog.pid) < 2 * 10**8:
            pass
        waits.look({"me": os.getpid(), "hog": hog.pid})
        assert waits.lately()["me"] >= 0.2
        assert waits.lately()["hog"] >= 0.1
    finally:
        os.sched_setaffinity(0, before)
        hog.kill()
        hog.wait()


def test_a_name_keeps_what_it_waited_when_another_process_takes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    waited = {1: 5 * 10**9, 2: 3 * 10**9}
    monkeypatch.setattr(busy, "waited_ns", waited.__getitem__)
    waits = Waits()
    assert waits.lately() == {}
    waits.look({"a": 1})
    waited[1] += 10**9
    waits.look({"a": 1})
    waits.look({"a": 2, "b": 1})
    assert waits.lately() == {"a": 4.0, "b": 0.0}
    waited[2] = 0
    waits.look({"a": 2})
    assert waits.lately()["a"] == 4.0, "it has ended"


def test_only_what_was_lately_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    clock_s, waited = 0.0, 0
    monkeypatch.setattr(busy, "waited_ns", lambda pid: waited)
    monkeypatch.setattr(time, "monotonic", lambda: clock_s)
    waits = Waits()
    for clock_s in (0.0, 4.0, 8.0, 12.0, 16.0):  # noqa: B007
        assert waits.due()
        waits.look({"a": 1})
        assert not waits.due()
        waited += 10**9
    assert waits.lately() == {"a": 3.0}  # at 4 s it had waited 1 s, at 16 s 4 s


def test_a_process_that_is_gone_waited_no_longer() -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    assert waited_ns(gone.pid) == 0


class Busy:
    """Keeps a processor busy that it shares with others, and says when it has waited long for it."""

    def __init__(self, node: Node[Any]) -> None:
        self.node = node

    async def run(self) -> None:
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        await self.node.ready()
        while waited_ns(os.getpid()) < 2 * BUSY_S * 1e9:
            sum(range(10**6))
        self.node.emit("busy.waited")
        await asyncio.Event().wait()


async def fails_busily(cluster: Cluster) -> None:
    await cluster.until(lambda: len(cluster.history.of("busy.waited")) == 3)
    raise AssertionError("too late")


def test_a_failure_says_which_nodes_waited_for_a_processor() -> None:
    target = Target(name="busy", config=EchoConfig, roles={"busy": Busy}, topology=Topology(counts={"busy": 3}))
    outcome = run(fails_busily, RunSpec(target="busy", substrate="process"), target=target)
    assert outcome.message == "AssertionError: too late"
    assert {"busy-1", "busy-2", "busy-3"} <= outcome.waits.keys()
    assert min(outcome.waits.values()) >= BUSY_S
    [line] = [line for line in outcome.explain().splitlines() if line.startswith(f"{BUSY}: ")]
    assert all(f"{node} {seconds:.1f} s" in line for node, seconds in outcome.waits.items())
