"""One chunk on its way to a peer: what is held of it, who sends it, and who waits for more."""

from __future__ import annotations

import asyncio
from typing import Any

from zebra.blob import Blob
from zebra.rpc import Stream
from zebra.targets.owl.messages import Manifest, Piece, Source

EMPTY = Blob.of(b"")


class Transfer:
    """One chunk on its way to us. `round` counts the times that it was begun at 0."""

    def __init__(self, piece: Piece, manifest: Manifest, loop: asyncio.AbstractEventLoop) -> None:
        self.piece, self.manifest = piece, manifest
        self.content, self.round = EMPTY, 0
        self.source: Source | None = None
        self.stream: Stream[Any] | None = None
        self.verified = False
        self.finished: asyncio.Future[Blob] = loop.create_future()
        self._loop = loop
        self._waiters: dict[asyncio.Future[None], None] = {}

    @property
    def held(self) -> int:
        return len(self.content)

    def restart(self) -> None:
        """Forget what is held: whoever we forwarded it to has to begin again too."""
        self.content, self.round = EMPTY, self.round + 1
        self.notify()

    def fail(self, error: Exception) -> None:
        self.finished.set_exception(error)
        self.finished.exception()
        self.notify()

    def notify(self) -> None:
        for waiter in self._waiters:
            _wake(waiter)

    async def changed(self, timeout_s: float) -> None:
        """Wait until there is something new to forward, or for so long."""
        waiter: asyncio.Future[None] = self._loop.create_future()
        self._waiters[waiter] = None
        timer = self._loop.call_later(timeout_s, _wake, waiter)
        try:
            await waiter
        finally:
            timer.cancel()
            del self._waiters[waiter]


def _wake(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)
