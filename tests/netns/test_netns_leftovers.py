"""Nothing is left of a session that is killed at any moment: no process, no directory, no device, no namespace."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from zebra import Cluster, RunSpec, run
from zebra.substrate.netns import SUBSTRATE
from zebra.testing import echo

pytestmark = pytest.mark.skipif(bool(SUBSTRATE.unavailable()), reason=SUBSTRATE.unavailable())

ROOT = Path(__file__).parents[2]
TRIES = 20


def test_twenty_sessions_killed_at_random_moments_leave_nothing() -> None:
    """A namespace without a name lives as long as a process in it, or one with its descriptor: no process, none."""
    command = [sys.executable, "-m", "tests.netns.soak_netns", str(TRIES)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    kills = [json.loads(line) for line in result.stdout.splitlines()]
    assert result.returncode == 0, result.stdout + result.stderr
    assert len(kills) == TRIES
    assert sum(kill["processes_before"] >= 6 for kill in kills) >= TRIES // 4, "sessions were killed with nodes running"
    assert sum(kill["faults"] > 0 for kill in kills) >= TRIES // 2, "and in the midst of faults"


def namespaces() -> set[str]:
    """The network namespaces that any process is in, or has open."""
    found = set[str]()
    for entry in os.scandir("/proc"):
        if not entry.name.isdigit():
            continue
        for directory, names in (("ns", ("net",)), ("fd", None)):
            try:
                for name in names or os.listdir(f"{entry.path}/{directory}"):
                    target = os.readlink(f"{entry.path}/{directory}/{name}")
                    if target.startswith("net:["):
                        found.add(target)
            except OSError:
                pass
    return found


def _named() -> list[str]:
    """What the machine's own namespace shows that could be ours."""
    devices = [name for name in os.listdir("/sys/class/net") if name.startswith(("cable", "wire"))]
    return devices + (sorted(os.listdir("/run/netns")) if os.path.exists("/run/netns") else [])


def test_the_namespaces_of_a_run_are_gone_when_it_has_ended_and_nothing_is_named() -> None:
    seen = set[str]()

    async def scenario(cluster: Cluster) -> None:
        lives = cluster._running._lives  # type: ignore[attr-defined]
        seen.update(os.readlink(f"/proc/{life.pid}/ns/net") for life in lives.values())
        assert seen <= namespaces()
        async with cluster.fault("host.crash", "server-1"):
            pass
        seen.add(os.readlink(f"/proc/{lives['server-1'].pid}/ns/net"))

    before = _named()
    files = len(os.listdir("/proc/self/fd"))
    run(scenario, RunSpec(target="echo", substrate="netns"), target=echo).raise_failure()
    assert len(seen) == 5, "four nodes, one of them twice"
    assert not seen & namespaces()
    assert _named() == before
    assert len(os.listdir("/proc/self/fd")) <= files + 2, "a warden's ledger is all that stays open"
