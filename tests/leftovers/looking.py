"""What is there of sessions: processes, control groups, and what the container engine holds."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from zebra.injection.ledger import outstanding

PATIENCE_S = 15.0
"""What is there after so long is left for good."""

FORBIDDEN = 403
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36


def adopt_orphans(on: bool = True) -> None:
    """Make this process the parent of what its children leave: so it is seen."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, int(on), 0, 0, 0)


def die_with_parent() -> None:
    """Let this process be killed when the one is that forked it."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def children() -> set[int]:
    """The children of this process, dead ones too that nobody has buried."""
    return {int(child) for child in Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()}


def bury(pids: set[int]) -> set[int]:
    """Those of some children that live; the others are waited for."""
    return {pid for pid in pids if os.waitpid(pid, os.WNOHANG)[0] == 0}


def marked(name: str, value: str) -> list[int]:
    """The processes that have this in their environment, but this one; zombies do not count."""
    wanted, found = f"{name}={value}".encode(), []
    for entry in os.scandir("/proc"):
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                if wanted in Path(entry.path, "environ").read_bytes().split(b"\0"):
                    found.append(int(entry.name))
            except OSError:
                pass
    return found


def command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()[:80]
    except OSError:
        return "?"


def groups(session: str) -> list[str]:
    """Control groups of a session; others may vanish meanwhile."""
    walk = os.walk("/sys/fs/cgroup", onerror=None)
    return [os.path.join(root, name) for root, names, _ in walk for name in names if name.startswith(session)]


def mounts(session: str) -> list[str]:
    """Places where something of a session is mounted."""
    fields = [line.split() for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    return [each[4] for each in fields if session in each[3] or session in each[4]]


def held(session: str) -> list[str]:
    """What the container engine holds of a session, by label or by name."""
    from zebra.substrate.docker.engine import EngineSocket, socket_path

    engine, found = EngineSocket(socket_path()), []
    try:
        for path in ("containers/json?all=true", "networks", "images/json"):
            status, answer = engine.ask("GET", f"/{path}")
            if status != 200:
                raise RuntimeError(f"the engine answers {status} to {path}")
            found += [f"{path} {each['Id'][:20]}" for each in answer if session in json.dumps(each)]
    finally:
        engine.close()
    return found


def wait_until_gone(look: Callable[[], Any], patience_s: float = PATIENCE_S) -> Any:
    """Wait until there is nothing to see; what there is after all."""
    pause_s, until = 0.002, time.monotonic() + patience_s
    while (seen := look()) and time.monotonic() < until:
        time.sleep(pause_s)
        pause_s = min(0.1, 1.2 * pause_s)
    return seen


def zebra_clean(temporary: Path, *options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """What a later shell says, for which this is the directory of temporary files."""
    return subprocess.run(
        [sys.executable, "-m", "zebra.cli", "clean", *options], capture_output=True, text=True,
        env={**os.environ, "TMPDIR": str(temporary), **environment},
    )  # fmt: skip


def miscounted(networks: Sequence[str]) -> bool:
    """Whether all these networks are there because the engine has miscounted: it refuses to remove one, for its
    endpoints, of which it shows none. Docker 20.10 does that at times on a busy machine, and nobody but the engine can
    undo it, when it starts again (docs/leftovers.md)."""
    from zebra.substrate.docker.engine import EngineSocket, socket_path

    engine = EngineSocket(socket_path())
    try:
        for network in networks:
            shown = engine.ask("GET", f"/networks/{network}")[1]
            status, said = engine.ask("DELETE", f"/networks/{network}")
            if shown.get("Containers") or status != FORBIDDEN or "has active endpoints" not in said["message"]:
                return False
    finally:
        engine.close()
    return bool(networks)


def left(directory: Path, engine: bool) -> list[str]:
    """What is left of a session that had this directory, and an engine if so, beside processes."""
    if directory.exists():  # it is not over yet: nobody else need be asked
        still = outstanding(directory / "ledger") if engine else []
        if {entry["kind"] for entry in still} != {"network"} or not miscounted([entry["name"] for entry in still]):
            return [f"directory {directory}"]
        print(f"the engine has miscounted, and keeps {[entry['name'] for entry in still]}", file=sys.stderr)
        return []
    found = held(directory.name) if engine else []
    found += [f"mount {path}" for path in mounts(directory.name)]
    return found + [f"control group {path}" for path in groups(directory.name)]
