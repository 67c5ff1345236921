"""One life of a node, in its own process: from the fork to the end of its role."""

from __future__ import annotations

import asyncio
import gc
import inspect
import io
import itertools
import json
import logging
import os
import random
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from zebra.errors import TargetError
from zebra.injection.warden import only_files
from zebra.node import Node, Places
from zebra.params.recording import recording
from zebra.sites import find_by
from zebra.substrate import Plan
from zebra.substrate.application import RELOAD, NodeSites
from zebra.substrate.process import faketime
from zebra.substrate.process.addresses import Addressing
from zebra.substrate.process.board import Board, Imposed
from zebra.substrate.process.channel import Channel, pack_error
from zebra.substrate.process.disk import ProcessDisk
from zebra.substrate.process.limits import Leak, count_refused
from zebra.substrate.process.loop import NodeLoop
from zebra.substrate.process.network import Network
from zebra.substrate.process.wallclock import FaultyClock, install

BEAT_S = 0.02
"""A node is heard of at least so often."""

_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """What all processes of a run have in common, made before any of them. `toxiproxy` is a server's URL, or ""."""

    plan: Plan
    directory: Path
    block: Addressing
    board: Board
    nodes: dict[str, int]
    network: Network | None = None
    toxiproxy: str = ""

    @property
    def events(self) -> Path:
        return self.directory / "events"

    def home(self, node: str) -> Path:
        """What a node keeps across its lives."""
        return self.directory / "nodes" / node

    def loop(self, node: str) -> NodeLoop:
        """The event loop of a node."""
        if self.network is None:
            return NodeLoop(self.nodes[node], self.nodes, self.block)
        return self.network.loop(self.nodes[node], self.nodes)


class Voice:
    """What a node says goes to a file that all append to, and has reached the kernel when `emit` returns."""

    def __init__(self, path: Path, node: int, incarnation: int) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        self._node, self._incarnation, self._number = node, incarnation, 0
        self._lock = threading.Lock()

    def emit(self, kind: str, /, **fields: Any) -> None:
        """Record an event. Raises TypeError for a field that JSON cannot hold."""
        with self._lock:
            self._number += 1
            self._write([time.monotonic_ns(), self._node, self._incarnation, self._number, kind, fields])

    def beat(self) -> None:
        """Say that nothing older will come."""
        with self._lock:
            self._write([time.monotonic_ns(), self._node])

    def _write(self, line: list[Any]) -> None:
        data = b"\n" + _encode(line) + b"\n"
        if os.write(self._file, data) != len(data):
            raise OSError("the file of the run's events is full")


class Life:
    """The node's process, once it runs its loop. It is also what `node.bind` and the like ask."""

    def __init__(self, ground: Ground, name: str, incarnation: int, config: bytes) -> None:
        self._ground, self._plan, self._name, self._incarnation = ground, ground.plan, name, incarnation
        self._number, self._config = ground.nodes[name], self._plan.configs[name]
        if config:
            self._config = self._decoded(config)
        self._places = Places({place.node: place for place in self._plan.places})
        self.voice = Voice(ground.events, self._number, incarnation)
        self.directory = ground.home(name) / "home"
        self.environment = {"ZEBRA_NODE": name, "ZEBRA_RUN": str(ground.directory / "run.json")}
        self._channel = Channel(self._heard, self._lost)
        self._calls: dict[int, asyncio.Task[Any]] = {}
        self._asked: dict[int, asyncio.Future[Any]] = {}
        self._numbers = itertools.count(1)
        self._role: Any = None
        self._task: asyncio.Task[None] | None = None
        self._imposed = Imposed(ground.board, self._number)
        self._sites = NodeSites(name, self._plan.seed, self._imposed.application)
        self._leak = Leak(self._imposed.application)

    async def run(self, sock: socket.socket) -> None:
        """Live until the role ends or is told to stop."""
        loop = asyncio.get_running_loop()
        assert isinstance(loop, NodeLoop)
        loop.lookups = self._imposed.names
        loop.announce, loop.retract = self._announce, lambda kind, port: self._channel.send("retract", kind, port)
        loop.set_exception_handler(self._error)
        self._beat()
        await loop.connect_accepted_socket(lambda: self._channel, sock)
        os.environ.update(self.environment)
        self.environment |= faketime.environment(self._ground.directory, self._name)
        self._task = asyncio.current_task()
        error: BaseException | None = None
        try:
            await self._act(self._node())
        except asyncio.CancelledError:
            pass
        except SystemExit as exit:
            if exit.code:
                error = TargetError(f"{self._name} left with sys.exit({exit.code!r})")
        except Exception as raised:
            traceback.print_exc()
            error = raised
        self._channel.send("ended", None if error is None else pack_error(error))
        await asyncio.sleep(0)

    def _decoded(self, config: bytes) -> msgspec.Struct:
        decoded: msgspec.Struct = msgspec.msgpack.decode(config, type=type(self._config))
        return decoded

    def _node(self) -> Node[Any]:
        ground, name, config = self._ground, self._name, self._config
        if self._plan.note_read is not None:
            config = recording(config, self._plan.prefix, self._note_read)
        clock = FaultyClock(self._imposed)
        install(clock)
        count_refused(self._imposed)
        self._sites.configured(self._config)
        find_by(lambda: self._sites)
        return Node(
            place=self._places[name], config=config, incarnation=self._incarnation, clock=clock,
            random=random.Random(f"{self._plan.seed}/{name}/{self._incarnation}"), emit=self.voice.emit,
            disk=ProcessDisk(ground.home(name) / "disk", self._imposed, self._plan.seed), ready=self._ready,
            places=self._places, sites=self._sites,
            variants=frozenset(filter(None, self._plan.variant.split(","))),
            is_up=lambda other: ground.board.is_up(ground.nodes[other]), real_bytes=True,
            prepared=self._plan.prepared, outside=self,
        )  # fmt: skip

    async def _act(self, node: Node[Any]) -> None:
        self._role = self._plan.roles[node.role](node)
        if hasattr(self._role, "run"):
            await self._role.run()
        else:
            self._ready()
            await asyncio.get_running_loop().create_future()

    _is_ready = False

    def _ready(self) -> None:
        if not self._is_ready:
            self._is_ready = True
            self.voice.emit("node.ready")
            self._channel.send("ready")

    def _note_read(self, parameter: str, value: Any, site: str, seen: set[Any] = set()) -> None:  # noqa: B006
        if (parameter, value, site) not in seen:
            seen.add((parameter, value, site))
            self._channel.send("read", parameter, value, site)

    def _beat(self) -> None:
        self.voice.beat()
        self._leak.grow()
        asyncio.get_running_loop().call_later(BEAT_S, self._beat)

    def _error(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        what = "" if error is None else f"{type(error).__name__}: {error}"
        self.voice.emit("error", message=str(context.get("message", "")), error=what)
        loop.default_exception_handler(context)

    # -- the session -----------------------------------------------------------------------------------------

    def _heard(self, kind: str, number: int, *rest: Any) -> None:
        if kind == "call":
            task = asyncio.get_running_loop().create_task(self._call(number, *rest))
            self._calls[number] = task
            task.add_done_callback(lambda _: self._calls.pop(number, None))
        elif kind == "cancel" and number in self._calls:
            self._calls[number].cancel()
        elif kind == "stop" and self._task is not None:
            self._task.cancel()
        elif kind == "answer" and number in self._asked:
            result, error = rest
            if not self._asked[number].done():
                if error is None:
                    self._asked[number].set_result(result)
                else:
                    self._asked[number].set_exception(error)

    def _lost(self) -> None:
        os._exit(0)  # the session has gone, and the warden comes

    async def _call(self, number: int, method: str, args: Any, kwargs: Any) -> None:
        try:
            found = getattr(self._role, method)
            if method == RELOAD:
                args = (self._decoded(args[0]),)
                if self._sites.active():
                    found, args = self._sites.push, (found, *args)
            found = found(*args, **kwargs)
            result = await found if inspect.isawaitable(found) else found
            self._channel.send("result", number, result, None)
        except asyncio.CancelledError as error:
            self._channel.send("result", number, None, error)
        except Exception as error:
            error.add_note(f"On {self._name}:\n{traceback.format_exc()}")
            self._channel.send("result", number, None, pack_error(error))

    async def _ask(self, kind: str, *rest: Any) -> Any:
        number = next(self._numbers)
        self._asked[number] = asyncio.get_running_loop().create_future()
        self._channel.send(kind, number, *rest)
        try:
            return await self._asked[number]
        finally:
            del self._asked[number]

    async def _announce(self, kind: str, port: int) -> None:
        await self._ask("announce", kind, port)

    # -- what a role offers to the programs that it starts -----------------------------------------------------

    def bind(self, port: int) -> tuple[str, int]:
        if self._ground.block.proxied:
            self._channel.send("bind", "tcp", port)
        return self._ground.block.hidden(self._number), port

    async def reach(self, name: str, port: int) -> tuple[str, int]:
        if name == self._name:
            return self._ground.block.hidden(self._number), port
        if name not in self._places:
            raise KeyError(name)
        loop = asyncio.get_running_loop()
        assert isinstance(loop, NodeLoop)
        address = loop.look_up(name)
        if not self._ground.block.proxied or address == loop.nobody:
            return address, port
        host = await self._ask("reach", name, port)
        return str(host), port


def begin(ground: Ground, name: str, incarnation: int, config: bytes, sock: socket.socket, gate: int) -> None:
    """A forked process's whole life; never returns. It runs once the gate says that the ledger knows of it."""
    try:
        if os.read(gate, 1):
            live(ground, name, incarnation, config, sock)
    finally:
        os._exit(1)


def live(ground: Ground, name: str, incarnation: int, config: bytes, sock: socket.socket,
         kind: type[Life] = Life) -> None:  # fmt: skip
    """A life up to the end of its process; never returns. `sock` leads to the session."""
    status = 1
    try:
        _settle(ground, name, incarnation, sock)
        life = kind(ground, name, incarnation, config)
        life.directory.mkdir(parents=True, exist_ok=True)
        _run(ground.loop(name), life.run(sock))
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except Exception:
                pass
        os._exit(status)


def _run(loop: NodeLoop, main: Coroutine[Any, Any, None]) -> None:
    asyncio.set_event_loop(loop)
    loop.run_until_complete(main)


def _settle(ground: Ground, name: str, incarnation: int, sock: socket.socket) -> None:
    """Leave behind what was the session's: its files, streams, log handlers, signals and random numbers."""
    only_files(sock.fileno())
    home = ground.home(name)
    home.mkdir(parents=True, exist_ok=True)
    for number, stream in ((1, "stdout"), (2, "stderr")):
        file = os.open(home / stream, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        os.dup2(file, number)
        os.close(file)
    sys.stdin = open(os.devnull)  # noqa: SIM115
    sys.stdout, sys.stderr = (
        io.TextIOWrapper(io.FileIO(number, "w", closefd=False), "utf-8", "backslashreplace", write_through=True)
        for number in (1, 2)
    )
    logging.root.handlers[:] = [logging.StreamHandler(sys.stderr)]
    signal.set_wakeup_fd(-1)
    for each in (signal.SIGCHLD, signal.SIGTERM):
        signal.signal(each, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    random.seed(f"{ground.plan.seed}/{name}/{incarnation}/module")
    gc.enable()


def write_run(ground: Ground, run: Callable[[], Any]) -> None:
    """Put the run's own description where ZEBRA_RUN says."""
    (ground.directory / "run.json").write_text(json.dumps(run()))
