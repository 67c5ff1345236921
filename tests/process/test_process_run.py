"""Whole runs on processes: what only they can show, and what a person sees when one fails."""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests import catalogue, programs
from tests.cases import at
from zebra import Cluster, Node, RunSpec, Target, Topology, run
from zebra.errors import Escape, Infrastructure, TargetError
from zebra.outcome import Outcome
from zebra.substrate.process import SUBSTRATE
from zebra.testing import EchoClient, EchoConfig, EchoServer, echo, echo_everywhere

pytestmark = pytest.mark.skipif(bool(SUBSTRATE.unavailable()), reason=SUBSTRATE.unavailable())


class Config(msgspec.Struct, frozen=True, kw_only=True):
    beat_s: float = 10.0
    greeting: str = ""


class Keeper:
    """Runs a server program, and says what it was asked to say."""

    def __init__(self, node: Node[Config]) -> None:
        self.node, self.dead = node, asyncio.Event()

    async def run(self) -> None:
        self.program, _ = await programs.serve(self.node, 4000)
        await self.node.ready()
        await self.dead.wait()
        raise ZeroDivisionError("as planned")

    async def about(self) -> tuple[int, int, str, dict[str, str]]:
        marks = self.node.directory / "starts"
        marks.write_text((marks.read_text() if marks.exists() else "") + "x")
        return os.getpid(), self.program.pid, marks.read_text(), self.node.environment

    async def beat(self) -> float:
        return self.node.config.beat_s

    async def write(self, text: str) -> None:
        print(text)
        print(text.upper(), file=sys.stderr)

    async def die(self) -> None:
        self.dead.set()

    async def read(self, name: str, timeout_s: float) -> str:
        return await programs.read(self.node, name, 4000, timeout_s)


class Idle:
    def __init__(self, node: Node[Config]) -> None:
        self.node = node


def target(**more: Any) -> Target:
    settings: dict[str, Any] = {"roles": {"keeper": Keeper}, "topology": Topology(counts={"keeper": 2}), **more}
    return Target(name="keepers", config=Config, client=Idle, **settings)


def go(scenario: Any, of: Target | None = None, **spec: Any) -> Outcome:
    of = target() if of is None else of
    return run(scenario, RunSpec(**{"target": of.name, "substrate": "process", "timeout_s": 30.0, **spec}), target=of)


# -- programs ----------------------------------------------------------------------------------------------------


def test_programs_of_nodes_reach_each_other_through_the_faults_of_their_links() -> None:
    async def scenario(cluster: Cluster) -> None:
        said = await at(cluster, "keeper-1", "read", "keeper-2", 5.0)
        assert re.fullmatch(r"keeper-2 127\.\S+ 127\.\S+", said)
        assert re.fullmatch(r"keeper-1 127\.\S+ 127\.\S+", await at(cluster, "keeper-1", "read", "keeper-1", 5.0))
        async with cluster.fault("network.partition", "keeper-1"):
            assert await at(cluster, "keeper-1", "read", "keeper-2", 0.3) == ""
        assert await at(cluster, "keeper-1", "read", "keeper-2", 5.0) == said

    outcome = go(scenario)
    assert outcome.result == "pass", outcome.explain()


def test_a_program_lives_and_dies_with_its_node_and_the_directory_stays() -> None:
    seen: list[Any] = []

    async def scenario(cluster: Cluster) -> None:
        seen.append(await at(cluster, "keeper-1", "about"))
        async with cluster.fault("host.crash", "keeper-1"):
            async with asyncio.timeout(10):
                while any(map(_lives, seen[0][:2])):  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
        seen.append(await at(cluster, "keeper-1", "about"))
        assert json.loads(Path(seen[0][3]["ZEBRA_RUN"]).read_text())["target"] == "keepers"

    outcome = go(scenario)
    assert outcome.result == "pass", outcome.explain()
    assert [each[2] for each in seen] == ["x", "xx"]
    assert seen[0][3]["ZEBRA_NODE"] == "keeper-1"
    assert not Path(seen[0][3]["ZEBRA_RUN"]).exists()
    assert not any(_lives(pid) for each in seen for pid in each[:2])


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def test_a_simulated_node_runs_no_programs_and_says_so() -> None:
    outcome = go(echo_everywhere, target(), substrate="sim")
    assert isinstance(outcome.error, Escape)
    assert "a simulated node runs none" in outcome.message


# -- failures ----------------------------------------------------------------------------------------------------


def test_a_role_that_raises_is_a_crash_and_what_it_wrote_is_shown() -> None:
    async def scenario(cluster: Cluster) -> None:
        await at(cluster, "keeper-2", "write", "last words")
        await at(cluster, "keeper-2", "die")
        await asyncio.sleep(20)

    outcome = go(scenario)
    assert outcome.result == "crash"
    assert outcome.message == "keeper-2: ZeroDivisionError: as planned"
    assert isinstance(outcome.error, ZeroDivisionError)
    assert outcome.duration_s < 20
    text = outcome.explain()
    assert "keeper-2 wrote last:" in text
    assert "stdout: last words" in text
    assert "stderr: LAST WORDS" in text
    assert "in run" in text
    assert "keeper-1 wrote" not in text


def test_a_node_that_is_never_ready_fails_the_run_by_name() -> None:
    class Late(Keeper):
        async def run(self) -> None:
            if self.node.name == "keeper-1":
                await asyncio.sleep(1e6)
            await super().run()

    outcome = go(echo_everywhere, target(roles={"keeper": Late}, start_s=0.5))
    assert isinstance(outcome.error, TargetError)
    assert "keeper-1 was not ready 0.5 s after its start" in outcome.message


def test_a_run_that_takes_too_long_is_a_hang_that_says_where_the_test_waits() -> None:
    async def scenario(cluster: Cluster) -> None:
        await asyncio.sleep(60)  # here

    begun = time.monotonic()
    outcome = go(scenario, timeout_s=1.0)
    assert outcome.result == "hang"
    assert "test_process_run.py" in outcome.message
    assert time.monotonic() - begun < 30


def test_an_event_out_of_order_makes_the_run_infrastructure() -> None:
    async def scenario(cluster: Cluster) -> None:
        running: Any = cluster._running
        now_ns = time.monotonic_ns()
        await running.settled()
        with open(running.ground.events, "ab") as file:
            file.write(b"\n" + msgspec.json.encode([now_ns, 1, 1, 99, "late", {}]) + b"\n")
        await asyncio.sleep(20)

    outcome = go(scenario)
    assert outcome.result == "infrastructure"
    assert isinstance(outcome.error, Infrastructure)
    assert "keeper-1 said late" in outcome.message
    assert not outcome.history.of("late")


def test_only_what_pickles_passes_between_test_and_node() -> None:
    async def scenario(cluster: Cluster) -> None:
        await at(cluster, "keeper-1", "write", lambda: None)

    assert go(scenario).message.startswith("TypeError: only what pickles can pass")


# -- configuration -----------------------------------------------------------------------------------------------


def test_realtime_values_hold_on_real_substrates_where_the_test_says_nothing_else() -> None:
    async def scenario(cluster: Cluster) -> None:
        assert await at(cluster, "keeper-1", "beat") == 1.0
        assert await at(cluster, "keeper-2", "beat") == 7.0
        assert cluster.config.beat_s == 1.0

    of = target(realtime={"keepers.beat_s": {"*": 1.0}})
    outcome = go(scenario, of, assignment={"keepers.beat_s": {"keeper-2": 7.0}})
    assert outcome.result == "pass", outcome.explain()


def test_classes_that_a_test_made_itself_serve_as_roles_and_configurations() -> None:
    class Own(msgspec.Struct, frozen=True, kw_only=True):
        timeout_s: float = 1.0
        greeting: str = ""

    class OwnServer(EchoServer):
        pass

    async def scenario(cluster: Cluster) -> None:
        await cluster.configure("server-1", {"own.greeting": "restarted "})
        assert (await cluster.client.say("server-1", "you")).text == "restarted you"
        await cluster.configure("server-1", {"own.greeting": "reloaded "}, how="reload")
        assert (await cluster.client.say("server-1", "you")).text == "reloaded you"

    of = Target(name="own", config=Own, roles={"server": OwnServer}, client=EchoClient)
    outcome = go(scenario, of)
    assert outcome.result == "pass", outcome.explain()


def test_reads_of_parameters_are_noted_across_processes() -> None:
    noted = run(echo_everywhere, RunSpec(target="echo", substrate="process"), target=echo, record_reads=True)
    assert {(read.role, read.parameter) for read in noted.reads} == {
        ("client", "echo.timeout_s"),
        ("server", "echo.greeting"),
    }
    assert EchoConfig().greeting == ""


# -- faults ------------------------------------------------------------------------------------------------------


@catalogue.each_of(*catalogue.FAULTS, ("noop", {}))
def test_every_fault_of_the_catalogue_takes_effect_and_heals(fault: str, settings: dict[str, Any]) -> None:
    catalogue.takes_effect_and_heals("process", fault, settings)
