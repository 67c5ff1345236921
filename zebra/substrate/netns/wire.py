"""The way through userspace, for links whose effects the kernel has no means for, as `segments` has them.

Packets of these links leave the switch by a device, are judged by the same toxics as the proxy's datagrams, and come
back by the device when they are due. Segments of one TCP flow keep their order. It holds for connections that were open
before, whoever made them; links without such effects never come here.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import os
from collections.abc import Callable
from random import Random

from zebra.proxy.toxics import Decided, Duplicate, Reorder, Toxic, Way
from zebra.substrate.netns.packet import TCP, Packet, parse, text_of
from zebra.substrate.netns.segments import HEADER_BYTES, JUDGES, Sent, forget, judged

PACKET_BYTES_MAX = HEADER_BYTES + (1 << 16)
READS = 64
"""So many packets are read before others have their turn."""

ToxicsOf = Callable[[str, str], tuple[Toxic, ...]]


class Wire:
    """The session's end of the device. `name_of` gives the node of an address, `packets` counts what came this way."""

    def __init__(self, loop: asyncio.AbstractEventLoop, file: int, seed: int, toxics_of: ToxicsOf,
                 name_of: Callable[[str], str], decided: Decided) -> None:  # fmt: skip
        self._loop, self._file, self._seed = loop, file, seed
        self._toxics_of, self._name_of, self._decided = toxics_of, name_of, decided
        self.packets = 0
        self._ways: dict[tuple[bytes, bytes], Way] = {}
        self._waiting: list[tuple[float, int, Way, bytes]] = []
        self._numbers = itertools.count()
        self._last_s: dict[bytes, float] = {}
        self._timer: asyncio.TimerHandle | None = None
        loop.add_reader(file, self._readable)

    def _readable(self) -> None:
        for _ in range(READS):
            try:
                data = os.read(self._file, PACKET_BYTES_MAX)
            except BlockingIOError:
                break
            self.packets += 1
            packet = parse(memoryview(data)[HEADER_BYTES:])
            if packet is None:
                self._write(data)
            else:
                self._judge(data, packet)
        self._pump()

    def _way(self, packet: Packet) -> Way:
        key = (packet.source, packet.target)
        if key not in self._ways:
            source, target = (self._name_of(text_of(each)) for each in key)
            self._ways[key] = Way(source, target, Random(f"{self._seed}/{source}>{target}/packets"), self._decided)
        return self._ways[key]

    def _judge(self, data: bytes, packet: Packet) -> None:
        way, now = self._way(packet), self._loop.time()
        sent = [Sent(0.0, data)]
        for toxic in self._toxics_of(way.source, way.target):
            if not toxic.only(way):
                continue
            if isinstance(toxic, JUDGES):
                later, write = self._loop.call_later, self._write
                sent = [each for one in sent for each in judged(toxic, way, one, now, later, write)]
            elif packet.protocol != TCP or not isinstance(toxic, Duplicate | Reorder):
                sent = [
                    one._replace(delay_s=delay_s)
                    for one in sent
                    for delay_s in toxic.copies([one.delay_s], packet.size, way, now)
                ]
        for one in sent:
            due_s = now + one.delay_s
            if packet.protocol == TCP and not one.loose:
                due_s = self._last_s[packet.flow] = max(due_s, self._last_s.get(packet.flow, 0.0))
            heapq.heappush(self._waiting, (due_s, next(self._numbers), way, one.data))

    def _pump(self) -> None:
        """Let go of what is due, and set the timer for the next."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        now = self._loop.time()
        while self._waiting and self._waiting[0][0] <= now:
            self._write(heapq.heappop(self._waiting)[3])
        if self._waiting:
            self._timer = self._loop.call_at(self._waiting[0][0], self._pump)

    def refresh(self) -> None:
        """Toxics have changed: what waits on a link that has none any more goes at once."""
        now = self._loop.time()
        for way in self._ways.values():
            on = self._toxics_of(way.source, way.target)
            for toxic in [each for each in way.state if each not in on]:
                forget(way, toxic)
        self._waiting = [(due if self._toxics_of(way.source, way.target) else min(due, now), number, way, data)
                         for due, number, way, data in sorted(self._waiting)]  # fmt: skip
        heapq.heapify(self._waiting)
        self._last_s.clear()
        self._pump()

    def _write(self, data: bytes) -> None:
        try:
            os.write(self._file, data)
        except OSError:  # the kernel refuses it, as a card drops what is malformed
            pass

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        for way in self._ways.values():
            for toxic in list(way.state):
                forget(way, toxic)
        self._loop.remove_reader(self._file)
        os.close(self._file)
