"""Where the nodes of a run are reached: what the proxy listens on for each of their processes."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from zebra.events import EventLog
from zebra.proxy.proxy import Listener, Proxy, ToxicsOf
from zebra.proxy.toxics import Toxic
from zebra.substrate import Effect
from zebra.substrate.decisions import Decisions
from zebra.substrate.process.channel import Channel
from zebra.substrate.process.life import Ground


@dataclass(slots=True, kw_only=True, eq=False)
class Incarnation:
    """One process of a node, as the session sees it. `ended` holds its exit status."""

    node: str
    number: int
    ready: asyncio.Future[None]
    ended: asyncio.Future[int]
    pid: int = 0
    pidfd: int = -1
    entry: dict[str, Any] = field(default_factory=dict)
    channel: Channel | None = None
    up: bool = True
    paused: bool = False
    stalls: dict[str, float] = field(default_factory=dict)
    stopping: bool = False
    error: BaseException | None = None
    listeners: dict[int, Listener] = field(default_factory=dict)
    datagrams: set[int] = field(default_factory=set)
    calls: dict[int, asyncio.Future[Any]] = field(default_factory=dict)


class Ports:
    """The listeners and datagram ports of a run's proxy; what that decides by chance goes into the log."""

    def __init__(self, ground: Ground, log: EventLog, toxics_of: ToxicsOf) -> None:
        self._block, self._nodes = ground.block, ground.nodes
        self._loop = asyncio.get_running_loop()
        self._pairs: dict[tuple[str, str, int], asyncio.Future[Listener]] = {}
        names = {number: name for name, number in ground.nodes.items()}
        decisions = Decisions(log)

        def name_of(address: str) -> str:
            return names.get(self._block.node_of(address), "")

        def source_address(node: str) -> str:
            return self._block.public(self._nodes[node]) if node else ""

        def decided(toxic: Toxic, *what: Any) -> None:
            if isinstance(toxic.counter, Effect):
                decisions(toxic.counter, *what)

        self.proxy = Proxy(self._loop, ground.plan.seed, toxics_of, name_of, source_address, decided)

    async def listen(self, life: Incarnation, kind: str, port: int) -> None:
        """Let the proxy listen where others reach a port of a node; raises OSError if that is taken."""
        number = self._nodes[life.node]
        address, upstream = (self._block.public(number), port), (self._block.hidden(number), port)
        if kind == "udp":
            life.datagrams.add(port)
            await self.proxy.relay(address, life.node, upstream)
        elif port not in life.listeners:
            listener = life.listeners[port] = await self.proxy.listen(address, life.node, upstream, greets=True)
            if not life.up:
                listener.close()

    async def reach(self, source: str, target: str, port: int) -> str:
        """The address of the listener that stands for an ordered pair and a port, made on first use."""
        key = (source, target, port)
        if key not in self._pairs:
            self._pairs[key] = made = self._loop.create_future()
            address, upstream = (self._block.pair(len(self._pairs)), port), self._block.hidden(self._nodes[target])
            try:
                made.set_result(await self.proxy.listen(address, target, (upstream, port), source=source))
            except OSError as error:
                made.set_exception(error)
        return (await asyncio.shield(self._pairs[key])).address[0]

    def retract(self, life: Incarnation, kind: str, port: int) -> None:
        """A node listens there no more."""
        if kind == "udp":
            life.datagrams.discard(port)
            self.proxy.unrelay(life.node, port)
        elif port in life.listeners:
            life.listeners.pop(port).close()

    def refuse(self, life: Incarnation) -> None:
        """It has closed its sockets itself, and its last words are on their way: only refuse what is new."""
        for listener in life.listeners.values():
            listener.close()
        for port in life.datagrams:
            self.proxy.unrelay(life.node, port)

    def unplug(self, life: Incarnation) -> None:
        """Nobody reaches this incarnation any more; who was connected to it is reset."""
        self.refuse(life)
        life.listeners.clear()
        life.datagrams.clear()
        if not life.up:
            for connection in self.proxy.of(life.node):
                connection.end("reset")

    def close(self, lives: Iterable[Incarnation]) -> None:
        """Reset every connection and give back every port."""
        self.proxy.close()
        for life in lives:
            for listener in life.listeners.values():
                listener.close()
        for made in self._pairs.values():
            if made.done() and made.exception() is None:
                made.result().close()
