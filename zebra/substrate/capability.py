"""What the capabilities of every substrate have in common, and the one that needs nothing else: taking nodes down."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any, Generic, Protocol, TypeVar

from zebra.substrate import Down, Effect


class Nodes(Protocol):
    """What can be done to the nodes of a run."""

    def next_effect(self) -> int: ...
    def is_up(self, node: str) -> bool: ...
    def pause(self, node: str) -> None: ...
    def resume(self, node: str) -> None: ...
    def crash(self, node: str) -> None: ...
    async def stop_node(self, node: str, grace_s: float) -> None: ...
    async def start(self, nodes: Iterable[str]) -> None: ...


N = TypeVar("N", bound=Nodes)


class Capability(Generic[N]):
    """Numbers effects and keeps those that are on."""

    name = ""

    def __init__(self, running: N) -> None:
        self._running = running
        self.effects: dict[int, Effect] = {}

    def _effect(self, **arguments: Any) -> Effect:
        effect = Effect(id=self._running.next_effect(), capability=self.name, arguments=arguments)
        self.effects[effect.id] = effect
        return effect

    async def remove(self, effect: Effect) -> None:
        """Undo an effect; one that is not on is left alone."""
        raise NotImplementedError


class NodeProcesses(Capability[Nodes]):
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

    def pause_again(self, nodes: Iterable[str]) -> None:
        """Pause those of some newly started nodes that an effect still pauses."""
        for node in nodes:
            if self._held(node, pausing=True):
                self._running.pause(node)

    def _held(self, node: str, pausing: bool) -> bool:
        like = [e.arguments for e in self.effects.values() if (e.arguments["down"] == "pause") == pausing]
        return any(node in arguments["nodes"] for arguments in like)
