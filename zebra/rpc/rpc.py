"""The calls and handlers of one node: a connection to each peer, made on the first call, and datagrams."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from zebra.node import Node
from zebra.rpc.connection import Connection, Reply, Stream
from zebra.rpc.wire import (
    CALL,
    CANCEL,
    CAST,
    HELLO,
    Caller,
    Message,
    R,
    Request,
    RpcTimeout,
    Unreachable,
    Wire,
)


class _Datagrams(asyncio.DatagramProtocol):
    def __init__(self, rpc: Rpc) -> None:
        self._rpc = rpc

    def datagram_received(self, data: bytes, addr: Any) -> None:
        try:
            frame = self._rpc.wire.unpack(memoryview(data)[8:], [])
        except (msgspec.DecodeError, IndexError):
            return
        handler = self._rpc.casts.get(type(frame.body))
        if handler is not None:
            handler(frame.body, Caller(frame.text, frame.inc))


class Rpc:
    """One node's calls and handlers on a wire."""

    def __init__(self, node: Node[Any], wire: Wire) -> None:
        self.node, self.wire, self.sites = node, wire, node.sites
        self.loop = asyncio.get_running_loop()
        self.handlers: dict[type, Callable[[Any, Caller], Any]] = {}
        self.casts: dict[type, Callable[[Any, Caller], None]] = {}
        self.connections: dict[Connection, None] = {}
        self._outgoing: dict[str, Connection | asyncio.Future[Connection]] = {}
        self.requests = 0  # sent so far
        self._server: asyncio.AbstractServer | None = None
        self._datagrams: Any = None

    async def serve(self, handlers: Mapping[Any, Callable[[Any, Caller], Any]],
                    casts: Mapping[Any, Callable[[Any, Caller], None]] | None = None) -> None:  # fmt: skip
        """Answer requests, and take casts, from now on."""
        self.handlers = dict(handlers)
        self._server = await self.loop.create_server(lambda: Connection(self), None, self.wire.port)
        if casts:
            self.casts = dict(casts)
            await self._open_datagrams()

    async def _open_datagrams(self) -> None:
        self._datagrams, _ = await self.loop.create_datagram_endpoint(
            lambda: _Datagrams(self), local_addr=("0.0.0.0", self.wire.port)
        )

    async def call(self, to: str, request: Request[R], timeout_s: float) -> R:
        """The answer of a node. Raises Unreachable, RpcTimeout, an error that the wire declares, or RemoteError."""
        loop, timeout_left_s = self.loop, timeout_s
        deadline_s = loop.time() + timeout_s
        connection: Any = self._outgoing.get(to)
        if type(connection) is not Connection:
            connection = await self._connect(to, timeout_s)
            timeout_left_s = deadline_s - loop.time()
        future: asyncio.Future[R] = loop.create_future()
        number = self.requests = self.requests + 1
        reply = connection.pending[number] = Reply(future, deadline_s, timeout_s, request, connection.heard)
        if deadline_s < connection._look_s:
            connection.watch(deadline_s)
        try:
            connection.send(CALL, number, request, timeout_left_s)
            return await future
        except RpcTimeout:
            if connection.heard == reply.heard:
                self.retire(connection)
            raise
        finally:
            if connection.pending.pop(number, None) is not None:
                connection.send(CANCEL, number)
            if connection.retired:
                self.retire(connection)

    def retire(self, connection: Connection) -> None:
        """Nothing at all came on a connection: calls that wait on it may go on, the next one tries a new connection."""
        connection.retired = True
        if self._outgoing.get(connection.caller.name) is connection:
            del self._outgoing[connection.caller.name]
        if not connection.pending and connection.open:
            connection.transport.abort()

    async def stream(self, to: str, request: Request[R], timeout_s: float) -> Stream[R]:
        """Ask for a stream of answers; `timeout_s` bounds the connecting. Raises Unreachable or RpcTimeout."""
        found = self._outgoing.get(to)
        connection = found if isinstance(found, Connection) else await self._connect(to, timeout_s)
        number = self.requests = self.requests + 1
        stream: Stream[R] = Stream(connection, number)
        connection.pending[number] = stream
        connection.send(CALL, number, request)
        return stream

    def cast(self, to: str, message: Message) -> None:
        """Send a message that may be lost, doubled or overtaken, and is not answered; needs `serve(casts=…)` here."""
        if self._datagrams is None:
            raise RuntimeError("casts need serve(..., casts={...}) first")
        data, _ = self.wire.pack(CAST, 0, message, 0.0, self.node.name, self.node.incarnation)
        self._datagrams.sendto(data, (to, self.wire.port))

    async def _connect(self, to: str, timeout_s: float) -> Connection:
        found = self._outgoing.get(to)
        if isinstance(found, Connection):
            return found
        if found is None:
            found = self._outgoing[to] = self.loop.create_future()
            task = self.loop.create_task(self._dial(to, found))
            found.add_done_callback(lambda _: task)
        done, _ = await asyncio.wait([found], timeout=timeout_s)
        if not done:
            raise RpcTimeout(f"{to}: no connection in {timeout_s:g} s")
        connection = found.result()
        if not connection.open:
            raise Unreachable(f"{to}: connection lost as soon as it was made")
        return connection

    async def _dial(self, to: str, made: asyncio.Future[Connection]) -> None:
        try:
            async with asyncio.timeout(10.0):
                _, connection = await self.loop.create_connection(lambda: Connection(self, to), to, self.wire.port)
        except (OSError, TimeoutError) as error:
            del self._outgoing[to]
            made.set_exception(Unreachable(f"{to}: {error or 'no connection in 10 s'}"))
            made.exception()
            return
        self._outgoing[to] = connection
        connection.send(HELLO, 0, None, 0.0, self.node.name, self.node.incarnation)
        made.set_result(connection)

    def forget(self, connection: Connection) -> None:
        """A connection has ended; the next call to its peer makes a new one."""
        self.connections.pop(connection, None)
        if self._outgoing.get(connection.caller.name) is connection:
            del self._outgoing[connection.caller.name]

    async def close(self) -> None:
        """Stop serving and close every connection."""
        if self._server is not None:
            self._server.close()
        if self._datagrams is not None:
            self._datagrams.close()
        for connection in list(self.connections):
            connection.transport.close()
