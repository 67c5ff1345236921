"""What faults can do to real processes on one machine: links, names, clocks, disks, application.

`NodeProcesses` takes nodes down, `resources` limits what they may have.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from zebra.errors import ConfigError
from zebra.proxy.connections import Ceiling, Hold, Limit, Slicer, SlowClose
from zebra.proxy.link import Link
from zebra.proxy.toxics import Bandwidth, Corrupt, Drop, Duplicate, Latency, Loss, Reject, Reorder, Reset, Toxic
from zebra.substrate import Effect, Pairs
from zebra.substrate.capability import Capability, NodeApplication
from zebra.substrate.process.board import Board

if TYPE_CHECKING:
    from zebra.substrate.process.faketime import ProgramClocks
    from zebra.substrate.process.running import ProcessRunning


class ProcessLinks(Capability["ProcessRunning"]):
    """`zebra.substrate.Links` as toxics of the proxy. What touches a node without power, one in `dark`, waits."""

    name = "links"

    def __init__(self, running: ProcessRunning) -> None:
        super().__init__(running)
        self._made: dict[int, tuple[Pairs, tuple[Toxic, ...]]] = {}
        self._shared: dict[tuple[int, Any], Toxic] = {}
        self._known: dict[tuple[str, str], tuple[Toxic, ...]] = {}
        self._dark: set[str] = set()
        self._night = (Drop(),)

    async def add(self, pairs: Pairs, *, drop: bool = False, reject: bool = False, new_only: bool = False,
                  latency_s: float = 0.0, jitter_s: float = 0.0, loss: float = 0.0, duplicate: float = 0.0,
                  after_s: float = 0.0, reorder: float = 0.0, reset: float = 0.0, corrupt: float = 0.0,
                  hold: bool = False, timeout_s: float = 0.0, close_s: float = 0.0, slice_bytes: int = 0,
                  slice_s: float = 0.0, limit_bytes: int | None = None, connections: int | None = None,
                  rate: float = 0.0, on: frozenset[str] = frozenset()) -> Effect:  # fmt: skip
        effect = self._effect(rate=rate, connections=connections, on=on)
        wanted: list[tuple[Any, Toxic]] = [
            (reject, Reject(counter=effect, new_only=new_only)),
            (drop, Drop(counter=effect, new_only=new_only)),
            (latency_s or jitter_s, Latency(counter=effect, latency_s=latency_s, jitter_s=jitter_s)),
            (loss, Loss(counter=effect, probability=loss)),
            (duplicate, Duplicate(counter=effect, probability=duplicate, after_s=after_s)),
            (reorder, Reorder(counter=effect, probability=reorder)),
            (reset, Reset(counter=effect, probability=reset)),
            (hold, Hold(counter=effect, timeout_s=timeout_s)),
            (corrupt, Corrupt(counter=effect, probability=corrupt)),
            (limit_bytes is not None, Limit(counter=effect, size=limit_bytes or 0)),
            (slice_bytes, Slicer(counter=effect, size=slice_bytes, delay_s=slice_s)),
            (close_s, SlowClose(counter=effect, delay_s=close_s)),
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

    def _limits(self, effect: Effect, pair: tuple[str, str]) -> list[Toxic]:
        """The limits of an effect on a pair: of rates one for each of its nodes and direction, of connections one."""
        rate, on, limit = (effect.arguments[name] for name in ("rate", "on", "connections"))
        keys: list[Any] = []
        if rate:
            keys = [(node, way) for node, way in zip(pair, ("out", "in"), strict=True) if node in on]
            keys = keys or [(str(pair), "pair")]
        if limit is not None and pair[1] in on:
            keys.append((pair[1], "open"))
        return [self._shared.setdefault((effect.id, key), self._limit(effect, key)) for key in keys]

    def _limit(self, effect: Effect, key: tuple[str, str]) -> Toxic:
        node, way = key
        if way != "open":
            return Bandwidth(counter=effect, rate=effect.arguments["rate"])
        pairs, _ = self._made[effect.id]

        def there() -> list[Link]:
            connections = self._running.proxy.connections
            return [each.forward for each in connections if each.target == node and (each.source, node) in pairs]

        return Ceiling(counter=effect, limit=effect.arguments["connections"], there=there)

    def _changed(self) -> None:
        self._known.clear()
        self._running.proxy.refresh()


class _Inside(Capability["ProcessRunning"]):
    """Effects that act inside the nodes' processes, which see them on the board and count there."""

    unreached = ""
    """Why no such effect reaches a server that a role starts."""

    def _impose(self, nodes: Iterable[str], **arguments: Any) -> Effect:
        nodes = tuple(nodes)
        self._check([node for node in nodes if self._running.programs.holds(node)])
        effect = self._effect(nodes=nodes, **arguments)
        for node in nodes:
            self._of(node).impose(node, effect)
        return effect

    async def remove(self, effect: Effect) -> None:
        if self.effects.pop(effect.id, None):
            for node in effect.arguments["nodes"]:
                self._of(node).lift(node, effect)

    def _check(self, outside: list[str]) -> None:
        """Raises ConfigError when an effect on nodes that start servers would not reach these."""
        if outside:
            raise ConfigError(f"{outside[0]} is a server that is not ours: {self.unreached}")

    def _of(self, node: str) -> Inside | ProgramClocks:
        """What carries an effect to a node."""
        return self._running.inside


class ProcessNames(_Inside):
    """`zebra.substrate.Names` by the loops of nodes. A server that is not ours was told addresses when it started."""

    name = "names"
    unreached = "it was told addresses when it started, and looks no names up by zebra"

    async def add(self, pairs: Pairs, *, fail: bool = False, stale: bool = False) -> Effect:
        asking = sorted({node for sources, _ in pairs.products for node in sources})
        ours = [node for node in asking if node.rpartition("-")[0] not in self._running.plan.external]
        products = [[sorted(sources), sorted(targets)] for sources, targets in pairs.products]
        return self._impose(ours or asking, products=products, fail=fail, stale=stale)


class ProcessClocks(_Inside):
    """`zebra.substrate.Clocks`: the clock of a Python node, or what the programs of an external node are told."""

    name = "clocks"

    async def add(self, nodes: Iterable[str], *, offset_s: float = 0.0, every_s: float = 0.0, drift: float = 0.0,
                  freeze: bool = False) -> Effect:  # fmt: skip
        return self._impose(nodes, offset_s=offset_s, every_s=every_s, drift=drift, freeze=freeze,
                            since_s=time.monotonic(), wall_s=time.time())  # fmt: skip

    def _check(self, outside: list[str]) -> None:
        self._running.programs.check(outside)

    def _of(self, node: str) -> Inside | ProgramClocks:
        programs = self._running.programs
        return programs if programs.holds(node) else self._running.inside


class ProcessDisks(_Inside):
    """`zebra.substrate.Disks` on the nodes' directories."""

    name = "disks"
    unreached = "it writes its files itself, and disk faults change what `node.disk` does"

    async def add(self, nodes: Iterable[str], *, lose_unsynced: bool = False, torn: float = 0.0, rate: float = 0.0,
                  capacity_bytes: int | None = None, read_error: float = 0.0, write_error: float = 0.0,
                  flip: float = 0.0, read_only: bool = False) -> Effect:  # fmt: skip
        return self._impose(nodes, lose_unsynced=lose_unsynced, torn=torn, rate=rate, capacity_bytes=capacity_bytes,
                            read_error=read_error, write_error=write_error, flip=flip,
                            read_only=read_only)  # fmt: skip

    def loses(self, node: str) -> list[Effect]:
        """The effects under which a crash of the node loses what was not synced."""
        return [e for e in self.effects.values() if e.arguments["lose_unsynced"] and node in e.arguments["nodes"]]


class ProcessApplication(NodeApplication["ProcessRunning"]):
    """`zebra.substrate.Application` of Python nodes."""

    def _impose(self, node: str, effect: Effect) -> None:
        self._running.inside.impose(node, effect)

    def _lift(self, node: str, effect: Effect) -> None:
        self._running.inside.lift(node, effect)

    def _count(self, effect: Effect) -> None:
        self._running.inside.count(effect)


class Inside:
    """What of the effects acts inside each node, and what the nodes have counted."""

    def __init__(self, board: Board, numbers: Mapping[str, int]) -> None:
        self._board, self._numbers = board, numbers
        self._effects: dict[str, list[Effect]] = {}
        self._known: dict[tuple[str, int], tuple[int, int]] = {}

    def impose(self, node: str, effect: Effect) -> None:
        """Let an effect act in a node; raises ConfigError when there are too many."""
        effects = [*self._effects.get(node, []), effect]
        self._board.impose(self._numbers[node], effects)
        self._effects[node] = effects

    def lift(self, node: str, effect: Effect) -> None:
        """Let it act no more, and count what it did; one that does not act is left alone."""
        effects = self._effects.get(node, [])
        if effect in effects:
            self._count(node, effect)
            del self._known[node, effect.id]
            effects.remove(effect)
            self._board.impose(self._numbers[node], effects)

    def count(self, effect: Effect) -> None:
        """Bring the counters of an effect up to date."""
        for node in effect.arguments["nodes"]:
            if effect in self._effects.get(node, []):
                self._count(node, effect)

    def _count(self, node: str, effect: Effect) -> None:
        hits, seen = self._board.counted(self._numbers[node], effect.id)
        hits_before, seen_before = self._known.get((node, effect.id), (0, 0))
        self._known[node, effect.id] = hits, seen
        effect.hits += hits - hits_before
        effect.seen += seen - seen_before
