"""Kill sessions in which many faults are on their way at once: what would take an hour with a session for each kill
takes minutes.

`effects`: every kind of effect is injected and healed without end, each in a task of its own, and the session is killed
at a random moment. The kill counts for the kinds whose fault is, by the ledger, *planned* or *injecting* (a kill in
injecting), or *healing*, and for no other. As one process does one thing at a time, that would be one kind a kill; so
each kind waits for its turn a few times before and after it acts, in injecting and in healing. `faults`: every fault of
the catalogue is injected, healed, and injected again; once all are, the session is killed.

What takes a node down or restarts it has that node for itself; the others share the last one.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from random import Random
from typing import Any

from tests.leftovers.kills import Sample, take_turns
from tests.leftovers.victim import Say, Session, Way
from zebra.cluster import Cluster
from zebra.errors import ConfigError
from zebra.injection.injector import Injected

SESSIONS_MAX = 10
"""Ten times as many sessions as kills are wanted of each kind are killed at most."""

NODES_MAX = 7
"""So many nodes has a session beside the one that is shared: more take longer to start than they are worth."""

SPREAD_S = 0.2
"""Once all faults of the catalogue are on, a session has so long at most: composite ones go on meanwhile."""

TURNS = 5
"""So often each kind waits for its turn before it acts, and again afterwards."""

BACK_BY_ITSELF = "back_after_s"
"""What is healed by itself may leave nothing to do when it is healed."""

INJECT, HEAL, ON = "inject", "heal", "on"
MOMENTS = {"planned": INJECT, "injecting": INJECT, "injected": ON, "healing": HEAL}
"""What the last phase of a fault in the ledger says of the moment at which its session was killed."""


def nodes_of(samples: list[Sample]) -> dict[Sample, list[str]]:
    """The nodes of each sample."""
    found, number = {}, 0
    for sample in samples:
        found[sample] = [f"server-{number + n}" for n in range(1, sample.nodes + 1)]
        number += sample.nodes
    return {sample: nodes or [f"server-{number + 1}"] for sample, nodes in found.items()}


# -- what the sessions do --------------------------------------------------------------------------------------------


async def again_and_again(cluster: Cluster, samples: list[Sample], random: Random, say: Say) -> None:
    """Inject and heal each sample without end; says which are refused, and when each other was healed once."""
    heal, waiting = cluster._running.heal, set(samples)

    async def heal_in_turns(effect: Any) -> None:
        await take_turns(TURNS)
        await heal(effect)
        await take_turns(TURNS)

    cluster._running.heal = heal_in_turns  # type: ignore[method-assign]

    async def one(sample: Sample, on: list[str]) -> None:
        await take_turns(random.randint(0, 4 * TURNS))  # lest all inject at the same time
        while True:
            try:
                async with cluster.fault(sample.fault, on, **sample.settings, turns=TURNS) as injected:
                    pass
                assert not _unhealed(injected), _unhealed(injected)
            except ConfigError:
                say(f"refused {samples.index(sample)}")
            if sample in waiting:
                waiting.discard(sample)
                if not waiting:
                    say("all")

    async with asyncio.TaskGroup() as group:
        for sample, on in nodes_of(samples).items():
            group.create_task(one(sample, on))


async def once_and_again(cluster: Cluster, samples: list[Sample], random: Random, say: Say) -> None:
    """Inject, heal and inject each sample; says which are refused, and when all others are on."""

    async def one(sample: Sample, on: list[str]) -> None:
        try:
            healed = await cluster.inject(sample.fault, on, **sample.settings)
        except ConfigError:
            say(f"refused {samples.index(sample)}")
            return
        await cluster.heal(healed)
        assert healed.healed and not _unhealed(healed), f"{sample.name}: {_unhealed(healed)}"
        await cluster.inject(sample.fault, on, **sample.settings)

    async with asyncio.TaskGroup() as group:
        for sample, on in nodes_of(samples).items():
            group.create_task(one(sample, on))
    say("all")
    await asyncio.Event().wait()


def _unhealed(injected: Injected) -> list[str]:
    return injected.unhealed + [what for part in injected.parts for what in _unhealed(part)]


# -- the kills -------------------------------------------------------------------------------------------------------


@dataclass
class Told:
    """What is known of one sample: how many kills hit it at which moment, and what they left."""

    hit: dict[str, int] = field(default_factory=lambda: {INJECT: 0, HEAL: 0, ON: 0})
    clean: int = 0
    refused: bool = False
    left: list[str] = field(default_factory=list)
    slowest_s: float = 0.0


def effects(samples: list[Sample], substrate: str, way: Way, kills: int, seed: int) -> Iterator[dict[str, Any]]:
    """A row per kind of effect that is not refused, once each has had so many kills in injecting or healing, both."""
    told = {sample: Told() for sample in samples}
    random = Random(f"{seed}/{substrate}/{way}")
    sessions, cycle_s = 0, 0.0
    while sessions < kills * SESSIONS_MAX and not all(_enough(sample, told[sample], kills) for sample in samples):
        sessions += 1
        with Session(again_and_again, samples, substrate, random.random()) as session:
            if cycle_s:
                session.wait(random.uniform(0.2, 1.2) * cycle_s)
            else:  # how long all need is seen in the first one
                began = time.monotonic()
                session.hears("all")
                cycle_s = time.monotonic() - began
            _kill(session, way, told, (INJECT, HEAL))
    yield from _rows(told, substrate, way, sessions)


def _enough(sample: Sample, told: Told, kills: int) -> bool:
    inject, heal = told.hit[INJECT], told.hit[HEAL]
    both = (inject and heal) or BACK_BY_ITSELF in sample.name
    return told.refused or bool(both and inject + heal >= kills)


def faults(samples: list[Sample], substrate: str, way: Way, seed: int) -> Iterator[dict[str, Any]]:
    """A row per fault that is not refused: it was injected, healed and injected, and its session killed."""
    random = Random(f"{seed}/{substrate}/{way}")
    told = {sample: Told() for sample in samples}
    together: list[list[Sample]] = [[]]
    for sample in samples:
        if sum(each.nodes for each in together[-1]) + sample.nodes > NODES_MAX:
            together.append([])
        together[-1].append(sample)
    for some in together:
        with Session(once_and_again, some, substrate, random.random()) as session:
            session.hears("all")
            session.wait(random.uniform(0, SPREAD_S))
            _kill(session, way, {sample: told[sample] for sample in some}, (ON,))
    yield from _rows(told, substrate, way, len(together))


def _kill(session: Session, way: Way, told: dict[Sample, Told], wanted: tuple[str, ...]) -> None:
    """Kill a session and see what of it is left; it counts for the samples that it hit at a wanted moment."""
    left, took_s = session.kill(way)
    for line in session.said:
        if line.startswith("refused "):
            told[session.samples[int(line.split()[1])]].refused = True
    phases, on = moments(session.ledger()), nodes_of(session.samples)
    for sample, each in told.items():
        moment = phases.get(_key(sample.fault, sample.settings, on[sample]), "")
        if moment in wanted and not each.refused:
            each.hit[moment] += 1
            each.clean += not left
            each.left += left
            each.slowest_s = max(each.slowest_s, took_s)


def moments(ledger: bytes) -> dict[tuple[str, ...], str]:
    """At which moment each fault was when zebra died, by name, settings and nodes.

    What was written later counts for nothing: whoever undoes what is left says first that the zygote is gone, and zebra
    says that only when a run ends.
    """
    found: dict[str, dict[str, Any]] = {}
    zygote = None
    for line in ledger.split(b"\n"):
        try:
            entry = json.loads(line or b"{}")
        except ValueError:
            continue  # torn by the kill
        if entry.get("what") == "zygote":
            zygote = entry["id"]
        if zygote is not None and entry.get("done") == zygote:
            break
        if entry.get("kind") == "fault" or entry.get("id") in found:
            found.setdefault(entry["id"], {}).update(entry)
    return {
        _key(entry["name"], entry["settings"], *entry["groups"]): MOMENTS.get(entry["phase"], "")
        for entry in found.values()
    }


def _key(name: str, settings: dict[str, Any], *groups: list[str]) -> tuple[str, ...]:
    plain = {setting: value for setting, value in settings.items() if setting != "turns"}
    return name, json.dumps(plain, sort_keys=True), json.dumps(groups)


def _rows(told: dict[Sample, Told], substrate: str, way: Way, sessions: int) -> Iterator[dict[str, Any]]:
    for sample, each in told.items():
        if not each.refused:
            yield {
                "case": sample.name, "substrate": substrate, "way": way, "kills": sum(each.hit.values()), **each.hit,
                "clean": each.clean, "slowest_s": round(each.slowest_s, 3), "left": each.left, "sessions": sessions,
            }  # fmt: skip
