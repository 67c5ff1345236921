"""Simulated streams: both ends of a connection, and what happens to bytes in between."""

from __future__ import annotations

import asyncio
import errno
from collections import deque
from collections.abc import Callable
from contextvars import Context
from typing import TYPE_CHECKING, Any

from zebra.substrate.sim.loop import Handle

if TYPE_CHECKING:
    from zebra.blob import Blob
    from zebra.substrate.sim.machine import Machine, Process
    from zebra.substrate.sim.network import Network

HIGH_WATER = 64 * 1024
"""Bytes sent but not yet read by the peer's protocol at which the sender is asked to pause."""

RTO_S, RTO_MAX_S = 0.2, 120.0
"""The first and the longest retransmission time-out (Linux)."""

GIVE_UP_S = 924.0
"""A connection whose data is not acknowledged for so long is dropped (Linux's tcp_retries2 = 15)."""

BULK_BYTES = 16 * 1024
"""Messages at least this long also queue at the receiver's network card; shorter ones slip between them."""

_EOF = object()


class StreamTransport(asyncio.Transport):
    """One end of a connection. `write_blob` sends a Blob as one message that costs its length on the network."""

    def __init__(self, network: Network, process: Process | None, machine: Machine, peer: tuple[str, int], port: int) -> None:
        super().__init__()
        self._network, self._loop, self._process, self._machine = network, network.loop, process, machine
        self._names = (peer, (machine.address, port))
        self.context: Context | None = None
        self.protocol: Any = None
        self._other: StreamTransport | None = None
        self._dead = self._lost = self._eof_sent = self._closing = self._broken = False
        self._begun, self._reading = False, True
        self._received: deque[tuple[Any, int]] = deque()
        self._in_flight = self._unread = 0
        self._paused_writing = False
        self._high, self._low = HIGH_WATER, HIGH_WATER // 4
        self._last_s = 0.0
        self._stalled: deque[tuple[Any, int]] = deque()
        self._uncredited = self._unacked = 0
        self._rto_s, self._stall_began_s = 0.0, 0.0
        self._bulk = 0
        self._behind: deque[tuple[Any, int]] = deque()
        if process is not None:
            process.transports[self] = None

    def join(self, other: StreamTransport) -> None:
        self._other, other._other = other, self

    def accept(self, factory: Callable[[], Any]) -> None:
        """Let the listening process make a protocol for this end, as soon as it runs."""
        process = self._process
        if process is not None and process.paused and self.context is not None:
            process.arrive(Handle(self.context.run, self._accepted, factory))
        else:
            self._loop.call_soon(self._accepted, factory, context=self.context)

    def _accepted(self, factory: Callable[[], Any]) -> None:
        if self._dead or self._lost:
            return
        self.protocol = factory()
        self.protocol.connection_made(self)
        self.begin()

    def begin(self) -> None:
        """The protocol is connected: hand it what has arrived meanwhile."""
        self._begun = True
        self._flush()

    # -- what asyncio asks -----------------------------------------------------------------------------------

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        if name == "peername":
            return self._names[0]
        if name == "sockname":
            return self._names[1]
        if name == "socket":
            from zebra.substrate.sim.network import SimSocket

            sock = SimSocket()
            sock.peer, sock.name = self._names
            return sock
        return default

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self.protocol = protocol

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self.protocol  # type: ignore[no-any-return]

    def is_closing(self) -> bool:
        return self._closing or self._lost or self._dead

    def is_reading(self) -> bool:
        return self._reading and not self.is_closing()

    def pause_reading(self) -> None:
        self._reading = False

    def resume_reading(self) -> None:
        if not self._reading:
            self._reading = True
            self._loop.call_soon(self._flush, context=self.context)

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._high = HIGH_WATER if high is None else high
        self._low = self._high // 4 if low is None else low

    def get_write_buffer_size(self) -> int:
        return self._in_flight

    def get_write_buffer_limits(self) -> tuple[int, int]:
        return self._low, self._high

    def can_write_eof(self) -> bool:
        return True

    def write(self, data: Any) -> None:
        if data:
            self._send(bytes(data), len(data))

    def writelines(self, list_of_data: Any) -> None:
        self.write(b"".join(list_of_data))

    def write_blob(self, blob: Blob) -> None:
        """Send a blob: the peer's protocol gets it whole by `blob_received`."""
        self._send(blob, len(blob))

    def write_eof(self) -> None:
        if not self._eof_sent and not self.is_closing():
            self._eof_sent = True
            self._push(_EOF, 0)

    def close(self) -> None:
        if self.is_closing():
            return
        if not self._eof_sent:
            self._eof_sent = True
            self._push(_EOF, 0)
        self._closing = True
        self._received.clear()
        self._loop.call_soon(self._lose, None, context=self.context)

    def abort(self) -> None:
        """Close at once and let the peer see a reset."""
        if not self._lost and not self._dead:
            self._reset_other()
            self._closing = True
            self._loop.call_soon(self._lose, None, context=self.context)

    # -- sending ---------------------------------------------------------------------------------------------

    def _send(self, payload: Any, size: int) -> None:
        if self._dead or self._lost or self._closing or self._eof_sent:
            if self._eof_sent and not self.is_closing():
                raise RuntimeError("cannot write after write_eof()")
            return
        self._in_flight += size
        self._push(payload, size)
        if self._in_flight > self._high and not self._paused_writing:
            self._paused_writing = True
            self.protocol.pause_writing()

    def _push(self, payload: Any, size: int) -> None:
        network, other = self._network, self._other
        assert other is not None
        path = network.path(self._machine, other._machine)
        if self._stalled:
            self._stalled.append((payload, size))
            return
        delay_s = 0.0
        if path.effects:
            if path.rejects:
                for effect in path.rejects:
                    effect.hits += 1
                self._fail(ConnectionResetError(errno.ECONNRESET, "connection reset: the path rejects"))
                return
            if path.drops:
                for effect in path.drops:
                    effect.hits += 1
                self._stall((payload, size))
                return
            if network.chance(path, "reset"):
                self._reset_other()
                self._fail(ConnectionResetError(errno.ECONNRESET, "connection reset by peer"))
                return
            rto_s = RTO_S
            while network.chance(path, "loss") and rto_s < RTO_MAX_S:
                delay_s += rto_s
                rto_s *= 2
        if not other._machine.powered:
            self._stall((payload, size))
            return
        at = self._loop.now + delay_s + network.departure(path, size)
        if at < self._last_s:
            at = self._last_s
        self._last_s = at
        self._unacked += 1
        self._loop.call_at(at, other._arrive, payload, size, context=other.context)

    def _fail(self, error: OSError) -> None:
        """The connection is broken on this side."""
        self._broken = True
        if not self._lost and not self._closing:
            self._closing = True
            self._loop.call_soon(self._lose, error, context=self.context)

    def _reset_other(self) -> None:
        """Send a reset; it travels like data, and is not sent again when lost."""
        network, other = self._network, self._other
        if other is None or other._dead:
            return
        path = network.path(self._machine, other._machine)
        if not path.drops and not path.rejects:
            error = ConnectionResetError(errno.ECONNRESET, "connection reset by peer")
            at = max(self._last_s, self._loop.now + network.departure(path, 0))
            self._loop.call_at(at, other._was_reset, error, context=other.context)

    def _was_reset(self, error: OSError) -> None:
        if self._process is not None and self._process.paused and self.context is not None:
            self._process.arrive(Handle(self.context.run, self._was_reset, error))
        else:
            self._broken = self._closing = True
            self._lose(error)

    # -- retransmission --------------------------------------------------------------------------------------

    def _stall(self, item: tuple[Any, int]) -> None:
        """The path or the peer does not answer: keep the message, and try again as TCP does."""
        self._stalled.append(item)
        self._wait()

    def _wait(self) -> None:
        if self._rto_s == 0.0:
            self._rto_s, self._stall_began_s = RTO_S, self._loop.now
            self._loop.call_later(self._rto_s, self._retry, context=self.context)

    def _retry(self) -> None:
        other, network = self._other, self._network
        assert other is not None
        if self._dead or self._broken:
            return
        out, back = network.path(self._machine, other._machine), network.path(other._machine, self._machine)
        silent = [*out.drops, *(back.drops if self._uncredited else ())]
        for effect in silent:
            effect.hits += 1
        if silent or not other._machine.powered:
            if self._loop.now - self._stall_began_s > GIVE_UP_S:
                self._fail(TimeoutError(errno.ETIMEDOUT, "connection timed out"))  # type: ignore[arg-type]
                return
            self._rto_s = min(self._rto_s * 2, RTO_MAX_S)
            self._loop.call_later(self._rto_s, self._retry, context=self.context)
            return
        self._rto_s = 0.0
        if other._dead or out.rejects:
            for effect in out.rejects:
                effect.hits += 1
            self._fail(ConnectionResetError(errno.ECONNRESET, "connection reset by peer"))
            return
        size, self._uncredited = self._uncredited, 0
        self._credit(size)
        stalled, self._stalled = self._stalled, deque()
        for payload, length in stalled:
            self._push(payload, length)

    # -- receiving -------------------------------------------------------------------------------------------

    def _arrive(self, payload: Any, size: int) -> None:
        other = self._other
        assert other is not None
        process = self._process
        if process is not None and process.paused and self.context is not None:
            process.arrive(Handle(self.context.run, self._arrive, payload, size))
            return
        other._unacked -= 1
        if self._bulk:
            self._behind.append((payload, size))
        elif size >= BULK_BYTES and self._queue_at_card(size):
            self._behind.append((payload, size))
            self._bulk += 1
        else:
            self._receive(payload, size)

    def _queue_at_card(self, size: int) -> bool:
        """Whether a long message has to wait for this host's network card; books its time there."""
        nic, now = self._machine.nic, self._loop.now
        assert self._other is not None
        if nic is self._other._machine.nic:
            return False
        free = max(nic.rx_free, now - size * nic.cost_s) + size * nic.cost_s
        nic.rx_free = free
        if free <= now:
            return False
        self._loop.call_at(free, self._card_done, context=self.context)
        return True

    def _card_done(self) -> None:
        self._bulk = 0
        while self._behind:
            payload, size = self._behind.popleft()
            self._receive(payload, size)
            if self._behind and self._behind[0][1] >= BULK_BYTES and self._queue_at_card(self._behind[0][1]):
                self._bulk = 1
                return

    def _receive(self, payload: Any, size: int) -> None:
        if self._lost or self._dead or self._closing:
            if payload is not _EOF and self._other is not None:
                self._reset_other()
            return
        self._received.append((payload, size))
        if self._begun and self._reading:
            self._flush()

    def _flush(self) -> None:
        received = self._received
        while received and self._reading and self._begun and not self._dead:
            payload, size = received.popleft()
            if payload is _EOF:
                if not self.protocol.eof_received():
                    self.close()
                continue
            if type(payload) is bytes:
                self.protocol.data_received(payload)
            else:
                self.protocol.blob_received(payload)
            self._acknowledge(size)

    def _acknowledge(self, size: int) -> None:
        other = self._other
        assert other is not None
        path = self._network.path(self._machine, other._machine)
        if path.drops:
            other._uncredited += size
            other._wait()
        else:
            other._credit(size)

    def _credit(self, size: int) -> None:
        self._in_flight -= size
        if self._paused_writing and self._in_flight <= self._low and not self._dead:
            self._paused_writing = False
            if not self.is_closing():
                self._loop.call_soon(self.protocol.resume_writing, context=self.context)

    # -- the end ---------------------------------------------------------------------------------------------

    def _lose(self, error: BaseException | None) -> None:
        if self._lost or self._dead:
            return
        self._lost = True
        if self._process is not None:
            self._process.transports.pop(self, None)
        if self.protocol is not None:
            self.protocol.connection_lost(error)

    def cut(self, silent: bool) -> None:
        """The process is gone: no callback runs here any more. Its kernel says goodbye unless the power failed."""
        if self._dead:
            return
        other = self._other
        if not silent and not self._eof_sent and not self._broken:
            self._push(_EOF, 0)
        self._dead = True
        if other is not None and not other._dead and (other._in_flight or other._unacked):
            other._unacked = 0
            other._wait()
