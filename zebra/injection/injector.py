"""Adds faults to a running cluster, heals them, and says of each whether it took effect."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Any

from zebra.errors import PluginError
from zebra.injection.fault import Fault, make, settings_of
from zebra.injection.schedule import Configure, Groups, Inject, Schedule
from zebra.injection.selection import Selection, resolve
from zebra.substrate import Effect, Running
from zebra.topology import Place

PROBE_EVERY_S = 0.05


class _Bound:
    """A capability on behalf of one fault: notes every effect that the fault adds."""

    def __init__(self, capability: Any, effects: list[Effect]) -> None:
        self._capability, self._effects = capability, effects

    async def add(self, *args: Any, **kwargs: Any) -> Effect:
        effect: Effect = await self._capability.add(*args, **kwargs)
        self._effects.append(effect)
        return effect


@dataclass(slots=True, eq=False)
class Injected:
    """A fault that was injected: its effects, what it hit, and whether it is healed."""

    id: int
    name: str
    on: Selection
    made: Fault
    effects: list[Effect] = field(default_factory=list)
    parts: list[Injected] = field(default_factory=list)
    probed: bool | None = None
    healed: bool = False
    watch: asyncio.Task[None] | None = None
    state: Any = None

    @property
    def took_effect(self) -> bool:
        """Whether a probe said so, or else every effect was hit and there was at least one."""
        if self.probed is not None:
            return self.probed
        if self.parts:
            return all(part.took_effect for part in self.parts)
        return bool(self.effects) and all(effect.hits for effect in self.effects)

    @property
    def hits(self) -> int:
        return sum(effect.hits for effect in self.effects) + sum(part.hits for part in self.parts)


class Injector:
    """The faults of one run. `configure` carries out a schedule's configuration changes."""

    def __init__(self, running: Running, places: Iterable[Place], random: Random,
                 selectors: Mapping[str, Callable[[], Iterable[str]]],
                 configure: Callable[[Configure], Any]) -> None:  # fmt: skip
        self._running, self._places, self._random = running, tuple(places), random
        self._selectors, self._configure = selectors, configure
        self.injected: list[Injected] = []

    async def inject(self, name: str, on: Groups, settings: Mapping[str, Any]) -> Injected:
        """Inject a fault; returns when its effects are on. Raises ConfigError for bad settings or selections."""
        made = make(name, settings)
        selection = resolve(on, self._places, self._random, self._running.is_up, self._selectors)
        injected = Injected(len(self.injected) + 1, name, selection, made)
        self.injected.append(injected)
        self._running.log.emit("", "fault.inject", id=injected.id, fault=name, on=list(selection.nodes),
                               groups=[list(g) for g in selection.groups], settings=settings_of(made))  # fmt: skip
        if hasattr(made, "expand"):
            await self._expand(injected)
            return injected
        capability = self._running.capabilities[made.zebra_needs]
        try:
            injected.state = await made.inject(selection, _Bound(capability, injected.effects))
        except TypeError as error:
            raise PluginError(f"fault {name}: {error}", name) from error
        if hasattr(made, "probe"):
            injected.probed = False
            injected.watch = asyncio.create_task(self._probe(injected, capability))
        return injected

    async def _expand(self, injected: Injected) -> None:
        schedule: Schedule = injected.made.expand(injected.on, self._random)
        if not isinstance(schedule, Schedule):
            raise PluginError(f"fault {injected.name}: expand returned {type(schedule).__name__}, not a Schedule", injected.name)
        start = self._running.now()

        async def step(part: Inject) -> None:
            injected.parts.append(await self.inject(part.fault, part.on, part.settings))

        for part in sorted(schedule.steps, key=lambda s: s.at_s):
            await asyncio.sleep(max(0.0, start + part.at_s - self._running.now()))
            if isinstance(part, Configure):
                await self._configure(part)
            else:
                await step(part)
                if part.for_s is not None:
                    last, for_s = injected.parts[-1], part.for_s
                    asyncio.get_running_loop().create_task(self._heal_later(last, for_s))

    async def _heal_later(self, injected: Injected, after_s: float) -> None:
        await asyncio.sleep(after_s)
        await self.heal(injected)

    async def _probe(self, injected: Injected, capability: Any) -> None:
        while not injected.probed:
            answer = injected.made.probe(injected.on, capability)
            injected.probed = bool(await answer if inspect.isawaitable(answer) else answer)
            if not injected.probed:
                await asyncio.sleep(PROBE_EVERY_S)

    async def heal(self, injected: Injected) -> None:
        """Remove a fault's effects in reverse order; a healed one is left alone."""
        if injected.healed:
            return
        injected.healed = True
        if injected.watch is not None:
            injected.watch.cancel()
        if hasattr(injected.made, "heal"):
            await injected.made.heal(injected.on, injected.state)
        for part in reversed(injected.parts):
            await self.heal(part)
        for effect in reversed(injected.effects):
            await self._running.heal(effect)
        self._running.log.emit("", "fault.heal", id=injected.id, fault=injected.name, hits=injected.hits,
                               took_effect=injected.took_effect)  # fmt: skip

    async def heal_all(self) -> None:
        """Heal everything, the latest first."""
        for injected in reversed(self.injected):
            await self.heal(injected)

    def without_effect(self) -> list[str]:
        """The faults that were injected and did nothing."""
        parts = {id(part) for injected in self.injected for part in injected.parts}
        return [f"{i.name} on {', '.join(i.on.nodes) or 'nobody'}" for i in self.injected if id(i) not in parts and not i.took_effect]

    async def follow(self, schedule: Schedule) -> None:
        """Carry out a schedule to its end; times count from the start of the run."""

        async def step(part: Inject | Configure) -> None:
            await asyncio.sleep(max(0.0, part.at_s - self._running.now()))
            if isinstance(part, Configure):
                await self._configure(part)
                return
            injected = await self.inject(part.fault, part.on, part.settings)
            if part.for_s is not None:
                await self._heal_later(injected, part.for_s)

        async with asyncio.TaskGroup() as group:
            for part in sorted(schedule.steps, key=lambda s: s.at_s):
                group.create_task(step(part))
