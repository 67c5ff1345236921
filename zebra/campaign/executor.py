"""Trials on an existing Dask cluster: `--zebra-executor=tcp://host:port`, with the extra `zebra[cluster]`.

A worker that gets its first trial starts a pytest session beside it, which collects the same tests from the same
arguments in the same directory and then is a trial server (`zebra.campaign.server`), for as long as the worker lives.
The controller hands out trials and takes results, both packed by msgspec; a worker whose tests are made of other code
than the controller's is refused. When a worker dies, Dask gives its trials to another; as the store takes one result
for each, none is lost and none counted twice.

Dask itself sends pickled functions to whoever is in the cluster: connect only to one that you trust.
"""

from __future__ import annotations

import atexit
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import uuid
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import msgspec

from zebra.campaign.server import receive_frame, send_frame
from zebra.campaign.trial import Trial, TrialResult
from zebra.errors import ConfigError, ZebraInternalError

CONNECT_S = 10.0
COLLECT_S = 300.0
"""How long a worker's session may take to collect its tests."""

RETRIES = 3
"""How often a trial is tried again whose session ended under it. (How many workers may die of one, Dask's setting
`distributed.scheduler.allowed-failures` says.)"""

_pack, _unpack = msgspec.msgpack.encode, msgspec.msgpack.decode


class Setup(msgspec.Struct, frozen=True, kw_only=True):
    """How a worker's session collects the tests: pytest's arguments, its directory, and the digests of their code."""

    arguments: tuple[str, ...]
    directory: str
    codes: dict[str, str]


class Reply(msgspec.Struct, frozen=True, kw_only=True):
    """A result with its files, packed and by their paths relative to the history's folder; or why there is none."""

    result: TrialResult | None = None
    files: dict[str, bytes] = {}
    error: str = ""


def check_address(text: str, what: str = "--zebra-executor") -> str:
    """The address of a scheduler, `tcp://host:port` or `tls://host:port`; raises ConfigError for other text."""
    match = re.fullmatch(r"(?:tcp|tls)://(?:\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+):([0-9]{1,5})", text)
    if match is None or not 0 < int(match[1]) < 65536:
        raise ConfigError(f"{what}: {text!r} is no address of a Dask scheduler, expected tcp://host:port")
    return text


class ClusterExecutor:
    """An Executor that hands trials to the Dask cluster at `address`. Raises ConfigError when there is none.

    `threads` is how many trials its workers carry out at a time just now.
    """

    def __init__(self, address: str, setup: Setup) -> None:
        check_address(address)
        try:
            from distributed import Client
        except ImportError:
            raise ConfigError("--zebra-executor needs Dask: pip install 'pytest-zebra[cluster]'") from None
        try:
            self._client: Any = Client(address, timeout=CONNECT_S, set_as_default=False)  # type: ignore[no-untyped-call]
        except (OSError, TimeoutError) as error:
            raise ConfigError(f"--zebra-executor: no Dask scheduler answers at {address} ({error})") from None
        self._setup = _pack(setup)
        self.threads = sum(self._client.nthreads().values())  # type: ignore[no-untyped-call]
        if not self.threads:
            self.close()
            raise ConfigError(f"--zebra-executor: the cluster at {address} has no workers")

    def results(self, trials: Sequence[Trial], until: float | None = None) -> Iterator[tuple[int, TrialResult]]:
        """See `zebra.campaign.trial.Executor`. Raises ConfigError when a worker cannot run these tests at all."""
        from distributed import as_completed

        futures = {
            self._client.submit(carry_out, self._setup, _pack(trial), key=f"zebra-{uuid.uuid4().hex}", pure=False,
                                retries=RETRIES): number
            for number, trial in enumerate(trials)
        }  # fmt: skip
        left_s = None if until is None else max(0.0, until - time.monotonic())
        try:
            for future in as_completed(futures, loop=self._client.loop, timeout=left_s):  # type: ignore[no-untyped-call]
                number = futures[future]
                yield number, self._taken(trials[number], _reply_of(future))
        except TimeoutError:
            return
        finally:
            if waiting := [future for future in futures if not future.done()]:
                self._client.cancel(waiting, force=True)

    def _taken(self, trial: Trial, reply: Reply) -> TrialResult:
        if reply.result is None:
            raise ConfigError(f"--zebra-executor: {reply.error}")
        for name, packed in reply.files.items():
            path = Path(trial.history).parent / name
            if not path.resolve().is_relative_to(Path(trial.history).parent.resolve()):
                raise ConfigError(
                    f"--zebra-executor: a worker sent a file named {name!r}, outside of its trial's folder"
                )
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(zlib.decompress(packed))
        return reply.result

    def close(self) -> None:
        self._client.close()


def _reply_of(future: Any) -> Reply:
    try:
        reply: Reply = _unpack(future.result(), type=Reply)
    except Exception as error:
        raise ZebraInternalError(f"a trial was lost in the cluster: {type(error).__name__}: {error}") from error
    return reply


# -- on a worker ------------------------------------------------------------------------------------------------


def carry_out(setup: bytes, trial: bytes) -> bytes:
    """A packed Trial in, a packed Reply out; called in a worker's thread."""
    try:
        session = _session_for(setup)
    except ConfigError as error:
        return _pack(Reply(error=str(error)))
    return _pack(session.run(_unpack(trial, type=Trial)))


_sessions: dict[bytes, _Session] = {}
_lock = threading.Lock()


def _session_for(setup: bytes) -> _Session:
    """The session of these tests in this worker; one that has ended is started anew."""
    with _lock:
        session = _sessions.get(setup)
        if session is None or not session.alive:
            session = _sessions[setup] = _Session(_unpack(setup, type=Setup))
        return session


class _Session:
    """A pytest session beside a worker, which is a trial server; it ends, and removes its directory, when the worker
    does."""

    def __init__(self, setup: Setup) -> None:
        self._host = socket.gethostname()
        if not Path(setup.directory).is_dir():
            raise ConfigError(f"worker on {self._host}: there is no directory {setup.directory}, the tests have to be "
                              "at the same place on all machines")  # fmt: skip
        self._scratch = tempfile.mkdtemp(prefix="zebra-worker-")
        self._socket, theirs = socket.socketpair()
        self._log = Path(self._scratch) / "pytest.log"
        command = [sys.executable, "-m", "pytest", *setup.arguments, f"--zebra-serve={theirs.fileno()}",
                   f"--basetemp={self._scratch}/tmp", f"--zebra-report={self._scratch}/report"]  # fmt: skip
        environment = {**os.environ, "PYTHONHASHSEED": "0"}
        with open(self._log, "wb") as log:
            self._process = subprocess.Popen(command, cwd=setup.directory, env=environment, stdin=subprocess.DEVNULL,
                                             stdout=log, stderr=log, pass_fds=(theirs.fileno(),))  # fmt: skip
        theirs.close()
        atexit.register(self._process.kill)
        self.alive = True
        self._waiting: dict[int, Future[TrialResult]] = {}
        self._count, self._sending = 0, threading.Lock()
        try:
            self._check(setup)
        except BaseException:
            self._socket.close()
            self._process.kill()
            self._process.wait()
            shutil.rmtree(self._scratch, ignore_errors=True)
            raise
        threading.Thread(target=self._read, name="zebra-trials", daemon=True).start()

    def _check(self, setup: Setup) -> None:
        """Wait until the session has collected, and see that its tests are the controller's."""
        try:
            _, data = receive_frame(self._socket, time.monotonic() + COLLECT_S)
            theirs: dict[str, str] = _unpack(data, type=dict[str, str])
        except OSError:
            said = self._log.read_text(errors="replace").strip().splitlines() or ["it said nothing"]
            why = next((line for line in said if "Error" in line or "ERROR" in line), said[-1])
            raise ConfigError(f"worker on {self._host}: cannot collect the tests: {why}") from None
        for test, digest in setup.codes.items():
            if theirs.get(test) != digest:
                what = "is not there" if test not in theirs else "is made of other code than here"
                raise ConfigError(f"worker on {self._host}: the test {test} {what}")

    def run(self, trial: Trial) -> Reply:
        """Carry out a trial; files that it keeps go along with the reply."""
        kept = Path(self._scratch) / "kept" / uuid.uuid4().hex
        kept.mkdir(parents=True)
        name = Path(trial.history).name
        mine = msgspec.structs.replace(trial, history=str(kept / name) if trial.history else "")
        future: Future[TrialResult] = Future()
        with self._sending:
            if not self.alive:
                raise ConnectionResetError("the worker's session has ended")
            self._count += 1
            self._waiting[self._count] = future
            send_frame(self._socket, self._count, _pack(mine))
        try:
            result = future.result()
            files = {str(path.relative_to(kept)): zlib.compress(path.read_bytes()) for path in kept.rglob("*")
                     if path.is_file()}  # fmt: skip
        finally:
            shutil.rmtree(kept, ignore_errors=True)
        return Reply(result=result, files=files)

    def _read(self) -> None:
        try:
            while True:
                number, data = receive_frame(self._socket)
                self._waiting.pop(number).set_result(_unpack(data, type=TrialResult))
        except Exception as error:
            with self._sending:
                self.alive = False
                self._socket.close()
                for future in self._waiting.values():
                    future.set_exception(ConnectionResetError(f"the worker's session has ended: {error}"))
