"""Nodes that stand still again and again: a slow or unfairly scheduled host, where nothing better is at hand."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from random import Random
from typing import Protocol

from zebra.substrate import Effect

PERIOD_S = 0.1
"""A share of a processor is given out in periods of this length, as Linux does for a quota."""


class Stoppable(Protocol):
    """What can be done to the nodes of a run."""

    def stall(self, node: str, why: str) -> None:
        """Let a node stand still; each `why` for itself."""

    def unstall(self, node: str, why: str) -> int:
        """Let it go on, unless something else stops it; 1 if that held up anything that it had to do."""


def slices(cpu: float, stall_s: float, every_s: float, random: Random) -> Iterator[tuple[float, float]]:
    """(time to run, time to stand still) in seconds, without end."""
    phase = random.random()  # else a node that works at full periods would never notice
    while cpu:
        yield PERIOD_S * cpu * phase, PERIOD_S * (1 - cpu)
        phase = 1.0
    rest_s = 0.0
    while True:
        still_s = random.uniform(0, stall_s)
        runs_s = random.uniform(0, every_s - still_s)
        yield rest_s + runs_s, still_s
        rest_s = every_s - still_s - runs_s


async def keep_stalling(running: Stoppable, effect: Effect, node: str, seed: int) -> None:
    """Stall a node as `cpu`, `stall_s` and `every_s` of an effect say, until cancelled; counts what was held up."""
    arguments, why = effect.arguments, f"effect-{effect.id}"
    random = Random(f"{seed}/stalls/{effect.id}/{node}")
    for runs_s, still_s in slices(arguments["cpu"], arguments["stall_s"], arguments["every_s"], random):
        await asyncio.sleep(runs_s)
        running.stall(node, why)
        try:
            await asyncio.sleep(still_s)
        finally:
            effect.hits += running.unstall(node, why)
