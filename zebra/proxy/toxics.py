"""What a fault proxy does to the chunks that pass a link. Toxics come and go while connections last.

A toxic judges each chunk once: it says for how many seconds the chunk is held back as long as the toxic is on, and may
shorten it or end the connection behind it. The judgement is kept with the chunk, so that removing a toxic takes its
delay away at once. Whatever acted counts as a hit on `counter`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

if TYPE_CHECKING:
    from zebra.proxy.link import Chunk, Link

HOLD = math.inf
"""The delay of a chunk that waits until the toxic is removed."""

RETRANSMIT_S, RETRANSMIT_MAX_S, RETRANSMIT_FOR_S = 0.2, 2.0, 60.0
"""How long a stream needs to send lost data again: it doubles with each loss in a row (Linux's minimum RTO)."""

OVERTAKE_S = 0.02
"""How long a datagram that is to be overtaken is held back."""

SLICES_PER_S = 20
"""A rate limit hands data on in so many pieces per second."""


Over = Literal["datagram", "stream", "connect"]
"""What a decision was about; `connect` is the opening of a connection."""

Decided = Callable[["Toxic", str, str, str, Over, int], object]
"""Is told of a decision left to chance that bit: toxic, source, target, `loss` and the like, of what, its bytes."""


class Way:
    """From one node to another: the randomness of what toxics decide there, what they remember, and who is told of it.

    `name` is the same in each run: the two, the number of the connection between them, the direction.
    """

    def __init__(self, source: str, target: str, random: Random, tell: Decided, *, name: str = "") -> None:
        self.source, self.target, self.random, self._tell = source, target, random, tell
        self.name = name
        self.state: dict[Toxic, Any] = {}

    def decided(self, toxic: Toxic, what: str, over: Over, size: int) -> None:
        """By chance, a toxic acted on `size` bytes."""
        self._tell(toxic, self.source, self.target, what, over, size)


class Counter(Protocol):
    """Counts what a toxic did; an `Effect` of a capability is one."""

    hits: int


@dataclass(slots=True)
class Hits:
    """A counter of its own."""

    hits: int = 0


def _on_all(way: Way) -> bool:
    return True


@dataclass(slots=True, kw_only=True, eq=False)
class Toxic:
    """The parent of all toxics: does nothing. `judge` is for streams, `copies` for datagrams.

    It is on those links for which `only` holds; without `opens` it leaves the opening of connections alone. Settings
    may change while it is on, if every link is then told by `renew`: what waits is judged again where `again` is set.
    """

    again: ClassVar[bool] = False
    counter: Counter = field(default_factory=Hits)
    only: Callable[[Way], bool] = _on_all
    opens: bool = True

    def begin(self, link: Link) -> None:
        """The toxic is on a link from now on, or its settings have changed."""

    def cease(self, link: Link) -> None:
        """The toxic was on a link and is not any more."""

    def judge(self, chunk: Chunk, link: Link) -> float:
        """Seconds that a chunk is held back, HOLD for as long as the toxic is on; may set `chunk.then`."""
        return 0.0

    def copies(self, delays: list[float], size: int, way: Way, now: float) -> list[float]:
        """The delays with which a datagram arrives: none when it is lost, several when it is doubled."""
        return delays

    def alter(self, data: bytes, way: Way) -> bytes:
        """What becomes of a datagram's content."""
        return data

    def piece_bytes(self, random: Random) -> int:
        """The longest piece that data is handed on in, 0 for any."""
        return 0

    def _told(self, delays: list[float], times: int, what: str, size: int, way: Way) -> list[float]:
        """The delays of a datagram, once so many decisions about it are counted and told."""
        self.counter.hits += times
        for _ in range(times):
            way.decided(self, what, "datagram", size)
        return delays


@dataclass(slots=True, kw_only=True, eq=False)
class Drop(Toxic):
    """A cable that is cut: nothing passes, streams go on where they were once it is mended.

    With `new_only` only what opens a connection is held up.
    """

    new_only: bool = False

    def judge(self, chunk: Chunk, link: Link) -> float:
        if self.new_only and chunk.kind != "open":
            return 0.0
        self.counter.hits += 1
        return HOLD

    def copies(self, delays: list[float], size: int, way: Way, now: float) -> list[float]:
        if self.new_only:
            return delays
        self.counter.hits += 1
        return []


@dataclass(slots=True, kw_only=True, eq=False)
class Reject(Toxic):
    """A firewall that answers with a reset: new connections are refused, old ones broken at their next data.

    With `new_only` those are left alone.
    """

    new_only: bool = False

    def judge(self, chunk: Chunk, link: Link) -> float:
        if self.new_only and chunk.kind != "open":
            return 0.0
        self.counter.hits += 1
        chunk.data, chunk.then = b"", "refuse" if chunk.kind in ("open", "accept") else "reset"
        return 0.0

    def copies(self, delays: list[float], size: int, way: Way, now: float) -> list[float]:
        if self.new_only:
            return delays
        self.counter.hits += 1
        return []


@dataclass(slots=True, kw_only=True, eq=False)
class Latency(Toxic):
    """Delay everything by `latency_s`, and by up to `jitter_s` more; less than nothing is nothing."""

    again: ClassVar[bool] = True
    latency_s: float = 0.0
    jitter_s: float = 0.0

    def judge(self, chunk: Chunk, link: Link) -> float:
        self.counter.hits += 1
        return self._delay_s(link)

    def copies(self, delays: list[float], size: int, way: Way, now: float) -> list[float]:
        self.counter.hits += 1
        return [delay + self._delay_s(way) for delay in delays]

    def _delay_s(self, way: Way) -> float:
        return max(0.0, self.latency_s + (self.jitter_s * way.random.random() if self.jitter_s else 0.0))


@dataclass(slots=True, kw_only=True, eq=False)
class Bandwidth(Toxic):
    """Let no more than `rate` bytes per second through all the links together that share this toxic; 0 is nothing.

    With `each`, every link has the rate for itself.
    """

    again: ClassVar[bool] = True
    rate: float
    each: bool = False
    free_s: float = 0.0

    def begin(self, link: Link) -> None:
        if self.each:
            link.state[self] = link.loop.time()

    def judge(self, chunk: Chunk, link: Link) -> float:
        return self._spend(len(chunk.data), chunk.at_s, link)

    def copies(self, delays: list[float], size: int, way: Way, now: float) -> list[float]:
        return [delay + self._spend(size, now, way) for delay in delays]

    def piece_bytes(self, random: Random) -> int:
        return max(1, int(self.rate / SLICES_PER_S)) if self.rate > 0 else 0

    def _spend(self, size: int, at_s: float, way: Way) -> float:
        if not size:
            return 0.0
        self.counter.hits += 1
        if self.rate <= 0:
            return HOLD
        free_s = max(way.state.get(self, 0.0) if self.each else self.free_s, at_s) + size / self.rate
        if self.each:
            way.state[self] = free_s
        else:
            self.free_s = free_s
        return float(free_s - at_s)


@dataclass(slots=True, kw_only=True, eq=False)
class Loss(Toxic):
    """Lose a share: a datagram is gone, a stream needs a while to send it again.

    What follows a loss is lost with a probability that is higher by `correlation`, so that losses come in bursts.
    """

    probability: float
    correlation: float = 0.0

    def judge(self, chunk: Chunk, link: Link) -> float:
        delay_s, again_s, lost = 0.0, RETRANSMIT_S, self._lost(link)
        while lost and delay_s < RETRANSMIT_FOR_S:
            self.counter.hits += 1
            link.decided(self, "loss", chunk.over, len(chunk.data))
            delay_s += again_s
            again_s = min(2 * again_s, RETRANSMIT_MAX_S)
            lost = link.random.random() < self.probability  # a burst is over by then
        return delay_s

    def copies(self, delays: list[float], size: int, way: Way, now: float) -> list[float]:
        kept = [delay for delay in delays if not self._lost(way)]
        return self._told(kept, len(delays) - len(kept), "loss", size, way)

    def _lost(self, way: Way) -> bool:
        more = self.correlation if way.state.get(self) else 0.0
        way.state[self] = lost = way.random.random() < self.probability + more
        return lost


@dataclass(slots=True, kw_only=True, eq=False)
class Duplicate(Toxic):
    """Deliver a share of the datagrams once more, `after_s` later."""

    probability: float
    after_s: float = 0.0

    def copies(self, delays: list[float], size: int, way: Way, now: float) -> list[float]:
        again = [delay + self.after_s for delay in delays if way.random.random() < self.probability]
        return self._told(delays + again, len(again), "duplicate", size, way)


@dataclass(slots=True, kw_only=True, eq=False)
class Reorder(Toxic):
    """Hold a share of the datagrams back so that later ones overtake them."""

    probability: float

    def copies(self, delays: list[float], size: int, way: Way, now: float) -> list[float]:
        made = [delay + OVERTAKE_S * (way.random.random() < self.probability) for delay in delays]
        return self._told(made, sum(a != b for a, b in zip(delays, made, strict=True)), "reorder", size, way)


@dataclass(slots=True, kw_only=True, eq=False)
class Reset(Toxic):
    """Break the connection, for both ends, at a share of the chunks; `after_s` later. With `ends`, at its end too."""

    probability: float = 1.0
    after_s: float = 0.0
    ends: bool = False

    def judge(self, chunk: Chunk, link: Link) -> float:
        counts = chunk.data or (self.ends and chunk.kind == "end")
        if not counts or link.random.random() >= self.probability:
            return 0.0
        self.counter.hits += 1
        link.decided(self, "reset", chunk.over, len(chunk.data))
        chunk.data, chunk.then = b"", "reset"
        chunk.kind = "break" if chunk.kind == "end" else chunk.kind
        return self.after_s


@dataclass(slots=True, kw_only=True, eq=False)
class Corrupt(Toxic):
    """Turn over one bit in a share of the datagrams, and of what a stream carries at a time."""

    probability: float

    def judge(self, chunk: Chunk, link: Link) -> float:
        chunk.data = self._changed(chunk.data, link, "stream")
        return 0.0

    def alter(self, data: bytes, way: Way) -> bytes:
        return self._changed(data, way, "datagram")

    def _changed(self, data: bytes, way: Way, over: Over) -> bytes:
        if not data or way.random.random() >= self.probability:
            return data
        self.counter.hits += 1
        way.decided(self, "corrupt", over, len(data))
        return flip_bit(data, way.random)


def flip_bit(data: bytes, random: Random) -> bytes:
    """The same with one bit wrong; nothing has none."""
    if not data:
        return data
    at = random.randrange(8 * len(data))
    return data[: at >> 3] + bytes([data[at >> 3] ^ 1 << (at & 7)]) + data[(at >> 3) + 1 :]
