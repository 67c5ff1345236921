"""The first process of a node's container: `python -m zebra.substrate.docker.node SOCKET`, one life of a node."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import msgspec

from zebra.errors import ConfigError
from zebra.substrate import Plan
from zebra.substrate.docker.addresses import Subnets
from zebra.substrate.docker.birth import GO, Answer, Birth, at_socket, line, resolve
from zebra.substrate.process.board import Board
from zebra.substrate.process.life import Ground, Life, live
from zebra.topology import Topology


class ContainedLife(Life):
    """A life whose planned stop is a SIGTERM, as the engine and those who run containers send it."""

    async def run(self, sock: socket.socket) -> None:
        task = asyncio.current_task()
        assert task is not None
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        await super().run(sock)


def own_version() -> str:
    """The version of zebra that is installed here, "" if it runs from a directory alone."""
    try:
        return version("pytest-zebra")
    except PackageNotFoundError:
        return ""


def ground_of(birth: Birth, directory: Path) -> Ground:
    """The session's ground, as far as this node knows it. Raises ConfigError for what this container lacks."""
    if own_version() not in ("", birth.version):
        raise ConfigError(f"its image has zebra {own_version()}, the session has {birth.version}")
    role = _import(birth.role, "role")
    config: msgspec.Struct = msgspec.msgpack.decode(birth.config, type=_import(birth.config_type, "configuration"))
    board = directory / "board"
    with open(board, "r+b") as file:
        shared = Board(len(birth.nodes), file.fileno())
    plan = Plan(
        prefix=birth.prefix, places=birth.places, topology=Topology(), roles={birth.node.rpartition("-")[0]: role},
        configs={birth.node: config}, seed=birth.seed, variant=birth.variant, start_s=0.0, log=_not_here,
        on_crash=_not_here, timeout_s=0.0, note_read=_not_here if birth.reads else None,
        prepared=Path(birth.prepared) if birth.prepared else None,
    )  # fmt: skip
    subnets = Subnets(birth.slots, birth.network)
    return Ground(plan=plan, directory=directory, block=subnets, board=shared, nodes=birth.nodes)


def _import(name: str, what: str) -> Any:
    try:
        return resolve(name)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"its {what} {name} cannot be imported in its container ({error})") from None


def _not_here(*_: Any) -> Any:
    raise AssertionError("only the session does this")


def main(path: Path) -> None:
    """Meet the session at its socket, say whether the life can begin, and live."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    at_socket(sock.connect, path)
    received = bytearray()
    while not received.endswith(b"\n"):
        data = sock.recv(1 << 16)
        if not data:
            return
        received += data
    birth = msgspec.json.decode(received, type=Birth)
    os.environ["ZEBRA_NODE"] = birth.node
    try:
        ground = ground_of(birth, path.parent.parent)
    except Exception as error:
        text = str(error) if isinstance(error, ConfigError) else f"{type(error).__name__}: {error}"
        sock.sendall(line(Answer(trouble=" ".join(text.split()))))
        sys.exit(1)
    sock.sendall(line(Answer()))
    if sock.recv(1) == GO:
        live(ground, birth.node, birth.incarnation, birth.config, sock, ContainedLife)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
