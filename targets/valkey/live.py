"""A server by itself, asked about its parameters: one that runs, and starts that only show what is refused."""

from __future__ import annotations

import socket
import subprocess
import tempfile
import time
from typing import Any

from zebra.errors import TargetError
from zebra.targets.valkey.resp import packed, parse

START_S = 10.0
ENDED = "the server ended"


def refusal_at_start(path: str, name: str, value: str) -> str:
    """What the server says against a value on its command line, "" if it takes it. With port 0 it ends by itself."""
    with tempfile.TemporaryDirectory(prefix="zebra-valkey-") as directory:
        command = [path, "--port", "0", "--dir", directory, "--save", "", f"--{name}", value]
        done = subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=START_S, check=False)
    said = done.stdout + done.stderr
    if "not listen anywhere" in said:
        return ""
    lines = [line.strip() for line in said.splitlines() if line.strip() and "# WARNING" not in line]
    return next((line for line in lines if "must be" in line), lines[-1] if lines else ENDED)


class Live:
    """A server on a unix socket of its own, asked one thing at a time; one that dies of a question is started again."""

    def __init__(self, path: str, directory: str) -> None:
        self._address = f"{directory}/s"
        self._command = [path, "--port", "0", "--unixsocket", self._address, "--dir", directory, "--save", ""]
        self._start()

    def _start(self) -> None:
        self._process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self._connection = self._connected()

    def _connected(self) -> socket.socket:
        until = time.monotonic() + START_S
        while self._process.poll() is None and time.monotonic() < until:
            connection = socket.socket(socket.AF_UNIX)
            try:
                connection.settimeout(START_S)
                connection.connect(self._address)
                return connection
            except OSError:
                connection.close()
                time.sleep(0.005)
        self._process.kill()
        self._process.wait()
        raise TargetError(f"valkey: {' '.join(self._command)} did not start")

    def ask(self, *words: str) -> Any:
        """The answer to a command, `ENDED` if the server died of it."""
        try:
            self._connection.sendall(packed(words))
            return self._answer()
        except OSError:
            self.close()
            self._start()
            return ENDED

    def _answer(self) -> Any:
        data = bytearray()
        while True:
            try:
                answer, _ = parse(data, 0)
            except IndexError:
                some = self._connection.recv(1 << 16)
                if not some:
                    raise ConnectionResetError from None
                data += some
            else:
                return [part.decode() for part in answer] if isinstance(answer, list) else str(answer)

    def close(self) -> None:
        self._connection.close()
        self._process.kill()
        self._process.wait()


def speaks_tls(path: str) -> bool:
    """Whether a server was built with TLS: one that was not says so, or does not know the parameter.

    One that was misses its certificate, and does not listen either.
    """
    said = refusal_at_start(path, "tls-port", "6379").lower()
    return "tls support" not in said and "bad directive" not in said
