"""What a host lets the processes of its nodes have: by control groups and resource limits, else by stopping them.

A limit is for what a node takes from then on, beside what it has. A node that is started meanwhile is under the limits
of processor, memory and processes as well, but not under that of files.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import resource
from collections.abc import Iterable
from typing import TYPE_CHECKING

from zebra.errors import ConfigError
from zebra.injection.ledger import members, start_time
from zebra.substrate import Effect
from zebra.substrate.capability import Capability
from zebra.substrate.process.cgroup import Controller, Group, Tree, find
from zebra.substrate.stalls import keep_stalling

if TYPE_CHECKING:
    from zebra.substrate.process.running import ProcessRunning

LIMITS: dict[Controller, str] = {"cpu": "cpu", "memory": "memory_bytes", "pids": "processes"}
"""Which argument each controller carries out."""


class ProcessResources(Capability["ProcessRunning"]):
    """`zebra.substrate.Resources` on processes of this machine."""

    name = "resources"

    def __init__(self, running: ProcessRunning) -> None:
        super().__init__(running)
        self._trees: dict[Controller, Tree | str] = {}
        self._groups: dict[tuple[str, Controller], Group] = {}
        self._met: dict[tuple[str, Controller], int] = {}
        self._kills: dict[str, int] = {}
        self._most: dict[tuple[int, str], int] = {}
        self._killed: dict[str, Effect] = {}
        self._files: dict[int, dict[tuple[int, int], int]] = {}
        self._own: dict[tuple[int, int], int] = {}
        self._stalling: dict[int, list[asyncio.Task[None]]] = {}

    async def add(self, nodes: Iterable[str], *, cpu: float = 0.0, stall_s: float = 0.0, every_s: float = 1.0,
                  memory_bytes: int = 0, files: int | None = None,
                  processes: int | None = None) -> Effect:  # fmt: skip
        if memory_bytes:
            self._demand("memory")
        if processes is not None:
            self._demand("pids")
        effect = self._effect(nodes=tuple(nodes), cpu=cpu, stall_s=stall_s, every_s=every_s, memory_bytes=memory_bytes,
                              files=files, processes=processes, bounds={})  # fmt: skip
        quota = cpu and isinstance(self._tree("cpu"), Tree)
        if stall_s or (cpu and not quota):
            seed = self._running.plan.seed
            tasks = [keep_stalling(self._running, effect, node, seed) for node in effect.arguments["nodes"]]
            self._stalling[effect.id] = [asyncio.create_task(task) for task in tasks]
        for node in effect.arguments["nodes"]:
            self._limit(node)
            if files is not None:
                self._limit_files(effect, node, files)
        return effect

    async def remove(self, effect: Effect) -> None:
        if self.effects.pop(effect.id, None) is None:
            return
        self.effects[effect.id] = effect  # while what it did is counted
        for node in effect.arguments["nodes"]:
            self._account(node)
            self._running.inside.lift(node, effect)
        del self.effects[effect.id]
        tasks = self._stalling.pop(effect.id, [])
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        self._free_files(effect)
        for node in effect.arguments["nodes"]:
            self._limit(node)
        killed = [node for node, by in self._killed.items() if by is effect]
        for node in killed:
            del self._killed[node]
        running, held = self._running, self._running.capabilities["processes"].holds
        await running.start([node for node in killed if not running.is_up(node) and not held(node)])

    def born(self, node: str) -> None:
        """A node has a new process."""
        for (of, _), group in self._groups.items():
            if of == node:
                group.take(self._pids(node))

    def out_of_memory(self, node: str) -> bool:
        """Whether a node that has just ended was killed for want of memory; if so, healing starts it again."""
        group, limits = self._groups.get((node, "memory")), self._of(node, "memory")
        if group is None or not limits or group.kills() <= self._kills.get(node, 0):
            return False
        self._kills[node] = group.kills()
        self._killed[node] = min(limits, key=lambda effect: int(effect.arguments["memory_bytes"]))
        return True

    def close(self) -> None:
        """After the end of all nodes: no group is left."""
        for group in self._groups.values():
            group.remove()
        self._groups.clear()

    # -- groups ----------------------------------------------------------------------------------------------

    def _tree(self, controller: Controller) -> Tree | str:
        if controller not in self._trees:
            self._trees[controller] = find(controller)
        return self._trees[controller]

    def _demand(self, controller: Controller) -> None:
        tree = self._tree(controller)
        if isinstance(tree, str):
            raise ConfigError(f"no limit of {controller} on this machine: {tree}")

    def _of(self, node: str, controller: Controller) -> list[Effect]:
        """The effects on a node that a controller carries out."""
        name = LIMITS[controller]
        on = [effect for effect in self.effects.values() if node in effect.arguments["nodes"]]
        if controller == "pids":
            return [effect for effect in on if effect.arguments[name] is not None]
        return [e for e in on if e.arguments[name] and e.id not in self._stalling]

    def _limit(self, node: str) -> None:
        """Put the tightest limits on a node, and take those away that are over."""
        self._account(node)
        for controller in LIMITS:
            effects, key = self._of(node, controller), (node, controller)
            tree = self._tree(controller) if effects else ""
            if not isinstance(tree, Tree):
                if key in self._groups:
                    self._groups.pop(key).remove()
                continue
            if key not in self._groups:
                self._groups[key] = self._make_group(node, controller, tree)
                self._met[key] = 0
            group = self._groups[key]
            group.take(self._pids(node))
            if controller == "pids":
                for effect in effects:
                    self._most.setdefault((effect.id, node), group.size() + effect.arguments["processes"])
            group.limit(self._tightest(node, controller, effects))

    def _make_group(self, node: str, controller: Controller, tree: Tree) -> Group:
        directory = self._running.ground.directory
        return Group(self._running.ledger, tree, controller, f"{directory.parent.name[6:]}-{directory.name}-{node}")

    def _tightest(self, node: str, controller: Controller, effects: list[Effect]) -> float:
        if controller == "pids":
            return min(self._most[effect.id, node] for effect in effects)
        return float(min(effect.arguments[LIMITS[controller]] for effect in effects))

    def _account(self, node: str) -> None:
        """Count what the kernel has counted since on the effects that set the limits."""
        for controller in LIMITS:
            group = self._groups.get((node, controller))
            effects = self._of(node, controller)
            if group is None or not effects:
                continue
            met, before = group.met(), self._met[node, controller]
            self._met[node, controller] = met
            if met > before:
                tightest = self._tightest(node, controller, effects)
                for effect in effects:
                    effect.hits += (met - before) if self._tightest(node, controller, [effect]) == tightest else 0

    def _pids(self, node: str) -> list[int]:
        """The processes of a node."""
        pid = self._running.pid_of(node)
        return members({pid: start_time(pid)}).get(pid, []) if pid else []

    # -- files -----------------------------------------------------------------------------------------------

    def _limit_files(self, effect: Effect, node: str, spare: int) -> None:
        found = self._files.setdefault(effect.id, {})
        for pid in self._pids(node):
            process = pid, start_time(pid)
            try:
                soft, _ = resource.prlimit(pid, resource.RLIMIT_NOFILE)
                found[process] = _number_limit({int(name) for name in os.listdir(f"/proc/{pid}/fd")}, spare)
            except (ProcessLookupError, FileNotFoundError):
                continue
            effect.arguments["bounds"][pid] = found[process]
            self._own.setdefault(process, soft)
            self._set_files(process)
        self._running.inside.impose(node, effect)

    def _free_files(self, effect: Effect) -> None:
        for process in self._files.pop(effect.id, {}):
            self._set_files(process)

    def _set_files(self, process: tuple[int, int]) -> None:
        pid, start = process
        limits = [found[process] for found in self._files.values() if process in found]
        try:
            if start_time(pid) == start:
                _, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
                resource.prlimit(pid, resource.RLIMIT_NOFILE, (min([self._own[process], *limits]), hard))
        except ProcessLookupError:
            pass
        if not limits:
            del self._own[process]


def _number_limit(used: set[int], spare: int) -> int:
    """The bound of file numbers below which just so many are free: the next one is refused."""
    free = (number for number in itertools.count() if number not in used)
    return next(itertools.islice(free, spare, None))
