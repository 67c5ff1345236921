"""What the capabilities of every substrate have in common, and the one that needs nothing else: taking nodes down."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Generic, Protocol, TypeVar

from zebra.errors import ConfigError
from zebra.substrate import Down, Effect, Plan


class Nodes(Protocol):
    """What can be done to the nodes of a run."""

    plan: Plan
    capabilities: Mapping[str, Any]

    def next_effect(self) -> int: ...
    def is_up(self, node: str) -> bool: ...
    def pause(self, node: str) -> None: ...
    def resume(self, node: str) -> None: ...
    def crash(self, node: str) -> None: ...
    def kill_node(self, node: str) -> None: ...
    async def stop_node(self, node: str, grace_s: float) -> None: ...
    async def start(self, nodes: Iterable[str]) -> None: ...


N = TypeVar("N", bound=Nodes)

RESTART_GRACE_S = 5.0
"""So long has a node to finish when it is restarted to another version of its code."""


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
            elif down == "kill":
                for node in hit:
                    running.kill_node(node)
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
        nodes = [n for n in effect.arguments["nodes"] if not self.holds(n, pausing)]
        if pausing:
            for node in nodes:
                running.resume(node)
        else:
            await running.start([node for node in nodes if not running.is_up(node)])

    def pause_again(self, nodes: Iterable[str]) -> None:
        """Pause those of some newly started nodes that an effect still pauses."""
        for node in nodes:
            if self.holds(node, pausing=True):
                self._running.pause(node)

    def holds(self, node: str, pausing: bool = False) -> bool:
        """Whether an effect holds a node down, or pauses it."""
        like = [e.arguments for e in self.effects.values() if (e.arguments["down"] == "pause") == pausing]
        return any(node in arguments["nodes"] for arguments in like)


class NodeApplication(Capability[N]):
    """`zebra.substrate.Application`, but for how an effect reaches a node's process."""

    name = "application"

    async def add(self, nodes: Iterable[str], *, at: str = "*", probability: float = 1.0, error: str = "",
                  delay_s: float = 0.0, align_s: float = 0.0, drop: bool = False, repeat: bool = False,
                  wrong: bool = False, stale: bool = False, leak: float = 0.0, variant: str = "",
                  buggify: float = 0.0) -> Effect:  # fmt: skip
        known = self._running.plan.known_variants
        if variant and variant not in known:
            raise ConfigError(f"variant {variant!r} is unknown to this target, it has {', '.join(known) or 'none'}")
        effect = self._effect(nodes=tuple(nodes), at=at, probability=probability, error=error, delay_s=delay_s,
                              align_s=align_s, drop=drop, repeat=repeat, wrong=wrong, stale=stale, leak=leak,
                              variant=variant, buggify=buggify)  # fmt: skip
        try:
            await self._change(effect, self._impose)
        except asyncio.CancelledError:
            await self.remove(effect)  # nobody got hold of it, so nobody else would
            raise
        return effect

    async def remove(self, effect: Effect) -> None:
        if self.effects.pop(effect.id, None):
            await self._change(effect, self._lift)

    async def _change(self, effect: Effect, change: Callable[[str, Effect], None]) -> None:
        """Impose or lift an effect on its nodes; another version of the code comes with a planned restart."""
        running, nodes = self._running, effect.arguments["nodes"]
        restarted = [node for node in nodes if effect.arguments["variant"] and running.is_up(node)]
        await asyncio.gather(*(running.stop_node(node, RESTART_GRACE_S) for node in restarted))
        for node in nodes:
            change(node, effect)
        await running.start(node for node in restarted if not running.capabilities["processes"].holds(node))

    def passed(self, nodes: Iterable[str]) -> bool:
        wanted = set(nodes)
        on = [e for e in self.effects.values() if e.arguments["buggify"] and wanted & set(e.arguments["nodes"])]
        for effect in on:
            self._count(effect)
        return any(effect.seen for effect in on)

    def _count(self, effect: Effect) -> None:
        """Bring the counters of an effect up to date, where nodes count for themselves."""

    def _impose(self, node: str, effect: Effect) -> None:
        raise NotImplementedError

    def _lift(self, node: str, effect: Effect) -> None:
        raise NotImplementedError
