"""End a pytest session in every way there is, and see that no process outlives it.

Run it with `python tests/process/soak_warden.py [TRIES [WAY …]]`; `test_warden.py` tries each way once.

Prints one line per way: tries, how many were clean, the slowest end in seconds from the end of pytest.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path

WITHIN_S, PATIENCE_S = 0.5, 120.0
"""All is to be gone so soon after the end of pytest, which itself may take long on a busy machine."""

GIVE_UP_S = 10.0
"""What is there after so long is left for good."""

MARK = "ZEBRA_SOAK_MARK"

SESSION = '''
import asyncio, os, subprocess, sys
from pathlib import Path
import pytest
from zebra.testing import EchoClient, EchoServer, EchoConfig
from zebra import Target, Topology

class Parent(EchoServer):
    """Starts a program, and one that ignores signals."""
    async def run(self):
        stubborn = "trap '' INT TERM HUP; sleep 1000"
        self.programs = [subprocess.Popen(["sleep", "1000"]), subprocess.Popen(["sh", "-c", stubborn])]
        await super().run()

    def say(self, say, caller):
        Path(os.environ["SOAK_DIR"], self.node.name).write_text(str(os.getpid()))
        return super().say(say, caller)

TARGET = Target(name="soak", config=EchoConfig, roles={"server": Parent}, client=EchoClient,
                topology=Topology(counts={"server": 3}))
WAY = os.environ["SOAK_WAY"]

async def body(cluster):
    for server in cluster.nodes("server"):
        await cluster.client.say(server, "hello")
    async with cluster.fault("host.pause", "server-2"):
        Path(os.environ["SOAK_DIR"], "ready").touch()
        if WAY in ("pass", "fixture"):
            return
        assert WAY not in ("fail", "x"), "as planned"
        await asyncio.sleep(1000)

@pytest.fixture(scope="module")
def broken():
    yield
    assert WAY != "fixture", "as planned"

@pytest.mark.zebra(TARGET)
async def test_one(cluster, broken):
    await body(cluster)

@pytest.mark.zebra(TARGET)
async def test_two(cluster):
    if WAY == "x":
        await body(cluster)
'''

WAYS = ("pass", "fail", "fixture", "x", "interrupt", "interrupt twice", "terminate", "kill", "kill node", "kill early")


def alive(mark: str) -> list[int]:
    """The processes that the session started, itself among them; zombies do not count."""
    found = []
    wanted = f"{MARK}={mark}".encode()
    for entry in os.scandir("/proc"):
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                if wanted in Path(entry.path, "environ").read_bytes().split(b"\0"):
                    found.append(int(entry.name))
            except OSError:
                pass
    return found


def end(way: str, directory: Path, delay_s: float = 0.0) -> tuple[float, list[int], str]:
    """End a session one way: seconds from pytest's end until all was gone, what was left, pytest's output."""
    mark = uuid.uuid4().hex
    (directory / "test_soak.py").write_text(SESSION)
    environment = {**os.environ, MARK: mark, "SOAK_WAY": way, "SOAK_DIR": str(directory), "TMPDIR": str(directory)}
    command = [sys.executable, "-m", "pytest", "-p", "zebra", "-q", "-p", "no:cacheprovider", "--rootdir",
               str(directory), "--zebra-substrate", "process", "--zebra-report", str(directory / "report"),
               str(directory / "test_soak.py")]  # fmt: skip
    with open(directory / "output", "w") as output:
        pytest = subprocess.Popen(command + ["-x"] * (way == "x"), env=environment, cwd=directory, stdout=output,
                                  stderr=output, start_new_session=True, preexec_fn=_interruptible)  # fmt: skip
        try:
            _act(way, pytest, directory, delay_s)
            pytest.wait(timeout=PATIENCE_S)
        finally:
            if pytest.poll() is None:
                pytest.kill()
                pytest.wait()
    ended = time.monotonic()
    while (left := alive(mark)) and time.monotonic() - ended < GIVE_UP_S:
        time.sleep(0.005)
    took_s = time.monotonic() - ended
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    return took_s, left, (directory / "output").read_text()


def _interruptible() -> None:
    """A shell starts what is to run in the background with SIGINT ignored, and that would be inherited."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _act(way: str, pytest: subprocess.Popen[bytes], directory: Path, delay_s: float) -> None:
    if way == "kill early":  # somewhere in the middle of a start
        while not list(directory.glob("zebra-*-*/run-1/zygote.log")) and pytest.poll() is None:
            time.sleep(0.002)
        time.sleep(delay_s)
        pytest.kill()
        return
    until = time.monotonic() + PATIENCE_S
    while not (directory / "ready").exists() and pytest.poll() is None and time.monotonic() < until:
        time.sleep(0.005)
    time.sleep(delay_s)
    if way.startswith("interrupt"):
        os.killpg(pytest.pid, signal.SIGINT)
        if way.endswith("twice"):
            time.sleep(delay_s / 4)
            os.killpg(pytest.pid, signal.SIGINT)
    elif way == "terminate":
        pytest.terminate()
    elif way == "kill":
        pytest.kill()
    elif way == "kill node":
        os.kill(int((directory / "server-1").read_text()), signal.SIGKILL)


def main(tries: int, ways: tuple[str, ...] = WAYS) -> int:
    chance, bad = random.Random(0), 0
    for way in ways:
        times = []
        for _ in range(tries):
            with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as directory:
                took_s, left, output = end(way, Path(directory), chance.random() * 0.1)
                rest = [path.name for path in Path(directory).glob("zebra-*-*")]
            times.append(took_s)
            if left or took_s > WITHIN_S or rest:
                bad += 1
                print(f"{way}: {took_s:.3f} s, left {left} {rest}\n{output[-600:]}")
        clean = sum(t <= WITHIN_S for t in times)
        median_s = sorted(times)[len(times) // 2]
        print(f"{way:16} {tries} tries, {clean} clean, median {median_s:.3f} s, slowest {max(times):.3f} s", flush=True)
    return bool(bad)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 50, tuple(sys.argv[2:]) or WAYS))
