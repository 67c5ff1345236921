"""The trial server: a process forked before any thread or loop exists, which forks once more for every trial.

The controller talks to it over a socket pair in length-prefixed msgpack. A trial has its own process group and a limit
of wall time; when it is over, by whatever end, its whole group is killed, so nothing of it outlives it. Measured:
../shared/research/probes.md section 4 (a forked trial costs about 18 ms, a fresh pytest 250 ms to 1 s).
"""

from __future__ import annotations

import gc
import os
import selectors
import signal
import socket
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from struct import Struct as Packing

import msgspec

from zebra.campaign.trial import Trial, TrialResult
from zebra.errors import ZebraInternalError

_LENGTH = Packing(">II")
_encode = msgspec.msgpack.encode

RunTrial = Callable[[Trial], TrialResult]


@dataclass(slots=True, eq=False)
class _Child:
    number: int
    pid: int
    pipe: int
    deadline: float
    data: bytearray = field(default_factory=bytearray)


class TrialServer:
    """The controller's end. `map` carries out trials, at most `workers` at a time, results in order.

    `run_trial` is called in the forked trial process; `trial_s` is its limit of wall time in seconds, after which the
    trial counts as hang.
    """

    def __init__(self, run_trial: RunTrial, *, workers: int, trial_s: float) -> None:
        self._socket, theirs = socket.socketpair()
        gc.collect()
        gc.freeze()
        self.pid = os.fork()
        if self.pid == 0:
            self._socket.close()
            try:
                _Server(theirs, run_trial, workers, trial_s).serve()
            finally:
                os._exit(0)
        theirs.close()
        gc.unfreeze()

    def map(self, trials: Sequence[Trial]) -> list[TrialResult]:
        """The results of some trials, in their order. Raises ZebraInternalError when the server is gone."""
        results: dict[int, TrialResult] = {}
        try:
            for number, trial in enumerate(trials):
                data = _encode(trial)
                self._socket.sendall(_LENGTH.pack(len(data), number) + data)
            while len(results) < len(trials):
                size, number = _LENGTH.unpack(self._receive(_LENGTH.size))
                results[number] = msgspec.msgpack.decode(self._receive(size), type=TrialResult)
        except OSError as error:
            raise ZebraInternalError("the trial server ended in the middle of a campaign") from error
        return [results[number] for number in range(len(trials))]

    def _receive(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            part = self._socket.recv(size - len(data))
            if not part:
                raise ConnectionResetError("the trial server is gone")
            data += part
        return data

    def close(self) -> None:
        """End the server and whatever trial is still running."""
        self._socket.close()
        try:
            os.waitpid(self.pid, 0)
        except ChildProcessError:
            pass


class _Server:
    """The forked server: one thread, one selector."""

    def __init__(self, connection: socket.socket, run_trial: RunTrial, workers: int, trial_s: float) -> None:
        self._connection, self._run_trial, self._workers, self._trial_s = connection, run_trial, workers, trial_s
        self._waiting: deque[tuple[int, bytes]] = deque()
        self._children: dict[int, _Child] = {}
        self._buffer = b""
        self._selector = selectors.DefaultSelector()
        self._selector.register(connection, selectors.EVENT_READ)

    def serve(self) -> None:
        os.setpgid(0, 0)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        try:
            while self._step():
                pass
        finally:
            for child in list(self._children.values()):
                self._kill(child)

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
                self._read_child(self._children[key.fd])
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
        read, write = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.setpgid(0, 0)
            os.close(read)
            self._connection.close()
            self._trial(request, write)
        try:
            os.setpgid(pid, pid)  # in both, whoever comes first
        except (PermissionError, ProcessLookupError):
            pass
        os.close(write)
        self._children[read] = _Child(number, pid, read, time.monotonic() + self._trial_s)
        self._selector.register(read, selectors.EVENT_READ)

    def _trial(self, request: bytes, write: int) -> None:
        try:
            result = self._run_trial(msgspec.msgpack.decode(request, type=Trial))
        except BaseException as error:
            result = TrialResult(result="infrastructure", message=f"{type(error).__name__}: {error}")
        try:
            with os.fdopen(write, "wb") as pipe:
                pipe.write(_encode(result))
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(0)

    def _read_child(self, child: _Child) -> None:
        data = os.read(child.pipe, 1 << 16)
        child.data += data
        if not data:
            try:
                result = msgspec.msgpack.decode(bytes(child.data), type=TrialResult)
            except msgspec.DecodeError:
                result = TrialResult(result="crash", message="the trial's process ended without a result")
            self._finish(child, result)

    def _finish(self, child: _Child, result: TrialResult) -> None:
        self._kill(child)
        data = _encode(result)
        self._connection.sendall(_LENGTH.pack(len(data), child.number) + data)

    def _kill(self, child: _Child) -> None:
        self._selector.unregister(child.pipe)
        os.close(child.pipe)
        del self._children[child.pipe]
        try:
            os.killpg(child.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        os.waitpid(child.pid, 0)
