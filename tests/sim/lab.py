"""A target whose nodes do what a test hands them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

import zebra
from zebra import Outcome, RunSpec, Target, Topology


class Config(msgspec.Struct, frozen=True, kw_only=True):
    unused: int = 0


class Host:
    def __init__(self, node: Any) -> None:
        self.node = node

    async def go(self, work: Callable[..., Any], *args: Any) -> Any:
        return await work(self.node, *args)


def hosts(count: int, **shape: Any) -> Target:
    """Hosts of this number, and a client."""
    topology = Topology(counts={"host": count}, **shape)
    return Target(name="lab", config=Config, roles={"host": Host}, client=Host, topology=topology)


def play(work: Callable[[Any], Any]) -> Outcome:
    """A run of a client alone that does this with its node."""

    async def scenario(cluster: Any) -> None:
        await cluster.client.go(work)

    return zebra.run(scenario, RunSpec(target="lab"), target=hosts(0))
