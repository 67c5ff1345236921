"""The nodes of one run as processes: `zebra.substrate.Running`, from the session's side."""

from __future__ import annotations

import asyncio
import itertools
import os
import select
import signal
import socket
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from pathlib import Path
from random import Random
from typing import Any, Literal

import msgspec

from zebra.errors import Escape, Infrastructure, NodeDown, TargetError
from zebra.injection.ledger import Ledger, state_of
from zebra.proxy.proxy import Proxy
from zebra.substrate import Effect
from zebra.substrate.capability import Capability, NodeProcesses
from zebra.substrate.process.busy import Waits
from zebra.substrate.process.capabilities import (
    Inside,
    ProcessApplication,
    ProcessClocks,
    ProcessDisks,
    ProcessLinks,
    ProcessNames,
)
from zebra.substrate.process.channel import Channel
from zebra.substrate.process.disk import Files
from zebra.substrate.process.faketime import ProgramClocks
from zebra.substrate.process.family import signal_family
from zebra.substrate.process.life import BEAT_S, Ground
from zebra.substrate.process.order import Order
from zebra.substrate.process.ports import Incarnation, Ports
from zebra.substrate.process.remote import RemoteLinks
from zebra.substrate.process.resources import ProcessResources
from zebra.substrate.process.toxiproxy import Toxiproxy
from zebra.substrate.process.zygote import Zygote

POLL_S = 0.005
"""How often the session looks at what nodes have said."""

SILENCE_S = 10.0
"""A node whose loop is blocked for so long when the test has ended makes the run one that says nothing."""

DEATH_S = 5.0
"""A killed process has so long to be gone."""

OUTPUT_BYTES_MAX = 1 << 20
"""So much of the end of a node's stdout, and of its stderr, is kept when a run fails."""


class ProcessRunning:
    """`zebra.substrate.Running` on processes. Made before the loop, so that the zygote may be; then `begin`.

    What starts processes may take `engine_s`, which is not the target's time.
    """

    engine_s = 0.0

    def __init__(self, ground: Ground, ledger: Ledger) -> None:
        self.ground, self.plan, self.ledger = ground, ground.plan, ledger
        self.names = {number: name for name, number in ground.nodes.items()}
        self._order = Order(ground.events, self.names, self._late, self.plan.on_second)
        self._zygote = Zygote(ground, ledger)
        self.log = self._order.log = self.plan.log(self._order.now)
        self.log.divert = self._order.put
        self.next_effect = itertools.count(1).__next__
        self._next_call = itertools.count(1).__next__
        self._configs = dict(self.plan.configs)
        self._lives: dict[str, Incarnation] = {}
        self._started: dict[str, int] = {}
        self._by_pid: dict[int, Incarnation] = {}
        self._ledgered: list[str] = [self._zygote.entry["id"]]
        self._random = Random(f"{self.plan.seed}/disks")
        self._links = self._make_links()
        self._disks = ProcessDisks(self)
        self.inside = Inside(ground.board, ground.nodes)
        self.programs = ProgramClocks(self)
        self._resources = self._make_resources()
        made: tuple[Capability[Any], ...] = (
            NodeProcesses(self), self._links, ProcessClocks(self), self._disks, self._resources,
            ProcessApplication(self), ProcessNames(self),
        )  # fmt: skip
        self.capabilities: Mapping[str, Any] = {each.name: each for each in made}
        self._timer: asyncio.TimerHandle | None = None
        self._waits = Waits()
        self.proxy: Proxy

    def _make_links(self) -> Any:
        url = self.ground.toxiproxy
        return RemoteLinks(self, Toxiproxy(url)) if url else ProcessLinks(self)

    def _make_resources(self) -> Any:
        return ProcessResources(self)

    def _brought(self, kind: str, files: list[int], word: Any) -> None:
        """The zygote brings something that the run's network made."""

    def begin(self) -> None:
        """Take up work, in the loop."""
        self._loop = loop = asyncio.get_running_loop()
        self._ports = Ports(self.ground, self.log, self._links.toxics_of)
        self.proxy = self._ports.proxy
        if isinstance(self._links, RemoteLinks):
            self.proxy.route = self._links.route
        self._zygote.sock.setblocking(False)
        loop.add_reader(self._zygote.sock, self._zygote_says)
        self._poll()

    def _poll(self) -> None:
        self._timer = self._loop.call_later(POLL_S, self._poll)
        self._order.release()
        if self._waits.due():
            self._waits.look(self._pids())

    def _pids(self) -> dict[str, int]:
        return {"test": os.getpid()} | {life.node: pid for pid, life in self._by_pid.items()}

    def waits(self) -> Mapping[str, float]:
        self._waits.look(self._pids())
        return self._waits.lately()

    def _late(self, what: str) -> None:
        self.plan.on_crash("", Infrastructure(f"an event came out of order: {what}"))

    def now(self) -> float:
        return self._order.now()

    def is_up(self, node: str) -> bool:
        life = self._lives.get(node)
        return life is not None and life.up and not life.stopping

    def role(self, node: str) -> Any:
        raise Escape(f"the role of {node} lives in a process of its own: call its methods through cluster.client")

    async def settled(self) -> None:
        """Wait until all that was emitted so far has been released."""
        until_ns, started = time.monotonic_ns(), self.now()
        while self._order.mark_ns < until_ns:
            if self.now() - started > SILENCE_S:
                slowest = self._order.slowest()
                raise Infrastructure(f"{slowest} was not heard of for {SILENCE_S:g} s: its loop is blocked")
            await asyncio.sleep(POLL_S)

    def output(self, node: str) -> Mapping[str, bytes]:
        return {stream: _end_of(self.ground.home(node) / stream) for stream in ("stdout", "stderr")}

    # -- start -----------------------------------------------------------------------------------------------

    async def start(self, nodes: Iterable[str]) -> None:
        lives = [self._boot(node) for node in nodes if not self.is_up(node)]
        if not lives:
            return
        self._spawn(lives)
        waiting = {life.ready: life for life in lives}
        start_s = self.plan.start_s + self.engine_s
        _, late = await asyncio.wait(waiting, timeout=start_s)
        for ready, life in waiting.items():
            if ready in late:
                raise TargetError(f"{life.node} was not ready {start_s:g} s after its start")
            ready.result()
        self.capabilities["processes"].pause_again(life.node for life in lives)

    def _spawn(self, lives: list[Incarnation]) -> None:
        """Start the processes, and wait for what they say from now on."""
        for life in lives:
            self._order.expect(self.ground.nodes[life.node])
        self._zygote.spawn([(life.node, life.number, self._changed(life.node)) for life in lives])

    def _changed(self, node: str) -> bytes:
        """A node's configuration, b"" for the one that the plan gave it: its type need not pickle."""
        config = self._configs[node]
        return b"" if config is self.plan.configs[node] else msgspec.msgpack.encode(config)

    def _boot(self, node: str) -> Incarnation:
        number = self._started[node] = self._started.get(node, 0) + 1
        before = self._lives.get(node)
        if before is not None:
            self._ports.unplug(before)
        self._links.lighten(node)
        self.programs.boot(node)
        futures: list[asyncio.Future[Any]] = [self._loop.create_future() for _ in range(2)]
        life = Incarnation(node=node, number=number, ready=futures[0], ended=futures[1])
        for future in futures:
            future.add_done_callback(lambda done: done.cancelled() or done.exception())
        self._lives[node] = life
        self.log.emit(node, "node.start", incarnation=number, config=msgspec.to_builtins(self._configs[node]))
        self.ground.board.set_up(self.ground.nodes[node], True)
        return life

    def _zygote_says(self) -> None:
        try:
            message, files = self._zygote.receive()
        except BlockingIOError:
            return
        if message is None:
            self._loop.remove_reader(self._zygote.sock)
            why = _end_of(self.ground.directory / "zygote.log").decode(errors="replace").strip().rpartition("\n")[2]
            self.plan.on_crash("", Infrastructure(f"the zygote of this run has died {why}".strip()))
        elif message[0] == "born":
            self._born(*message[1:], *files)
        elif message[0] == "died":
            self._died(*message[1:])
        else:
            self._brought(message[0], files, message[1])

    def _born(self, node: str, pid: int, entry: dict[str, Any], pidfd: int, control: int) -> None:
        life = self._lives[node]
        life.pid, life.pidfd, life.entry = pid, pidfd, entry
        self._by_pid[pid] = life
        self._resources.born(node)
        self._ledgered.append(entry["id"])
        life.channel = Channel(lambda kind, *rest: self._heard(life, kind, *rest), lambda: None)
        channel = life.channel
        self.proxy.spawn(self._loop.connect_accepted_socket(lambda: channel, socket.socket(fileno=control)))

    # -- what nodes say --------------------------------------------------------------------------------------

    def _heard(self, life: Incarnation, kind: str, *rest: Any) -> None:
        if kind == "ready" and not life.ready.done():
            life.ready.set_result(None)
        elif kind == "ended":
            life.error = rest[0]
        elif kind == "result":
            number, result, error = rest
            future = life.calls.pop(number, None)
            if future is not None and not future.done():
                if isinstance(error, asyncio.CancelledError):
                    future.cancel()
                elif error is not None:
                    future.set_exception(error)
                else:
                    future.set_result(result)
        elif kind == "read" and self.plan.note_read is not None:
            self.plan.note_read(life.node, *rest)
        elif kind == "announce":
            self.proxy.spawn(self._answer(life, rest[0], self._ports.listen, life, *rest[1:]))
        elif kind == "reach":
            self.proxy.spawn(self._answer(life, rest[0], self._ports.reach, life.node, *rest[1:]))
        elif kind == "bind":
            self.proxy.spawn(self._answer(life, 0, self._ports.listen, life, *rest))
        elif kind == "retract":
            self._ports.retract(life, *rest)

    async def _answer(self, life: Incarnation, number: int, work: Callable[..., Awaitable[Any]], *on: Any) -> None:
        result, trouble = None, None
        try:
            result = await work(*on)
        except OSError as error:
            trouble = error
        if life.channel is not None:
            life.channel.send("answer", number, result, trouble)

    # -- the ends of nodes -----------------------------------------------------------------------------------

    def _died(self, pid: int, status: int, left: list[str]) -> None:
        """The zygote has buried a process."""
        life = self._by_pid.pop(pid)
        self.ledger.done([life.entry["id"]])
        self._ledgered.remove(life.entry["id"])
        if left and life.stopping:
            self.log.emit(life.node, "node.leak", left=[f"process {name}" for name in left])
        if life.up:
            self._gone(life)
            self._ports.refuse(life)
            if not life.stopping:
                self._exited(life, status)
        if not life.ended.done():
            life.ended.set_result(status)

    def _exited(self, life: Incarnation, status: int) -> None:
        """A node has ended by itself."""
        if self._resources.out_of_memory(life.node):
            self.log.emit(life.node, "node.exit", error="out of memory")
            return
        error = life.error
        if error is None and status:
            how = f"killed by {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"
            error = TargetError(f"{life.node} ended unexpectedly ({how})")
        self.log.emit(life.node, "node.exit", error="" if error is None else f"{type(error).__name__}: {error}")
        if error is not None:
            self.plan.on_crash(life.node, error)

    def _gone(self, life: Incarnation) -> None:
        """An incarnation is dead: all that it said is known, and nothing more is expected of it."""
        life.up = life.paused = False
        life.stalls.clear()
        number = self.ground.nodes[life.node]
        self.ground.board.set_up(number, False)
        self._order.excuse(number)
        for future in [life.ready, *life.calls.values()]:
            if not future.done():
                if future is life.ready:
                    future.set_exception(TargetError(f"{life.node} ended before it was ready"))
                else:
                    future.set_exception(NodeDown(f"{life.node} stopped running before the call was done"))
        life.calls.clear()
        if life.channel is not None:
            life.channel.close()
        if life.pidfd >= 0:
            os.close(life.pidfd)
            life.pidfd = -1

    def _signal(self, life: Incarnation, number: signal.Signals) -> None:
        """Signal all processes of a node."""
        if life.pid in self._by_pid:
            signal_family(life.pid, number)

    def _kill(self, life: Incarnation) -> None:
        """Kill a node, and wait until it is gone: meanwhile nobody else hears of its end."""
        if life.pidfd < 0:
            return
        self._signal(life, signal.SIGKILL)
        if not select.select([life.pidfd], [], [], DEATH_S)[0]:
            raise Infrastructure(f"{life.node} did not die within {DEATH_S:g} s of SIGKILL")
        self._gone(life)

    def crash(self, node: str) -> None:
        """Cut the power: nothing of the node runs, nobody is told, and what comes to it is lost."""
        life = self._lives[node]
        if not life.up:
            return
        self._links.darken(node)
        self._kill(life)
        self.log.emit(node, "node.crash", incarnation=life.number)
        lossy = self._disks.loses(node)
        if lossy:
            torn = max(float(effect.arguments["torn"]) for effect in lossy)
            lost = Files(self.ground.home(node) / "disk").lose_unsynced(torn, self._random)
            for effect in lossy:
                effect.hits += lost

    def kill_node(self, node: str) -> None:
        """End a node's processes; the kernel closes what they had open."""
        life = self._lives[node]
        if life.up:
            self._kill(life)
            self._ports.refuse(life)
            self.log.emit(node, "node.exit", error="killed")

    def has_datagrams(self, node: str) -> bool:
        """Whether a node has a datagram port."""
        life = self._lives.get(node)
        return life is not None and bool(life.datagrams)

    def pid_of(self, node: str) -> int:
        """The process that leads a node's group; 0 if there is none."""
        life = self._lives.get(node)
        return life.pid if life is not None and life.up else 0

    def pause(self, node: str) -> None:
        life = self._lives[node]
        if not life.up or life.paused:
            return
        self._freeze(life)
        life.paused = True
        self._order.excuse(self.ground.nodes[node])
        self.log.emit(node, "node.pause")

    def resume(self, node: str) -> None:
        life = self._lives[node]
        if life.up and life.paused:
            life.paused = False
            self.log.emit(node, "node.resume")
            self._order.expect(self.ground.nodes[node])
            if not life.stalls:
                self._thaw(life)

    def stall(self, node: str, why: str) -> None:
        life = self._lives[node]
        if life.up and life.pid:
            if not life.paused and not life.stalls:
                self._freeze(life)
            life.stalls[why] = time.monotonic()

    def unstall(self, node: str, why: str) -> int:
        """Let it go on, unless something else stops it; 1 if that made it miss a beat at least."""
        life = self._lives[node]
        since_s = life.stalls.pop(why, None)
        if since_s is None or not life.up:
            return 0
        if not life.paused and not life.stalls:
            self._thaw(life)
        return int(time.monotonic() - since_s >= BEAT_S)

    def _freeze(self, life: Incarnation) -> None:
        """Stop a node's processes, and wait until they stand."""
        self._signal(life, signal.SIGSTOP)
        until = time.monotonic() + DEATH_S
        while state_of(life.pid) not in ("T", "t", "Z", "") and time.monotonic() < until:
            time.sleep(0.0002)

    def _thaw(self, life: Incarnation) -> None:
        self._signal(life, signal.SIGCONT)

    async def stop_node(self, node: str, grace_s: float) -> None:
        """A planned stop: the role's `run` is cancelled and has `grace_s` to finish; a paused one cannot."""
        life = self._lives.get(node)
        if life is None or not life.up or life.stopping:
            return
        life.stopping = True
        try:
            self.ground.board.set_up(self.ground.nodes[node], False)
            self.log.emit(node, "node.stopping", grace_s=grace_s)
            if not life.paused:
                self._ask_to_stop(life)
            await asyncio.wait([life.ended], timeout=grace_s)
            in_time = life.ended.done()
            if life.up:
                self._kill(life)
                self._ports.refuse(life)
            self.log.emit(node, "node.stop", in_time=in_time)
            if life.error is not None:
                self.plan.on_crash(node, life.error)
        finally:
            life.stopping = False

    def _ask_to_stop(self, life: Incarnation) -> None:
        if life.channel is not None:
            life.channel.send("stop", 0)

    # -- the rest of Running ---------------------------------------------------------------------------------

    async def configure(self, node: str, config: msgspec.Struct, how: Literal["restart", "reload"]) -> None:
        self._configs[node] = config
        self.log.emit(node, "node.configure", how=how, config=msgspec.to_builtins(config))
        if how == "reload":
            role = self.plan.roles[node.rpartition("-")[0]]
            if not hasattr(role, "reload"):
                raise TargetError(f"{node}: its role has no `reload(config)`, configure it with how='restart'")
            await self.call(node, "reload", msgspec.msgpack.encode(config))
        elif self.is_up(node):
            await self.stop_node(node, 5.0)
            await self.start([node])

    async def call(self, node: str, method: str, *args: Any, **kwargs: Any) -> Any:
        life = self._lives.get(node)
        if life is None or not life.up or life.channel is None:
            raise NodeDown(f"{node} is not running")
        number = self._next_call()
        life.channel.send("call", number, method, args, kwargs)
        future = life.calls[number] = self._loop.create_future()
        try:
            return await future
        except asyncio.CancelledError:
            if life.calls.pop(number, None) is not None and life.up:
                life.channel.send("cancel", number)
            raise

    async def heal(self, effect: Effect) -> None:
        await self.capabilities[effect.capability].remove(effect)

    async def stop(self) -> None:
        self.end()

    def end(self) -> None:
        """End every process and give back every port at once. Nothing is left, or the warden will see to it."""
        if self._timer is not None:
            self._timer.cancel()
            self._loop.remove_reader(self._zygote.sock)
            self._timer = None
            self._ports.close(self._lives.values())
            if isinstance(self._links, RemoteLinks):
                self._links.close()
        self.programs.end()
        up = [life for life in self._lives.values() if life.up]
        for life in up:
            self._signal(life, signal.SIGKILL)
        for life in up:
            self._kill(life)

    def close(self) -> None:
        """After the loop: the zygote ends, and what is known is released."""
        self.end()
        self._resources.close()
        self._zygote.end()
        self.programs.close()
        self._order.finish()
        self.log.divert = None
        self.ledger.done(self._ledgered)


def _end_of(path: Path) -> bytes:
    """The last bytes of a file, from the beginning of a line; b"" if there is none."""
    try:
        with open(path, "rb") as file:
            size = file.seek(0, os.SEEK_END)
            if size <= OUTPUT_BYTES_MAX:
                file.seek(0)
                return file.read()
            file.seek(-OUTPUT_BYTES_MAX, os.SEEK_END)
            end = file.read(OUTPUT_BYTES_MAX)
            return end[end.find(b"\n") + 1 :]
    except FileNotFoundError:
        return b""
