"""Bulk over typed streams: long messages, many at once, and streams that are left in the middle."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import msgspec
import pytest

import zebra
from zebra import Blob, Cluster, Node, RunSpec, Target, Topology
from zebra.rpc import Caller, Message, Request, Rpc, Wire

KIB = 1024
MIB = 1024 * KIB


class Many(Request["Item"], tag="many", frozen=True, kw_only=True):
    """Answered with `count` items of `size` bytes."""

    count: int
    size: int


class Item(Message, tag="item", frozen=True, kw_only=True):
    """One item."""

    content: Blob


WIRE = Wire(Many, Item, port=7000)


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """Nothing to set."""


class Source:
    """Sends what it is asked for."""

    def __init__(self, node: Node[Config]) -> None:
        self.node = node

    async def run(self) -> None:
        rpc = Rpc(self.node, WIRE)
        await rpc.serve({Many: self.many})
        await self.node.ready()
        await asyncio.get_running_loop().create_future()

    async def many(self, ask: Many, caller: Caller) -> AsyncIterator[Item]:
        for number in range(ask.count):
            yield Item(content=self.node.blob(number, ask.size))


class Sink:
    """Receives streams, several at a time, and counts their items."""

    def __init__(self, node: Node[Config]) -> None:
        self.node = node

    async def take(self, streams: int, count: int, size: int, leave_after: int) -> list[int]:
        rpc = Rpc(self.node, WIRE)

        async def one(number: int) -> int:
            wanted = leave_after if number % 2 else count
            async with await rpc.stream("source-1", Many(count=count, size=size), 1.0) as stream:
                for received in range(wanted):
                    item = await stream.receive(60.0)
                    assert item is not None and item.content == self.node.blob(received, size)
                assert wanted < count or await stream.receive(60.0) is None
                return wanted

        return list(await asyncio.gather(*map(one, range(streams))))


TARGET = Target(
    name="bulk", config=Config, roles={"source": Source}, client=Sink, topology=Topology(counts={"source": 1})
)


@pytest.mark.parametrize("size", [256 * KIB, MIB, 3 * MIB, 4 * MIB + 1])
@pytest.mark.parametrize("streams", [1, 2, 5])
def test_long_messages_go_on_for_ever_and_streams_that_are_left_harm_no_other(size: int, streams: int) -> None:
    async def scenario(cluster: Cluster) -> None:
        taken = await cluster.client.take(streams, 8, size, 2)
        assert taken == [2 if number % 2 else 8 for number in range(streams)]

    outcome = zebra.run(scenario, RunSpec(target="bulk"), target=TARGET)
    assert outcome.result == "pass", outcome.message
