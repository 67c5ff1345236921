"""A session in a process of its own, which is killed; and what is left of it then."""

from __future__ import annotations

import os
import select
import shutil
import signal
import tempfile
import time
import traceback
from collections.abc import Callable, Coroutine
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any, Literal, NoReturn, TypeAlias

import zebra
from tests.leftovers import looking
from tests.leftovers.kills import Sample
from zebra.cluster import Cluster
from zebra.injection import cleaning
from zebra.injection.warden import warden
from zebra.spec import RunSpec
from zebra.target import Target
from zebra.testing import EchoClient, EchoConfig, EchoServer
from zebra.topology import Topology

TARGET = Target(
    name="kills", config=EchoConfig, roles={"server": EchoServer}, client=EchoClient,
    topology=Topology(counts={"server": 2}), variants=("other",), start_s=60.0,
)  # fmt: skip

READY_S = 180.0
"""A session has so long to say what it is to say."""

TOLD = 8000
"""So many characters of what it wrote are shown if it ends by itself."""

Way: TypeAlias = Literal["zebra", "warden", "nobody"]
"""Whom to kill, and who cleans up: zebra, and its warden does; or the warden first, and what `zebra clean` calls does,
or nobody does."""

Say: TypeAlias = Callable[[str], None]
Scenario: TypeAlias = Callable[[Cluster, list[Sample], Random, Say], Coroutine[Any, Any, None]]


class Session:
    """A session on a substrate that does what a scenario says with some samples; use it as a context.

    `directory` is its own, `warden` its warden's process, `said` the words that it has said so far.
    """

    def __init__(
        self, scenario: Scenario, samples: list[Sample], substrate: str, seed: float, target: Target = TARGET
    ) -> None:
        self.samples, self.substrate = samples, substrate
        self._others = looking.children()
        looking.adopt_orphans()
        self._base = Path(tempfile.mkdtemp(prefix="kills-", dir=_memory()))
        self._heard, into = os.pipe()
        self.said: list[str] = []
        self._partial = b""
        self.pid = os.fork()
        if not self.pid:
            os.close(self._heard)
            _live(scenario, samples, substrate, Random(seed), target, into, self._base)
        os.close(into)
        self._pidfd = os.pidfd_open(self.pid)

    def __enter__(self) -> Session:
        try:
            self.hears("up")
            _, number, directory = next(line for line in self.said if line.startswith("up ")).split(" ", 2)
            self.warden, self.directory = int(number), Path(directory)
            self._ledger = os.open(self.directory / "ledger", os.O_RDONLY)  # to be read when it is removed
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._ledger)
        self._end()

    def _end(self) -> None:
        if self._pidfd >= 0:  # something went wrong: its warden has to clean up
            os.kill(self.pid, signal.SIGKILL)
            self._bury()
            looking.wait_until_gone(self._orphans)
        os.close(self._heard)
        for child in self._orphans():
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        looking.adopt_orphans(False)
        shutil.rmtree(self._base, ignore_errors=True)

    def _bury(self) -> int:
        os.close(self._pidfd)
        self._pidfd = -1
        return os.waitpid(self.pid, 0)[1]

    # -- while it lives ----------------------------------------------------------------------------------------

    def hears(self, word: str, times: int = 1) -> None:
        """Wait until the session has said a word so often. Raises RuntimeError if it ends or is silent instead."""
        until = time.monotonic() + READY_S
        while sum(line.split(" ", 1)[0] == word for line in self.said) < times:
            if not select.select([self._heard], [], [], max(0.0, until - time.monotonic()))[0]:
                raise RuntimeError(f"the session did not say {word} within {READY_S:g} s: {self.said} {self.output()}")
            if not self._hear():
                raise RuntimeError(f"the session ended by itself:\n{self.output()}")

    def wait(self, for_s: float) -> None:
        """Let it go on for a time, or until it ends."""
        select.select([self._pidfd], [], [], for_s)

    def _hear(self) -> bool:
        data = os.read(self._heard, 1 << 16)
        *lines, self._partial = (self._partial + data).split(b"\n")
        self.said += [line.decode() for line in lines]
        return bool(data)

    def output(self) -> str:
        return (self._base / "output").read_text()[:TOLD]

    # -- its end -----------------------------------------------------------------------------------------------

    def kill(self, way: Way, patience_s: float = looking.PATIENCE_S) -> tuple[list[str], float]:
        """Kill it (-9) now: what of it is left for good, and after how many seconds nothing was.

        Raises RuntimeError if it had ended by itself.
        """
        if way != "zebra":
            os.kill(self.warden, signal.SIGKILL)
        os.kill(self.pid, signal.SIGKILL)
        ended = time.monotonic()
        if self._bury() != signal.SIGKILL:
            raise RuntimeError(f"the session ended by itself:\n{self.output()}")
        if way == "warden":
            looking.wait_until_gone(lambda: self.warden in self._orphans())
            with _temporary(self._base):
                for found in cleaning.sessions():
                    if found.directory == self.directory:
                        cleaning.clean(found)
        left = looking.wait_until_gone(self.left, patience_s)
        took_s = time.monotonic() - ended
        os.set_blocking(self._heard, False)
        try:
            while self._hear():
                pass
        except BlockingIOError:
            pass
        return left, took_s

    def left(self) -> list[str]:
        """What of it is there."""
        processes = [f"process {pid} {looking.command(pid)}" for pid in self._orphans()]
        return processes or looking.left(self.directory, self.substrate == "docker")

    def _orphans(self) -> set[int]:
        return looking.bury(looking.children() - self._others - {self.pid})

    def ledger(self) -> bytes:
        """All that was ever written into its ledger, by itself and by who cleaned up after it."""
        return os.pread(self._ledger, os.fstat(self._ledger).st_size, 0)


def _memory() -> str | None:
    """Where sessions have their files, as zebra chooses it: a ledger on a disk would make them wait."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK | os.X_OK) else None


@contextmanager
def _temporary(directory: Path) -> Any:
    """Let this process take another directory for the one of temporary files."""
    before, tempfile.tempdir = tempfile.tempdir, str(directory)
    try:
        yield
    finally:
        tempfile.tempdir = before


def _live(scenario: Scenario, samples: list[Sample], substrate: str, random: Random, target: Target, into: int,
          base: Path) -> NoReturn:  # fmt: skip
    """The life of a session."""
    try:
        os.setsid()
        looking.die_with_parent()
        os.environ["TMPDIR"] = tempfile.tempdir = str(base)
        log = os.open(base / "output", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(log, 1)
        os.dup2(log, 2)

        def say(what: str) -> None:
            os.write(into, f"{what}\n".encode())

        async def body(cluster: Cluster) -> None:
            say(f"up {warden().pid} {warden().directory}")
            try:
                await scenario(cluster, samples, random, say)
            except Exception:
                traceback.print_exc()
                raise

        counts = {"server": max(2, 1 + sum(sample.nodes for sample in samples))}
        spec = RunSpec(
            test="kills", target="", substrate=substrate, timeout_s=10 * READY_S, topology=Topology(counts=counts)
        )
        print(zebra.run(body, spec, target=target).explain(), flush=True)
    finally:
        os._exit(1)
