"""What a simulated host lets its nodes have: time to run, memory, connections.

Code costs no time in a simulation, so a slow host is one that stands still for a part of each period. Of a node's
memory only what `application.leak` makes it hold is known; of its files, connections and listening ports.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import TYPE_CHECKING

from zebra.errors import ConfigError
from zebra.substrate import Effect
from zebra.substrate.capability import Capability
from zebra.substrate.stalls import keep_stalling

if TYPE_CHECKING:
    from zebra.substrate.sim import SimRunning

REFUSED = {"processes": "a simulated node has one thread and starts no programs"}
"""What cannot be simulated, and why."""


class SimResources(Capability["SimRunning"]):
    """`zebra.substrate.Resources` in virtual time."""

    name = "resources"

    def __init__(self, running: SimRunning) -> None:
        super().__init__(running)
        self._stalling: dict[int, list[asyncio.Task[None]]] = {}
        self._killed: dict[str, Effect] = {}
        self._timers: dict[str, asyncio.TimerHandle] = {}

    async def add(self, nodes: Iterable[str], *, cpu: float = 0.0, stall_s: float = 0.0, every_s: float = 1.0,
                  memory_bytes: int = 0, files: int | None = None,
                  processes: int | None = None) -> Effect:  # fmt: skip
        if processes is not None:
            raise ConfigError(f"substrate sim offers no limit of processes: {REFUSED['processes']}")
        running = self._running
        effect = self._effect(nodes=tuple(nodes), cpu=cpu, stall_s=stall_s, every_s=every_s, memory_bytes=memory_bytes,
                              files=files, since_s=running.loop.now)  # fmt: skip
        for node in effect.arguments["nodes"]:
            process = running.network.machines[node].process
            if files is not None and process is not None:
                process.limits[effect] = process.files() + files
            if memory_bytes:
                self.weigh(node)
        if cpu or stall_s:
            self._stalling[effect.id] = [
                running.loop.create_task(keep_stalling(running, effect, node, running.plan.seed))
                for node in effect.arguments["nodes"]
            ]
        return effect

    async def remove(self, effect: Effect) -> None:
        if self.effects.pop(effect.id, None) is None:
            return
        running = self._running
        for task in self._stalling.pop(effect.id, []):
            task.cancel()
            await asyncio.wait([task])
        for node in effect.arguments["nodes"]:
            process = running.network.machines[node].process
            if process is not None:
                process.limits.pop(effect, None)
            self.weigh(node)
        killed = [node for node, by in self._killed.items() if by is effect]
        for node in killed:
            del self._killed[node]
        held = running.capabilities["processes"].holds
        await running.start(node for node in killed if not running.is_up(node) and not held(node))

    def weigh(self, node: str) -> None:
        """Kill a node that holds more memory than its host allows, now or as soon as it will."""
        running, timer = self._running, self._timers.pop(node, None)
        if timer is not None:
            timer.cancel()
        limits = [e for e in self.effects.values() if e.arguments["memory_bytes"] and node in e.arguments["nodes"]]
        machine = running.network.machines[node]
        leaks = [effect for effect in machine.application if effect.arguments["leak"]]
        if not limits or not leaks or machine.process is None:
            return
        limit = min(limits, key=lambda effect: int(effect.arguments["memory_bytes"]))
        now_s, since_s = running.loop.now, max(machine.process.born_s, limit.arguments["since_s"])
        held = sum(e.arguments["leak"] * (now_s - max(since_s, e.arguments["since_s"])) for e in leaks)
        left_s = (limit.arguments["memory_bytes"] - held) / sum(effect.arguments["leak"] for effect in leaks)
        if left_s > 0:
            self._timers[node] = running.loop.call_later(left_s, self.weigh, node, context=running.loop.kernel)
            return
        for effect in (limit, *leaks):
            effect.hits += 1
        self._killed[node] = limit
        running.kill_node(node, "out of memory")
