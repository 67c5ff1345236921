"""Adds faults to a running cluster, heals them, and says of each whether it took effect."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Collection, Coroutine, Iterable, Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Any

from zebra.errors import ConfigError, PluginError
from zebra.injection.fault import Fault, make, settings_of
from zebra.injection.limits import NO_LIMITS, Limits, check, check_schedule
from zebra.injection.notes import Notes
from zebra.injection.schedule import Configure, Groups, Inject, Roll, Schedule
from zebra.injection.selection import DRAWN, Selection, check_form, resolve
from zebra.substrate import Effect, Running
from zebra.topology import Place

PROBE_EVERY_S = 0.05


class _Bound:
    """A capability on behalf of one fault: notes every effect that the fault adds, in the ledger before it acts."""

    def __init__(self, capability: Any, injected: Injected, notes: Notes) -> None:
        self._capability, self._injected, self._notes = capability, injected, notes

    async def add(self, *args: Any, **kwargs: Any) -> Effect:
        entry = self._notes.effect(self._injected.entry, self._injected.made.zebra_needs, args, kwargs)
        effect: Effect = await self._capability.add(*args, **kwargs)
        self._notes.phase(entry, "injected")
        effect.fault = self._injected.id
        self._injected.effects.append(effect)
        self._injected.entries.append(entry)
        return effect


@dataclass(slots=True, eq=False)
class Injected:
    """A fault that was injected: its effects, what it hit, and whether it is healed.

    A composite fault has `parts` in place of effects, and counts the configuration `changes` that it made. One that the
    run leaves out (`RunSpec.without_faults`) does nothing, and counts as if it had. `entry` and `entries` are its own
    and its effects' in the ledger; `unhealed` says what could not be undone.
    """

    id: int
    name: str
    on: Selection
    made: Fault
    effects: list[Effect] = field(default_factory=list)
    parts: list[Injected] = field(default_factory=list)
    changes: int = 0
    entry: str = ""
    entries: list[str] = field(default_factory=list)
    unhealed: list[str] = field(default_factory=list)
    probed: bool | None = None
    healed: bool = False
    left_out: bool = False
    state: Any = None
    watch: asyncio.Task[None] | None = None
    rest: asyncio.Task[None] | None = None
    healing: asyncio.Task[None] | None = None

    @property
    def took_effect(self) -> bool:
        """Whether a probe said so, or else every effect was hit and there was at least one."""
        if self.probed is not None:
            return self.probed
        if self.parts or self.changes:
            return all(part.took_effect for part in self.parts)
        return bool(self.effects) and all(effect.hits for effect in self.effects)

    @property
    def hits(self) -> int:
        return sum(effect.hits for effect in self.effects) + sum(part.hits for part in self.parts)

    async def finished(self) -> None:
        """Wait until a composite fault has carried out all its steps; any other is finished once it is injected."""
        if self.rest is not None:
            await asyncio.wait([self.rest])
            if not self.rest.cancelled():
                self.rest.result()


class Injector:
    """The faults of one run. `configure` carries out a schedule's changes; the faults `left_out` are not injected."""

    def __init__(self, running: Running, places: Iterable[Place], random: Random,
                 selectors: Mapping[str, Callable[[], Iterable[str]]],
                 configure: Callable[[Configure], Any], left_out: Collection[str] = (),
                 limits: Limits = NO_LIMITS) -> None:  # fmt: skip
        self._running, self._places, self._random, self._limits = running, tuple(places), random, limits
        self._selectors, self._configure, self._left_out = selectors, configure, left_out
        self._notes = Notes(running.ledger)
        self.injected: list[Injected] = []
        self.waiting = 0
        """Steps of schedules that are followed and were not begun yet."""
        self._rolls: list[asyncio.Task[None]] = []
        self._hurry = asyncio.Event()

    async def inject(self, name: str, on: Groups, settings: Mapping[str, Any]) -> Injected:
        """Inject a fault; returns when its effects are on, for a composite those of its steps at 0 s.

        Raises ConfigError for bad settings or selections, PluginError for a fault that breaks its contract.
        """
        made = make(name, settings)
        selection = resolve(on, self._places, self._random, self._running.is_up, self._selectors)
        injected = Injected(len(self.injected) + 1, name, selection, made)
        if name in self._left_out:
            injected.left_out = injected.healed = injected.probed = True
            return injected
        if self._limits:
            nodes = _hit(made, selection)
            check(self._limits, f"fault {name}", nodes, self._spared(), () if hasattr(made, "expand") else self._down())
        self.injected.append(injected)
        injected.entry = self._notes.fault(name, settings_of(made), selection, hasattr(made, "heal"))
        self._running.log.emit("", "fault.inject", id=injected.id, fault=name, on=list(selection.nodes),
                               groups=[list(g) for g in selection.groups], settings=settings_of(made),
                               states=self._states(selection.nodes))  # fmt: skip
        if hasattr(made, "expand"):
            self._notes.phase(injected.entry, "injecting")
            await self._expand(injected)
            self._notes.phase(injected.entry, "injected")
            return injected
        capability = self._running.capabilities.get(made.zebra_needs)
        if capability is None:
            raise ConfigError(f"fault {name} needs {made.zebra_needs}, which this substrate does not offer")
        self._notes.phase(injected.entry, "injecting")
        try:
            injected.state = await made.inject(selection, _Bound(capability, injected, self._notes))
        except TypeError as error:
            raise PluginError(f"fault {name}: {error}", name) from error
        self._notes.phase(injected.entry, "injected", state=injected.state)
        if hasattr(made, "probe"):
            injected.probed = False
            injected.watch = asyncio.create_task(self._probe(injected))
        return injected

    # -- whom faults hit -------------------------------------------------------------------------------------

    def _spared(self) -> set[str]:
        groups = [self._limits.spare] if self._limits.spare else []
        return set(resolve(groups, self._places, self._random, self._running.is_up, self._selectors).nodes)

    def _down(self) -> set[str]:
        """The nodes that are hit by now."""
        on = [i for i in self.injected if not i.healed and not hasattr(i.made, "expand")]
        return {node for injected in on for node in _hit(injected.made, injected.on)}

    def _known(self, step: Inject) -> frozenset[str]:
        """See `zebra.injection.limits.Known`."""
        texts = [[text for text in group if check_form(text)[0] not in DRAWN] for group in step.on]
        on = resolve(texts, self._places, self._random, self._running.is_up, self._selectors)
        return frozenset(_hit(make(step.fault, step.settings), on))

    def _states(self, nodes: Iterable[str]) -> dict[str, list[str]]:
        """What nodes are at this moment: up or down, and which of the target's selectors have them."""
        found = {node: ["up" if self._running.is_up(node) else "down"] for node in nodes}
        for name, select in self._selectors.items():
            try:
                chosen = list(select())
            except Exception:  # the target's code, which may not bear a cluster that is half down
                continue
            for node in chosen:
                if node in found:
                    found[node].append(name)
        return found

    # -- composite faults ------------------------------------------------------------------------------------

    async def _expand(self, injected: Injected) -> None:
        """Carry out the steps that are due at once; the others follow while the test goes on, until healing."""
        schedule: Schedule = injected.made.expand(injected.on, self._random)
        if not isinstance(schedule, Schedule):
            what = f"expand returned {type(schedule).__name__}, not a Schedule"
            raise PluginError(f"fault {injected.name}: {what}", injected.name)
        if self._limits:
            before = f"fault {injected.name}, "
            check_schedule(self._limits, before, schedule, self._known, self._spared(), self._down())
        start_s = self._running.now()
        due = [(step, await self._act(step, injected)) for step in schedule.steps if step.at_s <= 0]
        later = [step for step in schedule.steps if step.at_s > 0]

        async def rest() -> None:
            async with asyncio.TaskGroup() as group:
                for step, part in due:
                    group.create_task(self._last(step, part))
                for step in sorted(later, key=lambda s: s.at_s):
                    group.create_task(follow(step))

        async def follow(step: Inject | Configure | Roll) -> None:
            await asyncio.sleep(max(0.0, start_s + step.at_s - self._running.now()))
            await self._last(step, await self._act(step, injected))

        injected.rest = asyncio.create_task(_one_error(rest))

    async def _act(self, step: Inject | Configure | Roll, of: Injected | None) -> Injected | None:
        if isinstance(step, Roll):
            raise ConfigError("a roll is a step of a run's schedule, not of a composite fault")
        if isinstance(step, Configure):
            await self._configure(step)
            if of is not None:
                of.changes += 1
            return None
        injected = await self.inject(step.fault, step.on, step.settings)
        if of is not None:
            of.parts.append(injected)
        return injected

    async def _last(self, step: Inject | Configure | Roll, injected: Injected | None) -> None:
        """Let a step last as long as it says."""
        if injected is None or not isinstance(step, Inject):
            return
        if step.for_s is None:
            await injected.finished()
        else:
            await asyncio.sleep(step.for_s)
            await self.heal(injected)

    # -- proof and healing -----------------------------------------------------------------------------------

    async def _probe(self, injected: Injected) -> None:
        while not injected.probed:
            injected.probed = await self._ask(injected)
            if not injected.probed:
                await asyncio.sleep(PROBE_EVERY_S)

    async def _ask(self, injected: Injected) -> bool:
        try:
            answer = injected.made.probe(injected.on, self._running.capabilities[injected.made.zebra_needs])
            return bool(await answer if inspect.isawaitable(answer) else answer)
        except Exception as error:
            what = f"probe raised {type(error).__name__}: {error}"
            raise PluginError(f"fault {injected.name}: {what}", injected.name) from error

    async def heal(self, injected: Injected) -> None:
        """Remove a fault's effects in reverse order; a healed one is left alone. Once begun it is not cancelled."""
        if injected.left_out:
            return
        if injected.healing is None:
            injected.healing = asyncio.create_task(self._heal(injected))
        await asyncio.shield(injected.healing)

    async def _heal(self, injected: Injected) -> None:
        injected.healed = True
        trouble: BaseException | None = None
        for task in (injected.watch, injected.rest):
            if task is not None:
                task.cancel()
                await asyncio.wait([task])
                trouble = trouble or (None if task.cancelled() else task.exception())
        if injected.probed is False and trouble is None:
            try:
                injected.probed = await self._ask(injected)
            except PluginError as error:
                trouble = error
        self._notes.phase(injected.entry, "healing")
        if hasattr(injected.made, "heal"):
            await self._undo(injected, "its own heal", injected.made.heal(injected.on, injected.state))
        for part in reversed(injected.parts):
            await self.heal(part)
            injected.unhealed += part.unhealed
        for effect, entry in zip(reversed(injected.effects), reversed(injected.entries), strict=True):
            self._notes.phase(entry, "healing")
            if await self._undo(injected, effect.capability, self._running.heal(effect)):
                self._notes.phase(entry, "healed")
        if not injected.unhealed:
            self._notes.phase(injected.entry, "healed")
        self._running.log.emit("", "fault.heal", id=injected.id, fault=injected.name, hits=injected.hits,
                               took_effect=injected.took_effect,
                               **({"unhealed": injected.unhealed} if injected.unhealed else {}))  # fmt: skip
        if trouble is not None:
            raise trouble

    async def _undo(self, injected: Injected, what: str, undoing: Coroutine[Any, Any, Any]) -> bool:
        """Undo a part of a fault; one that cannot be undone is noted, and does not keep the others from it."""
        try:
            await undoing
        except Exception as error:
            injected.unhealed.append(f"{injected.name}, {what}: {type(error).__name__}: {error}")
            return False
        return True

    def unhealed(self) -> list[str]:
        """What could not be undone."""
        parts = {id(part) for injected in self.injected for part in injected.parts}
        return [what for injected in self.injected if id(injected) not in parts for what in injected.unhealed]

    async def heal_all(self) -> None:
        """Heal everything, the latest first."""
        for injected in reversed(self.injected):
            await self.heal(injected)

    def without_effect(self) -> list[str]:
        """The faults that were injected and did nothing."""
        parts = {id(part) for injected in self.injected for part in injected.parts}
        idle = [i for i in self.injected if id(i) not in parts and not i.took_effect]
        return [f"{i.name} on {', '.join(i.on.nodes) or 'nobody'}" for i in idle]

    async def follow(self, schedule: Schedule, since_s: float = 0.0) -> None:
        """Carry out a schedule to its end; its times count from `since_s` of run time."""
        if self._limits:
            check_schedule(self._limits, "schedule, ", schedule, self._known, self._spared(), self._down())
        rolls = [asyncio.create_task(self._roll(s, since_s)) for s in schedule.steps if isinstance(s, Roll)]
        self._rolls += rolls
        others = [s for s in schedule.steps if not isinstance(s, Roll)]
        self.waiting += len(others)

        async def step(part: Inject | Configure) -> None:
            await asyncio.sleep(max(0.0, since_s + part.at_s - self._running.now()))
            self.waiting -= 1
            await self._last(part, await self._act(part, None))

        async def steps() -> None:
            async with asyncio.TaskGroup() as group:
                for part in sorted(others, key=lambda s: s.at_s):
                    group.create_task(step(part))
                for roll in rolls:
                    group.create_task(_ended(roll))

        await _one_error(steps)

    # -- rolling changes -------------------------------------------------------------------------------------

    async def _roll(self, roll: Roll, since_s: float) -> None:
        roles = {name: [p.node for p in self._places if p.role == name] or [name] for name in roll.nodes}
        await self._pause(since_s + roll.at_s)
        for node in (node for name in roll.nodes for node in roles[name]):
            await self._configure(Configure(node=node, values=roll.values, how=roll.how))
            await self._pause(self._running.now() + roll.every_s)

    async def _pause(self, until_s: float) -> None:
        """Wait until a time of the run, or the test's end."""
        if until_s > self._running.now() and not self._hurry.is_set():
            waiting = asyncio.ensure_future(self._hurry.wait())
            await asyncio.wait([waiting], timeout=until_s - self._running.now())
            waiting.cancel()

    async def end_rolls(self) -> None:
        """The test has ended: carry out what is left of its rolls, at once."""
        self._hurry.set()
        for roll in self._rolls:
            await roll

    async def drop_rolls(self) -> None:
        """The test has failed: leave rolls as they are."""
        for roll in self._rolls:
            roll.cancel()
        await asyncio.gather(*self._rolls, return_exceptions=True)


def _hit(made: Fault, on: Selection) -> tuple[str, ...]:
    """The nodes that a fault hits: a fault of hosts all that run on them."""
    return on.hosts() if made.zebra_level == "host" else on.nodes


async def _ended(task: asyncio.Task[None]) -> None:
    """Wait for a task that outlives this waiting, and raise what it raised."""
    await asyncio.wait([task])
    task.result()


async def _one_error(work: Callable[[], Awaitable[None]]) -> None:
    """Raise the first of the errors of a group of steps, alone."""
    try:
        await work()
    except BaseExceptionGroup as several:
        raise several.exceptions[0] from None
