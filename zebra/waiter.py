"""Waiting for news with a time limit, again and again."""

from __future__ import annotations

import asyncio


class Waiter:
    """One task's wait for `wake`, or for so many seconds.

    One timer serves many waits: it is set anew when it fires and not at each wait, which would cost more than the wait.
    """

    __slots__ = ("_future", "_loop", "_timer", "_timer_s", "_until_s")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._future: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._timer_s = self._until_s = 0.0

    async def wait(self, timeout_s: float) -> None:
        """Return when woken, or after `timeout_s`."""
        loop = self._loop
        self._until_s = until_s = loop.time() + timeout_s
        if self._timer is None or until_s < self._timer_s:
            self._set_timer(until_s)
        self._future = loop.create_future()
        try:
            await self._future
        finally:
            self._future = None

    def wake(self) -> None:
        """End the wait that is on, if one is."""
        if self._future is not None and not self._future.done():
            self._future.set_result(None)

    def close(self) -> None:
        """Nobody will wait here again."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _set_timer(self, when_s: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_s = when_s
        self._timer = self._loop.call_at(when_s, self._fire)

    def _fire(self) -> None:
        self._timer = None
        if self._future is not None:
            if self._until_s > self._loop.time() + 1e-6:  # a later wait than the one that set the timer
                self._set_timer(self._until_s)
            else:
                self.wake()
