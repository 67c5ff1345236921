"""The warden: one small process per session that ends what the session has left, however the session ends.

It is forked before the session makes anything, leaves the session's process group, ignores INT, TERM and HUP, and
waits on a pidfd of the session: the end of file of a pipe would be held open by stopped children. Then it undoes what
the ledger still holds (`zebra.injection.reaping`), and removes the session's files. If it is killed too, `zebra clean`
does the same from any later shell.
"""

from __future__ import annotations

import os
import secrets
import select
import shutil
import signal
import tempfile
from pathlib import Path
from typing import Any

from zebra.errors import Infrastructure
from zebra.injection.ledger import Ledger, entries, session_entry
from zebra.injection.reaping import NOT_OBJECTS, reap

MEMORY_BYTES_MIN = 1 << 30

_current: Warden | None = None


class Warden:
    """The session's side: its directory, its ledger, and the process that watches it."""

    def __init__(self) -> None:
        self.session = os.getpid()
        base = Path(_base() or tempfile.gettempdir())
        self.directory = base / f"zebra-{self.session}-{secrets.token_hex(4)}"
        self.runs = 0
        pidfd = os.pidfd_open(self.session)
        made, making = os.pipe()
        self.pid = os.fork()
        if not self.pid:
            try:
                os.close(made)
                watch(pidfd, making, self.directory)
            finally:
                os._exit(0)
        os.close(pidfd)
        os.close(making)
        with open(made, "rb") as answer:
            if answer.read() != b"+":
                raise Infrastructure(f"{self.directory} could not be made: no room there, or no right to")
        self.ledger = Ledger(self.directory / "ledger")
        self.ledger.add([session_entry(self.session)])

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


def objects(after: int = 0) -> tuple[int, list[dict[str, Any]]]:
    """How many objects this process has made, but for the first `after`, and the entries of those still there."""
    if _current is None or _current.session != os.getpid():
        return 0, []
    made = [entry for entry in entries(_current.ledger.path) if entry["kind"] not in NOT_OBJECTS][after:]
    return len(made), [entry for entry in made if not entry["over"]]


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


def watch(pidfd: int, making: int, directory: Path) -> None:
    """The warden's life. It makes the session's directory itself: a session that dies at once leaves none."""
    os.setsid()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    only_files(pidfd, making)
    os.chdir("/")
    directory.mkdir(0o700)
    try:
        os.write(making, b"+")
    except BrokenPipeError:
        pass
    os.close(making)
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    while not poll.poll():
        pass
    if not reap(directory / "ledger"):
        shutil.rmtree(directory, ignore_errors=True)
