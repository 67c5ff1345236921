"""Faults of links: each hits the ordered pairs of nodes that touch the selected ones."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any, Literal

from zebra.errors import ConfigError
from zebra.injection.fault import fault
from zebra.injection.schedule import Inject, Schedule
from zebra.injection.selection import Selection
from zebra.substrate import Links, Names, Pairs
from zebra.units import Bytes, Count, Probability, Rate, Seconds, Spare


@fault("network.partition", level="network", needs=Links)
class Partition:
    """Cut one group of nodes from everybody else, or several groups from each other.

    `direction` is seen from the first group: `out` loses what it sends, `in` what it is sent. `how` is `drop`, as a
    broken cable does, or `reject`, as a firewall that answers with a reset. With `connections=new` only new connections
    are hit: those that are open go on, datagrams pass. With `shape=ring` the selected nodes stand in a ring, in their
    order, and each sees only its two neighbours of them.
    """

    direction: Literal["both", "out", "in"] = "both"
    how: Literal["drop", "reject"] = "drop"
    connections: Literal["all", "new"] = "all"
    shape: Literal["groups", "ring"] = "groups"

    async def inject(self, on: Selection, links: Links) -> None:
        pairs = on.between(self.direction) if self.shape == "groups" else _ring(on.nodes)
        new_only = self.connections == "new"
        await links.add(pairs, drop=self.how == "drop", reject=self.how == "reject", new_only=new_only)


def _ring(nodes: Sequence[str]) -> Pairs:
    """All links between nodes that are not next to each other."""
    near = {node: {nodes[at - 1], node, nodes[(at + 1) % len(nodes)]} for at, node in enumerate(nodes)}
    return Pairs((frozenset({node}), frozenset(nodes) - near[node]) for node in nodes)


def _shuffled(name: str, on: Selection, random: Random, least: int) -> list[str]:
    """The selected nodes in a random order; raises ConfigError if they are fewer than a shape needs."""
    if len(on.nodes) < least:
        raise ConfigError(f"{name}: {len(on.nodes)} nodes are selected, it needs {least} at least")
    return random.sample(on.nodes, len(on.nodes))


def _partition(groups: Sequence[Sequence[str]], **settings: Any) -> Schedule:
    return Schedule((Inject(fault="network.partition", on=tuple(map(tuple, groups)), settings=settings),))


@fault("network.partition_ring", level="network")
class PartitionRing:
    """Let each of the selected nodes see only two others of them, in a ring drawn by lot; nobody else is cut off."""

    how: Literal["drop", "reject"] = "drop"
    connections: Literal["all", "new"] = "all"

    def expand(self, on: Selection, random: Random) -> Schedule:
        nodes = _shuffled("network.partition_ring", on, random, 4)
        return _partition([nodes], how=self.how, connections=self.connections, shape="ring")


@fault("network.partition_bridge", level="network")
class PartitionBridge:
    """Cut the selected nodes into two halves drawn by lot, between which one node sees all.

    Source: Jepsen, `jepsen.nemesis/bridge`.
    """

    how: Literal["drop", "reject"] = "drop"
    connections: Literal["all", "new"] = "all"

    def expand(self, on: Selection, random: Random) -> Schedule:
        _, *nodes = _shuffled("network.partition_bridge", on, random, 3)
        half = len(nodes) // 2
        return _partition([nodes[:half], nodes[half:]], how=self.how, connections=self.connections)


@fault("network.partition_majority", level="network")
class PartitionMajority:
    """Cut a majority of the selected nodes, drawn by lot, from the rest of them.

    Source: Jepsen, `jepsen.nemesis/partition-random-halves`.
    """

    how: Literal["drop", "reject"] = "drop"
    connections: Literal["all", "new"] = "all"

    def expand(self, on: Selection, random: Random) -> Schedule:
        nodes = _shuffled("network.partition_majority", on, random, 3)
        most = len(nodes) // 2 + 1
        return _partition([nodes[:most], nodes[most:]], how=self.how, connections=self.connections)


@fault("network.partition_one", level="network")
class PartitionOne:
    """Cut one of the selected nodes, drawn by lot, from the others of them.

    Source: Jepsen, `jepsen.nemesis/partition-random-node`.
    """

    how: Literal["drop", "reject"] = "drop"
    connections: Literal["all", "new"] = "all"

    def expand(self, on: Selection, random: Random) -> Schedule:
        one, *others = _shuffled("network.partition_one", on, random, 2)
        return _partition([[one], others], how=self.how, connections=self.connections)


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


@fault("network.corruption", level="network", needs=Links)
class Corruption:
    """Turn over one bit in a share of the messages; no checksum of the network notices."""

    probability: Probability

    async def inject(self, on: Selection, links: Links) -> None:
        await links.add(on.pairs(), corrupt=self.probability)


@fault("network.slow_close", level="network", needs=Links)
class SlowClose:
    """Let the end of a stream be seen `delay` later; what was sent before arrives as ever."""

    delay: Seconds

    def validate(self) -> None:
        _above_zero("network.slow_close", delay=self.delay)

    async def inject(self, on: Selection, links: Links) -> None:
        await links.add(on.pairs(), close_s=self.delay)


@fault("network.slicing", level="network", needs=Links)
class Slicing:
    """Hand on what a stream carries in pieces of at most `piece_bytes`, `apart` from each other."""

    piece_bytes: Bytes
    apart: Seconds = 0.0

    def validate(self) -> None:
        _above_zero("network.slicing", piece_bytes=self.piece_bytes)

    async def inject(self, on: Selection, links: Links) -> None:
        await links.add(on.pairs(), slice_bytes=self.piece_bytes, slice_s=self.apart)


@fault("network.data_limit", level="network", needs=Links)
class DataLimit:
    """Cut a connection off once it has carried `limit_bytes` in one direction.

    They are counted from the injection on. Who receives reads so many, and then the end of the stream, in the midst of
    a message if need be.
    """

    limit_bytes: Bytes

    async def inject(self, on: Selection, links: Links) -> None:
        await links.add(on.pairs(), limit_bytes=self.limit_bytes)


@fault("network.timeout", level="network", needs=Links)
class Timeout:
    """Let connections open, hold what is sent, and reset each `after` its first message that was held."""

    after: Seconds

    def validate(self) -> None:
        _above_zero("network.timeout", "; network.blackhole never closes", after=self.after)

    async def inject(self, on: Selection, links: Links) -> None:
        await links.add(on.pairs(), hold=True, timeout_s=self.after)


@fault("network.blackhole", level="network", needs=Links)
class Blackhole:
    """Let connections open and nothing that is sent arrive, until healed: then it does. Datagrams are lost."""

    async def inject(self, on: Selection, links: Links) -> None:
        await links.add(on.pairs(), hold=True)


@fault("network.connection_limit", level="network", needs=Links)
class ConnectionLimit:
    """Let each selected node have no more than `limit` connections that others opened to it; refuse further ones."""

    limit: Spare

    async def inject(self, on: Selection, links: Links) -> None:
        await links.add(on.pairs("in"), connections=self.limit, on=frozenset(on.nodes))


@fault("network.dns_failure", level="network", needs=Names)
class DnsFailure:
    """Let the selected nodes' names not resolve. With `direction=out` these nodes are the ones that cannot look up.

    Who knows the address, or has a connection, goes on.
    """

    direction: Literal["both", "out", "in"] = "in"

    async def inject(self, on: Selection, names: Names) -> None:
        await names.add(on.pairs(self.direction), fail=True)


@fault("network.stale_names", level="network", needs=Names)
class StaleNames:
    """Let the selected nodes' names resolve to where the nodes were before, and nobody is: connecting times out.

    With `direction=out` the selected nodes are the ones that are told so, of all others.
    """

    direction: Literal["both", "out", "in"] = "in"

    async def inject(self, on: Selection, names: Names) -> None:
        await names.add(on.pairs(self.direction), stale=True)


def _above_zero(name: str, hint: str = "", **settings: float) -> None:
    for setting, value in settings.items():
        if not value > 0:
            raise ConfigError(f"{name}: {setting} is {value:g}, expected more than 0{hint}")


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
