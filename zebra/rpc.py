"""Typed calls between nodes: msgspec structs over one multiplexed connection per pair, and casts over datagrams.

A message is a frozen struct derived from `Message`; one that is answered derives from `Request[Answer]`:

    class Get(Request["Value"], tag="get"):
        key: str
    class Value(Message, tag="value"):
        text: str
    WIRE = Wire(Get, Value, port=7000)

    rpc = Rpc(node, WIRE)
    await rpc.serve({Get: lambda get, caller: Value(text="…")})
    value = await rpc.call("store-1", Get(key="k"), timeout_s=1.0)

A handler is a function, a coroutine function, or an async generator function (then the caller uses `stream`).
"""

from __future__ import annotations

import asyncio
import inspect
from collections import deque
from collections.abc import Callable, Mapping
from math import inf
from struct import Struct as Packing
from typing import Any, Generic, NamedTuple, TypeVar, Union

import msgspec

from zebra.blob import Blob
from zebra.errors import ZebraError
from zebra.node import Node
from zebra.waiter import Waiter

R = TypeVar("R")
_PREFIX, _LENGTH = Packing(">II"), Packing(">Q")
_ONE = (1).to_bytes(4, "big")
_CALL, _REPLY, _ITEM, _END, _ERROR, _CANCEL, _HELLO, _CAST = range(8)
FRAME_BYTES_MAX, BLOBS_MAX = 64 * 2**20, 1024
"""Bounds of one frame, blobs not counted; a peer that goes beyond them is cut off."""


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """What nodes say to each other. Give each its own `tag`."""


class Request(Message, Generic[R], frozen=True, kw_only=True):
    """A message that is answered by an `R`, or by several in a stream."""


class RpcError(ZebraError):
    """A call did not succeed."""


class Unreachable(RpcError):
    """The connection could not be made, or broke. The request may or may not have been carried out."""


class RpcTimeout(RpcError):
    """No answer in time. The request may or may not have been carried out."""


class RemoteError(RpcError):
    """The handler raised something that the wire does not declare; the message begins with its type's name."""


class Caller(NamedTuple):
    """Who sent a request: the node's name and which of its incarnations."""

    name: str
    incarnation: int


class Wire:
    """The whole vocabulary of a protocol: its messages, the errors that handlers may raise, and its port."""

    def __init__(self, *messages: type[Message], port: int, errors: tuple[type[RpcError], ...] = ()) -> None:
        self.port, self.errors = port, {error.__name__: error for error in errors}
        body: Any = Union[(*messages, None)]
        fields: list[Any] = [
            ("kind", int),
            ("id", int),
            ("body", body, None),
            ("deadline_s", float, 0.0),
            ("text", str, ""),
            ("inc", int, 0),
        ]
        self.frame: Any = msgspec.defstruct("Frame", fields, array_like=True, frozen=True)
        self._sent: list[Blob] = []
        self._got: deque[Blob] = deque()
        self._encode = msgspec.msgpack.Encoder(enc_hook=self._blob_out).encode
        self._decode = msgspec.msgpack.Decoder(self.frame, dec_hook=self._blob_in).decode

    def _blob_out(self, value: Any) -> int:
        if not isinstance(value, Blob):
            raise TypeError(f"{type(value).__name__} cannot be sent")
        self._sent.append(value)
        return len(value)

    def _blob_in(self, kind: type, value: Any) -> Blob:
        return self._got.popleft()

    def pack(self, *frame: Any) -> tuple[bytes, list[Blob]]:
        """A frame as bytes, and the blobs that follow it."""
        try:
            data = self._encode(self.frame(*frame))
        except BaseException:
            self._sent.clear()
            raise
        if not self._sent:
            return _PREFIX.pack(len(data), 0) + data, self._sent
        blobs, self._sent = self._sent, []
        lengths = b"".join(_LENGTH.pack(len(blob)) for blob in blobs)
        return _PREFIX.pack(len(data), len(blobs)) + lengths + data, blobs

    def unpack(self, data: Any, blobs: list[Blob]) -> Any:
        """The frame of some bytes; raises msgspec.DecodeError or IndexError when they are not one."""
        if not blobs:
            return self._decode(data)
        self._got.extend(blobs)
        try:
            return self._decode(data)
        finally:
            self._got.clear()


class _Connection(asyncio.Protocol):
    """Frames over one stream, either way."""

    __slots__ = ("_blobs", "_buffer", "_clear", "_head", "_look_s", "_timer", "_wanted", "_whole_blobs", "caller",
                 "heard", "open", "pending", "retired", "rpc", "serving", "transport")  # fmt: skip

    def __init__(self, rpc: Rpc, peer: str = "") -> None:
        self.rpc, self.caller = rpc, Caller(peer, 0)
        self.transport: Any = None
        self.pending: dict[int, Any] = {}
        self.serving: dict[int, asyncio.Future[Any]] = {}
        self.heard = 0
        self._wanted = 0
        self._buffer: bytes | bytearray = b""
        self._whole_blobs = False
        self._head: tuple[bytes, list[int]] | None = None
        self._blobs: list[Blob] = []
        self._clear: asyncio.Future[None] | None = None
        self.open = self.retired = False
        self._look_s = inf
        self._timer: asyncio.TimerHandle | None = None  # it looks for late calls

    # -- asyncio ---------------------------------------------------------------------------------------------

    def connection_made(self, transport: Any) -> None:
        self.transport, self.open = transport, True
        self._whole_blobs = hasattr(transport, "write_blob")
        self.rpc.connections[self] = None

    def connection_lost(self, error: Exception | None) -> None:
        self.open = False
        self.rpc.forget(self)
        if self._timer is not None:
            self._timer.cancel()
        for waiting in list(self.pending.values()):
            waiting.fail(Unreachable(f"{self.caller.name}: connection lost ({error or 'closed'})"))
        self.pending.clear()
        for task in self.serving.values():
            task.cancel()
        self.resume_writing()

    def pause_writing(self) -> None:
        self._clear = self.rpc.loop.create_future()

    def resume_writing(self) -> None:
        if self._clear is not None and not self._clear.done():
            self._clear.set_result(None)
        self._clear = None

    async def drain(self) -> None:
        """Wait until there is room to write."""
        if self._clear is not None:
            await asyncio.shield(self._clear)  # one future for all who wait: a cancelled one must not cancel the others

    def data_received(self, data: bytes) -> None:
        self.heard += 1
        buffer: Any = data
        if not self._buffer and self._head is None and len(data) >= 8:
            size, count = _PREFIX.unpack_from(data)
            if not count and len(data) == 8 + size:  # the usual case: one whole frame, no blobs
                self._frame(data[8:], [])
                return
        if self._buffer:
            self._buffer += data
            if len(self._buffer) < self._wanted:
                return
            buffer, self._buffer = bytes(self._buffer), b""
        at = self._frames(buffer)
        if at < len(buffer) and self.open:
            self._buffer = bytearray(buffer[at:] if at else buffer)

    def _frames(self, buffer: bytes) -> int:
        """Take all whole frames and blobs at the beginning; how many bytes those were. Sets `_wanted` for the rest."""
        at, end = 0, len(buffer)
        while self.open:
            if self._head is None:
                if end - at < 8:
                    self._wanted = 8
                    break
                size, count = _PREFIX.unpack_from(buffer, at)
                if size > FRAME_BYTES_MAX or count > BLOBS_MAX:
                    self._garbage()
                    break
                start = at + 8 + 8 * count
                if end < start + size:
                    self._wanted = start + size - at
                    break
                payload = buffer[start : start + size]
                if count:
                    self._head = payload, [_LENGTH.unpack_from(buffer, at + 8 + 8 * index)[0] for index in range(count)]
                else:
                    self._frame(payload, [])
                at = start + size
            else:
                wanted = self._head[1][len(self._blobs)]
                if end - at < wanted or self._whole_blobs:
                    self._wanted = wanted
                    break
                self._blob(Blob.of(buffer[at : at + wanted]))
                at += wanted
        return at

    def blob_received(self, blob: Blob, before: bytes = b"") -> None:
        """A whole blob and the bytes before it, from a transport that carries blobs as such."""
        self.heard += 1
        if self._head is None and not self._buffer and before[4:8] == _ONE:
            self._frame(before[16:], [blob])  # the usual case: one whole frame and its one blob
            return
        if before:
            self.data_received(before)
        if self.open:
            self._blob(blob)

    def eof_received(self) -> bool:
        return False

    def _blob(self, blob: Blob) -> None:
        assert self._head is not None
        self._blobs.append(blob)
        payload, lengths = self._head
        if len(self._blobs) == len(lengths):
            blobs, self._blobs, self._head = self._blobs, [], None
            self._frame(payload, blobs)

    def _garbage(self) -> None:
        self.open = False
        self.transport.abort()

    # -- frames ----------------------------------------------------------------------------------------------

    def send(self, *frame: Any) -> None:
        if not self.open:
            return
        data, blobs = self.rpc.wire.pack(*frame)
        transport = self.transport
        if not blobs:
            transport.write(data)
        elif self._whole_blobs:
            for blob in blobs:
                transport.write_blob(blob, data)
                data = b""
        else:
            transport.write(data)
            for blob in blobs:
                transport.write(bytes(blob))

    def _frame(self, payload: Any, blobs: list[Blob]) -> None:
        try:
            frame = self.rpc.wire.unpack(payload, blobs)
        except (msgspec.DecodeError, IndexError):
            return self._garbage()
        kind = frame.kind
        if kind == _CALL:
            self._serve(frame)
        elif kind == _HELLO:
            self.caller = Caller(frame.text, frame.inc)
        elif kind == _CANCEL:
            task = self.serving.get(frame.id)
            if task is not None:
                task.cancel()
        elif kind == _ITEM:
            waiting = self.pending.get(frame.id)
            if waiting is not None:
                waiting.item(frame.body)
        else:
            waiting = self.pending.pop(frame.id, None)
            if waiting is None:
                return
            if kind == _REPLY:
                waiting.done(frame.body)
            else:
                waiting.fail(None if kind == _END else self._error(frame.text))

    # -- deadlines -------------------------------------------------------------------------------------------

    def watch(self, deadline_s: float) -> None:
        """Look at the calls that wait here again at a time; one timer serves them all."""
        if deadline_s < self._look_s:
            if self._timer is not None:
                self._timer.cancel()
            self._look_s = deadline_s
            self._timer = self.rpc.loop.call_at(deadline_s, self._look)

    def _look(self) -> None:
        now, soonest = self.rpc.loop.time() + 1e-6, inf
        self._look_s, self._timer = inf, None
        for waiting in list(self.pending.values()):
            if waiting.deadline_s <= now:
                waiting.late(self.caller.name)
            elif waiting.deadline_s < soonest:
                soonest = waiting.deadline_s
        if soonest < inf:
            self.watch(soonest)

    def _error(self, text: str) -> RpcError:
        name, _, message = text.partition(": ")
        kind = self.rpc.wire.errors.get(name)
        return RemoteError(f"{self.caller.name}: {text}") if kind is None else kind(message)

    def _serve(self, frame: Any) -> None:
        handler = self.rpc.handlers.get(type(frame.body))
        if handler is None:
            self.send(_ERROR, frame.id, None, 0.0, f"RemoteError: {type(frame.body).__name__} is not served here")
            return
        try:
            result = handler(frame.body, self.caller)
        except Exception as error:
            self._answer_error(frame.id, error)
            return
        if isinstance(result, Message) or result is None:
            self.send(_REPLY, frame.id, result)
            return
        number = frame.id
        task: asyncio.Future[Any]
        if inspect.isasyncgen(result):
            task = self.rpc.loop.create_task(self._stream(number, result))
            task.add_done_callback(lambda _: self.serving.pop(number, None))
        else:
            task = asyncio.ensure_future(result, loop=self.rpc.loop)
            task.add_done_callback(lambda done: self._replied(number, done))
        self.serving[number] = task
        if frame.deadline_s:
            handle = self.rpc.loop.call_later(frame.deadline_s, task.cancel)
            task.add_done_callback(lambda _: handle.cancel())

    def _replied(self, number: int, done: asyncio.Future[Any]) -> None:
        """A handler has ended. It is a task of its own: wrapped in another, it would not be awaited when cancelled."""
        self.serving.pop(number, None)
        if done.cancelled():
            return
        error = done.exception()
        if error is None:
            self.send(_REPLY, number, done.result())
        elif isinstance(error, Exception):
            self._answer_error(number, error)

    async def _stream(self, number: int, items: Any) -> None:
        try:
            async for item in items:
                self.send(_ITEM, number, item)
                if self._clear is not None:
                    await self.drain()
            self.send(_END, number)
        except Exception as error:
            self._answer_error(number, error)
        finally:
            await items.aclose()

    def _answer_error(self, number: int, error: Exception) -> None:
        self.send(_ERROR, number, None, 0.0, f"{type(error).__name__}: {error}")


class _Reply:
    """A call that waits for its one answer; `heard` is what its connection had heard when it was made."""

    __slots__ = ("deadline_s", "future", "heard", "request", "timeout_s")

    def __init__(
        self, future: asyncio.Future[Any], deadline_s: float, timeout_s: float, request: Any, heard: int
    ) -> None:
        self.future, self.deadline_s, self.timeout_s, self.request, self.heard = (
            future,
            deadline_s,
            timeout_s,
            request,
            heard,
        )

    def done(self, body: Any) -> None:
        if not self.future.done():
            self.future.set_result(body)

    def fail(self, error: RpcError | None) -> None:
        if not self.future.done():
            self.future.set_exception(error or RemoteError("the answer was a stream: use `stream`"))

    def item(self, body: Any) -> None:
        self.fail(None)

    def late(self, peer: str) -> None:
        self.fail(RpcTimeout(f"{peer}: no answer to {type(self.request).__name__} in {self.timeout_s:g} s"))


class Stream(Generic[R]):
    """The answers to one request, received one by one; leave its `async with` to cancel the rest."""

    deadline_s = inf

    def __init__(self, connection: _Connection, number: int) -> None:
        self._connection, self._number = connection, number
        self._items: deque[Any] = deque()
        self._ended = False
        self._error: RpcError | None = None
        self._waiter = Waiter(connection.rpc.loop)

    async def receive(self, timeout_s: float) -> R | None:
        """The next message, or None at the end. Raises RpcTimeout after `timeout_s` of silence, or what ended it."""
        if not self._items and not self._ended:
            await self._waiter.wait(timeout_s)
            if not self._items and not self._ended:
                raise RpcTimeout(f"{self._connection.caller.name}: silent for {timeout_s:g} s")
        if self._items:
            return self._items.popleft()  # type: ignore[no-any-return]
        if self._error is not None:
            raise self._error
        return None

    def item(self, body: Any) -> None:
        self._items.append(body)
        self._waiter.wake()

    def done(self, body: Any) -> None:
        self.item(body)
        self.fail(None)

    def fail(self, error: RpcError | None) -> None:
        self._ended, self._error = True, error
        self._waiter.wake()

    async def __aenter__(self) -> Stream[R]:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._waiter.close()
        if self._connection.pending.pop(self._number, None) is not None:
            self._connection.send(_CANCEL, self._number)
        if self._connection.retired:
            self._connection.rpc.retire(self._connection)


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
        self.node, self.wire = node, wire
        self.loop = asyncio.get_running_loop()
        self.handlers: dict[type, Callable[[Any, Caller], Any]] = {}
        self.casts: dict[type, Callable[[Any, Caller], None]] = {}
        self.connections: dict[_Connection, None] = {}
        self._outgoing: dict[str, _Connection | asyncio.Future[_Connection]] = {}
        self.requests = 0  # sent so far
        self._server: asyncio.AbstractServer | None = None
        self._datagrams: Any = None

    async def serve(self, handlers: Mapping[Any, Callable[[Any, Caller], Any]],
                    casts: Mapping[Any, Callable[[Any, Caller], None]] | None = None) -> None:  # fmt: skip
        """Answer requests, and take casts, from now on."""
        self.handlers = dict(handlers)
        self._server = await self.loop.create_server(lambda: _Connection(self), None, self.wire.port)
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
        if type(connection) is not _Connection:
            connection = await self._connect(to, timeout_s)
            timeout_left_s = deadline_s - loop.time()
        future: asyncio.Future[R] = loop.create_future()
        number = self.requests = self.requests + 1
        reply = connection.pending[number] = _Reply(future, deadline_s, timeout_s, request, connection.heard)
        if deadline_s < connection._look_s:
            connection.watch(deadline_s)
        try:
            connection.send(_CALL, number, request, timeout_left_s)
            return await future
        except RpcTimeout:
            if connection.heard == reply.heard:
                self.retire(connection)
            raise
        finally:
            if connection.pending.pop(number, None) is not None:
                connection.send(_CANCEL, number)
            if connection.retired:
                self.retire(connection)

    def retire(self, connection: _Connection) -> None:
        """Nothing at all came on a connection: calls that wait on it may go on, the next one tries a new connection."""
        connection.retired = True
        if self._outgoing.get(connection.caller.name) is connection:
            del self._outgoing[connection.caller.name]
        if not connection.pending and connection.open:
            connection.transport.abort()

    async def stream(self, to: str, request: Request[R], timeout_s: float) -> Stream[R]:
        """Ask for a stream of answers; `timeout_s` bounds the connecting. Raises Unreachable or RpcTimeout."""
        found = self._outgoing.get(to)
        connection = found if isinstance(found, _Connection) else await self._connect(to, timeout_s)
        number = self.requests = self.requests + 1
        stream: Stream[R] = Stream(connection, number)
        connection.pending[number] = stream
        connection.send(_CALL, number, request)
        return stream

    def cast(self, to: str, message: Message) -> None:
        """Send a message that may be lost, doubled or overtaken, and is not answered; needs `serve(casts=…)` here."""
        if self._datagrams is None:
            raise RuntimeError("casts need serve(..., casts={...}) first")
        data, _ = self.wire.pack(_CAST, 0, message, 0.0, self.node.name, self.node.incarnation)
        self._datagrams.sendto(data, (to, self.wire.port))

    async def _connect(self, to: str, timeout_s: float) -> _Connection:
        found = self._outgoing.get(to)
        if isinstance(found, _Connection):
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

    async def _dial(self, to: str, made: asyncio.Future[_Connection]) -> None:
        try:
            async with asyncio.timeout(10.0):
                _, connection = await self.loop.create_connection(lambda: _Connection(self, to), to, self.wire.port)
        except (OSError, TimeoutError) as error:
            del self._outgoing[to]
            made.set_exception(Unreachable(f"{to}: {error or 'no connection in 10 s'}"))
            made.exception()
            return
        self._outgoing[to] = connection
        connection.send(_HELLO, 0, None, 0.0, self.node.name, self.node.incarnation)
        made.set_result(connection)

    def forget(self, connection: _Connection) -> None:
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
