"""The trial server: a process forked before any thread or loop exists, which forks once more for every trial.

The controller talks to it over a socket pair in length-prefixed msgpack. A trial has its own process group, a directory
of its own and a limit of wall time; when it is over, by whatever end, its whole group is killed and its directory
removed, so nothing of it outlives it. What it wrote to stdout and stderr is kept if it did not pass. Measured:
../shared/research/probes.md section 4 and benchmarks/trials.py.
"""

from __future__ import annotations

import faulthandler
import gc
import os
import selectors
import shutil
import signal
import socket
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from struct import Struct as Packing

import msgspec

from zebra.campaign.trial import Trial, TrialResult
from zebra.errors import ZebraInternalError

OUTPUT_BYTES = 16 << 10
"""How much of the end of what a trial wrote goes into its result; a hundred times as much into a file beside its
history, where one is kept."""

TRIAL_OUTPUT = "trial.txt"
"""Name of that file, among those of the run's nodes."""

_LENGTH = Packing(">II")
_encode = msgspec.msgpack.encode

RunTrial = Callable[[Trial, Path], TrialResult]
"""Carries out a trial in the process forked for it, with an empty directory that is removed afterwards."""


def capture_into(directory: Path) -> None:
    """Send this process's stdout and stderr to the file that the server reads when the trial is over."""
    file = os.open(directory / "output", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.close(file)
    sys.stdout = open(1, "w", buffering=1, closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
    if faulthandler.is_enabled():
        faulthandler.enable()


@dataclass(slots=True, eq=False)
class _Child:
    number: int
    trial: Trial
    pid: int
    pidfd: int
    deadline: float
    directory: Path


class TrialServer:
    """The controller's end: an Executor that carries out trials on this machine, at most `workers` at a time.

    `run_trial` is called in the forked trial process; `trial_s` is its limit of wall time in seconds, after which the
    trial counts as hang. The trials' own directories are below `scratch`. `forked` is called first thing in the server.
    """

    def __init__(self, run_trial: RunTrial, *, workers: int, trial_s: float, scratch: Path,
                 forked: Callable[[], None] = lambda: None) -> None:  # fmt: skip
        self._workers = workers
        self._socket, theirs = socket.socketpair()
        sys.stdout.flush()
        sys.stderr.flush()
        gc.collect()
        gc.freeze()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                self._socket.close()
                forked()
                os.setpgid(0, 0)
                serve(theirs, run_trial, workers, trial_s, scratch)
            finally:
                os._exit(0)
        theirs.close()
        gc.unfreeze()

    def results(self, trials: Sequence[Trial], until: float | None = None) -> Iterator[tuple[int, TrialResult]]:
        """See `zebra.campaign.trial.Executor`. Raises ZebraInternalError when the server is gone."""
        waiting, under_way = deque(enumerate(trials)), 0
        try:
            while waiting or under_way:
                while waiting and under_way < 2 * self._workers:
                    number, trial = waiting.popleft()
                    send_frame(self._socket, number, _encode(trial))
                    under_way += 1
                number, data = receive_frame(self._socket, until)
                under_way -= 1
                yield number, msgspec.msgpack.decode(data, type=TrialResult)
        except TimeoutError:
            return
        except OSError as error:
            raise ZebraInternalError("the trial server ended in the middle of a campaign") from error

    def map(self, trials: Sequence[Trial]) -> list[TrialResult]:
        """The results of some trials, in their order."""
        results = dict(self.results(trials))
        return [results[number] for number in range(len(trials))]

    def close(self) -> None:
        """End the server and whatever trial is still running."""
        self._socket.close()
        with suppress(ChildProcessError):
            os.waitpid(self.pid, 0)


def send_frame(connection: socket.socket, number: int, data: bytes) -> None:
    """Send some bytes under a number."""
    connection.settimeout(None)
    connection.sendall(_LENGTH.pack(len(data), number) + data)


def receive_frame(connection: socket.socket, until: float | None = None) -> tuple[int, bytes]:
    """The next number and its bytes. Raises TimeoutError at `until` (of `time.monotonic()`), ConnectionResetError when
    the other end is gone."""

    def receive(size: int) -> bytes:
        data = bytearray()
        while len(data) < size:
            connection.settimeout(None if until is None else max(0.001, until - time.monotonic()))
            part = connection.recv(size - len(data))
            if not part:
                raise ConnectionResetError("the other end is gone")
            data += part
        return bytes(data)

    size, number = _LENGTH.unpack(receive(_LENGTH.size))
    return number, receive(size)


def serve(connection: socket.socket, run_trial: RunTrial, workers: int, trial_s: float, scratch: Path) -> None:
    """Be a trial server until the other end of the connection is closed."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    _Server(connection, run_trial, workers, trial_s, scratch).serve()


class _Server:
    """The forked server: one thread, one selector."""

    def __init__(self, connection: socket.socket, run_trial: RunTrial, workers: int, trial_s: float,
                 scratch: Path) -> None:  # fmt: skip
        self._connection, self._run_trial, self._workers, self._trial_s = connection, run_trial, workers, trial_s
        self._scratch, self._count = scratch, 0
        self._waiting: deque[tuple[int, bytes]] = deque()
        self._children: dict[int, _Child] = {}
        self._buffer = b""
        self._selector = selectors.DefaultSelector()
        self._selector.register(connection, selectors.EVENT_READ)

    def serve(self) -> None:
        try:
            while self._step():
                pass
        except (BrokenPipeError, ConnectionResetError):
            pass  # the controller is gone
        finally:
            for child in list(self._children.values()):
                self._end(child)

    def _step(self) -> bool:
        now = time.monotonic()
        for child in [c for c in self._children.values() if c.deadline <= now]:
            self._finish(child, TrialResult(result="hang", message=f"killed after {self._trial_s:g} s of wall time"))
        while self._waiting and len(self._children) < self._workers:
            self._fork(*self._waiting.popleft())
        timeout = min((c.deadline - now for c in self._children.values()), default=None)
        for key, _ in self._selector.select(timeout if timeout is None else max(0.0, timeout)):
            if key.fileobj is self._connection:
                if not self._read_requests():
                    return False
            elif key.fd in self._children:
                self._finish(self._children[key.fd])
        return True

    def _read_requests(self) -> bool:
        data = self._connection.recv(1 << 16)
        self._buffer += data
        while len(self._buffer) >= _LENGTH.size:
            size, number = _LENGTH.unpack_from(self._buffer)
            end = _LENGTH.size + size
            if len(self._buffer) < end:
                break
            self._waiting.append((number, self._buffer[_LENGTH.size : end]))
            self._buffer = self._buffer[end:]
        return bool(data)

    def _fork(self, number: int, request: bytes) -> None:
        self._count += 1
        directory = self._scratch / f"trial-{os.getpid()}-{self._count}"
        directory.mkdir(parents=True)
        trial = msgspec.msgpack.decode(request, type=Trial)
        pid = os.fork()
        if pid == 0:
            try:
                os.setpgid(0, 0)
                self._connection.close()
                self._trial(trial, directory)
            finally:
                os._exit(0)
        with suppress(PermissionError, ProcessLookupError):
            os.setpgid(pid, pid)  # in both, whoever comes first
        pidfd = os.pidfd_open(pid)
        self._children[pidfd] = _Child(number, trial, pid, pidfd, time.monotonic() + self._trial_s, directory)
        self._selector.register(pidfd, selectors.EVENT_READ)

    def _trial(self, trial: Trial, directory: Path) -> None:
        capture_into(directory)
        try:
            result = self._run_trial(trial, directory)
        except BaseException as error:
            result = TrialResult(result="infrastructure", message=f"{type(error).__name__}: {error}")
        sys.stdout.flush()
        sys.stderr.flush()
        (directory / "result").write_bytes(_encode(result))

    def _finish(self, child: _Child, result: TrialResult | None = None) -> None:
        """A trial is over, or is to be: without `result` it has left one, or its process has died."""
        status = self._kill(child)
        if result is None:
            try:
                result = msgspec.msgpack.decode((child.directory / "result").read_bytes(), type=TrialResult)
            except (OSError, msgspec.DecodeError):
                how = f"signal {-status}" if status < 0 else f"exit code {status}"
                result = TrialResult(result="crash", message=f"the trial's process ended without a result ({how})")
        if not result.passed:
            output = _end_of(child.directory / "output", 100 * OUTPUT_BYTES)
            result = msgspec.structs.replace(result, output=output[-OUTPUT_BYTES:].decode(errors="replace"))
            if child.trial.history and output:
                beside = Path(child.trial.history).with_suffix("")
                beside.mkdir(exist_ok=True)
                (beside / TRIAL_OUTPUT).write_bytes(output)
        shutil.rmtree(child.directory, ignore_errors=True)
        send_frame(self._connection, child.number, _encode(result))

    def _end(self, child: _Child) -> None:
        self._kill(child)
        shutil.rmtree(child.directory, ignore_errors=True)

    def _kill(self, child: _Child) -> int:
        """Kill all that is left of a trial; its process's exit code, or minus the signal that ended it."""
        self._selector.unregister(child.pidfd)
        os.close(child.pidfd)
        del self._children[child.pidfd]
        with suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        return os.waitstatus_to_exitcode(os.waitpid(child.pid, 0)[1])


def _end_of(path: Path, size: int) -> bytes:
    """The last bytes of a file; none if there is no file."""
    try:
        with open(path, "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - size))
            return file.read(size)
    except OSError:
        return b""
