"""Kill sessions with runs in network namespaces at random moments, and look for what is left of them.

Run it with `python -m tests.netns.soak_netns [TRIES]`; `test_netns_leftovers.py` does so with 20. Prints a line of JSON
per kill: the seconds until all was gone, the processes, directories and devices that were left, how far the run was.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

from tests.leftovers import looking
from zebra import Cluster, RunSpec, run
from zebra.testing import echo

MARK = "ZEBRA_SOAK_MARK"
GIVE_UP_S = 10.0
LATEST_S = 1.5
OUR_DEVICES = ("cable", "wire")
FAULTS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("network.partition", {}),
    ("network.partition", {"how": "reject", "direction": "in"}),
    ("network.loss", {"probability": 0.3}),
    ("network.latency", {"delay": "20ms"}),
    ("network.bandwidth", {"rate": "50kB/s"}),
    ("network.reset", {"probability": 0.5}),
    ("host.crash", {}),
    ("host.pause", {}),
    ("host.stop", {"grace_s": 0.05}),
)


def session(seed: int, progress: int) -> None:
    """Runs without end, with faults that come and go; writes to `progress` how many have."""
    chance = random.Random(seed)

    async def scenario(cluster: Cluster) -> None:
        async def talk() -> None:
            while True:
                for server in cluster.nodes("server"):
                    await cluster.client.ping(server, 1)
                await asyncio.gather(*(cluster.client.say(s) for s in cluster.nodes("server")), return_exceptions=True)

        talking = asyncio.create_task(talk())
        for _ in range(20):
            name, settings = chance.choice(FAULTS)
            async with cluster.fault(name, chance.choice(cluster.nodes("server")), **settings):
                await asyncio.sleep(chance.random() * 0.1)
            os.write(progress, b".")
        talking.cancel()

    while True:
        run(scenario, RunSpec(target="echo", substrate="netns", seed=seed, timeout_s=60), target=echo)


def marked() -> list[int]:
    return looking.marked(MARK, os.environ[MARK])


def kill(seed: int, delay_s: float, directory: Path) -> dict[str, Any]:
    """One session from its start to its kill, and what is left of it then."""
    out, into = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            os.close(out)
            session(seed, into)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)
    os.close(into)
    faults = len(os.read(out, 1)) if seed % 2 else 0  # every other one is past its first fault, however slow it is
    time.sleep(delay_s)  # the moment is the point: nothing is waited for
    before = len(marked())
    os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    ended = time.monotonic()
    while (left := marked()) or any(directory.glob("zebra-*-*/run-*")):
        if time.monotonic() - ended > GIVE_UP_S:
            break
        time.sleep(0.002)
    took_s = time.monotonic() - ended
    os.set_blocking(out, False)
    try:
        faults += len(os.read(out, 1 << 16))
    except BlockingIOError:
        pass
    os.close(out)
    for each in left:
        os.kill(each, signal.SIGKILL)
    return {
        "killed": status == signal.SIGKILL, "took_s": round(took_s, 4), "processes_before": before, "faults": faults,
        "left": left, "directories": [path.name for path in directory.glob("zebra-*-*/run-*")],
        "devices": [name for name in os.listdir("/sys/class/net") if name.startswith(OUR_DEVICES)],
    }  # fmt: skip


def main(tries: int) -> int:
    if MARK not in os.environ:  # so that every process has it that comes of this one
        command = [sys.executable, "-m", "tests.netns.soak_netns", *sys.argv[1:]]
        os.execve(sys.executable, command, {**os.environ, MARK: f"{os.getpid()}.{time.time_ns()}"})
    chance, bad = random.Random(0), 0
    with tempfile.TemporaryDirectory() as name:
        os.environ["TMPDIR"] = tempfile.tempdir = name
        for seed in range(tries):
            result = kill(seed, chance.random() * LATEST_S, Path(name))
            bad += bool(result["left"] or result["directories"] or result["devices"] or not result["killed"])
            print(json.dumps(result), flush=True)
    return bool(bad)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 20))
