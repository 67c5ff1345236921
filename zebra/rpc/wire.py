"""Messages, what can go wrong with them, and how they are written as frames.

A frame is two counts (of its bytes, and of the blobs that follow), the length of each blob, the frame in MessagePack,
and the blobs, which are not copied into it.
"""

from __future__ import annotations

from collections import deque
from struct import Struct as Packing
from typing import Any, Generic, NamedTuple, TypeVar, Union

import msgspec

from zebra.blob import Blob
from zebra.errors import ZebraError

R = TypeVar("R")
PREFIX, LENGTH = Packing(">II"), Packing(">Q")
ONE = (1).to_bytes(4, "big")
CALL, REPLY, ITEM, END, ERROR, CANCEL, HELLO, CAST = range(8)
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
            return PREFIX.pack(len(data), 0) + data, self._sent
        blobs, self._sent = self._sent, []
        lengths = b"".join(LENGTH.pack(len(blob)) for blob in blobs)
        return PREFIX.pack(len(data), len(blobs)) + lengths + data, blobs

    def unpack(self, data: Any, blobs: list[Blob]) -> Any:
        """The frame of some bytes; raises msgspec.DecodeError or IndexError when they are not one."""
        if not blobs:
            return self._decode(data)
        self._got.extend(blobs)
        try:
            return self._decode(data)
        finally:
            self._got.clear()
