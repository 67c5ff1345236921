"""What a fault proxy does to the chunks that pass a link. Toxics come and go while connections last.

A toxic judges each chunk once: it says for how many seconds the chunk is held back as long as the toxic is on, and may
shorten it or end the connection behind it. The judgement is kept with the chunk, so that removing a toxic takes its
delay away at once. Whatever acted counts as a hit on `counter`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from zebra.proxy.link import Chunk, Link

HOLD = math.inf
"""The delay of a chunk that waits until the toxic is removed."""

RETRANSMIT_S, RETRANSMIT_MAX_S = 0.2, 2.0
"""How long a stream needs to send lost data again: it doubles with each loss in a row (Linux's minimum RTO)."""

OVERTAKE_S = 0.02
"""How long a datagram that is to be overtaken is held back."""

SLICES_PER_S = 20
"""A rate limit hands data on in so many pieces per second."""


class Counter(Protocol):
    """Counts what a toxic did; an `Effect` of a capability is one."""

    hits: int


@dataclass(slots=True)
class Hits:
    """A counter of its own."""

    hits: int = 0


@dataclass(slots=True, kw_only=True, eq=False)
class Toxic:
    """The parent of all toxics: does nothing. `judge` is for streams, `copies` for datagrams."""

    counter: Counter = field(default_factory=Hits)

    def judge(self, chunk: Chunk, link: Link) -> float:
        """Seconds that a chunk is held back, HOLD for as long as the toxic is on; may set `chunk.then`."""
        return 0.0

    def copies(self, delays: list[float], size: int, random: Random, now: float) -> list[float]:
        """The delays with which a datagram arrives: none when it is lost, several when it is doubled."""
        return delays

    def piece_bytes(self, random: Random) -> int:
        """The longest piece that data is handed on in, 0 for any."""
        return 0


@dataclass(slots=True, kw_only=True, eq=False)
class Drop(Toxic):
    """A cable that is cut: nothing passes, streams go on where they were once it is mended."""

    def judge(self, chunk: Chunk, link: Link) -> float:
        self.counter.hits += 1
        return HOLD

    def copies(self, delays: list[float], size: int, random: Random, now: float) -> list[float]:
        self.counter.hits += 1
        return []


@dataclass(slots=True, kw_only=True, eq=False)
class Reject(Toxic):
    """A firewall that answers with a reset: new connections are refused, old ones broken at their next data."""

    def judge(self, chunk: Chunk, link: Link) -> float:
        self.counter.hits += 1
        chunk.data, chunk.then = b"", "refuse" if chunk.kind in ("open", "accept") else "reset"
        return 0.0

    def copies(self, delays: list[float], size: int, random: Random, now: float) -> list[float]:
        self.counter.hits += 1
        return []


@dataclass(slots=True, kw_only=True, eq=False)
class Latency(Toxic):
    """Delay everything by `latency_s`, and by up to `jitter_s` more."""

    latency_s: float = 0.0
    jitter_s: float = 0.0

    def judge(self, chunk: Chunk, link: Link) -> float:
        self.counter.hits += 1
        return self.latency_s + self.jitter_s * link.random.random()

    def copies(self, delays: list[float], size: int, random: Random, now: float) -> list[float]:
        self.counter.hits += 1
        return [delay + self.latency_s + self.jitter_s * random.random() for delay in delays]


@dataclass(slots=True, kw_only=True, eq=False)
class Bandwidth(Toxic):
    """Let no more than `rate` bytes per second through all the links together that share this toxic."""

    rate: float
    free_s: float = 0.0

    def judge(self, chunk: Chunk, link: Link) -> float:
        return self._spend(len(chunk.data), chunk.at_s)

    def copies(self, delays: list[float], size: int, random: Random, now: float) -> list[float]:
        return [delay + self._spend(size, now) for delay in delays]

    def piece_bytes(self, random: Random) -> int:
        return max(1, int(self.rate / SLICES_PER_S))

    def _spend(self, size: int, at_s: float) -> float:
        if not size:
            return 0.0
        self.counter.hits += 1
        self.free_s = max(self.free_s, at_s) + size / self.rate
        return self.free_s - at_s


@dataclass(slots=True, kw_only=True, eq=False)
class Loss(Toxic):
    """Lose a share: a datagram is gone, a stream needs a while to send it again."""

    probability: float

    def judge(self, chunk: Chunk, link: Link) -> float:
        delay_s = 0.0
        again_s = RETRANSMIT_S
        while link.random.random() < self.probability and delay_s < 60.0:
            self.counter.hits += 1
            delay_s += again_s
            again_s = min(2 * again_s, RETRANSMIT_MAX_S)
        return delay_s

    def copies(self, delays: list[float], size: int, random: Random, now: float) -> list[float]:
        kept = [delay for delay in delays if random.random() >= self.probability]
        self.counter.hits += len(delays) - len(kept)
        return kept


@dataclass(slots=True, kw_only=True, eq=False)
class Duplicate(Toxic):
    """Deliver a share of the datagrams once more, `after_s` later."""

    probability: float
    after_s: float = 0.0

    def copies(self, delays: list[float], size: int, random: Random, now: float) -> list[float]:
        again = [delay + self.after_s for delay in delays if random.random() < self.probability]
        self.counter.hits += len(again)
        return delays + again


@dataclass(slots=True, kw_only=True, eq=False)
class Reorder(Toxic):
    """Hold a share of the datagrams back so that later ones overtake them."""

    probability: float

    def copies(self, delays: list[float], size: int, random: Random, now: float) -> list[float]:
        made = [delay + OVERTAKE_S * (random.random() < self.probability) for delay in delays]
        self.counter.hits += sum(a != b for a, b in zip(delays, made, strict=True))
        return made


@dataclass(slots=True, kw_only=True, eq=False)
class Reset(Toxic):
    """Break the connection, for both ends, at a share of the chunks; `after_s` later."""

    probability: float = 1.0
    after_s: float = 0.0

    def judge(self, chunk: Chunk, link: Link) -> float:
        if not chunk.data or link.random.random() >= self.probability:
            return 0.0
        self.counter.hits += 1
        chunk.data, chunk.then = b"", "reset"
        return self.after_s


@dataclass(slots=True, kw_only=True, eq=False)
class Slicer(Toxic):
    """Hand data on in pieces of about `size` bytes, up to `variation` more or less, `delay_s` apart."""

    size: int
    variation: int = 0
    delay_s: float = 0.0

    def judge(self, chunk: Chunk, link: Link) -> float:
        if not chunk.data:
            return 0.0
        self.counter.hits += 1
        free_s = max(link.state.get(self, 0.0), chunk.at_s) + self.delay_s
        link.state[self] = free_s
        return float(free_s - chunk.at_s)

    def piece_bytes(self, random: Random) -> int:
        return max(1, self.size + random.randint(-self.variation, self.variation))


@dataclass(slots=True, kw_only=True, eq=False)
class Limit(Toxic):
    """Close the connection after so many bytes."""

    size: int

    def judge(self, chunk: Chunk, link: Link) -> float:
        passed: Any = link.state.get(self, 0)
        if chunk.data and passed + len(chunk.data) >= self.size:
            self.counter.hits += 1
            chunk.data, chunk.then = chunk.data[: max(0, self.size - passed)], "close"
        link.state[self] = passed + len(chunk.data)
        return 0.0


@dataclass(slots=True, kw_only=True, eq=False)
class Timeout(Toxic):
    """Let nothing through, and close the connection `after_s` after the first chunk; 0 never closes it."""

    after_s: float = 0.0

    def judge(self, chunk: Chunk, link: Link) -> float:
        self.counter.hits += 1
        if self.after_s and self not in link.state:
            link.state[self] = True
            link.loop.call_later(self.after_s, lambda: self in link.toxics and link.end("close"))
        return HOLD


@dataclass(slots=True, kw_only=True, eq=False)
class SlowClose(Toxic):
    """Delay the end of the stream."""

    delay_s: float

    def judge(self, chunk: Chunk, link: Link) -> float:
        if chunk.kind != "end":
            return 0.0
        self.counter.hits += 1
        return self.delay_s
