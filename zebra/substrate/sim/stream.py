"""One end of a simulated stream connection, with what TCP does when the path or the peer does not answer.

Bytes in flight, on the network card and not yet read by the peer are one number, `_in_flight`: up to `WINDOW` of them
are in the kernels' buffers, what is more counts as the transport's own buffer and pauses the writer. A message that is
long takes its turn on the network card in segments, so that streams share it; one that meets a dropped path or a dark
host waits for the retransmission timer, and all that was written after it waits behind it.
"""

from __future__ import annotations

import asyncio
import errno
from collections import deque
from collections.abc import Callable
from contextvars import Context
from heapq import heappush
from typing import TYPE_CHECKING, Any

from zebra.errors import Hang
from zebra.substrate.sim.loop import Handle
from zebra.substrate.sim.passage import EOF, PART, RTO_MAX_S, RTO_S, judged

if TYPE_CHECKING:
    from zebra.blob import Blob
    from zebra.substrate.sim.machine import Machine, Process
    from zebra.substrate.sim.network import Network, SimServer
    from zebra.substrate.sim.path import Path

HIGH_WATER = 64 * 1024
"""Bytes in a transport's own buffer at which its writer is asked to pause (asyncio's default)."""

WINDOW = 4 * 2**20
"""Bytes that the two kernels buffer between writer and reader (Linux's largest default send buffer)."""

PIECE = 256 * 1024
"""The most bytes that one `data_received` brings (asyncio reads so many at once); longer writes arrive in pieces."""

SEGMENT = 2**20 + 2**12
"""The most bytes that a stream puts on the network card before others have their turn: a MiB and what announces it."""

BULK = 16 * 1024
"""Messages at least this long queue for the network cards; shorter ones slip between their packets."""

ACCEPT_RETRY_S = 1.0
"""A process without a free file looks at its listening ports again after so long, as asyncio does."""

GIVE_UP_S = 924.0
"""A connection whose data is not acknowledged for so long is dropped (Linux's tcp_retries2 = 15)."""

_NOTHING: deque[tuple[Any, int]] = deque(maxlen=0)


class StreamTransport(asyncio.Transport):
    """One end of a connection. `write_blob` sends a Blob as one message that costs its length on the network.

    `_dead` means that the process is gone, `_off` that its kernel is too (the power failed), `_broken` that the
    connection was reset, `_lost` that the protocol was told.
    """

    __slots__ = (
        "_begun", "_behind", "_broken", "_closing", "_data_received", "_dead", "_eof_sent", "_high",
        "_in_flight", "_last_s", "_left_s", "_loop", "_lost", "_low", "_machine", "_marks", "_names",
        "_off", "_other", "_out", "_paused_writing", "_process", "_pumping", "_queue", "_reading",
        "_received", "_rest", "_rto_s", "_stall_began_s", "_unacked", "_uncredited", "context", "network",
        "protocol", "server",
    )  # fmt: skip

    def __init__(self, network: Network, process: Process | None, machine: Machine, peer: tuple[str, int], port: int,
                 context: Context) -> None:  # fmt: skip
        # no super().__init__(): all it makes is a dictionary for `get_extra_info`
        self.network, self._loop, self._process, self._machine = network, network.loop, process, machine
        self._names, self.context = (peer, (machine.address, port)), context
        self.protocol: Any = None
        self.server: SimServer | None = None
        self._marks: dict[int, float] | None = None
        self._data_received: Callable[[bytes], object] | None = None
        self._begun, self._reading = False, True
        self._dead = self._off = self._lost = self._eof_sent = self._closing = self._broken = self._paused_writing = (
            False
        )
        self._high, self._low = HIGH_WATER, HIGH_WATER // 4
        # Sent: in flight are messages that the peer's protocol has not read; `_queue` (None when nothing has to wait)
        # holds those that have not left yet, of the first of them `_rest` bytes are to go.
        self._in_flight = self._unacked = self._uncredited = self._rest = 0
        self._queue: deque[tuple[Any, int]] | None = None
        self._pumping = False
        self._last_s = self._left_s = self._rto_s = self._stall_began_s = 0.0
        # Received: behind the network card, and behind it in the kernel until the protocol reads.
        self._behind: deque[tuple[Any, int]] | None = None
        self._received = _NOTHING
        if process is not None:
            process.transports[self] = None

    def join(self, other: StreamTransport) -> None:
        """Make two ends one connection."""
        self._other, other._other = other, self
        self._out: Path = self.network.path(self._machine, other._machine)
        other._out = self.network.path(other._machine, self._machine)

    def accept(self, server: SimServer, factory: Callable[[], Any]) -> None:
        """Let the listening process make a protocol for this end, as soon as it runs."""
        self.server = server
        self._soon(self._accepted, factory)

    def _accepted(self, factory: Callable[[], Any]) -> None:
        if self._dead or self._lost or self._broken:
            return
        if self._process is not None and self._process.limits and not self._process.has_room():
            self._loop.call_later(ACCEPT_RETRY_S, self._soon, self._accepted, factory, context=self._loop.kernel)
            return
        self.set_protocol(factory())
        self.protocol.connection_made(self)
        self.begin()

    @property
    def begun(self) -> bool:
        return self._begun

    def begin(self) -> None:
        """The protocol is connected: hand it what has arrived meanwhile."""
        self._begun = True
        self._flush()

    def _soon(self, callback: Callable[..., object], *args: Any) -> None:
        """Call back in this end's process, when that runs."""
        process = self._process
        if process is not None and process.paused:
            process.arrive(Handle(self.context.run, callback, *args))
        else:
            self._loop.call_soon(callback, *args, context=self.context)

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
        if isinstance(protocol, asyncio.BufferedProtocol):
            self._data_received = self._fill_buffer
        else:
            self._data_received = getattr(protocol, "data_received", None)

    def _fill_buffer(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            buffer = memoryview(self.protocol.get_buffer(len(rest)))
            size = min(len(buffer), len(rest))
            if not size:
                raise RuntimeError("get_buffer() returned an empty buffer")
            buffer[:size] = rest[:size]
            self.protocol.buffer_updated(size)
            rest = rest[size:]

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
            if self._received:
                self._loop.call_soon(self._flush, context=self.context)

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        if high is None:
            high = HIGH_WATER if low is None else 4 * low
        if low is None:
            low = high // 4
        if not high >= low >= 0:
            raise ValueError(f"high ({high!r}) must be >= low ({low!r}) must be >= 0")
        self._high, self._low = high, low
        self._maybe_pause()

    def get_write_buffer_size(self) -> int:
        return max(0, self._in_flight - WINDOW)

    def get_write_buffer_limits(self) -> tuple[int, int]:
        return self._low, self._high

    def can_write_eof(self) -> bool:
        return True

    def write(self, data: Any) -> None:
        if type(data) is not bytes:
            if not isinstance(data, bytes | bytearray | memoryview):
                raise TypeError(f"data argument must be a bytes-like object, not {type(data).__name__!r}")
            data = bytes(data)
        size = len(data)
        if size > PIECE:
            for at in range(0, size, PIECE):
                self.write(data[at : at + PIECE])
        elif size:
            if self._eof_sent or self._closing or self._lost or self._dead:
                if self._eof_sent and not self.is_closing():
                    raise RuntimeError("Cannot call write() after write_eof()")
                return
            flight = self._in_flight = self._in_flight + size
            if self._queue is not None or size >= BULK:
                self._push(data, size)
            elif not self._transmit(data, size):
                self._stall(data, size)
            if flight > WINDOW:
                self._maybe_pause()

    def writelines(self, list_of_data: Any) -> None:
        self.write(b"".join(list_of_data))

    def write_blob(self, blob: Blob, before: bytes = b"") -> None:
        """Send some bytes and a blob in one message: the peer's protocol gets both whole by `blob_received`."""
        if not (self._eof_sent or self.is_closing()):
            size = len(before) + len(blob)
            self._in_flight += size
            self._push((blob, before, size), size)
            self._maybe_pause()

    def write_eof(self) -> None:
        if not self._eof_sent and not self.is_closing():
            self._eof_sent = True
            self._push(EOF, 0)

    def close(self) -> None:
        """Send what was written, then say that there is no more. Unread data makes it a reset, as Linux does."""
        if not self.is_closing():
            self._close()
            if not self._paused_writing:
                self._soon(self._lose, None)

    def abort(self) -> None:
        """Close at once; what the kernel has not taken yet is not sent."""
        if self._dead or self._lost:
            return
        if self._paused_writing and self._queue is not None:
            self._queue.clear()
            self._rest = 0
            if self._eof_sent:
                self._push(EOF, 0)
        if not self._closing:
            self._close()
        self._soon(self._lose, None)

    def _close(self) -> None:
        self._closing = True
        if self._received and self._received[0][0] is not EOF:
            self._reset_other()
        elif not self._eof_sent:
            self._eof_sent = True
            self._push(EOF, 0)
        self._received = _NOTHING

    # -- sending ---------------------------------------------------------------------------------------------

    def _maybe_pause(self) -> None:
        if not self._paused_writing and self._in_flight - WINDOW > self._high:
            self._paused_writing = True
            if self.protocol is not None:
                self.protocol.pause_writing()

    def _push(self, payload: Any, size: int) -> None:
        """Send a message, or queue it behind what has to go first."""
        if self._broken:
            return
        if self._queue is not None:
            self._queue.append((payload, size))
        elif size < BULK:
            if not self._transmit(payload, size):
                self._stall(payload, size)
        else:
            self._queue = deque([(payload, size)])
            if self._loop.now < self._left_s:
                self._pump_at(self._left_s)
            else:
                self._pump()

    def _stall(self, payload: Any, size: int) -> None:
        self._queue = deque([(payload, size)])
        self._wait()

    def _pump_at(self, when: float) -> None:
        self._pumping = True
        self._loop.call_at(when, self._pump, context=self._loop.kernel)

    def _pump(self) -> None:
        """Send from the queue until it is empty, the card is busy with a long message of ours, or the path is dark."""
        self._pumping = False
        while self._queue:
            payload, size = self._queue[0]
            rest = self._rest or size
            last = rest <= SEGMENT
            if self._off or self._broken:
                break
            if not self._transmit(payload if last else PART, rest if last else SEGMENT):
                self._wait()
                return
            if not last:
                self._rest = rest - SEGMENT
            elif self._queue:
                self._queue.popleft()
                self._rest = 0
            if rest >= BULK and self._queue and self._left_s > self._loop.now:
                self._pump_at(self._left_s)
                return
        self._queue = None

    def _transmit(self, payload: Any, size: int) -> bool:
        """Put one message on the path; False when nothing gets through there and it has to be sent again."""
        network, other, path, loop = self.network, self._other, self._out, self._loop
        if path.version != network.version:
            path.update(network.effects, network.version)
        if path.effects or size >= BULK:
            made = judged(self, path, payload, size) if path.effects else [(0.0, payload, size)]
            if not made:
                return made is not None
            if not other._machine.powered:
                return False
            takes_s = network.departure(path, size)
            if size >= BULK:
                self._left_s = path.left_s
            for late_s, part, length in made:
                self._launch(loop.now + late_s + takes_s, part, length)
            return True
        if not other._machine.powered:
            return False
        if path.local:
            at = loop.now + path.base_s + path.jitter_s * network.draw()
        else:
            # What `departure` does, written out: nearly all messages come by here.
            nic, now = path.source.nic, loop.now
            took_s = size * nic.cost_s
            nic.tx_free = (nic.tx_free if nic.tx_free > now else now) + took_s
            at = nic.small_free = (nic.small_free if nic.small_free > now else now) + took_s
            at += path.base_s + path.jitter_s * network.draw()
        if at < self._last_s:
            at = self._last_s
        self._last_s = at
        self._unacked += 1
        heappush(loop._timers, (at, loop._next_timer(), Handle(other.context.run, other._arrive, payload, size)))
        return True

    def _launch(self, at: float, payload: Any, size: int) -> None:
        """Let a message arrive at a time, or right after the one before it."""
        self._last_s = at = max(at, self._last_s)
        self._unacked += 1
        loop, other = self._loop, self._other
        heappush(loop._timers, (at, loop._next_timer(), Handle(other.context.run, other._arrive, payload, size)))

    # -- ends that effects make ------------------------------------------------------------------------------

    @property
    def marks(self) -> dict[int, float]:
        """What effects remember of this connection, by their numbers."""
        if self._marks is None:
            self._marks = {}
        return self._marks

    @property
    def peer(self) -> str:
        """The node at the other end."""
        return self._other._machine.name

    @property
    def waits(self) -> bool:
        """Whether something that was written has not left yet."""
        return bool(self._queue) and not self._broken and not self._off

    def reset(self) -> None:
        """The connection breaks, for both ends."""
        self._reset_other()
        self.fail(ConnectionResetError(errno.ECONNRESET, "connection reset by peer"))

    def cut_off(self) -> None:
        """Nothing more is sent; what the other end sends is answered with a reset."""
        self._queue, self._rest, self._closing, self._eof_sent = None, 0, True, True
        self._soon(self._lose, ConnectionResetError(errno.ECONNRESET, "connection reset by peer"))

    def fail(self, error: OSError) -> None:
        """The connection is broken on this side."""
        self._broken = True
        self._queue = None
        if not self._lost and not self._dead:
            self._closing = True
            self._soon(self._lose, error)

    def _reset_other(self) -> None:
        """Send a reset; it travels like data, and is not sent again when lost."""
        self._broken = True
        network, other = self.network, self._other
        if other._dead:
            return
        path = network.path(self._machine, other._machine)
        if not path.drops and not path.rejects:
            error = ConnectionResetError(errno.ECONNRESET, "connection reset by peer")
            at = max(self._last_s, self._loop.now + network.departure(path, 0))
            self._loop.call_at(at, other._was_reset, error, context=self._loop.kernel)

    def _was_reset(self, error: OSError) -> None:
        if not self._broken:
            self.fail(error)

    # -- retransmission --------------------------------------------------------------------------------------

    def _wait(self) -> None:
        """The path or the peer does not answer: try again as TCP does."""
        if self._rto_s == 0.0 and not self._off:
            self._rto_s, self._stall_began_s = RTO_S, self._loop.now
            self._loop.call_later(self._rto_s, self._retry, context=self._loop.kernel)

    def _retry(self) -> None:
        other, network = self._other, self.network
        if self._off or self._broken:
            return
        out, back = network.path(self._machine, other._machine), network.path(other._machine, self._machine)
        silent = [*out.drops, *(out.holds if self._queue else ()), *(back.drops if self._uncredited else ())]
        for effect in silent:
            effect.hits += 1
        if silent or not other._machine.powered:
            if self._loop.now - self._stall_began_s > GIVE_UP_S:
                self.fail(TimeoutError(errno.ETIMEDOUT, "connection timed out"))
                return
            self._rto_s = min(self._rto_s * 2, RTO_MAX_S)
            self._loop.call_later(self._rto_s, self._retry, context=self._loop.kernel)
            return
        self._rto_s = 0.0
        if other._dead or out.rejects:
            for effect in out.rejects:
                effect.hits += 1
            self.fail(ConnectionResetError(errno.ECONNRESET, "connection reset by peer"))
            return
        self._in_flight, self._uncredited = self._in_flight - self._uncredited, 0
        self._may_resume()
        if not self._pumping:
            self._pump()

    # -- receiving -------------------------------------------------------------------------------------------

    def _arrive(self, payload: Any, size: int) -> None:
        process = self._process
        if process is not None and process.paused:
            process.arrive(Handle(self.context.run, self._arrive, payload, size))
            return
        self._other._unacked -= 1
        if self._behind is not None:
            self._behind.append((payload, size))
        elif size >= BULK and self._queue_at_card(size):
            self._behind = deque([(payload, size)])
        elif (
            self._begun
            and self._reading
            and not self._received
            and not self._closing
            and not self._lost
            and not self._dead
        ):
            self._deliver(payload, size)
        else:
            self._receive(payload, size)

    def _queue_at_card(self, size: int) -> bool:
        """Whether a long message has to wait for this host's network card; books its time there."""
        nic, now = self._machine.nic, self._loop.now
        if nic is self._other._machine.nic:
            return False
        free = max(nic.rx_free, now - size * nic.cost_s) + size * nic.cost_s
        nic.rx_free = free
        if free <= now + 1e-12:
            return False
        self._loop.call_at(free, self._card_done, context=self.context)
        return True

    def _card_done(self) -> None:
        behind = self._behind
        assert behind is not None
        self._receive(*behind.popleft())
        while behind:
            if behind[0][1] >= BULK and self._queue_at_card(behind[0][1]):
                return
            self._receive(*behind.popleft())
        self._behind = None

    def _receive(self, payload: Any, size: int) -> None:
        if payload is PART:
            return
        if self._lost or self._dead or self._closing:
            if payload is not EOF and not self._broken:
                self._reset_other()
        elif self._begun and self._reading and not self._received:
            self._deliver(payload, size)
        else:
            if self._received is _NOTHING:
                self._received = deque()
            self._received.append((payload, size))

    def _flush(self) -> None:
        received = self._received
        while received and self._reading and self._begun and not self._dead:
            self._deliver(*received.popleft())
            received = self._received

    def _deliver(self, payload: Any, size: int) -> None:
        try:
            if type(payload) is bytes:
                size = len(payload)
                self._data_received(payload)  # type: ignore[misc]
            elif type(payload) is tuple:
                blob, before, size = payload  # the size of it all: only the last segment comes this far
                if before:
                    self.protocol.blob_received(blob, before)
                else:
                    self.protocol.blob_received(blob)
            elif payload is PART:
                return
            else:
                if not self.protocol.eof_received():
                    self.close()
                return
        except (SystemExit, KeyboardInterrupt, Hang):
            raise
        except BaseException as error:
            self._fatal(error)
        other, out, network = self._other, self._out, self.network
        if out.version != network.version:
            out.update(network.effects, network.version)
        if out.drops:
            other._uncredited += size
            other._wait()
        else:
            flight = other._in_flight = other._in_flight - size
            if other._paused_writing and flight - WINDOW <= other._low:
                other._may_resume()

    def _fatal(self, error: BaseException) -> None:
        """The protocol raised: report it, and close the connection, as asyncio does."""
        context = {"message": "Fatal error: protocol.data_received() call failed.", "exception": error,
                   "transport": self, "protocol": self.protocol}  # fmt: skip
        if not self.is_closing():
            self._close()
            self._soon(self._lose, error)
        self._loop.call_exception_handler(context)

    def _may_resume(self) -> None:
        """The peer's protocol has read enough of what was sent."""
        if self._paused_writing and self._in_flight - WINDOW <= self._low and not self._dead:
            if self._closing:
                self._paused_writing = False
                self._soon(self._lose, None)
            else:
                self._soon(self._resume_writing)

    def _resume_writing(self) -> None:
        if self._paused_writing and not self._lost and not self._dead:
            self._paused_writing = False  # not before: a write in between must not pause the protocol a second time
            self.protocol.resume_writing()

    # -- the end ---------------------------------------------------------------------------------------------

    def _lose(self, error: BaseException | None) -> None:
        if self._lost or self._dead:
            return
        self._lost = True
        self._received = _NOTHING
        if self._process is not None:
            self._process.transports.pop(self, None)
        if self.server is not None:
            self.server.detach(self)
        protocol, self.protocol, self._data_received = self.protocol, None, None
        if protocol is not None:
            protocol.connection_lost(error)

    def cut(self, silent: bool) -> None:
        """The process is gone: no callback runs here any more. Its kernel says goodbye unless the power failed."""
        if self._dead:
            return
        other = self._other
        self._dead, self._off = True, silent
        if silent:
            self._queue = None
        elif self._received and self._received[0][0] is not EOF:
            self._reset_other()
        elif not self._eof_sent:
            self._eof_sent = True
            self._push(EOF, 0)
        self.protocol = self._data_received = None
        self._received = _NOTHING
        if not other._dead and (other._in_flight or other._unacked):
            other._unacked = 0
            other._wait()
