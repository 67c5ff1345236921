"""The proxy: listeners, the connections that they accept, and datagram ports.

It knows nodes by name only. `name_of` says whose address a peer has, `source_address` gives the one from which a
connection on behalf of a node is made, `toxics_of` the toxics of an ordered pair; after these changed, call `refresh`.
All decisions about a connection come from a seed, the pair, and the number of the connection between the two; those
about datagrams from the seed and the pair. `decided` is told of each that was left to chance and bit. Connections go by
`route`, where there is one, instead of straight to the target.
"""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import socket
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from random import Random
from typing import Any

from zebra.proxy.ends import End, Pipe
from zebra.proxy.link import Chunk, Link, Then
from zebra.proxy.port import Port
from zebra.proxy.toxics import Decided, Toxic, Way

Pair = tuple[str, str]
Address = tuple[str, int]
Passed = tuple[int, int, int, int]
"""Bytes received from clients, sent upstream, received from upstream, sent to clients."""

ToxicsOf = Callable[[str, str], tuple[Toxic, ...]]

Route = Callable[[str, str, Address], Awaitable[Address]]
"""From a source, a target and its address to the address by which the one is to reach the other; raises OSError."""

GREETING = b"\0"
"""What a greeting listener says once the connection goes through: an accepted one may else mean nothing."""

BIND_ADDRESS_NO_PORT = getattr(socket, "IP_BIND_ADDRESS_NO_PORT", 24)
BACKLOG = 1024
ACCEPTS = 64
"""So many connections are accepted before others have their turn."""


def bind_source(sock: socket.socket, host: str) -> None:
    """Let a socket connect from an address, with a port that is free for its peer."""
    sock.setsockopt(socket.IPPROTO_IP, BIND_ADDRESS_NO_PORT, 1)
    sock.bind((host, 0))


def add_passed(one: Passed, two: Passed) -> Passed:
    return one[0] + two[0], one[1] + two[1], one[2] + two[2], one[3] + two[3]


def is_address(host: str) -> bool:
    """Whether it is numbers, not a name."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def listening(address: Address) -> socket.socket:
    """A socket that listens at an address; raises OSError."""
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        sock.bind(address)
        sock.listen(BACKLOG)
    except BaseException:
        sock.close()
        raise
    return sock


class Connection:
    """An accepted connection and the one that it stands for."""

    def __init__(self, proxy: Proxy, listener: Listener, sock: socket.socket, source: str, number: int) -> None:
        self._proxy, self._listener = proxy, listener
        self.source, self.target, self.number = source, listener.target, number
        self._ended = 0
        self.over = False
        name = f"{source}>{self.target}:{listener.label}/{number}"
        self.forward = self._link(source, self.target, f"{name}/out", self._forward, self._hold_client)
        self.backward = self._link(self.target, source, f"{name}/back", self._backward, self._hold_server)
        self._client = End(proxy, sock, self.forward, self.backward)
        self._server: End | None = None
        self._connecting: socket.socket | None = None
        self.forward.ready = False
        self.refresh()
        self._client.hold_back(False)
        self.forward.arrive("open")

    def _link(self, source: str, target: str, name: str, deliver: Callable[[Chunk], None],
              hold_back: Callable[[bool], None]) -> Link:  # fmt: skip
        proxy = self._proxy
        return Link(proxy.loop, source, target, name, proxy.random(name), proxy.decided, deliver, self.end, hold_back)

    def refresh(self) -> None:
        """Take the toxics that are on now."""
        self.forward.change(self._proxy.toxics_of(self.source, self.target))
        if not self.over:
            self.backward.change(self._proxy.toxics_of(self.target, self.source))

    @property
    def passed(self) -> Passed:
        return self.forward.received, self.forward.sent, self.backward.received, self.backward.sent

    def renew(self, toxic: Toxic) -> None:
        """Take the new settings of a toxic."""
        for link in (self.forward, self.backward):
            if not self.over:
                link.renew(toxic)

    def _hold_client(self, held: bool) -> None:
        self._client.hold_back(held)

    def _hold_server(self, held: bool) -> None:
        if self._server is not None:
            self._server.hold_back(held)

    def _forward(self, chunk: Chunk) -> None:
        if chunk.kind == "open":
            if not chunk.then:
                self._connect()
        elif chunk.kind == "break":
            self.end("reset")
        elif self._server is not None:
            self._server.take(chunk)
            self._half(chunk)

    def _backward(self, chunk: Chunk) -> None:
        if chunk.kind == "accept":
            if not chunk.then:
                self._accepted()
        elif chunk.kind in ("break", "refuse"):
            self.end("reset" if chunk.kind == "break" else self._listener.refusal)
        else:
            self._client.take(chunk)
            self._half(chunk)

    def _half(self, chunk: Chunk) -> None:
        if chunk.kind == "end":
            self._ended += 1
            if self._ended == 2:
                self.end("close")

    def _connect(self) -> None:
        host, port = self._listener.upstream
        if self._proxy.route is not None:
            self._proxy.spawn(self._by_way(self._proxy.route))
        elif is_address(host):
            self._connect_to(host, port)
        else:
            self._proxy.spawn(self._resolve(host, port))

    async def _by_way(self, route: Route) -> None:
        try:
            host, port = await route(self.source, self.target, self._listener.upstream)
        except OSError:
            self._refused(errno.EHOSTUNREACH)
            return
        self._connect_to(host, port)

    async def _resolve(self, host: str, port: int) -> None:
        try:
            found = await self._proxy.loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except OSError:
            self._refused(errno.EHOSTUNREACH)
            return
        first = min(found, key=lambda each: each[0] != socket.AF_INET)
        self._connect_to(str(first[4][0]), port)

    def _connect_to(self, host: str, port: int) -> None:
        if self.over:
            return
        sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
        sock.setblocking(False)
        try:
            source = self._proxy.source_address(self.source)
            if source:
                bind_source(sock, source)
            error = sock.connect_ex((host, port))
            if error == errno.EINPROGRESS:  # on this host it is done already, which asking again tells
                error = sock.connect_ex((host, port))
        except (OSError, OverflowError) as trouble:
            error = getattr(trouble, "errno", None) or errno.EINVAL
        if error in (errno.EINPROGRESS, errno.EALREADY):
            self._connecting = sock
            self._proxy.loop.add_writer(sock.fileno(), self._connected)
        elif error:
            sock.close()
            self._refused(error)
        else:
            self._open(sock)

    def _connected(self) -> None:
        sock = self._connecting
        assert sock is not None
        self._connecting = None
        self._proxy.loop.remove_writer(sock.fileno())
        error = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if error:
            sock.close()
            self._refused(error)
        else:
            self._open(sock)

    def _refused(self, error: int) -> None:
        """Nobody took the connection, or somebody did and reset it before we looked."""
        if not self.over:
            self.backward.arrive("break" if error == errno.ECONNRESET else "refuse")

    def _open(self, sock: socket.socket) -> None:
        """The upstream has taken the connection."""
        self._server = End(self._proxy, sock, self.backward, self.forward)
        self._server.peer, self._client.peer = self._client, self._server
        self.backward.arrive("accept")
        if not self.over:
            self._server.hold_back(False)

    def _accepted(self) -> None:
        if self._listener.greets:
            self._client.write(GREETING)
        if not self.over:
            self.forward.ready = True
            self.forward.pump()

    def end(self, how: Then) -> None:
        """Close both sockets, or reset them."""
        if self.over:
            return
        self.over = True
        self._proxy.over(self)
        for link in (self.forward, self.backward):
            link.drop()
        if self._connecting is not None:
            self._proxy.loop.remove_writer(self._connecting.fileno())
            self._connecting.close()
        for end in (self._client, self._server):
            if end is not None:
                (end.close if how == "close" else end.reset)()


class Listener:
    """A port where the proxy stands in for `target`. With `source` set all who connect are that node.

    `refusal` is what a client meets whom the upstream does not take. `label` stands for the port in the seeds of its
    connections.
    """

    def __init__(self, proxy: Proxy, sock: socket.socket, target: str, upstream: Address, *, greets: bool = False,
                 source: str = "", refusal: Then = "reset", label: str = "") -> None:  # fmt: skip
        self._proxy, self._sock = proxy, sock
        self.address: Address = sock.getsockname()[:2]
        self.target, self.upstream, self.greets, self.source = target, upstream, greets, source
        self.refusal, self.label = refusal, label or str(self.address[1])
        self.closed = False
        sock.setblocking(False)
        proxy.loop.add_reader(sock.fileno(), self._accept)

    def _accept(self) -> None:
        for _ in range(ACCEPTS):
            try:
                sock, peer = self._sock.accept()
            except OSError:  # no more of them, or one that has gone meanwhile
                return
            sock.setblocking(False)
            self._proxy.accept(self, sock, peer[0])
            if self.closed:
                return

    def close(self) -> None:
        """Refuse new connections; those that are on go on."""
        if not self.closed:
            self.closed = True
            self._proxy.loop.remove_reader(self._sock.fileno())
            self._sock.close()


class Proxy:
    """All listeners, connections and datagram ports of one run."""

    def __init__(self, loop: asyncio.AbstractEventLoop, seed: int | str, toxics_of: ToxicsOf,
                 name_of: Callable[[str], str], source_address: Callable[[str], str] = lambda name: "",
                 decided: Decided = lambda *_: None) -> None:  # fmt: skip
        self.loop, self.seed, self.decided = loop, seed, decided
        self.toxics_of, self.name_of, self.source_address = toxics_of, name_of, source_address
        self.route: Route | None = None
        self.connections: dict[Connection, None] = {}
        self.ends: set[End] = set()
        self.pipes: list[Pipe] = []
        self._passed = (0, 0, 0, 0)
        self.ports: dict[tuple[str, int], Port] = {}
        self._ways: dict[Pair, Way] = {}
        self._numbers: Counter[tuple[str, str, str]] = Counter()
        self._tasks: set[asyncio.Task[None]] = set()

    async def listen(self, address: Address, target: str, upstream: Address, *, greets: bool = False,
                     source: str = "") -> Listener:  # fmt: skip
        """Stand in for a node's port at `address`; raises OSError when that is taken."""
        return Listener(self, listening(address), target, upstream, greets=greets, source=source)

    async def relay(self, address: Address, node: str, upstream: Address) -> None:
        """Stand in for a node's datagram port at `address`; raises OSError when that is taken."""
        await self.loop.create_datagram_endpoint(lambda: self._port(address, node, upstream), local_addr=address)

    def _port(self, address: Address, node: str, upstream: Address) -> Port:
        self.ports[node, address[1]] = port = Port(self, node, upstream)
        return port

    def random(self, what: str) -> Random:
        """The randomness of one way."""
        return Random(f"{self.seed}/{what}")

    def way(self, source: str, target: str) -> Way:
        """The way of all datagrams from one node to another."""
        way = self._ways.get((source, target))
        if way is None:
            random = self.random(f"{source}>{target}/datagrams")
            way = self._ways[source, target] = Way(source, target, random, self.decided)
        return way

    def unrelay(self, node: str, port: int) -> None:
        """Give up a datagram port."""
        found = self.ports.pop((node, port), None)
        if found is not None and found.transport is not None:
            found.transport.close()

    def accept(self, listener: Listener, sock: socket.socket, address: str) -> None:
        """Begin a connection."""
        source = listener.source or self.name_of(address)
        key = (source, listener.target, listener.label)
        self._numbers[key] += 1
        try:
            connection = Connection(self, listener, sock, source, self._numbers[key])
        except OSError:  # it has gone already
            sock.close()
            return
        if not connection.over:
            self.connections[connection] = None

    def pipe(self) -> Pipe | None:
        """A pipe that nobody uses; None when there are no more files to be had."""
        try:
            return self.pipes.pop() if self.pipes else Pipe()
        except OSError:
            return None

    def refresh(self) -> None:
        """Let every connection take the toxics that are on now."""
        for connection in list(self.connections):
            connection.refresh()

    def renew(self, toxic: Toxic) -> None:
        """Let every connection take the new settings of a toxic."""
        for connection in list(self.connections):
            connection.renew(toxic)

    def over(self, connection: Connection) -> None:
        """A connection has ended."""
        self.connections.pop(connection, None)
        self._passed = add_passed(self._passed, connection.passed)

    @property
    def passed(self) -> Passed:
        """All that has ever passed."""
        total = self._passed
        for connection in self.connections:
            total = add_passed(total, connection.passed)
        return total

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
            end.reset()
        for pipe in self.pipes:
            pipe.close()
        self.pipes.clear()
        for node, port in list(self.ports):
            self.unrelay(node, port)
