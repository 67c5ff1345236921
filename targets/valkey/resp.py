"""RESP2, the protocol of Valkey and Redis, over asyncio streams: as much of it as the role and the client need.

A bulk string is bytes, a simple string str, an integer int, an array a list, nil None; an error that the server answers
is a `ReplyError`, returned inside arrays and pipelines, raised by `call`.
"""

from __future__ import annotations

import asyncio
import ssl
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
        self._data = bytearray()

    @classmethod
    async def connect(
        cls, host: str, port: int, timeout_s: float = 2.0, tls: ssl.SSLContext | None = None, password: str = ""
    ) -> Resp:
        """A connection, encrypted with `tls`, logged in with a password; raises OSError, TimeoutError or ReplyError."""
        name = host if tls else None
        async with asyncio.timeout(timeout_s):
            streams = await asyncio.open_connection(host, port, limit=LIMIT, ssl=tls, server_hostname=name)
        connection = cls(*streams, timeout_s)
        if password:
            await connection.call("AUTH", password)
        return connection

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
        while True:
            try:
                answer, end = parse(self._data, 0)
            except IndexError:
                some = await self._reader.read(LIMIT)
                if not some:
                    raise ConnectionResetError("the server closed the connection") from None
                self._data += some
            else:
                del self._data[:end]
                return answer

    def close(self) -> None:
        self._writer.close()


def parse(data: bytearray, at: int) -> tuple[Any, int]:
    """The answer that begins at an index, and the index after it; raises IndexError when it is not complete."""
    line_end = data.find(b"\r\n", at)
    if line_end < 0:
        raise IndexError
    kind, rest, after = data[at], data[at + 1 : line_end], line_end + 2
    if kind == 36:  # $, a bulk string
        if rest == b"-1":
            return None, after
        end = after + int(rest)
        if end + 2 > len(data):
            raise IndexError
        return bytes(data[after:end]), end + 2
    if kind == 42:  # *, an array
        items = []
        for _ in range(max(0, int(rest))):
            item, after = parse(data, after)
            items.append(item)
        return (None if rest == b"-1" else items), after
    if kind == 58:  # :, an integer
        return int(rest), after
    return (ReplyError(rest.decode()) if kind == 45 else rest.decode()), after


def packed(command: Sequence[Argument]) -> bytes:
    """A command as it goes over the wire: an array of bulk strings."""
    parts = [part if isinstance(part, bytes) else str(part).encode() for part in command]
    return b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%s\r\n" % (len(part), part) for part in parts)


def fields(info: bytes) -> dict[str, str]:
    """The answer to INFO as a dictionary."""
    pairs = (line.partition(":") for line in info.decode(errors="replace").splitlines() if ":" in line)
    return {name: value for name, _, value in pairs}
