"""Kill sessions on docker at random moments, and see that no container, network or image outlives them.

Run it with `python tests/docker/soak_docker.py [TRIES]`; `test_reap.py` does the same. Prints one line per try.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from zebra.injection.ledger import outstanding
from zebra.substrate.docker.engine import LABEL_SESSION, EngineSocket, socket_path

PATIENCE_S, GIVE_UP_S = 60.0, 30.0
"""How long to wait for a session's beginning, and for its things to be gone once it is dead."""

SESSION = """
import asyncio, sys
from pathlib import Path
from zebra import RunSpec, Target, Topology, run
from zebra.testing import EchoClient, EchoConfig, EchoServer

TARGET = Target(name="soak", config=EchoConfig, roles={"server": EchoServer}, client=EchoClient,
                topology=Topology(counts={"server": 2}))

async def body(cluster):
    for _ in range(2):
        async with cluster.fault("host.pause", "server-1"), cluster.fault("host.crash", "server-2"):
            await asyncio.sleep(0.1)
        await cluster.client.say("server-2", "hello")

number = 0
while True:  # until killed
    number += 1
    outcome = run(body, RunSpec(test="soak", target="soak", substrate="docker", timeout_s=60), target=TARGET)
    Path(sys.argv[1], "runs").write_text(f"{number} {outcome.result} {outcome.message}")
"""


def things(session: str) -> list[str]:
    """What the engine has of a session."""
    engine = EngineSocket(socket_path())
    query = urlencode({"filters": json.dumps({"label": [f"{LABEL_SESSION}={session}"]}), "all": "true"})
    try:
        found: list[dict[str, Any]] = []
        for kind in ("containers", "networks", "images"):
            status, answer = engine.ask("GET", f"/{kind}{'' if kind == 'networks' else '/json'}?{query}")
            assert status == 200, answer
            found += answer
    finally:
        engine.close()
    return [str(each.get("Names") or each.get("Name") or each.get("RepoTags")) for each in found]


def owed(ledger: Path) -> list[str]:
    """What a ledger still holds; one that is killed before it has a warden leaves a ledger that holds nothing."""
    return [f"{entry['kind']} {entry['id']}" for entry in outstanding(ledger) if entry["kind"] != "session"]


def kill(directory: Path, delay_s: float) -> tuple[list[str], float, str, str]:
    """Kill a session `delay_s` after it has its ledger: what it had then, seconds until all was gone, what is left."""
    (directory / "soaked.py").write_text(SESSION)
    environment = {**os.environ, "TMPDIR": str(directory)}
    with open(directory / "output", "w") as output:
        command = [sys.executable, str(directory / "soaked.py"), str(directory)]
        session = subprocess.Popen(command, cwd=directory, env=environment, stdout=output, stderr=output)
    try:
        until = time.monotonic() + PATIENCE_S
        while not (ledgers := list(directory.glob("zebra-*-*/ledger"))):
            assert session.poll() is None and time.monotonic() < until, (directory / "output").read_text()
            time.sleep(0.001)
        time.sleep(delay_s)
        assert session.poll() is None, (directory / "output").read_text()
        name = ledgers[0].parent.name
        had = things(name)
    finally:
        session.kill()
        session.wait()
    dead = time.monotonic()
    while (left := [*owed(ledgers[0]), *things(name)]) and time.monotonic() < dead + GIVE_UP_S:
        time.sleep(0.02)
    runs = directory / "runs"
    return had, time.monotonic() - dead, " ".join(left), runs.read_text() if runs.exists() else ""


def main(tries: int) -> int:
    chance, bad = random.Random(0), 0
    for number in range(tries):
        delay_s = chance.random() * 4.0
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as directory:
            had, took_s, left, runs = kill(Path(directory), delay_s)
        bad += bool(left)
        print(f"{number}: killed after {delay_s:.2f} s with {len(had)} things, run {runs or 0}; "
              f"gone after {took_s:.2f} s; left: {left or 'nothing'}", flush=True)  # fmt: skip
    return bool(bad)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 20))
