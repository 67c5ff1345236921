"""Messages between the session and its own forks: pickled tuples over an inherited socket pair."""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import Callable
from struct import Struct
from typing import Any

_LENGTH = Struct(">I")


def pack(*message: Any) -> bytes:
    """A message as bytes; raises TypeError for what does not pickle."""
    try:
        data = pickle.dumps(message, protocol=5)
    except Exception as error:
        raise TypeError(f"only what pickles can pass between the test and a node's process: {error}") from None
    return _LENGTH.pack(len(data)) + data


def pack_error(error: BaseException) -> Any:
    """An exception that pickles: itself, or one of the nearest parent type that says the same."""
    text = f"{type(error).__name__}: {error}"
    for made in (error, *(_parent(kind, text) for kind in type(error).__mro__[1:] if issubclass(kind, Exception))):
        try:
            if isinstance(made, BaseException):
                pickle.loads(pickle.dumps(made))
                return made
        except Exception:
            continue
    return RuntimeError(text)


def _parent(kind: type[Exception], text: str) -> Exception | None:
    try:
        return kind(text)
    except Exception:
        return None


class Channel(asyncio.Protocol):
    """One end; `heard` is called with each message, `lost` at the end."""

    def __init__(self, heard: Callable[..., None], lost: Callable[[], None]) -> None:
        self._heard, self._lost = heard, lost
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray()

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def send(self, *message: Any) -> None:
        """Send a message; raises TypeError for one that does not pickle."""
        data = pack(*message)
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while len(self._buffer) >= 4:
            (length,) = _LENGTH.unpack_from(self._buffer)
            if len(self._buffer) < 4 + length:
                return
            message = bytes(self._buffer[4 : 4 + length])
            del self._buffer[: 4 + length]
            self._heard(*pickle.loads(message))

    def connection_lost(self, error: Exception | None) -> None:
        self._lost()

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()
