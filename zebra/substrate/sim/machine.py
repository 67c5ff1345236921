"""A simulated node: what outlives its processes (address, network card, disk, clock), and the one that runs."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable
from contextvars import copy_context
from functools import cached_property
from random import Random
from typing import TYPE_CHECKING, Any, TypeVar

from zebra.errors import NodeDown
from zebra.substrate import Effect
from zebra.substrate.application import NodeSites
from zebra.substrate.inside import wall_s
from zebra.substrate.sim.disk import SimDisk
from zebra.substrate.sim.loop import CURRENT, Handle, SimLoop, SimTask, unfinished
from zebra.topology import Place

if TYPE_CHECKING:
    from zebra.substrate.sim.datagram import DatagramTransport
    from zebra.substrate.sim.network import Listener
    from zebra.substrate.sim.stream import StreamTransport

T = TypeVar("T")

EPOCH_S = 1_767_225_600.0
"""Wall clock at the start of a run: 2026-01-01 00:00:00 UTC."""

BOOT_S = 5_000.0
"""Monotonic clock at the start of a run."""


CLOSE_TRIES = 1000
"""A coroutine is closed so many times if it awaits again and again while it is."""


class Clock:
    """A node's clocks; `effects` are those on the wall clock."""

    __slots__ = ("_loop", "effects")

    def __init__(self, loop: SimLoop) -> None:
        self._loop = loop
        self.effects: list[Effect] = []

    def time(self) -> float:
        """Wall-clock seconds since 1970, as this node's clock shows them."""
        true_s = EPOCH_S + self._loop.now
        return wall_s(self.effects, true_s, self._loop.now) if self.effects else true_s

    def monotonic(self) -> float:
        """Seconds on a clock that never jumps."""
        return BOOT_S + self._loop.now


class Nic:
    """A host's network card: when each direction is free again, and seconds per byte.

    `small_free` is for messages that do not queue behind long ones.
    """

    __slots__ = ("cost_s", "rx_free", "small_free", "tx_free")

    def __init__(self, rate: float) -> None:
        self.tx_free = self.rx_free = self.small_free = 0.0
        self.cost_s = 1.0 / rate


class Machine:
    """One node of the cluster. `process` is its running incarnation or None; without power its kernel is silent too."""

    def __init__(self, place: Place, address: str, nic: Nic, loop: SimLoop, seed: int) -> None:
        self.place, self.address, self.nic, self.loop = place, address, nic, loop
        self.name = place.node
        self.process: Process | None = None
        self.incarnation = 0
        self.powered = True
        self._seed = f"{seed}/{place.node}"
        self.clock = Clock(loop)
        self.disk = SimDisk(self)
        self.application: list[Effect] = []
        self.sites = NodeSites(place.node, seed, self._application)
        self.listeners: dict[int, Listener] = {}
        self.datagrams: dict[int, DatagramTransport] = {}
        self._next_port = 32768

    @cached_property
    def random(self) -> Random:
        """The machine's own randomness, after its first incarnation's seed; made when needed, for it takes 3 KiB."""
        random = Random(self._seed)
        random.random()
        return random

    def _application(self) -> list[Effect]:
        return self.application

    def role_seed(self) -> float:
        """What the running incarnation's `node.random` begins with."""
        return Random(self._seed).random() if self.incarnation == 1 else self.random.random()

    def free_port(self) -> int:
        """The next ephemeral port, going round."""
        self._next_port = self._next_port + 1 if self._next_port < 60999 else 32768
        return self._next_port

    def boot(self) -> Process:
        """A new incarnation, on the disk that the last one left."""
        self.incarnation += 1
        self.powered = True
        self.process = Process(self)
        return self.process


def abandon(task: SimTask) -> None:
    """Drop a task that is not done: its `finally` blocks run, but what they await never comes.

    The innermost coroutine is closed first: one that awaits again while it is closed would else outlive its caller and
    be closed by the garbage collector, which complains.
    """
    task.abandoned = True
    task._log_destroy_pending = False  # type: ignore[attr-defined]
    for _ in range(CLOSE_TRIES):
        waiting = unfinished(task.get_coro())
        if not waiting or getattr(waiting[-1], "cr_running", False):
            return
        try:
            waiting[-1].close()
        except KeyboardInterrupt:
            raise
        except BaseException:  # RuntimeError if it awaited again, or anything: nobody is left to tell
            pass


class Process:
    """One incarnation of a node: a context that its tasks run in, and the sockets that it holds."""

    def __init__(self, machine: Machine) -> None:
        self.machine, self.node, self.incarnation = machine, machine.name, machine.incarnation
        self.alive, self.paused = True, False
        self.pausing: set[str] = set()
        self.born_s = machine.loop.now
        self.limits: dict[Effect, int] = {}
        self.transports: dict[StreamTransport, None] = {}
        self._parked: list[tuple[float, Handle]] = []
        self._resumed: asyncio.Future[None] | None = None
        self.ended: asyncio.Future[None] = machine.loop.create_future()
        self.context = copy_context()
        self.context.run(CURRENT.set, self)

    @property
    def loop(self) -> SimLoop:
        return self.machine.loop

    def spawn(self, coro: Coroutine[Any, Any, T], name: str) -> asyncio.Task[T]:
        """A task of this process."""
        return self.loop.create_task(coro, name=name, context=self.context.copy())

    def files(self) -> int:
        """How many connections and ports it has open."""
        ports = [owner for owner in self.machine.listeners.values() if owner.process is self]
        return sum(each.begun for each in self.transports) + len(ports) + len(self.machine.datagrams)

    def has_room(self) -> bool:
        """Whether it may open one more; a limit that says no is hit."""
        if not self.limits:
            return True
        count = self.files()
        met = [effect for effect, limit in self.limits.items() if count >= limit]
        for effect in met:
            effect.hits += 1
        return not met

    async def runs(self) -> None:
        """Wait while the process is paused; raises NodeDown when it is no more."""
        while self.alive and self.paused:
            if self._resumed is None:
                self._resumed = self.loop.create_future()
            await asyncio.wait([self._resumed])
        if not self.alive:
            raise NodeDown(f"{self.node} is not running")

    async def call(self, coro: Coroutine[Any, Any, T], name: str) -> T:
        """The result of a coroutine run as this process's; raises NodeDown if the process ends before it does."""
        task = self.spawn(coro, name)
        try:
            waiting: list[asyncio.Future[Any]] = [task, self.ended]
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            task.cancel()
            raise
        if not task.done():
            raise NodeDown(f"{self.node} stopped running before {name} was done")
        return task.result()

    # -- life ------------------------------------------------------------------------------------------------

    def pause(self, why: str) -> None:
        """Stop running, as by SIGSTOP: what is scheduled waits, what arrives waits in the kernel."""
        self.pausing.add(why)
        if not self.paused:
            self.paused = True
            self._parked = self.loop.park(self)

    def resume(self, why: str) -> int:
        """Go on, unless there is another reason to pause; how much is late for that."""
        self.pausing.discard(why)
        if not self.paused or self.pausing:
            return 0
        self.paused = False
        parked, self._parked = self._parked, []
        self.loop.unpark(parked)
        if self._resumed is not None:
            self._resumed.set_result(None)
            self._resumed = None
        return sum(not handle.cancelled() for when, handle in parked if when <= self.loop.now)

    def arrive(self, handle: Handle) -> None:
        """Keep a delivery for the time when the process runs again."""
        self._parked.append((self.loop.now, handle))

    def die(self, silent: bool) -> None:
        """End at once, see `end`."""
        end(self.loop, [self], silent)

    def cut(self, silent: bool) -> None:
        """Take sockets, disk and `emit` away."""
        self.alive = self.paused = False
        machine = self.machine
        machine.powered = not silent
        for transport in list(self.transports):
            transport.cut(silent)
        self.transports.clear()
        for datagram in machine.datagrams.values():
            datagram.cut()
        for listener in machine.listeners.values():
            listener.server.cut()
        machine.listeners.clear()
        machine.datagrams.clear()
        machine.process = None
        self._parked.clear()

    def over(self) -> None:
        """Tell who waits that nothing of the process is left."""
        self.ended.set_result(None)
        if self._resumed is not None and not self._resumed.done():
            self._resumed.set_result(None)


def end(loop: SimLoop, processes: Iterable[Process], silent: bool) -> None:
    """End processes at once. First sockets, disk and `emit` are cut, then tasks dropped: no `finally` acts outside.

    `silent` is a loss of power: peers hear nothing. Otherwise the kernel closes the sockets. Costs a look at every task
    and timer of the run, however many processes end.
    """
    dying = {process: None for process in processes if process.alive}
    for process in dying:
        process.cut(silent)
    loop.drop(dying)
    while tasks := [task for task in loop.tasks() if task.process in dying]:  # a `finally` may start more
        for task in tasks:
            assert task.process is not None
            task.process.context.copy().run(abandon, task)
    loop.drop(dying)
    for process in dying:
        process.over()
