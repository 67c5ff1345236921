"""One direction of a proxied connection: a queue of chunks, each let go when its toxics say so."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable
from random import Random
from typing import Literal

from zebra.proxy.toxics import HOLD, Decided, Over, Toxic, Way

Kind = Literal["open", "accept", "refuse", "data", "end", "break"]
Then = Literal["", "close", "reset", "refuse"]

QUEUE_BYTES_MAX = 1 << 20
"""A link that holds more stops reading, as a full window stops a sender."""


class Chunk:
    """Something that passes a link: data, or what happens to the connection. `at_s` is when it was received.

    `open` asks for a connection, `accept` and `refuse` answer; `end` is a half-close, `break` a reset by the sender.
    `then` is what happens to the connection once this chunk was let go. `cut` is the toxic that made it
    a piece of something longer.
    """

    __slots__ = ("at_s", "cut", "data", "delays", "kind", "then")

    def __init__(self, kind: Kind, data: bytes, at_s: float) -> None:
        self.kind, self.data, self.at_s = kind, data, at_s
        self.delays: dict[Toxic, float] = {}
        self.then: Then = ""
        self.cut: Toxic | None = None

    @property
    def over(self) -> Over:
        return "connect" if self.kind in ("open", "accept", "refuse") else "stream"


class Link(Way):
    """Chunks from one node to another. `deliver` hands one on, `end` ends the connection, `hold_back` stops the source.

    `ready` is False while nobody takes what is handed on, `clear` says that a chunk would pass as it comes, so that it
    need not be made. `received` and `sent` are bytes, `acted` is the record of what toxics did: on how many chunks each
    of them acted.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, source: str, target: str, name: str, random: Random,
                 tell: Decided, deliver: Callable[[Chunk], None], end: Callable[[Then], None],
                 hold_back: Callable[[bool], None]) -> None:  # fmt: skip
        super().__init__(source, target, random, tell, name=name)
        self.loop, self.end = loop, end
        self.toxics: tuple[Toxic, ...] = ()
        self.acted: Counter[Toxic] = Counter()
        self.ready = True
        self.received = self.sent = 0
        self._deliver, self._hold_back = deliver, hold_back
        self._queue: deque[Chunk] = deque()
        self._bytes = 0
        self._held = self._blocked = False
        self._timer: asyncio.TimerHandle | None = None

    @property
    def clear(self) -> bool:
        return self.ready and not self.toxics and not self._queue

    def change(self, toxics: tuple[Toxic, ...]) -> None:
        """Go on under other toxics: they judge what waits, and what only the former ones held back goes at once."""
        toxics = tuple(toxic for toxic in toxics if toxic.only(self))
        if toxics == self.toxics:
            return
        before, self.toxics = self.toxics, toxics
        for toxic in toxics:
            if toxic not in before:
                toxic.begin(self)
        self._judge_waiting()
        for toxic in before:
            if toxic not in toxics:
                toxic.cease(self)

    def renew(self, toxic: Toxic) -> None:
        """Go on under a toxic whose settings have changed."""
        if toxic in self.toxics:
            toxic.begin(self)
            if toxic.again:
                for chunk in self._queue:
                    chunk.delays.pop(toxic, None)
            self._judge_waiting()

    def arrive(self, kind: Kind, data: bytes = b"") -> None:
        """Take a chunk from the source."""
        if not self.toxics and not self._queue and (self.ready or kind not in ("data", "end")):
            self.received += len(data)
            self.sent += len(data)
            self._deliver(Chunk(kind, data, 0.0))
            return
        self.received += len(data)
        now, at = self.loop.time(), 0
        while True:
            step, cut = len(data), None
            for toxic in self.toxics:
                if (size := toxic.piece_bytes(self.random)) and size < step:
                    step, cut = size, toxic
            chunk = Chunk(kind, data[at : at + step] if step < len(data) else data, now)
            chunk.cut = cut
            self._judge(chunk)
            self._queue.append(chunk)
            self._bytes += len(chunk.data)
            at += step
            if at >= len(data):
                break
        self.pump()

    def _judge_waiting(self) -> None:
        for chunk in self._queue:
            self._judge(chunk)
        self._bytes = sum(len(chunk.data) for chunk in self._queue)
        self.pump()

    def _judge(self, chunk: Chunk) -> None:
        for toxic in self.toxics:
            if toxic not in chunk.delays:
                hits = toxic.counter.hits
                passes = chunk.over == "connect" and not toxic.opens
                chunk.delays[toxic] = 0.0 if passes else toxic.judge(chunk, self)
                self.acted[toxic] += toxic.counter.hits > hits

    def pump(self) -> None:
        """Let go of what is due, and set the timer for the next."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._queue and (self.ready or self._queue[0].kind not in ("data", "end")):
            chunk = self._queue[0]
            due_s = chunk.at_s + sum(chunk.delays.get(toxic, 0.0) for toxic in self.toxics)
            if due_s > self.loop.time():
                if due_s < HOLD:
                    self._timer = self.loop.call_at(due_s, self.pump)
                break
            self._queue.popleft()
            self._bytes -= len(chunk.data)
            self.sent += len(chunk.data)
            self._deliver(chunk)
            if chunk.then:
                self.drop()
                self.end(chunk.then)
                return
        self._flow()

    def block(self) -> None:
        """Nobody takes data at present: stop the source."""
        self.ready, self._blocked = False, True
        self._flow()

    def unblock(self) -> None:
        """Data is taken again."""
        self.ready, self._blocked = True, False
        self.pump()

    def _flow(self) -> None:
        full = self._bytes > QUEUE_BYTES_MAX or self._blocked or (not self.ready and self._bytes > 0)
        if full != self._held:
            self._held = full
            self._hold_back(full)

    def drop(self) -> None:
        """Forget what waits: the connection is over."""
        self._queue.clear()
        self._bytes = 0
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
