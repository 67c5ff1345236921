"""A server's monitoring pages, asked of the server itself: what it says of its configuration, health and data."""

from __future__ import annotations

import asyncio
import json
from typing import Any

ASK_S = 2.0
"""Bound of one question."""

UNREACHABLE = (OSError, EOFError, TimeoutError, ValueError)
"""What `ask` raises where no server answers, or not with a page."""


async def ask(host: str, port: int, page: str, timeout_s: float = ASK_S) -> dict[str, Any]:
    """A page as JSON, whatever its status. Raises one of `UNREACHABLE`."""
    async with asyncio.timeout(timeout_s):
        reader, writer = await asyncio.open_connection(host, port)
        try:
            writer.write(f"GET {page} HTTP/1.0\r\nHost: {host}\r\n\r\n".encode())
            answer = await reader.read()
        finally:
            writer.close()
    _, found, body = answer.partition(b"\r\n\r\n")
    if not found:
        raise EOFError(f"{host}:{port} closed the connection before it answered")
    return dict(json.loads(body))
