"""The deterministic simulation: virtual time, an in-memory network, disks and clocks, one seed.

`loop` runs everything; `machine` is what a node is made of; `network`, `stream` and `datagram` join machines, `path`
and `passage` are what lies between; `disk` keeps files; `capabilities` is what faults can do; `isolation` keeps the
real world out. Start reading at `loop`.
"""

from __future__ import annotations

import asyncio
import inspect
import itertools
from collections.abc import Callable, Coroutine, Iterable, Mapping
from random import Random
from typing import Any, Literal, TypeVar

import msgspec

from zebra.errors import Escape, NodeDown, TargetError
from zebra.node import Node, Places
from zebra.params.recording import recording
from zebra.sites import Sites, find_by
from zebra.substrate import Effect, Plan, Running
from zebra.substrate.application import RELOAD
from zebra.substrate.capability import NodeProcesses
from zebra.substrate.decisions import Decisions
from zebra.substrate.sim.capabilities import SimApplication, SimClocks, SimDisks, SimLinks, SimNames
from zebra.substrate.sim.isolation import isolated
from zebra.substrate.sim.loop import CURRENT, SimLoop
from zebra.substrate.sim.machine import Machine, Process, abandon, end
from zebra.substrate.sim.network import Network
from zebra.substrate.sim.resources import REFUSED, SimResources

T = TypeVar("T")

LINGER_S = 0.1
"""Run time in which tasks that a role has cancelled at its end may end too."""

PAUSE = "pause"
"""Why a process is paused that a fault pauses as a whole."""

GC_STEPS_PER_NODE = 200
"""A large cluster collects its garbage less often: each time costs in proportion to its nodes."""


class SimRunning:
    """`zebra.substrate.Running` for one simulated run."""

    ledger = None

    def __init__(self, plan: Plan, loop: SimLoop) -> None:
        self.plan, self.loop = plan, loop
        self.network = loop.network = Network(loop, plan.topology, plan.places, plan.seed)
        self.log = plan.log(lambda: loop.now)
        self.network.decided = Decisions(self.log)
        self.next_effect = itertools.count(1).__next__
        self.resources = SimResources(self)
        kinds = (NodeProcesses, SimLinks, SimClocks, SimDisks, SimApplication, SimNames)
        self.capabilities: Mapping[str, Any] = {
            **{kind.name: kind(self) for kind in kinds}, "resources": self.resources
        }  # fmt: skip
        self._configs = dict(plan.configs)
        self._shown: dict[int, tuple[msgspec.Struct, Any]] = {}
        self._places = Places({place.node: place for place in plan.places})
        self._roles: dict[str, Any] = {}
        self._lives: dict[str, asyncio.Task[None]] = {}
        self._stopping: set[str] = set()
        self._variants = frozenset(filter(None, plan.variant.split(",")))
        loop.on_error = self._error

    def now(self) -> float:
        return self.loop.now

    def is_up(self, node: str) -> bool:
        return self.network.machines[node].process is not None and node not in self._stopping

    def role(self, node: str) -> Any:
        return self._roles[node]

    # -- start -----------------------------------------------------------------------------------------------

    async def start(self, nodes: Iterable[str]) -> None:
        waiting = {node: self._boot(self.network.machines[node]) for node in nodes if not self.is_up(node)}
        if not waiting:
            return
        _, late = await asyncio.wait(waiting.values(), timeout=self.plan.start_s)
        for node, ready in waiting.items():
            if ready in late:
                raise TargetError(f"{node} was not ready {self.plan.start_s:g} s after its start")
            ready.result()
        self.capabilities["processes"].pause_again(waiting)

    def _boot(self, machine: Machine) -> asyncio.Future[None]:
        """Start a process; the future is done when it is ready, or has ended before."""
        process, name = machine.boot(), machine.name
        config = self._configs[name]
        ready: asyncio.Future[None] = self.loop.create_future()

        record, loop = self.log.record, self.loop

        def emit(kind: str, /, **fields: Any) -> None:
            if process.alive:
                record(loop.now, name, kind, fields)

        def is_ready() -> None:
            if process.alive and not ready.done():
                emit("node.ready")
                ready.set_result(None)

        self.log.emit(name, "node.start", incarnation=machine.incarnation, config=self._show(config))
        machine.sites.configured(config)
        self.resources.weigh(name)
        note = self.plan.note_read
        if note is not None:
            config = recording(config, self.plan.prefix, lambda *read: note(name, *read))
        node: Node[Any] = Node(
            place=machine.place, config=config, incarnation=machine.incarnation, random=Random(machine.role_seed()),
            clock=machine.clock, disk=machine.disk, emit=emit, ready=is_ready, places=self._places,
            variants=self._variants, is_up=self.is_up, prepared=self.plan.prepared, sites=machine.sites,
        )  # fmt: skip
        life = self._lives[name] = process.spawn(self._live(process, node, is_ready), f"{name}.run")

        def ended(_: asyncio.Future[None]) -> None:
            if not ready.done():
                ready.set_exception(TargetError(f"{name} ended before it was ready"))

        process.ended.add_done_callback(ended)
        life.add_done_callback(lambda task: self._role_ended(process, task))
        return ready

    def _show(self, config: msgspec.Struct) -> Any:
        """A configuration as it stands in events; nodes of one configuration share it."""
        shown = self._shown.get(id(config))
        if shown is None:
            shown = self._shown[id(config)] = config, msgspec.to_builtins(config)  # kept, so no other gets its id
        return shown[1]

    async def _live(self, process: Process, node: Node[Any], is_ready: Callable[[], None]) -> None:
        role = self._roles[node.name] = self.plan.roles[node.role](node)
        if hasattr(role, "run"):
            try:
                await role.run()
            except SystemExit as exit:
                if exit.code:
                    raise TargetError(f"{node.name} left with sys.exit({exit.code!r})") from None
        else:
            is_ready()
            await asyncio.get_running_loop().create_future()

    def _role_ended(self, process: Process, task: asyncio.Task[None]) -> None:
        if not process.alive or process.node in self._stopping:
            return
        error = None if task.cancelled() else task.exception()
        self.log.emit(process.node, "node.exit", error="" if error is None else f"{type(error).__name__}: {error}")
        process.die(silent=False)
        if error is not None:
            self.plan.on_crash(process.node, error)

    # -- what faults do --------------------------------------------------------------------------------------

    def crash(self, node: str) -> None:
        machine = self.network.machines[node]
        if machine.process is not None:
            self.log.emit(node, "node.crash", incarnation=machine.incarnation)
            machine.process.die(silent=True)
            machine.disk.crash()

    def kill_node(self, node: str, why: str = "killed") -> None:
        """End a node's process; its kernel closes what it had open."""
        process = self.network.machines[node].process
        if process is not None:
            self.log.emit(node, "node.exit", error=why)
            process.die(silent=False)

    def pause(self, node: str) -> None:
        process = self.network.machines[node].process
        if process is not None:
            self.log.emit(node, "node.pause")
            process.pause(PAUSE)

    def resume(self, node: str) -> None:
        process = self.network.machines[node].process
        if process is not None and PAUSE in process.pausing:
            self.log.emit(node, "node.resume")
            process.resume(PAUSE)

    def stall(self, node: str, why: str) -> None:
        process = self.network.machines[node].process
        if process is not None:
            process.pause(why)

    def unstall(self, node: str, why: str) -> int:
        process = self.network.machines[node].process
        return 0 if process is None else min(process.resume(why), 1)

    async def stop_node(self, node: str, grace_s: float) -> None:
        """A planned stop: the role's `run` is cancelled and has `grace_s` to finish; a paused one cannot."""
        process = self.network.machines[node].process
        if process is None or node in self._stopping:
            return
        self._stopping.add(node)
        try:
            self.log.emit(node, "node.stopping", grace_s=grace_s)
            life = self._lives[node]
            if PAUSE not in process.pausing:
                await self._tell_to_stop(process, life, grace_s)
            await asyncio.wait([life, process.ended], timeout=grace_s, return_when=asyncio.FIRST_COMPLETED)
            if self.plan.leaks and process.alive and life.done():
                await self._note_leaks(process, life)
            if process.alive:
                self.log.emit(node, "node.stop", in_time=life.done())
                process.die(silent=False)
            if life.done() and not life.cancelled() and life.exception() is not None:
                self.plan.on_crash(node, life.exception() or NodeDown(node))
        finally:
            self._stopping.discard(node)

    async def _note_leaks(self, process: Process, life: asyncio.Task[None]) -> None:
        """Say which tasks a role leaves running; what it has cancelled may still end, calls of the test are not its."""
        calls = f"{process.node}."
        left = [task for task in self.loop.tasks() if task.process is process and not task.get_name().startswith(calls)]
        waiting = [task for task in left if task is not life and not task.done()]
        if waiting:
            _, pending = await asyncio.wait(waiting, timeout=LINGER_S)
            names = sorted(getattr(task.get_coro(), "__qualname__", task.get_name()) for task in pending)
            if names:
                self.log.emit(process.node, "node.leak", left=[f"task {name}" for name in names])

    async def _tell_to_stop(self, process: Process, life: asyncio.Task[None], grace_s: float) -> None:
        """Cancel its `run`, once it runs again if it is only stalled."""
        try:
            async with asyncio.timeout(grace_s):
                await process.runs()
            life.cancel()
        except (TimeoutError, NodeDown):
            pass

    async def configure(self, node: str, config: msgspec.Struct, how: Literal["restart", "reload"]) -> None:
        self._configs[node] = config
        self.log.emit(node, "node.configure", how=how, config=self._show(config))
        if how == "reload":
            role = self._roles.get(node)
            if not hasattr(role, "reload"):
                raise TargetError(f"{node}: its role has no `reload(config)`, configure it with how='restart'")
            await self.call(node, "reload", config)
        elif self.is_up(node):
            await self.stop_node(node, 5.0)
            await self.start([node])

    async def call(self, node: str, method: str, *args: Any, **kwargs: Any) -> Any:
        process = self.network.machines[node].process
        if process is None:
            raise NodeDown(f"{node} is not running")
        await process.runs()
        found = getattr(self._roles[node], method)
        sites = self.network.machines[node].sites
        if method == RELOAD and sites.active():
            return await process.call(sites.push(found, *args), f"{node}.{method}")
        if not inspect.iscoroutinefunction(found):
            return process.context.copy().run(found, *args, **kwargs)
        return await process.call(found(*args, **kwargs), f"{node}.{method}")

    async def settled(self) -> None: ...

    def waits(self) -> Mapping[str, float]:
        return {}

    def output(self, node: str) -> Mapping[str, bytes]:
        return {}

    async def heal(self, effect: Effect) -> None:
        await self.capabilities[effect.capability].remove(effect)

    async def stop(self) -> None:
        self.kill()

    # -- the end ---------------------------------------------------------------------------------------------

    def kill(self) -> None:
        """End every process at once; nothing of it is recorded."""
        running = [machine.process for machine in self.network.machines.values() if machine.process is not None]
        end(self.loop, running, silent=True)

    def _error(self, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if isinstance(error, Escape):
            raise error
        what = "" if error is None else f"{type(error).__name__}: {error}"
        process = getattr(context.get("task") or context.get("future") or context.get("handle"), "process", None)
        self.log.emit(
            "" if process is None else process.node, "error", message=str(context.get("message", "")), error=what
        )


class SimSubstrate:
    """`zebra.substrate.Substrate`: deterministic simulation in this process."""

    name = "sim"
    capabilities = ("processes", "links", "clocks", "disks", "resources", "application", "names")
    refused: Mapping[str, str] = {f"resources.{what}": why for what, why in REFUSED.items()}
    """Arguments of capabilities that it does not offer, and why."""

    def unavailable(self) -> str:
        return ""

    def run(self, plan: Plan, main: Callable[[Running], Coroutine[Any, Any, T]]) -> T:
        loop = SimLoop()  # type: ignore[abstract]
        loop.gc_steps = max(loop.gc_steps, GC_STEPS_PER_NODE * len(plan.places))
        with isolated(loop, plan.seed):
            running = SimRunning(plan, loop)
            loop.watch(plan.timeout_s, plan.on_second)
            find_by(_sites)
            try:
                return loop.run_until_complete(main(running))
            finally:
                find_by(None)
                running.kill()
                _close_test_tasks(loop)
                loop.close()


def _sites() -> Sites | None:
    """The sites of the node whose code runs."""
    process = CURRENT.get()
    return None if process is None else process.machine.sites


def _close_test_tasks(loop: SimLoop) -> None:
    """Drop what the test left running, inside its own coroutines first."""
    while tasks := loop.tasks():
        for task in tasks:
            abandon(task)


SUBSTRATE = SimSubstrate()
