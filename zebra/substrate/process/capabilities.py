"""What faults can do to real processes on one machine: links, clocks, disks (and processes, by `NodeProcesses`)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from zebra.proxy.toxics import Bandwidth, Drop, Duplicate, Latency, Loss, Reject, Reorder, Reset, Toxic
from zebra.substrate import Effect, Pairs
from zebra.substrate.capability import Capability

if TYPE_CHECKING:
    from zebra.substrate.process.running import ProcessRunning


class ProcessLinks(Capability["ProcessRunning"]):
    """`zebra.substrate.Links` as toxics of the proxy. What touches a node without power, one in `dark`, waits."""

    name = "links"

    def __init__(self, running: ProcessRunning) -> None:
        super().__init__(running)
        self._made: dict[int, tuple[Pairs, tuple[Toxic, ...]]] = {}
        self._buckets: dict[tuple[int, Any], Bandwidth] = {}
        self._known: dict[tuple[str, str], tuple[Toxic, ...]] = {}
        self._dark: set[str] = set()
        self._night = (Drop(),)

    async def add(self, pairs: Pairs, *, drop: bool = False, reject: bool = False, latency_s: float = 0.0,
                  jitter_s: float = 0.0, loss: float = 0.0, duplicate: float = 0.0, after_s: float = 0.0,
                  reorder: float = 0.0, reset: float = 0.0, rate: float = 0.0,
                  on: frozenset[str] = frozenset()) -> Effect:  # fmt: skip
        effect = self._effect(rate=rate, on=on)
        wanted: list[tuple[Any, Toxic]] = [
            (reject, Reject(counter=effect)),
            (drop, Drop(counter=effect)),
            (latency_s or jitter_s, Latency(counter=effect, latency_s=latency_s, jitter_s=jitter_s)),
            (loss, Loss(counter=effect, probability=loss)),
            (duplicate, Duplicate(counter=effect, probability=duplicate, after_s=after_s)),
            (reorder, Reorder(counter=effect, probability=reorder)),
            (reset, Reset(counter=effect, probability=reset)),
        ]
        self._made[effect.id] = (pairs, tuple(toxic for on_, toxic in wanted if on_))
        self._changed()
        return effect

    async def remove(self, effect: Effect) -> None:
        if self.effects.pop(effect.id, None):
            del self._made[effect.id]
            self._changed()

    def darken(self, node: str) -> None:
        """A node loses its power: it hears and says nothing any more."""
        self._dark.add(node)
        self._running.proxy.refresh()

    def lighten(self, node: str) -> None:
        if node in self._dark:
            self._dark.discard(node)
            self._running.proxy.refresh()

    def toxics_of(self, source: str, target: str) -> tuple[Toxic, ...]:
        """The toxics of an ordered pair at present."""
        if self._dark and (source in self._dark or target in self._dark):
            return self._night
        pair = (source, target)
        found = self._known.get(pair)
        if found is None:
            found = self._known[pair] = tuple(
                toxic
                for number, (pairs, toxics) in self._made.items()
                if pair in pairs
                for toxic in (*toxics, *self._limits(self.effects[number], pair))
            )
        return found

    def _limits(self, effect: Effect, pair: tuple[str, str]) -> list[Bandwidth]:
        """The rate limits of an effect on a pair: one for each of its nodes and direction."""
        rate, on = effect.arguments["rate"], effect.arguments["on"]
        if not rate:
            return []
        keys = [(node, way) for node, way in zip(pair, ("out", "in"), strict=True) if node in on] or [
            (str(pair), "pair")
        ]
        return [self._buckets.setdefault((effect.id, key), Bandwidth(counter=effect, rate=rate)) for key in keys]

    def _changed(self) -> None:
        self._known.clear()
        self._running.proxy.refresh()


class ProcessClocks(Capability["ProcessRunning"]):
    """`zebra.substrate.Clocks`: an offset counts as hit when the node looked at its wall clock meanwhile."""

    name = "clocks"

    async def add(self, nodes: Iterable[str], *, offset_s: float) -> Effect:
        effect = self._effect(nodes=tuple(nodes), offset_s=offset_s)
        effect.arguments["reads"] = self._reads(effect)
        self._shift(effect, offset_s)
        return effect

    async def remove(self, effect: Effect) -> None:
        if self.effects.pop(effect.id, None):
            effect.hits = self._reads(effect) - effect.arguments["reads"]
            self._shift(effect, -effect.arguments["offset_s"])

    def _shift(self, effect: Effect, by_s: float) -> None:
        board, nodes = self._running.ground.board, self._running.ground.nodes
        for node in effect.arguments["nodes"]:
            board.set_offset(nodes[node], board.offset_s(nodes[node]) + by_s)

    def _reads(self, effect: Effect) -> int:
        ground = self._running.ground
        return sum(ground.board.reads(ground.nodes[node]) for node in effect.arguments["nodes"])


class ProcessDisks(Capability["ProcessRunning"]):
    """`zebra.substrate.Disks` on the nodes' directories."""

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
        effect.arguments["met"] = self._met(effect)
        self._limit(effect)
        return effect

    async def remove(self, effect: Effect) -> None:
        if self.effects.pop(effect.id, None):
            effect.hits += self._met(effect) - effect.arguments["met"]
            self._limit(effect)

    def loses(self, node: str) -> list[Effect]:
        """The effects under which a crash of the node loses what was not synced."""
        return [e for e in self.effects.values() if "lose_unsynced" in e.arguments and node in e.arguments["nodes"]]

    def _limit(self, effect: Effect) -> None:
        """Put the tightest limits on the board."""
        ground = self._running.ground
        for node in effect.arguments["nodes"]:
            on = [e.arguments for e in self.effects.values() if node in e.arguments["nodes"]]
            rates = [arguments["rate"] for arguments in on if "rate" in arguments]
            capacities = [arguments["capacity_bytes"] for arguments in on if "capacity_bytes" in arguments]
            ground.board.limit_disk(ground.nodes[node], min(rates, default=0.0), min(capacities, default=None))

    def _met(self, effect: Effect) -> int:
        ground, what = self._running.ground, [name for name in ("rate", "capacity_bytes") if name in effect.arguments]
        return sum(
            ground.board.disk_hits(ground.nodes[node], name) for node in effect.arguments["nodes"] for name in what
        )
