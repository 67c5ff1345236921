"""One chunk on its way to a peer: what is held of it, who sends it, and who waits for more."""

from __future__ import annotations

import asyncio
from typing import Any

from zebra.blob import Blob
from zebra.rpc import Stream
from zebra.targets.owl.messages import Manifest, Piece, Source
from zebra.waiter import Waiter

EMPTY = Blob.of(b"")


class Transfer:
    """One chunk on its way to us: of its `content` so many bytes are `held`, `round` counts the times it began at 0."""

    def __init__(self, piece: Piece, manifest: Manifest, loop: asyncio.AbstractEventLoop) -> None:
        self.piece, self.manifest = piece, manifest
        self.content, self.held, self.round = EMPTY, 0, 0
        self.source: Source | None = None
        self.stream: Stream[Any] | None = None
        self.verified = False
        self.finished: asyncio.Future[Blob] = loop.create_future()
        self._loop = loop
        self._followers: dict[Waiter, None] = {}

    def add(self, blob: Blob) -> None:
        """Bytes that follow those held."""
        self.content += blob
        self.held = len(self.content)
        self.notify()

    def restart(self) -> None:
        """Forget what is held: whoever we forwarded it to has to begin again too."""
        self.content, self.held, self.round = EMPTY, 0, self.round + 1
        self.notify()

    def fail(self, error: Exception) -> None:
        self.finished.set_exception(error)
        self.finished.exception()
        self.notify()

    def follow(self) -> Waiter:
        """What is woken at each change, for who forwards the chunk to a child; to be given back to `unfollow`."""
        follower = Waiter(self._loop)
        self._followers[follower] = None
        return follower

    def unfollow(self, follower: Waiter) -> None:
        del self._followers[follower]
        follower.close()

    def notify(self) -> None:
        for follower in self._followers:
            follower.wake()
