"""Toxics that need a connection: what ends it or keeps it silent, how much it carries, how many of them there are."""

from __future__ import annotations

from asyncio import TimerHandle
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING, ClassVar
from weakref import WeakSet

from zebra.proxy.toxics import HOLD, Toxic, Way

if TYPE_CHECKING:
    from zebra.proxy.link import Chunk, Link


@dataclass(slots=True, kw_only=True, eq=False)
class Slicer(Toxic):
    """Hand data on in pieces of about `size` bytes, up to `variation` more or less, `delay_s` apart; 0 is whole.

    Data that need not be cut is not touched, unless pieces before it wait; with `every` it is a piece as others are.
    """

    size: int
    variation: int = 0
    delay_s: float = 0.0
    every: bool = False

    def judge(self, chunk: Chunk, link: Link) -> float:
        if not chunk.data:
            return 0.0
        at_s = max(link.state.get(self, 0.0), chunk.at_s)
        link.state[self] = at_s + (self.delay_s if self.every or chunk.cut is self else 0.0)
        self.counter.hits += chunk.cut is self or at_s > chunk.at_s
        return float(at_s - chunk.at_s)

    def piece_bytes(self, random: Random) -> int:
        if self.size <= 0:
            return 0
        return max(1, self.size + (random.randint(-self.variation, self.variation) if self.variation > 0 else 0))


@dataclass(slots=True, kw_only=True, eq=False)
class Limit(Toxic):
    """Close the connection once so many bytes have passed; 0 closes it at the first."""

    size: int

    def judge(self, chunk: Chunk, link: Link) -> float:
        passed: int = link.state.get(self, 0)
        if chunk.data and passed + len(chunk.data) >= self.size:
            self.counter.hits += 1
            chunk.data, chunk.then = chunk.data[: max(0, self.size - passed)], "close"
        link.state[self] = passed + len(chunk.data)
        return 0.0


@dataclass(slots=True, kw_only=True, eq=False)
class Timeout(Toxic):
    """Lose all data, and close the connection `after_s` after the toxic came on; 0 leaves it open until it goes."""

    after_s: float = 0.0

    def begin(self, link: Link) -> None:
        self._stop(link)
        if self.after_s > 0:
            link.state[self] = link.loop.call_later(self.after_s, self._close, link)

    def cease(self, link: Link) -> None:
        self._stop(link)
        self._close(link)

    def _stop(self, link: Link) -> None:
        timer: TimerHandle | None = link.state.pop(self, None)
        if timer is not None:
            timer.cancel()

    def _close(self, link: Link) -> None:
        """A stream that lost some of its data cannot go on."""
        self.counter.hits += 1
        link.end("close")

    def judge(self, chunk: Chunk, link: Link) -> float:
        if chunk.data:
            self.counter.hits += 1
            chunk.data = b""
        return 0.0

    def copies(self, delays: list[float], size: int, way: Way, now: float) -> list[float]:
        self.counter.hits += 1
        return []


@dataclass(slots=True, kw_only=True, eq=False)
class SlowClose(Toxic):
    """Delay the end of the stream."""

    again: ClassVar[bool] = True
    delay_s: float

    def judge(self, chunk: Chunk, link: Link) -> float:
        if chunk.kind != "end":
            return 0.0
        self.counter.hits += 1
        return self.delay_s


@dataclass(slots=True, kw_only=True, eq=False)
class Hold(Toxic):
    """Let connections open and hold back all that is sent on them; datagrams are lost.

    With `timeout_s` a connection is reset so long after the first that was held on it.
    """

    timeout_s: float = 0.0

    def judge(self, chunk: Chunk, link: Link) -> float:
        if chunk.kind not in ("data", "end"):
            return 0.0
        self.counter.hits += 1
        if self.timeout_s > 0 and self not in link.state:
            link.state[self] = link.loop.call_later(self.timeout_s, self._time_out, link)
        return HOLD

    def cease(self, link: Link) -> None:
        timer: TimerHandle | None = link.state.pop(self, None)
        if timer is not None:
            timer.cancel()

    def _time_out(self, link: Link) -> None:
        self.counter.hits += 1
        link.end("reset")

    def copies(self, delays: list[float], size: int, way: Way, now: float) -> list[float]:
        self.counter.hits += 1
        return []


@dataclass(slots=True, kw_only=True, eq=False)
class Ceiling(Toxic):
    """Refuse a connection that would be one more than `limit`, where `there` gives the links of those there are."""

    limit: int
    there: Callable[[], list[Link]]
    _refused: WeakSet[Link] = field(default_factory=WeakSet)

    def judge(self, chunk: Chunk, link: Link) -> float:
        if chunk.kind == "open" and sum(each not in self._refused for each in self.there()) >= self.limit:
            self.counter.hits += 1
            self._refused.add(link)
            chunk.then = "refuse"
        return 0.0
