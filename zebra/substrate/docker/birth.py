"""What a node's process in a container is told when it begins: the part of the plan that concerns it, as JSON.

The session and the process meet at a unix socket in the run's directory, which is mounted in the container.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import msgspec

from zebra.errors import ConfigError
from zebra.topology import Place


class Birth(msgspec.Struct, frozen=True, kw_only=True):
    """One life of a node. `role` and `config_type` are `module:qualname`, `config` is MessagePack."""

    version: str
    node: str
    incarnation: int
    role: str
    config_type: str
    config: bytes
    nodes: dict[str, int]
    places: tuple[Place, ...]
    network: int
    slots: dict[int, tuple[int, int]]
    prefix: str
    seed: int
    variant: str
    reads: bool
    prepared: str


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What the process says to that: "" if it can begin."""

    trouble: str = ""


GO = b"+"
"""The session has taken note: the life may begin."""


def reference(thing: Any, what: str) -> str:
    """How another process imports it, `module:qualname`. Raises ConfigError if it cannot."""
    name = f"{getattr(thing, '__module__', '?')}:{getattr(thing, '__qualname__', '?')}"
    try:
        found = resolve(name)
    except (ImportError, AttributeError):
        found = None
    if found is not thing or name.startswith("__main__:"):
        raise ConfigError(
            f"substrate docker: {what} is {name}, which no other process can import: define it at the top of a module"
        )
    return name


def resolve(name: str) -> Any:
    """What `module:qualname` names. Raises ImportError or AttributeError."""
    module, _, qualname = name.partition(":")
    found: Any = import_module(module)
    for part in qualname.split("."):
        found = getattr(found, part)
    return found


# -- the socket ------------------------------------------------------------------------------------------------------


def at_socket(act: Callable[[str], Any], path: Path) -> None:
    """Bind or connect a socket at a path of any length: its own limit is 107 bytes."""
    directory = os.open(path.parent, os.O_DIRECTORY | os.O_RDONLY)
    try:
        act(f"/proc/self/fd/{directory}/{path.name}")
    finally:
        os.close(directory)


def line(message: msgspec.Struct) -> bytes:
    """A message as the two sides exchange it before their channel begins."""
    return msgspec.json.encode(message) + b"\n"
