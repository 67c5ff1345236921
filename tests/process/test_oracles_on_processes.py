"""Error lines and left-behind processes, where nodes are processes."""

from __future__ import annotations

import asyncio
import sys
from typing import Annotated

import msgspec
import pytest

from zebra import Cluster, Node, Outcome, Param, RunSpec, Target, Topology, run
from zebra.params import Assignment
from zebra.substrate.process import SUBSTRATE

pytestmark = pytest.mark.skipif(bool(SUBSTRATE.unavailable()), reason=SUBSTRATE.unavailable())


class Config(msgspec.Struct, frozen=True, kw_only=True):
    mode: Annotated[str, Param("tidy")] = "quiet"


class Parent:
    """Starts a program and leaves it (`careless`) or ends it (`tidy`); `loud` writes to stderr instead."""

    def __init__(self, node: Node[Config]) -> None:
        self.node = node

    async def run(self) -> None:
        mode = self.node.config.mode
        if mode == "loud":
            print("WARNING all is well\nERROR 17: no room", file=sys.stderr)
        child = await asyncio.create_subprocess_exec("sleep", "600") if mode in ("careless", "tidy") else None
        try:
            await self.node.ready()
            await asyncio.Event().wait()
        finally:
            if child is not None and mode == "tidy":
                child.kill()
                await child.wait()


TARGET = Target(
    name="parents", config=Config, roles={"parent": Parent}, topology=Topology(counts={"parent": 2}),
)  # fmt: skip


async def nothing(cluster: Cluster) -> None:
    return None


def go(mode: str, leaks: bool = False, errors: tuple[str, ...] = ()) -> Outcome:
    assignment: Assignment = {"parents.mode": {"parent-2": mode}}
    spec = RunSpec(target="parents", substrate="process", assignment=assignment)
    return run(nothing, spec, target=TARGET, leaks=leaks, errors=errors)


def test_a_process_that_outlives_its_stopped_node_is_a_leak() -> None:
    outcome = go("careless", leaks=True)
    assert (outcome.result, outcome.violation and outcome.violation.invariant) == ("fail", "zebra.leaks"), outcome
    assert outcome.message.endswith("parent-2 left behind when it was stopped: process sleep")


def test_a_node_that_ends_its_process_leaves_nothing_and_nobody_looks_unless_asked() -> None:
    assert go("tidy", leaks=True).result == "pass"
    assert go("careless").result == "pass"


def test_a_line_on_stderr_that_a_pattern_calls_an_error_fails_the_run() -> None:
    outcome = go("loud", errors=(r"^ERROR \d+",))
    assert (outcome.result, outcome.violation and outcome.violation.invariant) == ("fail", "zebra.errors"), outcome
    assert "parent-2 wrote to stderr 'ERROR 17: no room'" in outcome.message
    assert go("loud", errors=("^FATAL",)).result == "pass"
    assert go("quiet", errors=(r"^ERROR \d+",)).result == "pass"
