"""A rolling change of real processes: one after the other, by restart or by reload, to the end."""

from __future__ import annotations

import asyncio
import dataclasses
import gc
from typing import Literal

import pytest

from zebra import Cluster, Roll, RunSpec, Schedule, run
from zebra.rpc import RpcError
from zebra.substrate.process import SUBSTRATE
from zebra.testing import EchoServer, echo

pytestmark = pytest.mark.skipif(bool(SUBSTRATE.unavailable()), reason=SUBSTRATE.unavailable())


async def greeted(cluster: Cluster) -> None:
    """Ask the first server until it greets in the new way; the others may still be waiting for their turn."""
    while True:
        try:
            if (await cluster.client.say("server-1", "zebra")).text == "hello zebra":
                return
        except RpcError:
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("how", ["restart", "reload"])
def test_processes_change_one_after_the_other(how: Literal["restart", "reload"]) -> None:
    roll = Roll(nodes=("server-3", "server"), values={"echo.greeting": "hello "}, every_s=0.05, how=how)
    outcome = run(greeted, RunSpec(target="echo", substrate="process", schedule=Schedule((roll,))), target=echo)
    assert outcome.result == "pass", outcome
    changed = outcome.history.of("node.configure")
    assert [event.node for event in changed] == ["server-3", "server-1", "server-2", "server-3"]
    assert all(event["how"] == how and event["config"]["greeting"] == "hello " for event in changed)
    starts = {
        node: len([e for e in outcome.history.of("node.start") if e.node == node]) for node in ("server-1", "server-3")
    }
    assert starts == ({"server-1": 2, "server-3": 3} if how == "restart" else {"server-1": 1, "server-3": 1})
    if how == "restart":
        order = [(e.kind, e.node) for e in outcome.history if e.kind in ("node.stopping", "node.ready")]
        again = order[order.index(("node.stopping", "server-3")) :]
        assert [node for kind, node in again if kind == "node.stopping"] == [
            node for kind, node in again if kind == "node.ready"
        ]


class OldGreeting(EchoServer):
    """Does not start with another greeting than the usual one."""

    async def run(self) -> None:
        if self.node.config.greeting == "hello ":
            raise ValueError("no such greeting")
        await super().run()


async def waits(cluster: Cluster) -> None:
    await cluster.event("never")


def test_a_node_that_does_not_start_anew_is_the_crash_and_nothing_else_is_said(
    caplog: pytest.LogCaptureFixture,
) -> None:
    target = dataclasses.replace(echo, roles={"server": OldGreeting})
    roll = Roll(nodes=("server-1",), values={"echo.greeting": "hello "})
    outcome = run(waits, RunSpec(target="echo", substrate="process", schedule=Schedule((roll,))), target=target)
    gc.collect()
    assert (outcome.result, outcome.message) == ("crash", "server-1: ValueError: no such greeting")
    assert not caplog.records, caplog.text
