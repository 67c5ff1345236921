"""RESP2, the protocol of Valkey and Redis, over asyncio streams: as much of it as the role and the client need.

A bulk string is bytes, a simple string str, an integer int, an array a list, nil None; an error that the server answers
is a `ReplyError`, returned inside arrays and pipelines, raised by `call`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

Argument = bytes | str | int | float
LIMIT = 1 << 16


class ReplyError(Exception):
    """What a server answered instead of a result, such as "ERR DB index is out of range"."""


class Resp:
    """One connection. `timeout_s` bounds each exchange; after an exception the connection is of no use."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, timeout_s: float) -> None:
        self._reader, self._writer, self._timeout_s = reader, writer, timeout_s

    @classmethod
    async def connect(cls, host: str, port: int, timeout_s: float = 2.0) -> Resp:
        """A connection; raises OSError or TimeoutError."""
        async with asyncio.timeout(timeout_s):
            return cls(*await asyncio.open_connection(host, port, limit=LIMIT), timeout_s)

    async def call(self, *command: Argument) -> Any:
        """One command's answer; raises ReplyError, ConnectionError or TimeoutError."""
        [answer] = await self.pipeline([command])
        if isinstance(answer, ReplyError):
            raise answer
        return answer

    async def pipeline(self, commands: Sequence[Sequence[Argument]]) -> list[Any]:
        """The answers to commands sent together, errors among them."""
        async with asyncio.timeout(self._timeout_s):
            self._writer.write(b"".join(map(packed, commands)))
            sending = asyncio.ensure_future(self._writer.drain())  # both sides may be too busy sending to read
            try:
                return [await self._read() for _ in commands]
            finally:
                sending.cancel()

    async def _read(self) -> Any:
        line = await self._reader.readuntil(b"\r\n")
        kind, rest = line[:1], line[1:-2]
        if kind == b"$":
            return None if rest == b"-1" else (await self._reader.readexactly(int(rest) + 2))[:-2]
        if kind == b"*":
            return None if rest == b"-1" else [await self._read() for _ in range(int(rest))]
        if kind == b":":
            return int(rest)
        return ReplyError(rest.decode()) if kind == b"-" else rest.decode()

    def close(self) -> None:
        self._writer.close()


def packed(command: Sequence[Argument]) -> bytes:
    """A command as it goes over the wire: an array of bulk strings."""
    parts = [part if isinstance(part, bytes) else str(part).encode() for part in command]
    return b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%s\r\n" % (len(part), part) for part in parts)


def fields(info: bytes) -> dict[str, str]:
    """The answer to INFO as a dictionary."""
    pairs = (line.partition(":") for line in info.decode(errors="replace").splitlines() if ":" in line)
    return {name: value for name, _, value in pairs}
