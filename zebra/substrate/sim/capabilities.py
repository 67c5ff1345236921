"""What faults can do to a simulated cluster: processes, links, clocks, disks."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from zebra.substrate import Down, Effect, Pairs

if TYPE_CHECKING:
    from zebra.substrate.sim import SimRunning


class Capability:
    """Numbers effects and keeps those that are on."""

    name = ""

    def __init__(self, running: SimRunning) -> None:
        self._running = running
        self.effects: dict[int, Effect] = {}

    def _effect(self, **arguments: Any) -> Effect:
        effect = Effect(id=self._running.next_effect(), capability=self.name, arguments=arguments)
        self.effects[effect.id] = effect
        return effect


class SimLinks(Capability):
    """`zebra.substrate.Links` on the simulated network."""

    name = "links"

    async def add(self, pairs: Pairs, *, drop: bool = False, reject: bool = False, latency_s: float = 0.0,
                  jitter_s: float = 0.0, loss: float = 0.0, duplicate: float = 0.0, after_s: float = 0.0,
                  reorder: float = 0.0, reset: float = 0.0, rate: float = 0.0,
                  on: frozenset[str] = frozenset()) -> Effect:  # fmt: skip
        effect = self._effect(pairs=pairs, drop=drop, reject=reject, latency_s=latency_s, jitter_s=jitter_s, loss=loss,
                              duplicate=duplicate, after_s=after_s, reorder=reorder, reset=reset, rate=rate, on=on,
                              buckets={})  # fmt: skip
        self._running.network.add(effect)
        return effect

    async def remove(self, effect: Effect) -> None:
        if self.effects.pop(effect.id, None):
            self._running.network.remove(effect)


class SimProcesses(Capability):
    """`zebra.substrate.Processes`: a node is down while any effect holds it down, and paused while any pauses it."""

    name = "processes"

    async def add(self, nodes: Iterable[str], *, down: Down, grace_s: float = 5.0,
                  back_after_s: float | None = None) -> Effect:  # fmt: skip
        running = self._running
        effect = self._effect(nodes=tuple(nodes), down=down)
        hit = [node for node in effect.arguments["nodes"] if running.is_up(node)]
        effect.hits = len(hit)
        try:
            if down == "pause":
                for node in hit:
                    running.pause(node)
            elif down == "crash":
                for node in hit:
                    running.crash(node)
            else:
                await asyncio.gather(*(running.stop_node(node, grace_s) for node in hit))
            if back_after_s is not None:
                await asyncio.sleep(back_after_s)
        except asyncio.CancelledError:
            await self.remove(effect)  # nobody got hold of it, so nobody else would
            raise
        if back_after_s is not None:
            await self.remove(effect)
        return effect

    async def remove(self, effect: Effect) -> None:
        if self.effects.pop(effect.id, None) is None:
            return
        running = self._running
        pausing = effect.arguments["down"] == "pause"
        nodes = [n for n in effect.arguments["nodes"] if not self._held(n, pausing)]
        if pausing:
            for node in nodes:
                running.resume(node)
        else:
            await running.start([node for node in nodes if not running.is_up(node)])

    def _held(self, node: str, pausing: bool) -> bool:
        like = [e.arguments for e in self.effects.values() if (e.arguments["down"] == "pause") == pausing]
        return any(node in arguments["nodes"] for arguments in like)


class SimClocks(Capability):
    """`zebra.substrate.Clocks`: an offset counts as hit when the node looked at its wall clock meanwhile."""

    name = "clocks"

    async def add(self, nodes: Iterable[str], *, offset_s: float) -> Effect:
        effect = self._effect(nodes=tuple(nodes), offset_s=offset_s)
        for clock in self._clocks(effect):
            clock.offset_s += offset_s
        effect.arguments["reads"] = self._reads(effect)
        return effect

    async def remove(self, effect: Effect) -> None:
        if self.effects.pop(effect.id, None):
            effect.hits = self._reads(effect) - effect.arguments["reads"]
            for clock in self._clocks(effect):
                clock.offset_s -= effect.arguments["offset_s"]

    def _clocks(self, effect: Effect) -> list[Any]:
        return [self._running.network.machines[node].clock for node in effect.arguments["nodes"]]

    def _reads(self, effect: Effect) -> int:
        return sum(clock.reads for clock in self._clocks(effect))


class SimDisks(Capability):
    """`zebra.substrate.Disks` on simulated disks."""

    name = "disks"

    async def add(self, nodes: Iterable[str], *, lose_unsynced: bool = False, torn: float = 0.0, rate: float = 0.0,
                  capacity_bytes: int | None = None) -> Effect:  # fmt: skip
        arguments: dict[str, Any] = {"nodes": tuple(nodes)}
        if lose_unsynced:
            arguments |= {"lose_unsynced": True, "torn": torn}
        if rate:
            arguments["rate"] = rate
        if capacity_bytes is not None:
            arguments["capacity_bytes"] = capacity_bytes
        effect = self._effect(**arguments)
        for disk in self._disks(effect):
            disk.effects.append(effect)
        return effect

    async def remove(self, effect: Effect) -> None:
        if self.effects.pop(effect.id, None):
            for disk in self._disks(effect):
                disk.effects.remove(effect)

    def _disks(self, effect: Effect) -> list[Any]:
        return [self._running.network.machines[node].disk for node in effect.arguments["nodes"]]
