"""Faults of whole parts of a cluster, built from those of hosts and networks.

A place is selected as `rack(r1-dc1-k1)`, `dc(r1-dc1)` or `region(r1)`. What is drawn by lot is drawn from the run's own
randomness, so a seed repeats it.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any, Literal

from zebra.errors import ConfigError
from zebra.injection.fault import fault
from zebra.injection.schedule import Inject, Schedule
from zebra.injection.selection import Selection
from zebra.units import Count, Probability, Seconds

_FAULTS = {"crash": "host.crash", "stop": "host.stop", "cut": "network.partition"}
"""How nodes are lost: their power fails, they are stopped as planned, or nobody reaches them any more."""


def _lose(nodes: Sequence[str], how: str, at_s: float = 0.0, for_s: float | None = None) -> Inject:
    return Inject(fault=_FAULTS[how], on=(tuple(nodes),), at_s=at_s, for_s=for_s)


def _share(nodes: Sequence[str], share: float, random: Random) -> list[str]:
    """So large a share of some nodes, one at least, in their order."""
    chosen = set(random.sample(nodes, max(1, round(share * len(nodes)))))
    return [node for node in nodes if node in chosen]


@fault("cluster.loss", level="cluster")
class Loss:
    """Lose a rack, a datacenter, a region or any other nodes at once: by loss of power, by a plan, or cut off."""

    how: Literal["crash", "stop", "cut"] = "crash"

    def expand(self, on: Selection, random: Random) -> Schedule:
        return Schedule((_lose(on.nodes, self.how),))


@fault("cluster.power_domain", level="cluster")
class PowerDomain:
    """Lose, one shortly after the other, all nodes that share a `domain` with one of the selected nodes drawn by lot.

    The nodes go within `within_s`, as they do when what they share fails: a power row, a cooling loop, a switch.
    """

    domain: Literal["host", "rack", "dc", "region"] = "rack"
    how: Literal["crash", "stop", "cut"] = "crash"
    within_s: Seconds = 0.1

    def expand(self, on: Selection, random: Random) -> Schedule:
        place_of = {place.node: place for place in on.everyone}
        failed = getattr(place_of[random.choice(on.nodes)], self.domain)
        nodes = [node for node in on.nodes if getattr(place_of[node], self.domain) == failed]
        random.shuffle(nodes)
        times = [0.0, *sorted(random.uniform(0, self.within_s) for _ in nodes[1:])]
        return Schedule(tuple(_lose([node], self.how, at_s) for node, at_s in zip(nodes, times, strict=True)))


@fault("cluster.capacity_loss", level="cluster")
class CapacityLoss:
    """Lose a share of the selected nodes, drawn by lot, one at least."""

    share: Probability = 0.3
    how: Literal["crash", "stop", "cut"] = "crash"

    def expand(self, on: Selection, random: Random) -> Schedule:
        return Schedule((_lose(_share(on.nodes, self.share, random), self.how),))


@fault("cluster.control_outage", level="cluster")
class ControlOutage:
    """Keep the selected control plane alive and let nobody outside of it reach it, nor it anybody."""

    def expand(self, on: Selection, random: Random) -> Schedule:
        return Schedule((_lose(on.nodes, "cut"),))


@fault("cluster.drain", level="cluster")
class Drain:
    """Take the selected nodes out of service as planned, one each `pause_s` with `grace_s` of notice, until healed.

    Source: ../shared/targets/maelstrom.md (drains), lad.md (a drain of a datacenter).
    """

    pause_s: Seconds = 0.5
    grace_s: Seconds = 5.0

    def expand(self, on: Selection, random: Random) -> Schedule:
        settings = {"grace_s": self.grace_s}
        return Schedule(tuple(
            Inject(fault="host.stop", on=((node,),), at_s=number * self.pause_s, settings=settings)
            for number, node in enumerate(on.nodes)
        ))  # fmt: skip


@fault("cluster.rolling_restart", level="cluster")
class RollingRestart:
    """Restart the selected nodes, `batch` at a time, each `down_s` long and one batch each `pause_s` after the last."""

    batch: Count = 1
    down_s: Seconds = 0.5
    pause_s: Seconds = 0.5
    planned: bool = True

    def expand(self, on: Selection, random: Random) -> Schedule:
        settings = {"down_s": self.down_s, "planned": self.planned}
        batches = [on.nodes[start : start + self.batch] for start in range(0, len(on.nodes), self.batch)]
        return Schedule(tuple(
            Inject(fault="host.restart", on=(batch,), at_s=n * (self.down_s + self.pause_s), for_s=0, settings=settings)
            for n, batch in enumerate(batches)
        ))  # fmt: skip


@fault("cluster.mixed_versions", level="cluster")
class MixedVersions:
    """Let a share of the selected nodes, drawn by lot, run another version of their code: a variant of the target."""

    variant: str
    share: Probability = 0.5

    def expand(self, on: Selection, random: Random) -> Schedule:
        nodes = tuple(_share(on.nodes, self.share, random))
        return Schedule((Inject(fault="application.bad_version", on=(nodes,), settings={"variant": self.variant}),))


@fault("cluster.flapping", level="cluster")
class Flapping:
    """Take the selected nodes down and up `times` times: down for `down_s`, up for `up_s`, a little more or less."""

    down_s: Seconds = 0.5
    up_s: Seconds = 1.0
    times: Count = 3
    how: Literal["crash", "stop", "cut"] = "crash"

    def expand(self, on: Selection, random: Random) -> Schedule:
        steps, at_s = [], 0.0
        for _ in range(self.times):
            down_s = self.down_s * random.uniform(0.8, 1.2)
            steps.append(_lose(on.nodes, self.how, at_s, down_s))
            at_s += down_s + self.up_s * random.uniform(0.8, 1.2)
        return Schedule(tuple(steps))


@fault("cluster.swizzle", level="cluster")
class Swizzle:
    """Cut the selected nodes off one after the other in a random order, and bring them back in another.

    The last is cut off `over_s` after the first, and all are back `over_s` after that. Source: FoundationDB's
    "swizzle-clogging" (../shared/research/peers.md section 3.3).
    """

    over_s: Seconds = 2.0
    how: Literal["crash", "stop", "cut"] = "cut"

    def expand(self, on: Selection, random: Random) -> Schedule:
        def times() -> list[float]:
            return sorted([0.0, *(random.uniform(0, self.over_s) for _ in on.nodes[1:])])

        gone, back = random.sample(on.nodes, len(on.nodes)), random.sample(on.nodes, len(on.nodes))
        left_s = dict(zip(gone, times(), strict=True))
        back_s = dict(zip(back, times(), strict=True))
        return Schedule(tuple(
            _lose([node], self.how, at_s, self.over_s + back_s[node] - at_s) for node, at_s in left_s.items()
        ))  # fmt: skip


@fault("cluster.storm", level="cluster")
class Storm:
    """Several faults at once, in rounds, each followed by a quiet time in which nothing is wrong.

    `faults` are steps as in a schedule: `{fault: network.loss, settings: {probability: 0.3}, on: one(peer), for: 1s}`;
    one without `on` hits what the storm is on. A share `swarm` of them, drawn by lot and one at least, is on offer in
    this run at all: seeds that lack a fault find what it would hide. Each round lasts `round_s` and has `at_once` of
    those, at random times; `quiet_s` of quiet follow. Source: ../shared/research/peers.md section 3.3 (swarm testing).
    """

    faults: list[dict[str, Any]]
    rounds: Count = 3
    at_once: Count = 2
    round_s: Seconds = 2.0
    quiet_s: Seconds = 2.0
    swarm: Probability = 0.5

    def validate(self) -> None:
        if not self.faults:
            raise ConfigError("cluster.storm: faults is empty, expected a list of steps such as {fault: host.crash}")
        timed = next((number for number, step in enumerate(self.faults, 1) if {"at", "at_s"} & step.keys()), 0)
        if timed:
            raise ConfigError(f"cluster.storm: faults: step {timed} has `at`, but a storm draws the times by lot")
        for step in self._steps((("*",),)):
            if step.for_s is not None and step.for_s > self.round_s:
                lasts = f"{step.fault} is for {step.for_s:g} s"
                raise ConfigError(f"cluster.storm: {lasts}, longer than round_s ({self.round_s:g} s)")

    def _steps(self, on: Sequence[Sequence[str]]) -> list[Inject]:
        given = [{"on": [list(group) for group in on], **step} for step in self.faults]
        steps = Schedule.parse(given, "cluster.storm: faults").steps
        wrong = next((number for number, step in enumerate(steps, 1) if not isinstance(step, Inject)), 0)
        if wrong:
            raise ConfigError(f"cluster.storm: faults: step {wrong} is no fault")
        return [step for step in steps if isinstance(step, Inject)]

    def expand(self, on: Selection, random: Random) -> Schedule:
        offered = self._steps(on.groups)
        offered = random.sample(offered, max(1, round(self.swarm * len(offered))))
        steps = []
        for number in range(self.rounds):
            begin_s = number * (self.round_s + self.quiet_s)
            for step in random.sample(offered, min(self.at_once, len(offered))):
                for_s = self.round_s / 2 if step.for_s is None else step.for_s
                at_s = begin_s + random.uniform(0, self.round_s - for_s)
                steps.append(Inject(fault=step.fault, on=step.on, settings=step.settings, at_s=at_s, for_s=for_s))
        return Schedule(tuple(steps))
