"""What faults can do to a simulated cluster: links, clocks, disks (and processes, by `NodeProcesses`)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from zebra.substrate import Effect, Pairs
from zebra.substrate.capability import Capability

if TYPE_CHECKING:
    from zebra.substrate.sim import SimRunning  # noqa: F401  (named in the base classes below)

if TYPE_CHECKING:
    pass


class SimLinks(Capability["SimRunning"]):
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


class SimClocks(Capability["SimRunning"]):
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


class SimDisks(Capability["SimRunning"]):
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
