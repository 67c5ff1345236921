"""A connection between two nodes: frames either way, the calls that wait for their answers, the requests served."""

from __future__ import annotations

import asyncio
import inspect
from collections import deque
from math import inf
from typing import TYPE_CHECKING, Any, Generic

import msgspec

from zebra.blob import Blob
from zebra.rpc.wire import (
    BLOBS_MAX,
    CALL,
    CANCEL,
    END,
    ERROR,
    FRAME_BYTES_MAX,
    HELLO,
    ITEM,
    LENGTH,
    ONE,
    PREFIX,
    REPLY,
    Caller,
    Message,
    R,
    RemoteError,
    RpcError,
    RpcTimeout,
    Unreachable,
)
from zebra.sites import NO_ANSWER
from zebra.waiter import Waiter

if TYPE_CHECKING:
    from zebra.rpc.rpc import Rpc


class Connection(asyncio.Protocol):
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
            size, count = PREFIX.unpack_from(data)
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
                size, count = PREFIX.unpack_from(buffer, at)
                if size > FRAME_BYTES_MAX or count > BLOBS_MAX:
                    self._garbage()
                    break
                start = at + 8 + 8 * count
                if end < start + size:
                    self._wanted = start + size - at
                    break
                payload = buffer[start : start + size]
                if count:
                    self._head = payload, [LENGTH.unpack_from(buffer, at + 8 + 8 * index)[0] for index in range(count)]
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
        if self._head is None and not self._buffer and before[4:8] == ONE:
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
        if kind == CALL:
            self._serve(frame)
        elif kind == HELLO:
            self.caller = Caller(frame.text, frame.inc)
        elif kind == CANCEL:
            task = self.serving.get(frame.id)
            if task is not None:
                task.cancel()
        elif kind == ITEM:
            waiting = self.pending.get(frame.id)
            if waiting is not None:
                waiting.item(frame.body)
        else:
            waiting = self.pending.pop(frame.id, None)
            if waiting is None:
                return
            if kind == REPLY:
                waiting.done(frame.body)
            else:
                waiting.fail(None if kind == END else self._error(frame.text))

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
            self.send(ERROR, frame.id, None, 0.0, f"RemoteError: {type(frame.body).__name__} is not served here")
            return
        sites = self.rpc.sites
        if sites is not None and sites.active():
            handler = sites.around(type(frame.body).__name__, handler)
        try:
            result = handler(frame.body, self.caller)
        except Exception as error:
            self._answer_error(frame.id, error)
            return
        if isinstance(result, Message) or result is None:
            self.send(REPLY, frame.id, result)
            return
        number = frame.id
        task: asyncio.Future[Any]
        if inspect.isasyncgen(result):
            task = self._send_stream(number, result)
        else:
            task = self.serving[number] = asyncio.ensure_future(result, loop=self.rpc.loop)
            task.add_done_callback(lambda done: self._replied(number, done))
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
            answer = done.result()
            if isinstance(answer, Message) or answer is None:
                self.send(REPLY, number, answer)
            elif inspect.isasyncgen(answer):  # of a handler that faults were at
                self._send_stream(number, answer)
            elif answer is not NO_ANSWER:
                self._answer_error(number, TypeError(f"{type(answer).__name__} is no message"))
        elif isinstance(error, Exception):
            self._answer_error(number, error)

    def _send_stream(self, number: int, items: Any) -> asyncio.Future[Any]:
        task = self.serving[number] = self.rpc.loop.create_task(self._stream(number, items))
        task.add_done_callback(lambda _: self.serving.pop(number, None))
        return task

    async def _stream(self, number: int, items: Any) -> None:
        try:
            async for item in items:
                self.send(ITEM, number, item)
                if self._clear is not None:
                    await self.drain()
            self.send(END, number)
        except Exception as error:
            self._answer_error(number, error)
        finally:
            await items.aclose()

    def _answer_error(self, number: int, error: Exception) -> None:
        self.send(ERROR, number, None, 0.0, f"{type(error).__name__}: {error}")


class Reply:
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

    def __init__(self, connection: Connection, number: int) -> None:
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
            self._connection.send(CANCEL, self._number)
        if self._connection.retired:
            self._connection.rpc.retire(self._connection)
