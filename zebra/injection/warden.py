"""The warden: one small process per session that ends what the session has left, however the session ends.

It is forked before the session makes anything, leaves the session's process group, ignores INT, TERM and HUP, and
waits on a pidfd of the session: the end of file of a pipe would be held open by stopped children. Then it ends what the
ledger still holds: first the zygotes, after which nothing is added any more, then all other groups, and the files.
"""

from __future__ import annotations

import os
import select
import shutil
import signal
import tempfile
import time
from pathlib import Path

from zebra.injection.ledger import Ledger, members, outstanding, start_time

TRIES, EVERY_S = 200, 0.01
"""How often the warden looks whether all is gone, and kills what is not."""

MEMORY_BYTES_MIN = 1 << 30

_current: Warden | None = None


class Warden:
    """The session's side: its directory, its ledger, and the process that watches it."""

    def __init__(self) -> None:
        self.session = os.getpid()
        self.directory = Path(tempfile.mkdtemp(prefix=f"zebra-{self.session}-", dir=_base()))
        self.ledger = Ledger(self.directory / "ledger")
        self.runs = 0
        pidfd = os.pidfd_open(self.session)
        self.pid = os.fork()
        if not self.pid:
            try:
                watch(pidfd, self.directory)
            finally:
                os._exit(0)
        os.close(pidfd)

    def run_directory(self) -> Path:
        """A new directory for one run."""
        self.runs += 1
        directory = self.directory / f"run-{self.runs}"
        directory.mkdir()
        return directory

    @property
    def alive(self) -> bool:
        try:
            return os.waitpid(self.pid, os.WNOHANG)[0] == 0
        except ChildProcessError:  # somebody else waited for it
            return False


def _base() -> str | None:
    """Where sessions have their files: in memory if there is room, for a file system's journal makes nodes wait.

    The ledger need not outlive the machine: nothing that it lists does. TMPDIR goes first.
    """
    memory = Path("/dev/shm")
    if "TMPDIR" in os.environ or not os.access(memory, os.W_OK | os.X_OK):
        return None
    return str(memory) if shutil.disk_usage(memory).free >= MEMORY_BYTES_MIN else None


def warden() -> Warden:
    """This session's warden, made at its first use. A forked process is a session of its own."""
    global _current
    if _current is None or _current.session != os.getpid() or not _current.alive:
        if _current is not None and _current.session != os.getpid():
            _current.ledger.close()
        _current = Warden()
    return _current


def only_files(*keep: int) -> None:
    """Close every descriptor but these, and let the standard ones lead nowhere."""
    null = os.open(os.devnull, os.O_RDWR)
    for standard in range(3):
        if standard not in keep:
            os.dup2(null, standard)
    first = 3
    for number in sorted(keep):
        if number > first:  # of an empty range os.closerange closes everything
            os.closerange(first, number)
        first = max(first, number + 1)
    os.closerange(first, max(first + 1, os.sysconf("SC_OPEN_MAX")))


def watch(pidfd: int, directory: Path) -> None:
    """The warden's life."""
    os.setsid()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    only_files(pidfd)
    os.chdir("/")
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    while not poll.poll():
        pass
    if reap(directory / "ledger"):
        shutil.rmtree(directory, ignore_errors=True)


def reap(ledger: Path) -> bool:
    """End everything that a ledger holds; whether nothing is left."""
    for _ in range(TRIES):
        entries = [entry for entry in outstanding(ledger) if entry.get("kind") == "process"]
        groups = {int(entry["pid"]): int(entry["start"]) for entry in entries}
        left = members(groups)
        if not left:
            return True
        zygotes = [int(entry["pid"]) for entry in entries if entry["what"] == "zygote" and int(entry["pid"]) in left]
        for group in zygotes or left:
            kill_group(group, groups[group])
        time.sleep(EVERY_S if not zygotes else EVERY_S / 5)
    return False


def kill_group(leader: int, start: int) -> None:
    """Kill a process group that we marked; one that is gone, or is somebody else's by now, is left alone."""
    if start_time(leader) in (0, start):
        try:
            os.killpg(leader, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            pass
