"""Clock faults on servers that are not ours, by libfaketime."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from zebra import Cluster, Node, Outcome, RunSpec, Target, Topology, run
from zebra.errors import ConfigError
from zebra.programs import Program
from zebra.run import find_substrate
from zebra.substrate.process.faketime import VARIABLE, Reads, library, reap
from zebra.target import find_target
from zebra.targets.nats.space import unavailable as no_nats
from zebra.targets.postgres.install import unavailable as no_postgres
from zebra.targets.valkey.space import unavailable as no_valkey
from zebra.testing import EchoConfig

SESSION = """
import asyncio
from zebra import RunSpec, run
from zebra.target import find_target

async def scenario(cluster):
    await cluster.inject("clock.jump", "replica-1", by=3600.0)
    print("ready", flush=True)
    await asyncio.Event().wait()

run(scenario, RunSpec(target="valkey", substrate="process"), target=find_target("valkey"))
"""

HOUR_S = 3600.0
NEAR_S = 60.0
"""Less than any fault here, more than a busy machine takes between two looks."""


def found() -> bool:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(VARIABLE, os.environ.get(VARIABLE) or "1")
        return library() is not None


needs_library = pytest.mark.skipif(not found(), reason="libfaketime is not installed")
needs_valkey = pytest.mark.skipif(bool(no_valkey()), reason=no_valkey() or "there is a server")
needs_postgres = pytest.mark.skipif(bool(no_postgres()), reason=no_postgres() or "there is a server")
needs_nats = pytest.mark.skipif(bool(no_nats()), reason=no_nats() or "there is a server")


@pytest.fixture(autouse=True)
def loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, os.environ.get(VARIABLE) or "1")


def go(scenario: Any, name: str = "valkey", target: Target | None = None, substrate: str = "process") -> Outcome:
    spec = RunSpec(test="test", target=name, substrate=substrate, timeout_s=60)
    return run(scenario, spec, target=target or find_target(name))


def left(session: int) -> set[str]:
    """What a session and the library have made in memory, by name."""
    names = {path.name for path in Path("/dev/shm").iterdir()}
    return {name for name in names if f"zebra-clock-{session}-" in name or "faketime_" in name}


def passes(scenario: Any, name: str = "valkey", substrate: str = "process") -> None:
    """It does, and leaves nothing in memory."""
    before = left(os.getpid())
    go(scenario, name, substrate=substrate).raise_failure()
    assert left(os.getpid()) == before


async def ahead_s(cluster: Cluster, node: str) -> float:
    """How far a Valkey server's wall clock is ahead of the true one."""
    seconds, micros = await cluster.client.command(node, "TIME")
    return int(seconds) + int(micros) / 1e6 - time.time()


# -- Valkey ------------------------------------------------------------------------------------------------------


async def an_hour_ahead(cluster: Cluster) -> None:
    assert await cluster.client.command("primary-1", "SET", "kept", "1", "EX", "1000") == "OK"
    for replica in ("replica-1", "replica-2"):
        while await cluster.client.command(replica, "GET", "kept") is None:
            pass
    fault = await cluster.inject("clock.offset", "replica-1", by=HOUR_S)
    assert abs(await ahead_s(cluster, "replica-1") - HOUR_S) < NEAR_S
    assert abs(await ahead_s(cluster, "primary-1")) < NEAR_S
    assert abs(await ahead_s(cluster, "replica-2")) < NEAR_S
    assert await cluster.client.command("replica-1", "GET", "kept") is None, "it has expired there"
    assert await cluster.client.command("replica-2", "GET", "kept") == b"1"
    await cluster.heal(fault)
    assert fault.hits > 0
    assert abs(await ahead_s(cluster, "replica-1")) < NEAR_S
    assert await cluster.client.command("replica-1", "GET", "kept") == b"1", "a replica deletes nothing by itself"


@needs_library
@needs_valkey
def test_a_replica_whose_clock_is_ahead_takes_keys_for_expired_until_it_is_healed() -> None:
    passes(an_hour_ahead)


@needs_library
@needs_valkey
@pytest.mark.parametrize("substrate", ["netns", "docker"])
def test_it_does_so_in_namespaces_and_containers_too(substrate: str) -> None:
    if trouble := find_substrate(substrate).unavailable():
        pytest.skip(f"{substrate}: {trouble}")
    passes(an_hour_ahead, substrate=substrate)


@needs_library
@needs_valkey
def test_keys_that_a_primary_lets_expire_too_early_are_gone_for_good() -> None:
    async def scenario(cluster: Cluster) -> None:
        assert await cluster.client.command("primary-1", "SET", "lost", "1", "EX", "1000") == "OK"
        async with cluster.fault("clock.offset", "primary-1", by=HOUR_S):
            assert await cluster.client.command("primary-1", "GET", "lost") is None
        assert await cluster.client.command("primary-1", "GET", "lost") is None
        assert abs(await ahead_s(cluster, "primary-1")) < NEAR_S

    passes(scenario)


@needs_library
@needs_valkey
def test_a_server_that_crashes_comes_back_to_the_clock_that_it_had() -> None:
    async def scenario(cluster: Cluster) -> None:
        async with cluster.fault("clock.offset", "replica-1", by=-HOUR_S):
            async with cluster.fault("host.crash", "replica-1"):
                pass
            assert abs(await ahead_s(cluster, "replica-1") + HOUR_S) < NEAR_S
        assert abs(await ahead_s(cluster, "replica-1")) < NEAR_S

    passes(scenario)


@needs_library
@needs_valkey
def test_a_drifting_clock_runs_away_and_is_set_right() -> None:
    async def scenario(cluster: Cluster) -> None:
        assert await ahead_s(cluster, "replica-1") < 0.1, "an answer is older than the look at the true clock"
        async with cluster.fault("clock.drift", "replica-1", rate=10.0), asyncio.timeout(20):
            while await ahead_s(cluster, "replica-1") < 2.0:
                pass
        assert await ahead_s(cluster, "replica-1") < 0.1

    passes(scenario)


@needs_library
@needs_valkey
def test_a_jumping_clock_goes_there_and_back() -> None:
    async def scenario(cluster: Cluster) -> None:
        seen = set[int]()
        async with cluster.fault("clock.jump", "replica-1", by=-HOUR_S, every_s=0.05), asyncio.timeout(20):
            while seen != {0, -60}:
                seen.add(round(await ahead_s(cluster, "replica-1") / 60))
        assert abs(await ahead_s(cluster, "replica-1")) < NEAR_S

    passes(scenario)


@needs_library
@needs_valkey
def test_a_frozen_clock_stands_still_and_offsets_add_to_it() -> None:
    async def scenario(cluster: Cluster) -> None:
        async def clock_s() -> float:
            seconds, micros = await cluster.client.command("replica-1", "TIME")
            return int(seconds) + int(micros) / 1e6

        async with cluster.fault("clock.freeze", "replica-1"), asyncio.timeout(20):
            began_s = time.monotonic()
            stood_s = await clock_s()
            assert abs(stood_s - time.time()) < NEAR_S
            last_s = stood_s + 1
            while time.monotonic() - began_s < 0.5 or last_s - stood_s > 0.1:
                last_s = await clock_s()
                stood_s = min(stood_s, last_s)  # a server adds how long it was at work on a command, held up or not
            async with cluster.fault("clock.offset", "replica-1", by=100.0):
                while abs(await clock_s() - stood_s - 100) > 0.1:
                    pass
        assert abs(await ahead_s(cluster, "replica-1")) < NEAR_S

    passes(scenario)


@needs_valkey
def test_a_server_that_started_without_the_library_refuses_and_says_what_to_set(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def scenario(cluster: Cluster) -> None:
        with pytest.raises(ConfigError) as refused:
            await cluster.inject("clock.offset", "replica-1", by=HOUR_S)
        said.append(str(refused.value))

    said = list[str]()
    for value in ("0", "/nowhere/libfaketime.so.1"):
        monkeypatch.setenv(VARIABLE, value)
        assert go(scenario).result == "inconclusive"
    assert all(text.startswith("replica-1 is a server that is not ours") and "\n" not in text for text in said)
    assert f"only if {VARIABLE}=1 says so" in said[0] and f"{VARIABLE}=/nowhere/libfaketime.so.1 finds no" in said[1]


@needs_library
@needs_valkey
def test_after_kill_9_of_the_session_the_warden_leaves_nothing_in_memory() -> None:
    session = subprocess.Popen([sys.executable, "-c", SESSION], stdout=subprocess.PIPE, text=True)
    try:
        assert session.stdout is not None
        assert session.stdout.readline() == "ready\n"
        made = {name for name in left(session.pid) if "zebra-clock" in name}
        assert len(made) == 6, "memory and a semaphore of three servers"
    finally:
        session.kill()
        session.communicate()
    until = time.monotonic() + 20
    while made & left(session.pid) and time.monotonic() < until:
        time.sleep(0.01)
    assert not made & left(session.pid)


# -- others ------------------------------------------------------------------------------------------------------


@needs_library
@needs_postgres
def test_postgres_tells_another_time_stands_still_and_tells_the_true_one_again() -> None:
    async def scenario(cluster: Cluster) -> None:
        async def epoch_s(node: str) -> float:
            answer = await cluster.client.sql(node, "SELECT extract(epoch FROM clock_timestamp())::float8")
            return float(answer[0][0])

        async def off_s(node: str) -> float:
            return await epoch_s(node) - time.time()

        async with cluster.fault("clock.offset", "primary-1", by=2 * HOUR_S):
            assert abs(await off_s("primary-1") - 2 * HOUR_S) < NEAR_S
            assert abs(await off_s("standby-1")) < NEAR_S
        assert abs(await off_s("primary-1")) < NEAR_S
        async with cluster.fault("clock.freeze", "standby-1"):
            first_s, began_s = await epoch_s("standby-1"), time.monotonic()
            while time.monotonic() - began_s < 0.05:
                assert await epoch_s("standby-1") == first_s
        assert await epoch_s("standby-1") != first_s

    passes(scenario, "postgres")


@needs_library
@needs_nats
def test_a_static_program_is_refused_for_what_it_is() -> None:
    async def scenario(cluster: Cluster) -> None:
        with pytest.raises(ConfigError, match="nats-server is linked statically, so that libfaketime cannot be loaded"):
            await cluster.inject("clock.offset", "server-1", by=HOUR_S)

    assert go(scenario, "nats").result == "inconclusive"


class Sleeper:
    """Starts a program that asks for no time of day."""

    def __init__(self, node: Node[Any]) -> None:
        self.node = node

    async def run(self) -> None:
        program = await Program.start(self.node, shutil.which("sleep") or "sleep", "600")
        try:
            await self.node.ready()
            await program.wait()
        finally:
            await program.stop(1.0)


@needs_library
def test_a_clock_that_no_program_looks_at_was_not_hit() -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.inject("clock.offset", "sleeper-1", by=HOUR_S)

    target = Target(name="sleepers", config=EchoConfig, roles={"sleeper": Sleeper}, external=True,
                    topology=Topology(counts={"sleeper": 1}))  # fmt: skip
    outcome = go(scenario, "sleepers", target)
    assert outcome.result == "inconclusive", outcome.explain()


def test_a_read_of_the_file_is_reported_once_and_one_of_another_file_is_not(tmp_path: Path) -> None:
    reads = Reads()
    try:
        for name in ("one", "two"):
            (tmp_path / name).mkdir()
            (tmp_path / name / "now").write_text("+0")
            (tmp_path / name / "next").write_text("+1")
            reads.watch(tmp_path / name, name)
        assert not reads.seen("one")
        (tmp_path / "one" / "next").read_text()
        assert not reads.seen("one")
        (tmp_path / "one" / "next").replace(tmp_path / "one" / "now")
        (tmp_path / "one" / "now").read_text()
        assert not reads.seen("two")
        assert reads.seen("one") and not reads.seen("one")
    finally:
        reads.close()


def test_only_what_bears_our_mark_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zebra.substrate.process.faketime._MEMORY", tmp_path)
    mine, theirs = "zebra-clock-7-00ff-3", "sem.faketime_sem_7"
    for name in (mine, f"sem.{mine}", theirs):
        (tmp_path / name).write_text("")
    assert not reap([{"name": mine}, {"name": theirs}, {"name": f"../{tmp_path.name}/{theirs}"}])
    assert [path.name for path in tmp_path.iterdir()] == [theirs]
    assert reap([{"name": mine}]), "what is gone is gone"
