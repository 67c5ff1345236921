"""Talking to the kernel's network configuration: netlink messages, and a socket that sends them and reads the answers.

A socket belongs to the network namespace in which it was made, whoever uses it later. So the session configures
namespaces that it never enters. All is written here because an import of a whole library takes longer than a run.

Source: netlink(7), rtnetlink(7), linux/netlink.h.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterable, Iterator
from struct import Struct
from typing import NamedTuple

from zebra.errors import ZebraError

ROUTE, NETFILTER = 0, 12

REQUEST, ACK, DUMP = 0x1, 0x4, 0x300
REPLACE, EXCL, CREATE, APPEND = 0x100, 0x200, 0x400, 0x800
_ERROR, _DONE = 2, 3
_NESTED = 0x8000
_CAP_ACK, _EXT_ACK = 10, 11
_SOL_NETLINK = 270
_MESSAGE_OF_ERROR = 1

_HEADER, _ATTRIBUTE, _CODE = Struct("=IHHII"), Struct("=HH"), Struct("=i")
BUFFER_BYTES = 1 << 20


class KernelError(ZebraError, OSError):
    """The kernel refused a request; `errno` says why."""


class Message(NamedTuple):
    """A request: its type, flags beside those that every request has, and its body."""

    kind: int
    flags: int
    body: bytes


def attribute(kind: int, data: bytes) -> bytes:
    """One attribute, padded."""
    return _ATTRIBUTE.pack(4 + len(data), kind) + data + bytes(-len(data) % 4)


def nest(kind: int, *parts: bytes) -> bytes:
    """An attribute that holds attributes."""
    return attribute(kind | _NESTED, b"".join(parts))


def text(kind: int, value: str) -> bytes:
    """A string, as the kernel wants it: with a zero at the end."""
    return attribute(kind, value.encode() + b"\0")


def number(kind: int, value: int) -> bytes:
    """A 32-bit number in the machine's own order."""
    return attribute(kind, value.to_bytes(4, sys.byteorder))


def network_number(kind: int, value: int) -> bytes:
    """A 32-bit number in network order."""
    return attribute(kind, value.to_bytes(4, "big", signed=value < 0))


def attributes(data: bytes | memoryview) -> dict[int, bytes]:
    """The attributes that follow each other in `data`, by type; of several alike the last."""
    found, at, view = {}, 0, memoryview(data)
    while at + 4 <= len(view):
        length, kind = _ATTRIBUTE.unpack_from(view, at)
        if length < 4:
            break
        found[kind & 0x3FFF] = bytes(view[at + 4 : at + length])
        at += length + (-length % 4)
    return found


class Netlink:
    """A socket of one family. It blocks, for the kernel answers while it is asked."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._number = 0

    @classmethod
    def open(cls, family: int) -> Netlink:
        """A new one, in the namespace that the process is in."""
        sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, family)
        for option in (_CAP_ACK, _EXT_ACK):
            sock.setsockopt(_SOL_NETLINK, option, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER_BYTES)
        sock.bind((0, 0))
        return cls(sock)

    @classmethod
    def of(cls, number: int, family: int) -> Netlink:
        """One that another process made, by its descriptor."""
        return cls(socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, family, fileno=number))

    def ask(self, *messages: Message, before: bytes = b"", after: bytes = b"") -> None:
        """Have requests carried out, one after the other; raises KernelError for the first that was refused.

        Between the begin and the end of a batch it is all of them or none.
        """
        wanted, data = set(), bytearray(before)
        for message in messages:
            self._number += 1
            wanted.add(self._number)
            data += _pack(message.kind, message.flags | REQUEST | ACK, self._number, message.body)
        self.sock.send(data + after)
        refused: KernelError | None = None
        while wanted:
            for kind, sequence, body in self._answers():
                if kind != _ERROR:
                    continue
                wanted.discard(sequence)
                error = -_CODE.unpack_from(body)[0]
                if error and refused is None:
                    refused = KernelError(error, _why(error, body))
                if error and sequence == 0:  # of the whole batch
                    wanted.clear()
        if refused is not None:
            raise refused

    def get(self, kind: int, body: bytes, flags: int = ACK) -> list[bytes]:
        """What a request asks for, with DUMP all objects of a kind. Raises KernelError."""
        self._number += 1
        self.sock.send(_pack(kind, REQUEST | flags, self._number, body))
        found: list[bytes] = []
        while True:
            for answer, sequence, data in self._answers():
                if sequence != self._number:
                    continue
                if answer not in (_ERROR, _DONE):
                    found.append(data)
                    continue
                error = -_CODE.unpack_from(data)[0] if answer == _ERROR else 0
                if error:
                    raise KernelError(error, _why(error, data))
                return found

    def _answers(self) -> Iterator[tuple[int, int, bytes]]:
        return unpack(self.sock.recv(BUFFER_BYTES))

    def close(self) -> None:
        self.sock.close()


def _pack(kind: int, flags: int, sequence: int, body: bytes) -> bytes:
    return _HEADER.pack(_HEADER.size + len(body), kind, flags, sequence, 0) + body + bytes(-len(body) % 4)


def unframed(kind: int, body: bytes) -> bytes:
    """A message that is part of a batch and not answered, such as its begin and its end."""
    return _pack(kind, REQUEST, 0, body)


def unpack(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """The messages in what was received: type, number, body."""
    at = 0
    while at + _HEADER.size <= len(data):
        length, kind, _, sequence, _ = _HEADER.unpack_from(data, at)
        if length < _HEADER.size:
            return
        yield kind, sequence, data[at + _HEADER.size : at + length]
        at += length + (-length % 4)


def _why(error: int, body: bytes) -> str:
    said = attributes(body[4 + _HEADER.size :]).get(_MESSAGE_OF_ERROR, b"").rstrip(b"\0").decode()
    return f"{os.strerror(error)} ({said})" if said else os.strerror(error)


def chunks(items: Iterable[bytes], count: int) -> Iterator[bytes]:
    """Attributes joined, so many at a time: one message holds 64 KiB."""
    batch: list[bytes] = []
    for item in items:
        batch.append(item)
        if len(batch) == count:
            yield b"".join(batch)
            batch = []
    if batch:
        yield b"".join(batch)
