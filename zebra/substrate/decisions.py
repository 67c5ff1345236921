"""The random decisions of link effects as events: which message was lost, doubled, overtaken or reset.

    {"kind": "link.effect", "node": "", "fault": 1, "effect": 3, "number": 7, "what": "loss", "over": "datagram",
     "source": "client-1", "target": "server-2", "bytes": 120}

`fault` is the `id` of the `fault.inject` event (0: the test added the effect by itself), `number` counts the decisions
of this effect. `over` is `datagram`, `stream`, or `connect` for the opening of a connection, which has 0 bytes; what a
stream loses is sent again. Only what bit is told, and only what was left to chance: a link that drops everything, or
delays it, says nothing here.
"""

from __future__ import annotations

from collections import Counter

from zebra.events import EventLog
from zebra.proxy.toxics import Over
from zebra.substrate import Effect

RECORDED_MAX = 1000
"""So many decisions of one effect are recorded; the `hits` of `fault.heal` count all."""


class Decisions:
    """Records decisions in a log as they are made."""

    def __init__(self, log: EventLog) -> None:
        self._log = log
        self._numbers: Counter[int] = Counter()

    def __call__(self, effect: Effect, source: str, target: str, what: str, over: Over, size: int) -> None:
        """An effect acted on a message of `size` bytes from one node to another."""
        self._numbers[effect.id] += 1
        number = self._numbers[effect.id]
        if number <= RECORDED_MAX:
            self._log.emit("", "link.effect", fault=effect.fault, effect=effect.id, number=number, what=what, over=over,
                           source=source, target=target, bytes=size)  # fmt: skip
