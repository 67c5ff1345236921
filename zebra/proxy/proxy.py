"""The proxy: listeners, the connections that they accept, and datagram ports.

It knows nodes by name only. `name_of` says whose address a peer has, `source_address` gives the one from which a
connection on behalf of a node is made, `toxics_of` the toxics of an ordered pair; after these changed, call `refresh`.
All decisions about a connection come from a seed, the pair, and the number of the connection between the two.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections import Counter
from collections.abc import Callable, Iterator
from random import Random
from typing import Any

from zebra.proxy.link import Chunk, Link, Then
from zebra.proxy.toxics import HOLD, Toxic

Pair = tuple[str, str]
Address = tuple[str, int]
ToxicsOf = Callable[[str, str], tuple[Toxic, ...]]

GREETING = b"\0"
"""What a greeting listener says once the connection goes through: an accepted one may else mean nothing."""

BIND_ADDRESS_NO_PORT = getattr(socket, "IP_BIND_ADDRESS_NO_PORT", 24)
_LINGER = struct.pack("ii", 1, 0)


def bind_source(sock: socket.socket, host: str) -> None:
    """Let a socket connect from an address, with a port that is free for its peer."""
    sock.setsockopt(socket.IPPROTO_IP, BIND_ADDRESS_NO_PORT, 1)
    sock.bind((host, 0))


def reset(transport: asyncio.Transport | None) -> None:
    """Close a connection so that its peer sees a reset."""
    if transport is None:
        return
    sock = transport.get_extra_info("socket")
    try:
        if sock is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER)
    except OSError:  # closed meanwhile
        pass
    transport.abort()


class _End(asyncio.Protocol):
    """One of the two sockets of a connection: what it reads goes into `out`, and `into` writes to it."""

    def __init__(self, proxy: Proxy) -> None:
        self.proxy = proxy
        self.transport: asyncio.Transport | None = None
        self.out: Link | None = None
        self.into: Link | None = None
        self.over = self.ended = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.proxy.ends.add(self)
        transport.set_write_buffer_limits(high=256 * 1024)
        sock = transport.get_extra_info("socket")
        if sock is not None:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def data_received(self, data: bytes) -> None:
        if self.out is not None:
            self.out.arrive("data", data)

    def eof_received(self) -> bool:
        if self.out is not None and not self.ended:
            self.ended = True
            self.out.arrive("end")
        return True

    def connection_lost(self, error: Exception | None) -> None:
        self.proxy.ends.discard(self)
        if error is not None and not self.over and self.out is not None:
            self.out.arrive("break")

    def pause_writing(self) -> None:
        if self.into is not None:
            self.into.ready = False

    def resume_writing(self) -> None:
        if self.into is not None:
            self.into.ready = True
            self.into.pump()

    def hold_back(self, held: bool) -> None:
        """Stop reading, or go on."""
        if self.transport is not None and not self.transport.is_closing():
            (self.transport.pause_reading if held else self.transport.resume_reading)()

    def take(self, chunk: Chunk) -> None:
        """Write what came through."""
        if self.transport is None or self.transport.is_closing():
            return
        if chunk.data:
            self.transport.write(chunk.data)
        if chunk.kind == "end":
            try:
                self.transport.write_eof()
            except OSError:  # reset meanwhile: `connection_lost` is on its way
                pass


class Connection:
    """An accepted connection and the one that it stands for. `records` are the decisions that ended it, if any."""

    def __init__(self, proxy: Proxy, listener: Listener, client: _End, source: str, number: int) -> None:
        self._proxy, self._listener = proxy, listener
        self.source, self.target, self.number = source, listener.target, number
        self._client, self._server = client, _End(proxy)
        self._ended = {"end": 0}
        self.over = False
        loop = proxy.loop
        seed = f"{proxy.seed}/{source}>{self.target}:{listener.port}/{number}"
        self.forward = Link(loop, source, self.target, Random(f"{seed}/out"), self._forward, self.end, client.hold_back)
        self.backward = Link(loop, self.target, source, Random(f"{seed}/back"), self._backward, self.end,
                             self._server.hold_back)  # fmt: skip
        client.out, client.into = self.forward, self.backward
        self._server.out, self._server.into = self.backward, self.forward
        self.forward.ready = False
        self.refresh()
        self.forward.arrive("open")

    def refresh(self) -> None:
        """Take the toxics that are on now."""
        self.forward.change(self._proxy.toxics_of(self.source, self.target))
        if not self.over:
            self.backward.change(self._proxy.toxics_of(self.target, self.source))

    def _forward(self, chunk: Chunk) -> None:
        if chunk.kind == "open":
            if not chunk.then:
                self._proxy.spawn(self._connect())
        elif chunk.kind == "break":
            self.end("reset")
        else:
            self._server.take(chunk)
            self._half(chunk)

    def _backward(self, chunk: Chunk) -> None:
        if chunk.kind == "accept":
            if not chunk.then:
                self._accepted()
        elif chunk.kind in ("break", "refuse"):
            self.end("reset")
        else:
            self._client.take(chunk)
            self._half(chunk)

    def _half(self, chunk: Chunk) -> None:
        if chunk.kind == "end":
            self._ended["end"] += 1
            if self._ended["end"] == 2:
                self.end("close")

    async def _connect(self) -> None:
        host, port = self._listener.upstream
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        sock.setblocking(False)
        try:
            source = self._proxy.source_address(self.source)
            if source:
                bind_source(sock, source)
            await self._proxy.loop.sock_connect(sock, (host, port))
            if self.over:
                raise ConnectionError("the client has gone")
            await self._proxy.loop.create_connection(lambda: self._server, sock=sock)
        except OSError:
            sock.close()
            if not self.over:
                self.backward.arrive("refuse")
            return
        if self.over:
            reset(self._server.transport)
        else:
            self.backward.arrive("accept")

    def _accepted(self) -> None:
        transport = self._client.transport
        if self._listener.greets and transport is not None and not transport.is_closing():
            transport.write(GREETING)
        self.forward.ready = True
        self.forward.pump()

    def end(self, how: Then) -> None:
        """Close both sockets, or reset them."""
        if self.over:
            return
        self.over = True
        self._proxy.connections.pop(self, None)
        for link in (self.forward, self.backward):
            link.drop()
        for end in (self._client, self._server):
            end.over = True
            if how == "close" and end.transport is not None:
                end.transport.close()
            else:
                reset(end.transport)


class Listener:
    """A port where the proxy stands in for `target`. With `source` set all who connect are that node."""

    def __init__(self, address: Address, target: str, upstream: Address, greets: bool, source: str) -> None:
        self.address, self.target, self.upstream, self.greets, self.source = address, target, upstream, greets, source
        self.port = address[1]
        self.server: asyncio.Server | None = None

    def close(self) -> None:
        """Refuse new connections; those that are on go on."""
        if self.server is not None:
            self.server.close()
            self.server = None


class _Port(asyncio.DatagramProtocol):
    """A node's datagram port: what comes to it from others, under the toxics of the pair."""

    def __init__(self, proxy: Proxy, node: str, upstream: Address) -> None:
        self._proxy, self.node, self.upstream = proxy, node, upstream
        self.transport: Any = None

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, address: Any) -> None:
        proxy = self._proxy
        source = proxy.name_of(address[0])
        random, now, delays = proxy.datagram_random, proxy.loop.time(), [0.0]
        for toxic in proxy.toxics_of(source, self.node):
            delays = toxic.copies(delays, len(data), random, now)
        for delay in delays:
            if delay >= HOLD:
                continue
            if delay > 0:
                proxy.loop.call_later(delay, self._deliver, source, address[1], data)
            else:
                self._deliver(source, address[1], data)

    def _deliver(self, source: str, port: int, data: bytes) -> None:
        """Send on from the sender's own public port, so that the receiver can answer."""
        sender = self._proxy.ports.get((source, port))
        transport = None if sender is None else sender.transport
        if transport is not None and not transport.is_closing():
            transport.sendto(data, self.upstream)


class Proxy:
    """All listeners, connections and datagram ports of one run."""

    def __init__(self, loop: asyncio.AbstractEventLoop, seed: int, toxics_of: ToxicsOf, name_of: Callable[[str], str],
                 source_address: Callable[[str], str] = lambda name: "") -> None:  # fmt: skip
        self.loop, self.seed = loop, seed
        self.toxics_of, self.name_of, self.source_address = toxics_of, name_of, source_address
        self.connections: dict[Connection, None] = {}
        self.ends: set[_End] = set()
        self.ports: dict[tuple[str, int], _Port] = {}
        self.datagram_random = Random(f"{seed}/datagrams")
        self._numbers: Counter[tuple[str, str, int]] = Counter()
        self._tasks: set[asyncio.Task[None]] = set()

    async def listen(self, address: Address, target: str, upstream: Address, *, greets: bool = False,
                     source: str = "") -> Listener:  # fmt: skip
        """Stand in for a node's port at `address`; raises OSError when that is taken."""
        listener = Listener(address, target, upstream, greets, source)
        listener.server = await self.loop.create_server(lambda: _Client(self, listener), *address, backlog=1024)
        return listener

    async def relay(self, address: Address, node: str, upstream: Address) -> None:
        """Stand in for a node's datagram port at `address`; raises OSError when that is taken."""
        await self.loop.create_datagram_endpoint(lambda: self._port(address, node, upstream), local_addr=address)

    def _port(self, address: Address, node: str, upstream: Address) -> _Port:
        self.ports[node, address[1]] = port = _Port(self, node, upstream)
        return port

    def unrelay(self, node: str, port: int) -> None:
        """Give up a datagram port."""
        found = self.ports.pop((node, port), None)
        if found is not None and found.transport is not None:
            found.transport.close()

    def accept(self, listener: Listener, client: _End) -> None:
        """Begin a connection."""
        assert client.transport is not None
        peer = client.transport.get_extra_info("peername")
        source = listener.source or (self.name_of(peer[0]) if peer else "")
        key = (source, listener.target, listener.port)
        self._numbers[key] += 1
        connection = Connection(self, listener, client, source, self._numbers[key])
        if not connection.over:
            self.connections[connection] = None

    def refresh(self) -> None:
        """Let every connection take the toxics that are on now."""
        for connection in list(self.connections):
            connection.refresh()

    def of(self, *nodes: str) -> Iterator[Connection]:
        """The connections that begin or end at a node."""
        return (c for c in list(self.connections) if c.source in nodes or c.target in nodes)

    def spawn(self, work: Any) -> None:
        """Do something beside."""
        task = self.loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def close(self) -> None:
        """Reset every connection and give up every port; listeners are their owners'."""
        for task in self._tasks:
            task.cancel()
        for connection in list(self.connections):
            connection.end("reset")
        for end in list(self.ends):
            reset(end.transport)
        for node, port in list(self.ports):
            self.unrelay(node, port)


class _Client(_End):
    """The accepted side."""

    def __init__(self, proxy: Proxy, listener: Listener) -> None:
        super().__init__(proxy)
        self._listener = listener

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.proxy.accept(self._listener, self)
