"""A load generator for one real tracker: up to 100,000 peers that exist in its books only.

The crowd is entered by calling the tracker's own `register`; it keeps the hot chunks. The peers that are measured speak
to the tracker over the simulated network, each on a connection under its own name: Register, GetSource and Done for
each chunk, Heartbeat. They move no content. The tracker is Owl's; what is added to it is a meter around its handlers.
"""

from __future__ import annotations

import asyncio
import types
from collections.abc import Callable, Generator, Sequence
from typing import Any, TypeVar

from zebra.node import Node
from zebra.rpc import Caller, Rpc
from zebra.target import Target
from zebra.targets.owl.config import CODECS, WAIT_S, OwlConfig
from zebra.targets.owl.delegation import Delegation
from zebra.targets.owl.messages import (
    WIRE,
    Advertise,
    Delegate,
    Done,
    DoneAck,
    EdgeClosed,
    GetSource,
    Heartbeat,
    HeartbeatAck,
    Lent,
    Manifest,
    Register,
    Registered,
    Source,
)
from zebra.targets.owl.tracker import Tracker
from zebra.topology import Place, Topology

T = TypeVar("T")
AT_ONCE = 32
PER_RACK = 20
CHUNK = 8 << 20


class Meter:
    """Calls and CPU time per kind of message. `cpu_ns` is a clock of CPU time; without one calls are counted only."""

    def __init__(self) -> None:
        self.calls: dict[str, int] = {}
        self.spent_ns: dict[str, int] = {}
        self.cpu_ns: Callable[[], int] = lambda: 0

    def count(self, kind: str, began_ns: int) -> None:
        self.calls[kind] = self.calls.get(kind, 0) + 1
        self.add(kind, began_ns)

    def add(self, kind: str, began_ns: int) -> None:
        self.spent_ns[kind] = self.spent_ns.get(kind, 0) + self.cpu_ns() - began_ns

    @types.coroutine
    def run(self, kind: str, coroutine: Any) -> Generator[Any, Any, Any]:
        """Await a coroutine; only the time in which it runs counts."""
        step, value = coroutine.send, None
        while True:
            began_ns = self.cpu_ns()
            try:
                waits_for = step(value)
            except StopIteration as stop:
                self.count(kind, began_ns)
                return stop.value
            self.add(kind, began_ns)
            try:
                step, value = coroutine.send, (yield waits_for)
            except BaseException as error:
                step, value = coroutine.throw, error


class MeteredDelegation(Delegation):
    """Owl's, with its tracker's meter around what arrives from other trackers."""

    meter: Meter

    async def delegate(self, ask: Delegate, caller: Caller) -> Lent:
        lent: Lent = await self.meter.run("Delegate", super().delegate(ask, caller))
        return lent

    def edge_closed(self, cast: EdgeClosed, caller: Caller) -> None:
        began_ns = self.meter.cpu_ns()
        super().edge_closed(cast, caller)
        self.meter.count("EdgeClosed", began_ns)

    def advertise(self, cast: Advertise, caller: Caller) -> None:
        began_ns = self.meter.cpu_ns()
        super().advertise(cast, caller)
        self.meter.count("Advertise", began_ns)

    def send_adverts(self) -> None:
        began_ns = self.meter.cpu_ns()
        super().send_adverts()
        self.meter.add("upkeep", began_ns)


class MeteredTracker(Tracker):
    """Owl's tracker with a meter around its handlers and its upkeep once a second."""

    def __init__(self, node: Node[OwlConfig]) -> None:
        super().__init__(node)
        self.meter = Meter()
        self.delegation = MeteredDelegation(self)
        self.delegation.meter = self.meter

    def register(self, ask: Register, caller: Caller) -> Registered:
        began_ns = self.meter.cpu_ns()
        ack = super().register(ask, caller)
        self.meter.count("Register", began_ns)
        return ack

    def heartbeat(self, ask: Heartbeat, caller: Caller) -> HeartbeatAck:
        began_ns = self.meter.cpu_ns()
        ack = super().heartbeat(ask, caller)
        self.meter.count("Heartbeat", began_ns)
        return ack

    async def get_source(self, ask: GetSource, caller: Caller) -> Source:
        source: Source = await self.meter.run("GetSource", super().get_source(ask, caller))
        return source

    def done(self, ask: Done, caller: Caller) -> DoneAck:
        began_ns = self.meter.cpu_ns()
        ack = super().done(ask, caller)
        self.meter.count("Done", began_ns)
        return ack

    def expire(self) -> None:
        began_ns = self.meter.cpu_ns()
        super().expire()
        self.meter.count("upkeep", began_ns)


class Crowded:
    """A tracker's node that knows where the peers of the crowd are, too."""

    def __init__(self, node: Node[OwlConfig], places: dict[str, Place]) -> None:
        self._node, self._places = node, places

    def __getattr__(self, name: str) -> Any:
        return getattr(self._node, name)

    def place_of(self, name: str) -> Place:
        return self._places.get(name) or self._node.place_of(name)


class CrowdedTracker(MeteredTracker):
    """A metered tracker whose books can be filled with a crowd."""

    def __init__(self, node: Node[OwlConfig]) -> None:
        self.places: dict[str, Place] = {}
        super().__init__(Crowded(node, self.places))  # type: ignore[arg-type]

    def invite(self, count: int, members: int, chunks: Sequence[str]) -> None:
        """Let `count` peers exist, of which the first `members` register and keep all chunks."""
        for index in range(count):
            name, rack = f"fake-{index}", f"r1-dc1-rack{index // PER_RACK + 1}"
            self.places[name] = Place(node=name, role="peer", host=f"host-{index}", rack=rack, dc="r1-dc1", region="r1")
        for index in range(members):
            self.register(register(self.node.config, chunks), Caller(f"fake-{index}", 1))


def register(config: OwlConfig, chunks: Sequence[str]) -> Register:
    return Register(
        versions=config.proto.version,
        codecs=CODECS[:1],
        cached=tuple((chunk, CHUNK) for chunk in chunks),
        open=(),
        serving=(),
    )


class Named:
    """A driver's node under the name of one of the peers that it plays."""

    def __init__(self, node: Node[OwlConfig], name: str) -> None:
        self._node, self.name, self.incarnation = node, name, 1

    def __getattr__(self, name: str) -> Any:
        return getattr(self._node, name)


class Driver:
    """Plays peers: the requests of each go over a connection of its own."""

    def __init__(self, node: Node[OwlConfig]) -> None:
        self.node = node

    async def play(self, first: int, count: int, manifest: Manifest, chunks: Sequence[str]) -> None:
        """Let peers register, get each chunk's source and report it done, and send a heartbeat."""
        slots = asyncio.Semaphore(AT_ONCE)

        async def one(index: int) -> None:
            async with slots:
                await self.peer(f"fake-{index}", manifest, chunks)

        await asyncio.gather(*(one(index) for index in range(first, first + count)))

    async def peer(self, name: str, manifest: Manifest, chunks: Sequence[str]) -> None:
        rpc, tracker = Rpc(Named(self.node, name), WIRE), self.node.peers("tracker")[0]  # type: ignore[arg-type]
        await rpc.call(tracker, register(self.node.config, ()), 10.0)
        for chunk in chunks:
            while True:
                source = await rpc.call(tracker, GetSource(chunk=chunk, manifest=manifest, have=0), 10.0)
                if source.kind != "wait":
                    break
                await asyncio.sleep(WAIT_S)
            await rpc.call(tracker, Done(chunk=chunk, manifest=manifest, ok=True, bytes=CHUNK), 10.0)
        await rpc.call(tracker, Heartbeat(uploads=0, whole=False, cached_add=tuple(chunks), cached_del=()), 10.0)
        await rpc.close()


class IdleStore:
    """A store that is never read from: trackers name it, nothing more."""

    def __init__(self, node: Node[OwlConfig]) -> None:
        self.node = node


LOAD = Target(
    name="owl",
    config=OwlConfig,
    roles={"tracker": CrowdedTracker, "store": IdleStore},
    client=Driver,
    topology=Topology(counts={"tracker": 1, "store": 1, "client": 4}),
)
