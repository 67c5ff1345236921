"""What faults can do to a simulated cluster's links, names, clocks, disks and application.

`NodeProcesses` takes nodes down, `resources` limits what they may have.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from zebra.substrate import Effect, Pairs
from zebra.substrate.capability import Capability, NodeApplication
from zebra.substrate.sim.machine import EPOCH_S, Machine

if TYPE_CHECKING:
    from zebra.substrate.sim import SimRunning  # noqa: F401  (named in the base classes below)


class SimLinks(Capability["SimRunning"]):
    """`zebra.substrate.Links` on the simulated network."""

    name = "links"

    async def add(self, pairs: Pairs, *, drop: bool = False, reject: bool = False, new_only: bool = False,
                  latency_s: float = 0.0, jitter_s: float = 0.0, loss: float = 0.0, duplicate: float = 0.0,
                  after_s: float = 0.0, reorder: float = 0.0, reset: float = 0.0, corrupt: float = 0.0,
                  hold: bool = False, timeout_s: float = 0.0, close_s: float = 0.0, slice_bytes: int = 0,
                  slice_s: float = 0.0, limit_bytes: int | None = None, connections: int | None = None,
                  rate: float = 0.0, on: frozenset[str] = frozenset()) -> Effect:  # fmt: skip
        effect = self._effect(pairs=pairs, drop=drop, reject=reject, new_only=new_only, latency_s=latency_s,
                              jitter_s=jitter_s, loss=loss, duplicate=duplicate, after_s=after_s, reorder=reorder,
                              reset=reset, corrupt=corrupt, hold=hold, timeout_s=timeout_s, close_s=close_s,
                              slice_bytes=slice_bytes, slice_s=slice_s, limit_bytes=limit_bytes,
                              connections=connections, rate=rate, on=on, buckets={})  # fmt: skip
        self._running.network.add(effect)
        return effect

    async def remove(self, effect: Effect) -> None:
        if self.effects.pop(effect.id, None):
            self._running.network.remove(effect)


class SimNames(Capability["SimRunning"]):
    """`zebra.substrate.Names` by the simulated resolver."""

    name = "names"

    async def add(self, pairs: Pairs, *, fail: bool = False, stale: bool = False) -> Effect:
        effect = self._effect(pairs=pairs, fail=fail, stale=stale)
        self._running.network.lookups.append(effect)
        return effect

    async def remove(self, effect: Effect) -> None:
        if self.effects.pop(effect.id, None):
            self._running.network.lookups.remove(effect)


class SimClocks(Capability["SimRunning"]):
    """`zebra.substrate.Clocks` of simulated nodes."""

    name = "clocks"

    async def add(self, nodes: Iterable[str], *, offset_s: float = 0.0, every_s: float = 0.0, drift: float = 0.0,
                  freeze: bool = False) -> Effect:  # fmt: skip
        now_s = self._running.loop.now
        effect = self._effect(nodes=tuple(nodes), offset_s=offset_s, every_s=every_s, drift=drift, freeze=freeze,
                              since_s=now_s, wall_s=EPOCH_S + now_s)  # fmt: skip
        for machine in self._machines(effect):
            machine.clock.effects.append(effect)
        return effect

    async def remove(self, effect: Effect) -> None:
        if self.effects.pop(effect.id, None):
            for machine in self._machines(effect):
                machine.clock.effects.remove(effect)

    def _machines(self, effect: Effect) -> list[Machine]:
        return [self._running.network.machines[node] for node in effect.arguments["nodes"]]


class SimDisks(Capability["SimRunning"]):
    """`zebra.substrate.Disks` on simulated disks."""

    name = "disks"

    async def add(self, nodes: Iterable[str], *, lose_unsynced: bool = False, torn: float = 0.0, rate: float = 0.0,
                  capacity_bytes: int | None = None, read_error: float = 0.0, write_error: float = 0.0,
                  flip: float = 0.0, read_only: bool = False) -> Effect:  # fmt: skip
        effect = self._effect(nodes=tuple(nodes), lose_unsynced=lose_unsynced, torn=torn, rate=rate,
                              capacity_bytes=capacity_bytes, read_error=read_error, write_error=write_error, flip=flip,
                              read_only=read_only)  # fmt: skip
        for node in effect.arguments["nodes"]:
            self._running.network.machines[node].disk.effects.append(effect)
        return effect

    async def remove(self, effect: Effect) -> None:
        if self.effects.pop(effect.id, None):
            for node in effect.arguments["nodes"]:
                self._running.network.machines[node].disk.effects.remove(effect)


class SimApplication(NodeApplication["SimRunning"]):
    """`zebra.substrate.Application`: simulated nodes look at the very effects."""

    def _impose(self, node: str, effect: Effect) -> None:
        effect.arguments.setdefault("since_s", self._running.loop.now)
        self._running.network.machines[node].application.append(effect)
        self._running.resources.weigh(node)

    def _lift(self, node: str, effect: Effect) -> None:
        effects = self._running.network.machines[node].application
        if effect in effects:
            effects.remove(effect)
        self._running.resources.weigh(node)
