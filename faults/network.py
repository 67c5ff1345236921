"""Faults of links: each hits the ordered pairs of nodes that touch the selected ones."""

from __future__ import annotations

from random import Random
from typing import Literal

from zebra.errors import ConfigError
from zebra.injection.fault import fault
from zebra.injection.schedule import Inject, Schedule
from zebra.injection.selection import Selection
from zebra.substrate import Links
from zebra.units import Count, Probability, Rate, Seconds


@fault("network.partition", level="network", needs=Links)
class Partition:
    """Cut one group of nodes from everybody else, or several groups from each other.

    `direction` is seen from the first group: `out` loses what it sends, `in` what it is sent. `how` is `drop`, as a
    broken cable does, or `reject`, as a firewall that answers with a reset.
    """

    direction: Literal["both", "out", "in"] = "both"
    how: Literal["drop", "reject"] = "drop"

    async def inject(self, on: Selection, links: Links) -> None:
        await links.add(on.between(self.direction), drop=self.how == "drop", reject=self.how == "reject")


@fault("network.latency", level="network", needs=Links)
class Latency:
    """Delay every message by `delay`, and by up to `jitter` more."""

    delay: Seconds
    jitter: Seconds = 0.0

    def validate(self) -> None:
        if not self.delay and not self.jitter:
            raise ConfigError("network.latency: delay and jitter are both 0, expected at least one above")

    async def inject(self, on: Selection, links: Links) -> None:
        await links.add(on.pairs(), latency_s=self.delay, jitter_s=self.jitter)


@fault("network.bandwidth", level="network", needs=Links)
class Bandwidth:
    """Let each selected node send, and receive, no more than `rate`, to and from all others together."""

    rate: Rate

    async def inject(self, on: Selection, links: Links) -> None:
        await links.add(on.pairs(), rate=self.rate, on=frozenset(on.nodes))


@fault("network.loss", level="network", needs=Links)
class Loss:
    """Lose a share of the messages: a datagram is gone, a stream sends it again a while later."""

    probability: Probability

    async def inject(self, on: Selection, links: Links) -> None:
        await links.add(on.pairs(), loss=self.probability)


@fault("network.duplicate", level="network", needs=Links)
class Duplicate:
    """Deliver a share of the datagrams once more, `repeat_after_s` later; streams do not show it."""

    probability: Probability
    repeat_after_s: Seconds = 0.05

    async def inject(self, on: Selection, links: Links) -> None:
        await links.add(on.pairs(), duplicate=self.probability, after_s=self.repeat_after_s)


@fault("network.reorder", level="network", needs=Links)
class Reorder:
    """Hold a share of the datagrams back so that later ones overtake them; streams do not show it."""

    probability: Probability

    async def inject(self, on: Selection, links: Links) -> None:
        await links.add(on.pairs(), reorder=self.probability)


@fault("network.reset", level="network", needs=Links)
class Reset:
    """Break a connection at a share of the messages sent on it: both ends see a reset."""

    probability: Probability = 1.0

    async def inject(self, on: Selection, links: Links) -> None:
        await links.add(on.pairs(), reset=self.probability)


@fault("network.flapping", level="network")
class Flapping:
    """Cut and rejoin the groups `times` times: cut for `down_s`, whole for `up_s`, each time a little more or less."""

    down_s: Seconds = 1.0
    up_s: Seconds = 1.0
    times: Count = 3

    def expand(self, on: Selection, random: Random) -> Schedule:
        steps, at_s = [], 0.0
        for _ in range(self.times):
            down_s = self.down_s * random.uniform(0.8, 1.2)
            steps.append(Inject(fault="network.partition", on=on.groups, at_s=at_s, for_s=down_s))
            at_s += down_s + self.up_s * random.uniform(0.8, 1.2)
        return Schedule(tuple(steps))
