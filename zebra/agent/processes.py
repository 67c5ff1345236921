"""Processes that a node starts are that node: `ZEBRA_NODE` and `ZEBRA_RUN` in their environment say so.

`ZEBRA_RUN` is the path of a file with the RunSpec. A Python program that calls `zebra.agent.join()` goes on as the node
there; what it reads comes back through a file beside the spec. `subprocess` (asyncio's too) and `multiprocessing`
(spawn and fork) are covered, `os.exec*`, `posix_spawn` and the fork server are not.
"""

from __future__ import annotations

import multiprocessing.process
import os
import shutil
import subprocess
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from zebra.params import Read
from zebra.spec import RunSpec

if TYPE_CHECKING:
    from zebra.agent.patches import Patches

NODE, RUN = "ZEBRA_NODE", "ZEBRA_RUN"
SPEC, READS = "run.json", "reads.jsonl"
_lock = threading.Lock()


def follow(patches: Patches, environment: Callable[[], dict[str, str]],
           unseen: Callable[[], AbstractContextManager[None]]) -> None:  # fmt: skip
    """Add `environment()` to that of every process that is started; what is copied on the way is `unseen`."""
    popen, start = subprocess.Popen.__init__, multiprocessing.process.BaseProcess.start

    def popen_as(self: Any, args: Any, *rest: Any, **kwargs: Any) -> None:
        if len(rest) < _ENV and (more := environment()):
            given = kwargs.get("env")
            with unseen():
                kwargs["env"] = {**(os.environ if given is None else given), **more}
        popen(self, args, *rest, **kwargs)

    def start_as(self: Any) -> None:
        more = environment()
        with _lock, unseen():  # such a child copies the environment of this process, whatever else goes on in it
            before = {name: os.environ.get(name) for name in more}
            os.environ.update(more)
            try:
                start(self)
            finally:
                for name, value in before.items():
                    if value is None:
                        del os.environ[name]
                    else:
                        os.environ[name] = value

    patches.set(subprocess.Popen, "__init__", popen_as)
    patches.set(multiprocessing.process.BaseProcess, "start", start_as)


_ENV = 9
"""How many arguments of Popen come between the first one and `env`."""


def identity(node: str, spec: RunSpec, directory: Path, record: bool) -> dict[str, str]:
    """The environment of a node's process; the spec is written where it says."""
    directory.mkdir(parents=True, exist_ok=True)
    if not (directory / SPEC).exists():
        (directory / SPEC).write_bytes(msgspec.json.encode(spec))
        if record:
            (directory / READS).touch()
    return {NODE: node, RUN: str(directory / SPEC)}


def collect(directory: Path | None) -> set[Read]:
    """What processes of nodes have read; a last line that was cut short does not count."""
    if directory is None or not (directory / READS).exists():
        return set()
    *lines, _ = (directory / READS).read_bytes().split(b"\n")
    return {msgspec.json.decode(line, type=Read) for line in lines}


def remove(directory: Path) -> None:
    """Forget a run whose processes are gone."""
    shutil.rmtree(directory, ignore_errors=True)
