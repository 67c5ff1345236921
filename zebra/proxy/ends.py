"""The two sockets of a proxied connection: read when there is something, written at once or when there is room.

Plain non-blocking sockets on the loop's readiness calls, which cost less than transports. Small data is received and
sent in one step; once a read was full and nothing is on the link, `splice` moves data from socket to socket inside the
kernel, through a pipe.
"""

from __future__ import annotations

import fcntl
import os
import socket
import struct
from collections import deque
from typing import TYPE_CHECKING, Literal

from zebra.proxy.link import Chunk, Link

if TYPE_CHECKING:
    from zebra.proxy.proxy import Proxy

READ_BYTES = 64 * 1024
DISCARDS = 16
"""Reads at most before a socket is closed."""

SPLICE_BYTES = 16 * 1024
"""Below so much at a time two copies cost less than two more calls."""

PIPE_BYTES = 256 * 1024

_SPLICES = hasattr(os, "splice")
_LINGER = struct.pack("ii", 1, 0)
_LATER = (BlockingIOError, InterruptedError)


class Pipe:
    """A pipe for `splice`; `held` bytes wait in it."""

    def __init__(self) -> None:
        self.out, self.into = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self.held = 0
        try:
            fcntl.fcntl(self.into, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        except OSError:  # this user's pages for pipes are used up: the default size does too
            pass

    def take(self, fd: int) -> int:
        """Bytes moved in from a socket, 0 at its end; raises OSError."""
        self.held = os.splice(fd, self.into, PIPE_BYTES, flags=os.SPLICE_F_NONBLOCK | os.SPLICE_F_MOVE)
        return self.held

    def give(self, fd: int) -> None:
        """Move to a socket what it has room for; raises OSError."""
        self.held -= os.splice(self.out, fd, self.held, flags=os.SPLICE_F_NONBLOCK | os.SPLICE_F_MOVE)

    def close(self) -> None:
        os.close(self.out)
        os.close(self.into)


class End:
    """One of the two sockets of a connection: what it reads goes into `out`, and `into` writes to it."""

    def __init__(self, proxy: Proxy, sock: socket.socket, out: Link, into: Link) -> None:
        self.sock, self.out, self.into = sock, out, into
        self.peer: End | None = None
        self._proxy, self._loop, self._fd = proxy, proxy.loop, sock.fileno()
        self._pipe: Pipe | None = None
        self._waiting: deque[memoryview] = deque()
        self._reading = self._writing = self._finished = self._closing = self.closed = False
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        proxy.ends.add(self)

    # -- reading ---------------------------------------------------------------------------------------------

    def hold_back(self, held: bool) -> None:
        """Stop reading, or begin and go on."""
        if self.closed or self._closing or self._finished or self._reading is not held:
            return
        self._reading = not held
        if held:
            self._loop.remove_reader(self._fd)
        else:
            self._loop.add_reader(self._fd, self._readable)

    def _readable(self) -> None:
        out, peer = self.out, self.peer
        straight = peer is not None and out.clear
        try:
            if straight and self._pipe is not None:
                size, data = self._pipe.take(self._fd), b""
            else:
                data = self.sock.recv(READ_BYTES)
                size = len(data)
        except _LATER:
            return
        except OSError:
            self._end("break")
            return
        if not size:
            self._end("end")
        elif not straight or peer is None:
            out.arrive("data", data)
        else:
            out.received += size
            out.sent += size
            if data:
                peer.write(data)
                if size == READ_BYTES and _SPLICES and not self.closed:
                    self._pipe = self._proxy.pipe()
            elif self._pipe is not None:
                peer.drain()
                if size < SPLICE_BYTES:
                    self._unpipe()

    def _end(self, how: Literal["end", "break"]) -> None:
        """The other side has finished, or broken the connection."""
        self.hold_back(True)
        if not self.closed and not (self._finished and how == "end"):
            self._finished = True
            self.out.arrive(how)

    def _unpipe(self) -> None:
        """Go back to small steps, once the pipe is empty."""
        if self._pipe is not None and not self._pipe.held:
            self._proxy.pipes.append(self._pipe)
            self._pipe = None

    # -- writing ---------------------------------------------------------------------------------------------

    def take(self, chunk: Chunk) -> None:
        """Write what came through."""
        if chunk.data:
            self.write(chunk.data)
        if chunk.kind == "end" and not self.closed:
            try:
                self.sock.shutdown(socket.SHUT_WR)
            except OSError:  # reset meanwhile, which reading will tell
                pass

    def write(self, data: bytes) -> None:
        """Send now what there is room for, and the rest later."""
        if self.closed:
            return
        sent = 0
        if not self._waiting:
            try:
                sent = self.sock.send(data)
            except _LATER:
                pass
            except OSError:
                self._end("break")
                return
        if sent < len(data):
            self._waiting.append(memoryview(data)[sent:])
            self._wait()

    def drain(self) -> None:
        """Send what waits in the peer's pipe."""
        pipe = None if self.peer is None else self.peer._pipe
        if pipe is None or not pipe.held:
            return
        try:
            pipe.give(self._fd)
        except _LATER:
            pass
        except OSError:
            self._end("break")
            return
        if pipe.held:
            self._wait()

    def _wait(self) -> None:
        """Go on once there is room; until then the source has to wait."""
        if not self._writing:
            self._writing = True
            self._loop.add_writer(self._fd, self._writable)
        self.into.block()

    def _writable(self) -> None:
        self.drain()
        while self._waiting and not self.closed:
            data = self._waiting[0]
            try:
                sent = self.sock.send(data)
            except _LATER:
                return
            except OSError:
                self._waiting.clear()
                self._end("break")
                break
            if sent < len(data):
                self._waiting[0] = data[sent:]
                return
            self._waiting.popleft()
        if self.closed or (self.peer is not None and self.peer._pipe is not None and self.peer._pipe.held):
            return
        self._writing = False
        self._loop.remove_writer(self._fd)
        if self._closing:
            self._close()
        else:
            self.into.unblock()

    # -- ends ------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Close, once what waits is sent."""
        self.hold_back(True)
        self._closing = True
        if not self._waiting:
            self._close()

    def reset(self) -> None:
        """Close so that the other side sees a reset."""
        if not self.closed:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER)
            self._close()

    def _close(self) -> None:
        if self.closed:
            return
        if self._reading:
            self._loop.remove_reader(self._fd)
        if self._writing:
            self._loop.remove_writer(self._fd)
        self.closed = True
        self._proxy.ends.discard(self)
        if self._closing:
            self._discard()
        self._unpipe()
        if self._pipe is not None:
            self._pipe.close()
            self._pipe = None
        self.sock.close()

    def _discard(self) -> None:
        """Take what has arrived and nobody will get: to close over unread bytes would be a reset."""
        for _ in range(DISCARDS):
            try:
                if not self.sock.recv(READ_BYTES):
                    return
            except OSError:
                return
