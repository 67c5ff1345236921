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
import sys
from collections.abc import Callable, Iterable
from contextvars import copy_context
from random import Random
from typing import Any

from zebra.errors import Escape
from zebra.proxy.toxics import Over
from zebra.substrate import Effect
from zebra.substrate.sim.datagram import DatagramTransport
from zebra.substrate.sim.loop import CURRENT, SimLoop
from zebra.substrate.sim.machine import Machine, Nic, Process
from zebra.substrate.sim.path import Bucket, Path, hit
from zebra.substrate.sim.stream import BULK, StreamTransport
from zebra.topology import Place, Topology

SYN_RETRIES = 6
"""A connection attempt is repeated after 1, 2, 4 … s, so many times (Linux's tcp_syn_retries): it fails after 127 s."""


SERVICES = {"http": 80, "https": 443}
"""The services that the simulated resolver knows by name."""


class Listener:
    """A bound stream port of one process; `local` means that only its own host may connect."""

    def __init__(
        self, process: Process | None, server: SimServer, factory: Callable[[], asyncio.BaseProtocol], local: bool
    ) -> None:
        self.process, self.server, self.factory, self.local, self.context = (
            process,
            server,
            factory,
            local,
            copy_context(),
        )


class SimServer(asyncio.AbstractServer):
    """What `create_server` returns: the listening port of one call, and the connections that came by it."""

    def __init__(self, loop: SimLoop, machine: Machine, host: str, port: int) -> None:
        self._loop, self._machine, self.port = loop, machine, port
        self.listener: Listener | None = None
        sock = SimSocket(socket.AF_INET, socket.SOCK_STREAM)
        sock.name = (host, port)
        self.sockets: tuple[SimSocket, ...] = (sock,)
        self._serving: asyncio.Future[None] | None = None
        self._clients: dict[StreamTransport, None] = {}
        self._closed: asyncio.Future[None] | None = None

    def get_loop(self) -> asyncio.AbstractEventLoop:
        return self._loop

    def is_serving(self) -> bool:
        return self.listener is not None and self._machine.listeners.get(self.port) is self.listener

    async def start_serving(self) -> None:
        if self.listener is not None and self.sockets:
            self._machine.listeners[self.port] = self.listener

    async def serve_forever(self) -> None:
        if self._serving is not None:
            raise RuntimeError(f"server {self!r} is already being awaited on serve_forever()")
        if not self.sockets:
            raise RuntimeError(f"server {self!r} is closed")
        await self.start_serving()
        self._serving = self._loop.create_future()
        try:
            await self._serving
        finally:
            self._serving = None
            self.close()

    def close(self) -> None:
        if self.is_serving():
            del self._machine.listeners[self.port]
        self.sockets = ()
        if self._serving is not None and not self._serving.done():
            self._serving.cancel()
        self._wake()

    async def wait_closed(self) -> None:
        """Python 3.12 and later wait for the connections too; 3.11 never did."""
        if sys.version_info >= (3, 12) and (self.sockets or self._clients):
            if self._closed is None:
                self._closed = self._loop.create_future()
            await asyncio.shield(self._closed)

    def close_clients(self) -> None:
        """Close all connections that came by this server (Python 3.13)."""
        for transport in list(self._clients):
            transport.close()

    def abort_clients(self) -> None:
        """Abort all connections that came by this server (Python 3.13)."""
        for transport in list(self._clients):
            transport.abort()

    def attach(self, transport: StreamTransport) -> None:
        self._clients[transport] = None

    def detach(self, transport: StreamTransport) -> None:
        self._clients.pop(transport, None)
        self._wake()

    def cut(self) -> None:
        """Its process is gone."""
        self.sockets = ()
        self._clients.clear()

    def _wake(self) -> None:
        if self._closed is not None and not self._closed.done() and not self.sockets and not self._clients:
            self._closed.set_result(None)


_Socket = socket.socket


class SimSocket(socket.socket):
    """A socket without a descriptor: enough for libraries that make one and let the loop connect it.

    `connection` is what `sock_connect` made. `real` stands in for the class in threads that are not simulated.
    """

    real: Callable[[], bool] = staticmethod(lambda: False)

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        if cls.real():
            return _Socket(*args, **kwargs)
        return super().__new__(cls)

    def __init__(
        self, family: int = socket.AF_INET, type: int = socket.SOCK_STREAM, proto: int = 0, fileno: int | None = None
    ) -> None:
        if fileno is not None:
            raise Escape("a real socket inside a simulation")
        self._family, self._type, self._proto = family, type, proto
        self.name: tuple[str, int] = ("0.0.0.0", 0)
        self.peer: tuple[str, int] | None = None
        self.connection: StreamTransport | None = None

    family = property(lambda self: self._family)
    type = property(lambda self: self._type)
    proto = property(lambda self: self._proto)

    def setblocking(self, flag: bool) -> None: ...
    def setsockopt(self, *args: Any) -> None: ...
    def settimeout(self, value: float | None) -> None: ...
    def __del__(self) -> None: ...

    def fileno(self) -> int:
        return -1

    def close(self) -> None:
        connection, self.connection = self.connection, None
        if connection is not None:
            connection.abort()

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


_BLOCKING = ("connect", "connect_ex", "send", "sendall", "sendmsg", "recv", "recv_into", "recvfrom", "recvfrom_into",
             "sendto", "accept", "listen", "makefile")  # fmt: skip
for _name in _BLOCKING:
    setattr(SimSocket, _name, SimSocket._blocking)


class Network:
    """All machines by name and address, the paths between them and the link effects on those."""

    def __init__(self, loop: SimLoop, topology: Topology, places: Iterable[Place], seed: int) -> None:
        self.loop, self.topology = loop, topology
        self.random = Random(f"{seed}/network")
        self.draw = self.random.random
        self.decided: Callable[[Effect, str, str, str, Over, int], object] = lambda *_: None
        self.version = 0
        self.effects: list[Effect] = []
        self.lookups: list[Effect] = []
        """The effects on what the resolver says."""
        self.machines: dict[str, Machine] = {}
        self.by_address: dict[str, Machine] = {}
        nics: dict[str, Nic] = {}
        hosts: dict[str, int] = {}
        for index, place in enumerate(places, 1):
            address = f"10.{index >> 16}.{index >> 8 & 255}.{index & 255}"
            hosts[place.rack] = hosts.get(place.rack, 0) + (place.host not in nics)
            nic = nics.setdefault(place.host, Nic(topology.nic_rate))
            self.machines[place.node] = self.by_address[address] = Machine(place, address, nic, loop, seed)
        self._paths: dict[tuple[Machine, Machine], Path] = {}
        self._uplinks: dict[str, tuple[Bucket, Bucket]] = {}
        if topology.oversubscription > 1:
            rates = {rack: count * topology.nic_rate / topology.oversubscription for rack, count in hosts.items()}
            self._uplinks = {rack: (Bucket(rate), Bucket(rate)) for rack, rate in rates.items()}

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
        machine = self.machines.get(host)
        if machine is not None:
            return self._looked_up(machine) if self.lookups else machine
        machine = self.by_address.get(host)
        if machine is None:
            raise socket.gaierror(socket.EAI_NONAME, f"no simulated node is called {host!r}")
        return machine

    def _looked_up(self, machine: Machine) -> Machine:
        """What the resolver says of a node's name under the effects on lookups; raises socket.gaierror."""
        process = CURRENT.get()
        asks = "" if process is None else process.node
        for effect in self.lookups:
            if (asks, machine.name) in effect.arguments["pairs"]:
                effect.hits += 1
                if effect.arguments["fail"]:
                    raise socket.gaierror(socket.EAI_AGAIN, f"the name {machine.name!r} does not resolve at present")
                return self._left(machine)
        return machine

    def _left(self, machine: Machine) -> Machine:
        """The place that a node has moved away from: an address without power."""
        first, second, rest = machine.address.split(".", 2)
        address = f"{first}.{int(second) | 128}.{rest}"
        if address not in self.by_address:
            left = Machine(machine.place, address, machine.nic, self.loop, 0)
            left.name, left.powered = "", False  # no link effect touches it
            self.by_address[address] = left
        return self.by_address[address]

    def getaddrinfo(
        self, host: Any, port: Any, *, family: int = 0, type: int = 0, proto: int = 0, flags: int = 0
    ) -> list[tuple[Any, ...]]:
        """What the resolver says: every node has one IPv4 address. Raises socket.gaierror."""
        host = host.decode() if isinstance(host, bytes) else host
        if host in ("0.0.0.0", "127.0.0.1") or (host in (None, "") and flags & socket.AI_PASSIVE):
            address = host or "0.0.0.0"
        elif host in (None, "", "localhost"):
            address = "127.0.0.1"
        else:
            address = host if str(host).startswith("127.") else self.resolve(host).address
        if family not in (socket.AF_UNSPEC, socket.AF_INET):
            raise socket.gaierror(socket.EAI_ADDRFAMILY, f"{host!r} has only an IPv4 address")
        number = SERVICES.get(port, port) if isinstance(port, str) else port
        try:
            number = int(number or 0)
        except ValueError:
            raise socket.gaierror(socket.EAI_SERVICE, f"no service is called {port!r}") from None
        kinds = [
            (kind, code)
            for kind, code in ((socket.SOCK_STREAM, 6), (socket.SOCK_DGRAM, 17))
            if type in (0, kind) and proto in (0, code)
        ]
        return [(socket.AF_INET, kind, code, "", (address, number)) for kind, code in kinds]

    def name_of(self, address: str) -> str:
        return self.resolve(address).name

    def path(self, source: Machine, target: Machine) -> Path:
        """The path from one machine to another, with the effects of this moment."""
        path = self._paths.get((source, target))
        if path is None:
            base_s = self.topology.latency_s(source.place, target.place)
            uplinks: tuple[Bucket, ...] = ()
            if self._uplinks and source.place.rack != target.place.rack:
                uplinks = self._uplinks[source.place.rack][0], self._uplinks[target.place.rack][1]
            path = self._paths[source, target] = Path(source, target, base_s, self.topology.jitter, uplinks)
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

        Advances the sender's card and the rate limits on the way; `path.left_s` is when it has passed the last of them.
        """
        now = start = at = self.loop.now
        if not path.local:
            nic = path.source.nic
            took_s = size * nic.cost_s
            if size < BULK:
                if nic.small_free > start:
                    start = nic.small_free
                at = nic.small_free = start + took_s
                nic.tx_free = (nic.tx_free if nic.tx_free > now else now) + took_s
            else:
                if nic.tx_free > start:
                    start = nic.tx_free
                at = nic.tx_free = start + took_s
                for uplink in path.uplinks:
                    uplink.free = max(uplink.free, now) + size * uplink.cost_s
                    at = max(at, uplink.free)
        random = self.random.random
        delay = path.base_s + path.jitter_s * random()
        if path.effects:
            for effect, bucket in path.buckets:
                effect.hits += 1
                start = max(start, bucket.free)
                at = bucket.free = max(at, start + size * bucket.cost_s)
            for effect in path.effects:
                arguments = effect.arguments
                if arguments["latency_s"] or arguments["jitter_s"]:
                    effect.hits += 1
                    delay += arguments["latency_s"] + arguments["jitter_s"] * random()
        path.left_s = at
        return at - now + delay

    def chance(self, path: Path, name: str, over: Over, size: int) -> Effect | None:
        """The first effect of a kind (`loss`, `reset` …) on the path that comes to pass for this message, counted."""
        for effect in path.effects:
            probability = effect.arguments[name]
            if probability and self.random.random() < probability:
                effect.hits += 1
                self.decided(effect, path.source.name, path.target.name, name, over, size)
                return effect
        return None

    # -- streams ---------------------------------------------------------------------------------------------

    async def connect(
        self, factory: Any, host: Any, port: Any, *, sock: Any = None, ssl: Any = None, **_: Any
    ) -> tuple[StreamTransport, Any]:
        if ssl:
            raise Escape("TLS is not simulated: connect without ssl")
        if sock is not None:
            if host is not None or port is not None:
                raise ValueError("host/port and sock can not be specified at the same time")
            transport, sock.connection = sock.connection, None
            if transport is None:
                raise OSError(errno.ENOTCONN, "the socket is not connected: use loop.sock_connect first")
        else:
            if host is None and port is None:
                raise ValueError("host and port was not specified and no sock specified")
            address, number = self.getaddrinfo(host, port)[0][4]
            transport = await self._handshake(self.here(), self.resolve(address), number)
        protocol = factory()
        transport.set_protocol(protocol)
        protocol.connection_made(transport)
        transport.begin()
        return transport, protocol

    async def sock_connect(self, sock: SimSocket, address: tuple[str, int]) -> None:
        """Connect; `create_connection(sock=…)` takes the connection from the socket."""
        target = self.resolve(address[0])
        sock.connection = await self._handshake(self.here(), target, address[1])
        sock.peer, sock.name = (target.address, address[1]), sock.connection.get_extra_info("sockname")

    def _open(self, machine: Machine) -> None:
        """Before a process opens a connection or a port: raises OSError(EMFILE) when it may have no more."""
        process = machine.process
        if process is not None and process.limits and not process.has_room():
            raise OSError(errno.EMFILE, "too many open files")

    async def _handshake(self, source: Machine, target: Machine, port: int) -> StreamTransport:
        self._open(source)
        for attempt in range(SYN_RETRIES + 1):
            out = self.path(source, target)
            if hit(out.rejects + out.new_rejects):
                raise self._refused(target, port)
            if not (hit(out.drops + out.new_drops) or self.chance(out, "loss", "connect", 0)):
                await asyncio.sleep(self.departure(out, 0))
                back = self.path(target, source)
                if target.powered and not (hit(back.drops) or self.chance(back, "loss", "connect", 0)):
                    if hit(back.rejects):
                        raise self._refused(target, port)
                    return await self._answer(source, target, port, self.departure(back, 0))
            await asyncio.sleep(2.0**attempt)
        raise TimeoutError(errno.ETIMEDOUT, f"connection to {target.name}:{port} timed out")

    async def _answer(self, source: Machine, target: Machine, port: int, wait_s: float) -> StreamTransport:
        """The connection has reached the target, whose answer is on its way back."""
        listener = target.listeners.get(port)
        if listener is None or (listener.local and source is not target) or self.path(source, target).crowded():
            await asyncio.sleep(wait_s)
            raise self._refused(target, port)
        local = source.free_port()
        client = StreamTransport(self, source.process, source, (target.address, port), local, copy_context())
        server = StreamTransport(self, listener.process, target, (source.address, local), port, listener.context.copy())
        client.join(server)
        listener.server.attach(server)
        server.accept(listener.server, listener.factory)
        try:
            await asyncio.sleep(wait_s)
        except asyncio.CancelledError:
            client.abort()
            raise
        return client

    def _refused(self, target: Machine, port: int) -> ConnectionRefusedError:
        return ConnectionRefusedError(errno.ECONNREFUSED, f"connection to {target.name}:{port} was refused")

    def _bound(self, host: Any, what: str) -> tuple[Machine, bool]:
        """The machine that the code runs on, and whether `host` is its loopback; OSError for another's address."""
        machine = self.here()
        if host not in (None, "", "0.0.0.0", "::") and self.resolve(host) is not machine:
            raise OSError(
                errno.EADDRNOTAVAIL, f"{machine.name} cannot bind {what} to {host!r}: it is another node's address"
            )
        return machine, host in ("localhost", "::1") or str(host).startswith("127.")

    async def listen(self, factory: Any, host: Any, port: Any, *, ssl: Any = None, sock: Any = None,
                     start_serving: bool = True, **_: Any) -> SimServer:  # fmt: skip
        if ssl:
            raise Escape("TLS is not simulated: listen without ssl")
        if sock is not None:
            host, port = sock.getsockname()
        elif host is not None and not isinstance(host, str):
            host = next(iter(host), None)
        machine, local = self._bound(host, "a server")
        number = int(port or 0) or machine.free_port()
        if number in machine.listeners:
            raise OSError(errno.EADDRINUSE, f"port {number} of {machine.name} is in use")
        self._open(machine)
        server = SimServer(self.loop, machine, "127.0.0.1" if local else host or "0.0.0.0", number)
        server.listener = Listener(machine.process, server, factory, local)
        if start_serving:
            await server.start_serving()
        return server

    # -- datagrams -------------------------------------------------------------------------------------------

    async def datagram_endpoint(self, factory: Any, local: Any, remote: Any) -> tuple[DatagramTransport, Any]:
        machine, _ = self._bound(local[0] if local else None, "datagrams")
        port = (local[1] if local else 0) or machine.free_port()
        if port in machine.datagrams:
            raise OSError(errno.EADDRINUSE, f"datagram port {port} of {machine.name} is in use")
        self._open(machine)
        assert machine.process is not None
        protocol = factory()
        peer = None if remote is None else (self.resolve(remote[0]).address, int(remote[1]))
        transport = DatagramTransport(self, machine.process, port, protocol, peer)
        machine.datagrams[port] = transport
        protocol.connection_made(transport)
        return transport, protocol
