"""The simulated network: streams and datagrams between nodes, with bandwidth, latency and everything that goes wrong.

A stream carries whole writes, not packets. A write leaves when the sender's network card is free, takes its size
over the card's rate, the path's latency with jitter, and the receiver's card. What is lost is sent again after a
retransmission time-out that doubles, as TCP does; so a dropped path stalls a connection and a healed one lets it
go on, a peer that vanished is noticed only by who sends to it, and a restarted one answers with a reset.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable, Iterable
from contextvars import copy_context
from random import Random
from typing import Any

from zebra.errors import Escape
from zebra.substrate import Effect
from zebra.substrate.sim.datagram import DatagramTransport
from zebra.substrate.sim.loop import CURRENT, SimLoop
from zebra.substrate.sim.machine import Machine, Nic, Process
from zebra.substrate.sim.stream import StreamTransport
from zebra.topology import Place, Topology

SYN_RETRIES = 6
"""A connection attempt is repeated after 1, 2, 4 … s, so many times (Linux's tcp_syn_retries): it fails after 127 s."""


class Bucket:
    """A rate limit: when it is free again, and seconds per byte."""

    __slots__ = ("cost_s", "free")

    def __init__(self, rate: float) -> None:
        self.free, self.cost_s = 0.0, 1.0 / rate


class Path:
    """One ordered pair of nodes: its base latency, and the link effects that touch it at present."""

    __slots__ = ("base_s", "buckets", "drops", "effects", "jitter_s", "local", "rejects", "source", "target", "version")

    def __init__(self, source: Machine, target: Machine, base_s: float, jitter: float) -> None:
        self.source, self.target, self.base_s, self.jitter_s = source, target, base_s, base_s * jitter
        self.local = source.nic is target.nic
        self.version = -1
        self.effects: tuple[Effect, ...] = ()
        self.drops: tuple[Effect, ...] = ()
        self.rejects: tuple[Effect, ...] = ()
        self.buckets: tuple[tuple[Effect, Bucket], ...] = ()

    def update(self, effects: Iterable[Effect], version: int) -> None:
        pair = (self.source.name, self.target.name)
        self.version = version
        self.effects = tuple(effect for effect in effects if pair in effect.arguments["pairs"])
        self.drops = tuple(effect for effect in self.effects if effect.arguments["drop"])
        self.rejects = tuple(effect for effect in self.effects if effect.arguments["reject"])
        self.buckets = tuple((e, b) for e in self.effects if e.arguments["rate"] for b in _buckets(e, pair))


def _buckets(effect: Effect, pair: tuple[str, str]) -> list[Bucket]:
    """The limits of a rate effect on a pair: one for each of its nodes and direction."""
    on, made = effect.arguments["on"], effect.arguments["buckets"]
    keys = [(node, way) for node, way in zip(pair, ("out", "in"), strict=True) if node in on] or [(pair, "pair")]
    return [made.setdefault(key, Bucket(effect.arguments["rate"])) for key in keys]


def hit(effects: Iterable[Effect]) -> bool:
    """Count a hit on each effect; whether there is any."""
    found = False
    for effect in effects:
        effect.hits += 1
        found = True
    return found


class Listener:
    """A bound stream port of one process."""

    def __init__(self, process: Process | None, factory: Callable[[], asyncio.BaseProtocol]) -> None:
        self.process, self.factory, self.context = process, factory, copy_context()


class SimServer(asyncio.AbstractServer):
    """What `create_server` returns: the listening ports of one call."""

    def __init__(self, loop: SimLoop, machine: Machine, port: int, listener: Listener) -> None:
        self._loop, self._machine, self.port, self._listener = loop, machine, port, listener
        self.sockets = (SimSocket(socket.AF_INET, socket.SOCK_STREAM),)
        self.sockets[0].name = (machine.address, port)
        self._serving: asyncio.Future[None] | None = None

    def get_loop(self) -> asyncio.AbstractEventLoop:
        return self._loop

    def is_serving(self) -> bool:
        return self._machine.listeners.get(self.port) is self._listener

    async def start_serving(self) -> None:
        pass

    async def serve_forever(self) -> None:
        self._serving = self._loop.create_future()
        try:
            await self._serving
        finally:
            self.close()

    def close(self) -> None:
        if self.is_serving():
            del self._machine.listeners[self.port]
        if self._serving is not None and not self._serving.done():
            self._serving.cancel()

    async def wait_closed(self) -> None:
        pass


class SimSocket(socket.socket):
    """A socket without a descriptor: enough for libraries that make one and let the loop connect it."""

    def __init__(self, family: int = socket.AF_INET, type: int = socket.SOCK_STREAM, proto: int = 0, fileno: int | None = None) -> None:  # noqa: A002
        if fileno is not None:
            raise Escape("a real socket inside a simulation")
        self._family, self._type, self._proto = family, type, proto
        self.name: tuple[str, int] = ("0.0.0.0", 0)
        self.peer: tuple[str, int] | None = None

    family = property(lambda self: self._family)
    type = property(lambda self: self._type)
    proto = property(lambda self: self._proto)

    def setblocking(self, flag: bool) -> None: ...
    def setsockopt(self, *args: Any) -> None: ...  # type: ignore[override]
    def settimeout(self, value: float | None) -> None: ...
    def close(self) -> None: ...
    def __del__(self) -> None: ...

    def gettimeout(self) -> float | None:
        return 0.0

    def getsockopt(self, *args: Any) -> int:  # type: ignore[override]
        return 0

    def bind(self, address: Any) -> None:
        self.name = (address[0], address[1])

    def getsockname(self) -> tuple[str, int]:
        return self.name

    def getpeername(self) -> tuple[str, int]:
        if self.peer is None:
            raise OSError(errno.ENOTCONN, "not connected")
        return self.peer

    def _blocking(self, *args: Any) -> Any:
        raise Escape("a blocking socket call inside a simulation: use asyncio's streams or loop.sock_connect")

    connect = connect_ex = send = sendall = recv = recv_into = accept = listen = sendto = recvfrom = makefile = _blocking


class Network:
    """All machines by name and address, the paths between them and the link effects on those."""

    def __init__(self, loop: SimLoop, topology: Topology, places: Iterable[Place], seed: int) -> None:
        self.loop, self.topology = loop, topology
        self.random = Random(f"{seed}/network")
        self.version = 0
        self.effects: list[Effect] = []
        self.machines: dict[str, Machine] = {}
        self.by_address: dict[str, Machine] = {}
        nics: dict[str, Nic] = {}
        for index, place in enumerate(places, 1):
            address = f"10.{index >> 16}.{index >> 8 & 255}.{index & 255}"
            nic = nics.setdefault(place.host, Nic(topology.nic_rate))
            self.machines[place.node] = self.by_address[address] = Machine(place, address, nic, loop, seed)
        self._paths: dict[tuple[Machine, Machine], Path] = {}

    # -- names -----------------------------------------------------------------------------------------------

    def here(self) -> Machine:
        """The machine that the running code is on; raises Escape in the test itself, which is on none."""
        process = CURRENT.get()
        if process is None:
            raise Escape("the test itself is on no simulated host: use cluster.client for what talks to the cluster")
        if not process.alive:
            raise OSError(errno.ENETDOWN, f"{process.node} is down")
        return process.machine

    def resolve(self, host: Any) -> Machine:
        """The machine of a node name or an address; raises socket.gaierror when there is none."""
        host = host.decode() if isinstance(host, bytes) else host
        if host in (None, "", "localhost", "0.0.0.0", "::", "::1") or str(host).startswith("127."):
            return self.here()
        machine = self.machines.get(host) or self.by_address.get(host)
        if machine is None:
            raise socket.gaierror(socket.EAI_NONAME, f"no simulated node is called {host!r}")
        return machine

    def getaddrinfo(self, host: Any, port: Any) -> list[tuple[Any, ...]]:
        if host in (None, "", "0.0.0.0"):
            address = "0.0.0.0"
        else:
            address = self.resolve(host).address
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, int(port or 0)))]

    def name_of(self, address: str) -> str:
        return self.resolve(address).name

    def path(self, source: Machine, target: Machine) -> Path:
        """The path from one machine to another, with the effects of this moment."""
        path = self._paths.get((source, target))
        if path is None:
            base_s = self.topology.latency_s(source.place, target.place)
            path = self._paths[source, target] = Path(source, target, base_s, self.topology.jitter)
        if path.version != self.version:
            path.update(self.effects, self.version)
        return path

    # -- effects ---------------------------------------------------------------------------------------------

    def add(self, effect: Effect) -> None:
        self.effects.append(effect)
        self.version += 1

    def remove(self, effect: Effect) -> None:
        if effect in self.effects:
            self.effects.remove(effect)
            self.version += 1

    def departure(self, path: Path, size: int) -> float:
        """Seconds from now until the last byte of a message has crossed a path, the receiver's card not counted.

        Advances the sender's card and the rate limits on the way.
        """
        now = self.loop.now
        at = now
        if not path.local:
            nic = path.source.nic
            if nic.tx_free > at:
                at = nic.tx_free
            at += size * nic.cost_s
            nic.tx_free = at
        random = self.random.random
        delay = path.base_s + path.jitter_s * random()
        if path.effects:
            for effect, bucket in path.buckets:
                effect.hits += 1
                at = bucket.free = max(at, bucket.free) + size * bucket.cost_s
            for effect in path.effects:
                arguments = effect.arguments
                if arguments["latency_s"] or arguments["jitter_s"]:
                    effect.hits += 1
                    delay += arguments["latency_s"] + arguments["jitter_s"] * random()
        return at - now + delay

    def chance(self, path: Path, name: str) -> Effect | None:
        """The first effect of a kind (`loss`, `reset` …) on the path that comes to pass for this message, counted."""
        for effect in path.effects:
            probability = effect.arguments[name]
            if probability and self.random.random() < probability:
                effect.hits += 1
                return effect
        return None

    # -- streams ---------------------------------------------------------------------------------------------

    async def connect(self, factory: Any, host: Any, port: Any, *, sock: Any = None, ssl: Any = None, local_addr: Any = None,
                      **_: Any) -> tuple[StreamTransport, Any]:  # fmt: skip
        if ssl:
            raise Escape("TLS is not simulated: connect without ssl")
        if sock is not None:
            host, port = sock.getpeername()
        source, target = self.here(), self.resolve(host)
        transport = await self._handshake(source, target, int(port))
        protocol = factory()
        transport.set_protocol(protocol)
        protocol.connection_made(transport)
        transport.begin()
        return transport, protocol

    async def sock_connect(self, sock: SimSocket, address: tuple[str, int]) -> None:
        """Check that the peer answers; the connection itself is made by `create_connection(sock=…)`."""
        target = self.resolve(address[0])
        await self._handshake(self.here(), target, address[1], probe=True)
        sock.peer = (target.address, address[1])

    async def _handshake(self, source: Machine, target: Machine, port: int, probe: bool = False) -> StreamTransport:
        for attempt in range(SYN_RETRIES + 1):
            out, back = self.path(source, target), self.path(target, source)
            if hit(out.rejects):
                raise self._refused(target, port)
            lost = hit(out.drops) or self.chance(out, "loss")
            if not lost:
                await asyncio.sleep(self.departure(out, 0))
                back = self.path(target, source)
                lost = not target.powered or hit(back.drops) or self.chance(back, "loss")
            if not lost:
                if hit(back.rejects):
                    raise self._refused(target, port)
                listener = target.listeners.get(port)
                wait_s = self.departure(back, 0)
                if listener is None or probe:
                    await asyncio.sleep(wait_s)
                    if listener is None:
                        raise self._refused(target, port)
                    return StreamTransport(self, None, source, (target.address, port), source.free_port())
                client = self._establish(listener, source, target, port)
                try:
                    await asyncio.sleep(wait_s)
                except asyncio.CancelledError:
                    client.abort()
                    raise
                return client
            await asyncio.sleep(2.0**attempt)
        raise TimeoutError(errno.ETIMEDOUT, f"connection to {target.name}:{port} timed out")

    def _refused(self, target: Machine, port: int) -> ConnectionRefusedError:
        return ConnectionRefusedError(errno.ECONNREFUSED, f"connection to {target.name}:{port} was refused")

    def _establish(self, listener: Listener, source: Machine, target: Machine, port: int) -> StreamTransport:
        local = source.free_port()
        client = StreamTransport(self, source.process, source, (target.address, port), local)
        server = StreamTransport(self, listener.process, target, (source.address, local), port)
        client.join(server)
        client.context = copy_context()
        server.context = listener.context.copy()
        server.accept(listener.factory)
        return client

    async def listen(self, factory: Any, host: Any, port: Any, *, ssl: Any = None, sock: Any = None, **_: Any) -> SimServer:
        if ssl:
            raise Escape("TLS is not simulated: listen without ssl")
        if sock is not None:
            host, port = sock.getsockname()
        machine = self.here()
        number = int(port or 0) or machine.free_port()
        if number in machine.listeners:
            raise OSError(errno.EADDRINUSE, f"port {number} of {machine.name} is in use")
        listener = machine.listeners[number] = Listener(machine.process, factory)
        return SimServer(self.loop, machine, number, listener)

    # -- datagrams -------------------------------------------------------------------------------------------

    async def datagram_endpoint(self, factory: Any, local: Any, remote: Any) -> tuple[DatagramTransport, Any]:
        machine = self.here()
        port = (local[1] if local else 0) or machine.free_port()
        if port in machine.datagrams:
            raise OSError(errno.EADDRINUSE, f"datagram port {port} of {machine.name} is in use")
        assert machine.process is not None
        protocol = factory()
        peer = None if remote is None else (self.resolve(remote[0]).address, int(remote[1]))
        transport = DatagramTransport(self, machine.process, port, protocol, peer)
        machine.datagrams[port] = transport
        protocol.connection_made(transport)
        return transport, protocol
