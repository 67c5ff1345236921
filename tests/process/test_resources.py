"""Limits on real processes: without control groups, beside each other, at servers not ours, and after kill -9."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.resource_use import go, on, workers
from zebra import Cluster
from zebra.errors import ConfigError
from zebra.injection.ledger import outstanding
from zebra.substrate.process import SUBSTRATE, resources
from zebra.substrate.process.cgroup import MARK, Tree, find, reap

pytestmark = pytest.mark.skipif(bool(SUBSTRATE.unavailable()), reason=SUBSTRATE.unavailable())

NO_GROUPS = "; ".join(str(found) for found in map(find, ("cpu", "memory", "pids")) if isinstance(found, str))  # type: ignore[arg-type]
with_groups = pytest.mark.skipif(bool(NO_GROUPS), reason=NO_GROUPS)

ROOT = Path(__file__).parents[2]
SESSION = """
import asyncio
from tests.resource_use import go, workers
from zebra.injection.warden import warden

async def scenario(cluster):
    await cluster.inject("host.slow", "*", cpu=0.5)
    await cluster.inject("host.memory", "*", spare_bytes="1GiB")
    await cluster.inject("host.process_limit", "*", spare=50)
    print(warden().directory, flush=True)
    await asyncio.Event().wait()

go(scenario, workers(2), "process")
"""


def passes(scenario: Any) -> None:
    go(scenario, workers(2), "process").raise_failure()


def groups() -> set[Path]:
    """The control groups of ours that this machine has."""
    trees = [tree for tree in map(find, ("cpu", "memory", "pids")) if isinstance(tree, Tree)]  # type: ignore[arg-type]
    return {path for tree in trees for path in tree.parent.glob(f"{MARK}*")}


def test_without_control_groups_a_slow_host_is_stopped_again_and_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resources, "find", lambda controller: "none for this test")

    async def scenario(cluster: Cluster) -> None:
        async with cluster.fault("host.slow", "worker-1", cpu=0.1) as slow:
            assert await on(cluster, "gap", 0.5) > 0.06
            assert "worker-1" in cluster.up()
        assert slow.hits >= 3
        async with asyncio.timeout(20):
            while await on(cluster, "gap", 0.3) > 0.06:
                pass
        assert not cluster.history.of("node.pause")

    passes(scenario)


@pytest.mark.parametrize(
    ("name", "settings", "what"),
    [("host.memory", {"spare_bytes": 1}, "no limit of memory"), ("host.process_limit", {}, "no limit of pids")],
)
def test_without_control_groups_other_limits_are_refused_in_a_line(
    name: str, settings: dict[str, Any], what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resources, "find", lambda controller: "none for this test")

    async def scenario(cluster: Cluster) -> None:
        with pytest.raises(ConfigError, match=f"{what} on this machine: none for this test") as raised:
            async with cluster.fault(name, "worker-1", **settings):
                pass
        assert "\n" not in str(raised.value)

    assert go(scenario, workers(2), "process").result == "inconclusive"


def test_a_pause_during_stalls_lasts_until_it_is_healed() -> None:
    async def scenario(cluster: Cluster) -> None:
        async with cluster.fault("host.unfair", "worker-1", stall_s="60ms", every_s="60ms"):
            async with cluster.fault("host.pause", "worker-1"):
                call = asyncio.ensure_future(on(cluster, "open_files", 1))
                done, _ = await asyncio.wait([call], timeout=0.4)
                assert not done
            assert await call == 1

    passes(scenario)


@with_groups
def test_limits_lie_in_groups_of_our_own_and_nothing_is_left() -> None:
    before = groups()
    homes: list[str] = []

    async def scenario(cluster: Cluster) -> None:
        homes.append((await on(cluster, "about"))[1])
        async with cluster.fault("host.process_limit", "worker-1", spare=50):
            async with cluster.fault("host.process_limit", "worker-1", spare=90):
                assert [path.name.split("-")[-3:] for path in groups() - before] == [["worker", "1", "pids"]]
                assert f"/{MARK}" in (await on(cluster, "about"))[1]
                assert f"/{MARK}" not in (await on(cluster, "about", node="worker-2"))[1]
                async with cluster.fault("host.restart", "worker-1"):
                    pass
                assert f"/{MARK}" in (await on(cluster, "about"))[1], "a new process is under the limit too"
            assert f"/{MARK}" in (await on(cluster, "about"))[1]
        assert (await on(cluster, "about"))[1] == homes[0]
        await cluster.inject("host.slow", "*", cpu=0.9)  # left to the end of the run

    outcome = go(scenario, workers(2), "process")
    assert outcome.result == "inconclusive", outcome.explain()  # nobody met any of these limits
    assert groups() == before


def test_two_limits_of_files_are_both_kept_and_undone_one_by_one() -> None:
    async def scenario(cluster: Cluster) -> None:
        own = (await on(cluster, "about"))[2]
        assert await on(cluster, "open_files", 20) == 20
        first = await cluster.inject("host.file_limit", "worker-1", spare=5)
        second = await cluster.inject("host.file_limit", "worker-1", spare=8)
        assert await on(cluster, "open_files", 20) == 5
        await cluster.heal(first)
        assert await on(cluster, "open_files", 20) == 8
        await cluster.heal(second)
        assert await on(cluster, "open_files", 20) == 20
        assert (await on(cluster, "about"))[2] == own
        assert (first.hits, second.hits) == (1, 1), "each refused one"

    passes(scenario)


def test_faults_that_a_foreign_server_would_not_notice_are_refused() -> None:
    async def scenario(cluster: Cluster) -> None:
        for name, what in (("clock.freeze", "asks the kernel for the time"), ("disk.full", "writes its files itself")):
            with pytest.raises(ConfigError, match=f"worker-1 is a server that is not ours: it {what}"):
                await cluster.inject(name, "worker-1")
        with pytest.raises(ConfigError, match="worker-1 is a server that is not ours: it was told addresses"):
            await cluster.inject("network.dns_failure", "worker-1", direction="out")

    assert go(scenario, workers(2, external=True), "process").result == "inconclusive"


@with_groups
def test_after_kill_9_of_the_session_the_ledger_names_what_is_left_and_reap_removes_it(tmp_path: Path) -> None:
    before, script = groups(), tmp_path / "session.py"
    script.write_text(SESSION)
    environment = {**os.environ, "TMPDIR": str(tmp_path), "PYTHONPATH": str(ROOT)}
    session = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True, env=environment)
    try:
        assert session.stdout is not None
        directory = Path(session.stdout.readline().strip())
        entries = [entry for entry in outstanding(directory / "ledger") if entry["kind"] == "cgroup"]
        assert {Path(entry["path"]) for entry in entries} == groups() - before
        assert len(entries) == 9, "three limits of three nodes"
    finally:
        session.send_signal(signal.SIGKILL)
        session.wait()
        assert session.stdout is not None
        session.stdout.close()
    until = time.monotonic() + 10
    while not reap(entries) and time.monotonic() < until:
        pass
    assert groups() == before
    assert reap(entries)
