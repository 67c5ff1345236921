"""End a pytest session in every way there is, and see that nothing outlives it.

Run it with `python -m tests.leftovers.ends SUBSTRATE [TRIES [WAY …]]`; `test_ends.py` tries each way once. Prints one
line per way: tries, how many were clean, the median and the slowest end in seconds from the end of pytest.
"""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.leftovers import looking

PATIENCE_S = 120.0
"""Pytest itself may take so long on a busy machine."""

GIVE_UP_S = 30.0
"""What is there so long after the end of pytest is left for good."""

AT_ONCE = 4
"""So many sessions at a time."""

MARK = "ZEBRA_SOAK_MARK"

SESSION = '''
import asyncio, os, subprocess, sys
from pathlib import Path
import pytest
from zebra.testing import EchoClient, EchoServer, EchoConfig
from zebra import Target, Topology

DEAF = "import signal, time; [signal.signal(n, signal.SIG_IGN) for n in (1, 2, 15)]; time.sleep(1000)"

class Parent(EchoServer):
    """Starts a program, and one that ignores signals."""
    async def run(self):
        programs = ("import time; time.sleep(1000)", DEAF)
        self.programs = [subprocess.Popen([sys.executable, "-S", "-E", "-c", program]) for program in programs]
        await super().run()

class Patient(EchoConfig, frozen=True, kw_only=True):
    timeout_s: float = 60.0

TARGET = Target(name="soak", config=Patient, roles={"server": Parent}, client=EchoClient,
                topology=Topology(counts={"server": 2}), start_s=60.0)
WAY = os.environ.get("SOAK_WAY", "")
MINE = os.environ.get("PYTEST_XDIST_WORKER", "")

async def body(cluster):
    for server in cluster.nodes("server"):
        await cluster.client.say(server, "hello")
    async with cluster.fault("host.pause", "server-2"):
        here = Path(os.environ["SOAK_DIR"])
        (here / f"{MINE}.part").write_text(f"{cluster._running.pid_of('server-1')} {os.getpid()}")
        (here / f"{MINE}.part").rename(here / f"{MINE}.ready")
        if WAY in ("pass", "teardown", "xdist pass"):
            return
        if WAY == "pytest.exit":
            pytest.exit("as planned")
        assert WAY not in ("fail", "x"), "as planned"
        while not (here / "over").exists():
            await asyncio.sleep(0.05)

@pytest.fixture(scope="module")
def broken():
    assert WAY != "setup", "as planned"
    yield
    assert WAY != "teardown", "as planned"

@pytest.mark.zebra(TARGET)
async def test_one(cluster, broken):
    await body(cluster)

@pytest.mark.zebra(TARGET)
async def test_two(cluster):
    if MINE or WAY == "x":
        await body(cluster)
    elif WAY == "pytest.exit":
        raise AssertionError("it goes on")

@pytest.mark.skipif(not MINE, reason="a third worker's")
@pytest.mark.zebra(TARGET)
async def test_three(cluster):
    await body(cluster)
'''


LIMIT_S = {"process": 2, "netns": 2, "docker": 8}
"""What limits of time are set to: long enough for the nodes to be up before."""


@dataclass(frozen=True)
class Way:
    """How a session ends: by an option ({} is the limit of time), or by what is done to it; what pytest says then (a
    regular expression)."""

    says: str = ""
    options: tuple[str, ...] = ()
    workers: int = 0
    signals: tuple[signal.Signals, ...] = field(default=())


WAYS = {
    "pass": Way("2 passed, 1 skipped"),
    "fail": Way("1 failed, 1 passed"),
    "x": Way("1 failed", options=("-x",)),
    "setup": Way("1 passed, 1 skipped, 1 error"),
    "teardown": Way("2 passed, 1 skipped, 1 error"),
    "pytest.exit": Way("Exit: as planned"),
    "zebra's timeout": Way("not done after", options=("--zebra-timeout", "{}s")),
    "pytest-timeout": Way("Timeout", options=("--timeout", "{}")),
    "pytest-timeout by thread": Way("Timeout", options=("--timeout", "{}", "--timeout-method", "thread")),
    "interrupt": Way("KeyboardInterrupt", signals=(signal.SIGINT,)),
    "interrupt twice": Way(signals=(signal.SIGINT, signal.SIGINT)),
    "terminate": Way(signals=(signal.SIGTERM,)),
    "kill": Way(signals=(signal.SIGKILL,)),
    "kill early": Way(signals=(signal.SIGKILL,)),
    "kill node": Way(r"server-1('s container)? ended unexpectedly"),
    "xdist pass": Way("3 passed", workers=3),
    "xdist interrupt": Way("KeyboardInterrupt", workers=3, signals=(signal.SIGINT,)),
    "xdist kill": Way(workers=3, signals=(signal.SIGKILL,)),
    "xdist kill worker": Way("worker 'gw0' crashed", workers=3),
}


@dataclass
class End:
    """How one session ended: seconds from the end of pytest until all was gone, what was left, what pytest said."""

    took_s: float
    left: list[str]
    output: str


def end(name: str, substrate: str, directory: Path, delay_s: float = 0.0) -> End:
    """End a session one way, `delay_s` after its nodes are up and one is paused."""
    mark, way = uuid.uuid4().hex, WAYS[name]
    (directory / "test_soak.py").write_text(SESSION)
    environment = {
        **os.environ, MARK: mark, "SOAK_WAY": name, "SOAK_DIR": str(directory), "TMPDIR": str(directory),
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",  # others take longer to import than all this takes
        "PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": str(directory.parent / "compiled"),
    }  # fmt: skip
    options = [option.format(LIMIT_S[substrate]) for option in way.options]
    command = [
        sys.executable, "-m", "pytest", "-p", "zebra", "-p", "xdist", "-p", "timeout", "-q", "-p", "no:cacheprovider",
        "--rootdir", str(directory), "--zebra-substrate", substrate, "--zebra-report", str(directory / "report"),
        *(("-n", str(way.workers)) if way.workers else ()), *options, str(directory / "test_soak.py"),
    ]  # fmt: skip
    with open(directory / "output", "w") as output:
        pytest = subprocess.Popen(
            command, env=environment, cwd=directory, stdout=output, stderr=output, start_new_session=True
        )
        try:
            known = _act(name, pytest, directory, delay_s)
            pytest.wait(timeout=PATIENCE_S)
        finally:
            if pytest.poll() is None:
                pytest.kill()
                pytest.wait()
    ended = time.monotonic()
    known |= _directories(directory)

    def what_is_left() -> list[str]:
        left = [f"process {pid} {looking.command(pid)}" for pid in looking.marked(MARK, mark)]
        left += [f"directory {name}" for name in _directories(directory)]
        return left or [each for name in known for each in looking.left(directory / name, substrate == "docker")]

    left = looking.wait_until_gone(what_is_left, GIVE_UP_S)
    took_s = time.monotonic() - ended
    for pid in looking.marked(MARK, mark):
        os.kill(pid, signal.SIGKILL)
    return End(took_s, left, (directory / "output").read_text())


def every_way(substrate: str, names: Iterable[str] = tuple(WAYS), delay_s: float = 0.02) -> dict[str, End]:
    """End a session in each way, several at a time: most of them wait for something."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as base, _interruptible():

        def one(name: str) -> End:
            directory = Path(base, name.replace(" ", "-"))
            directory.mkdir()
            return end(name, substrate, directory, delay_s)

        with ThreadPoolExecutor(AT_ONCE) as pool:
            return dict(zip(names, pool.map(one, names), strict=True))


@contextmanager
def _interruptible() -> Iterator[None]:
    """A shell starts what is to run in the background with SIGINT ignored, and that would be inherited."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _directories(directory: Path) -> set[str]:
    return {path.name for path in directory.glob("zebra-*-*")}


def _act(name: str, pytest: subprocess.Popen[bytes], directory: Path, delay_s: float) -> set[str]:
    """Do to a session what makes it end; the names of what it is until then, a session of ours for each worker."""
    way = WAYS[name]
    begun = "zebra-*-*/run-1/zygote.log" if name == "kill early" else "*.ready"
    until = time.monotonic() + PATIENCE_S
    known = set[str]()
    while len(list(directory.glob(begun))) < max(1, way.workers):
        known |= _directories(directory)
        if pytest.poll() is not None or time.monotonic() > until:
            break
        time.sleep(0.01)
    known |= _directories(directory)
    time.sleep(delay_s)
    for number in way.signals:
        if number == signal.SIGINT:  # as a terminal does it
            os.killpg(pytest.pid, number)
            time.sleep(delay_s / 4)
        else:
            pytest.send_signal(number)
    if name == "kill node":
        os.kill(int((directory / ".ready").read_text().split()[0]), signal.SIGKILL)
    elif name == "xdist kill worker":
        os.kill(int((directory / "gw0.ready").read_text().split()[1]), signal.SIGKILL)
        (directory / "over").touch()
    return known


def main(substrate: str, tries: int = 20, names: tuple[str, ...] = ()) -> int:
    chance, bad = random.Random(0), 0
    found: dict[str, list[End]] = {name: [] for name in names or WAYS}
    for _ in range(tries):
        for name, ended in every_way(substrate, found, chance.random() * 0.1).items():
            found[name].append(ended)
            if ended.left or not re.search(WAYS[name].says, ended.output):
                bad += 1
                print(f"{name}: left {ended.left}\n{ended.output[-600:]}", flush=True)
    for name, ends in found.items():
        clean, times = sum(not each.left for each in ends), sorted(each.took_s for each in ends)
        median_s = times[len(times) // 2]
        line = f"{name:24} {substrate} {tries} tries, {clean} clean, median {median_s:.3f} s, slowest {times[-1]:.3f} s"
        print(line)
    return bool(bad)


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    sys.exit(main(sys.argv[1], int(sys.argv[2]) if sys.argv[2:] else 20, tuple(sys.argv[3:])))
