"""The events of several processes in one order: by time, node and number, and none until all have been heard of later.

Every node that is up and not paused holds the mark back to the time it was last heard of. What lies before the mark is
released to the log. An event older than the mark is never slipped in: `late` is told.
"""

from __future__ import annotations

import heapq
import itertools
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from zebra.events import Event, EventLog

_decode = msgspec.json.Decoder(list[Any]).decode
_READ_BYTES = 1 << 20


class Order:
    """`names` are the nodes by number; `seconds` is called at each full second of run time, in its place."""

    def __init__(self, path: Path, names: dict[int, str], late: Callable[[str], None],
                 seconds: Callable[[], None] | None = None) -> None:  # fmt: skip
        path.touch()
        self._file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._names, self._late, self._seconds = names, late, seconds
        self.start_ns = time.monotonic_ns()
        self.log: EventLog
        self._rest = b""
        self._waiting: list[tuple[int, str, int, int, str, dict[str, Any]]] = []
        self._numbers = itertools.count(1).__next__
        self._heard: dict[int, int] = {}
        self._resumed: dict[int, int] = {}
        self.mark_ns = self.start_ns
        self._at_ns = 0
        self._next_s = 1

    def now(self) -> float:
        """Seconds since the run began; while a full second is told, that second."""
        return ((self._at_ns or time.monotonic_ns()) - self.start_ns) / 1e9

    def put(self, node: str, kind: str, fields: dict[str, Any]) -> Event:
        """Take an event of the session itself."""
        now = time.monotonic_ns()
        heapq.heappush(self._waiting, (now, node, -1, self._numbers(), kind, fields))
        return Event(-1, (now - self.start_ns) / 1e9, node, kind, fields)

    # -- who is waited for -----------------------------------------------------------------------------------

    def expect(self, node: int) -> None:
        """A node starts, or goes on after a pause: wait for what it says from now on."""
        self._heard[node] = self._resumed[node] = time.monotonic_ns()

    def excuse(self, node: int) -> None:
        """A node is dead or stopped: all that it has said is in the file, and nobody waits for it."""
        self.read()
        self._heard.pop(node, None)

    def slowest(self) -> str:
        """Who was not heard of for the longest time."""
        return min(((t, self._names[node]) for node, t in self._heard.items()), default=(0, "nobody"))[1]

    # -- the file --------------------------------------------------------------------------------------------

    def read(self) -> None:
        """Take what nodes have said since."""
        while data := os.read(self._file, _READ_BYTES):
            *lines, self._rest = (self._rest + data).split(b"\n")
            for line in lines:
                if line:
                    self._take(line)

    def _take(self, line: bytes) -> None:
        try:
            at_ns, node, *event = _decode(line)
        except (msgspec.DecodeError, ValueError):
            return  # torn by a kill: its `emit` has not returned
        heard = self._heard.get(node)
        if heard is not None and at_ns < self._resumed[node]:
            at_ns = self._resumed[node]  # stopped in the middle of `emit`: it has happened now
        if heard is not None and at_ns > heard:
            self._heard[node] = at_ns
        if not event:
            return
        _, number, kind, fields = event
        if at_ns < self.mark_ns:
            self._late(f"{self._names[node]} said {kind} {(self.mark_ns - at_ns) / 1e6:.1f} ms too late")
            return
        heapq.heappush(self._waiting, (at_ns, self._names[node], 0, number, kind, fields))

    # -- release ---------------------------------------------------------------------------------------------

    def release(self) -> None:
        """Give the log what all have been heard of later than."""
        now = time.monotonic_ns()
        self.read()
        self._release(min(self._heard.values(), default=now))

    def _release(self, mark_ns: int) -> None:
        self.mark_ns = max(self.mark_ns, mark_ns)
        while self._waiting and self._waiting[0][0] < self.mark_ns:
            at_ns, node, _, _, kind, fields = heapq.heappop(self._waiting)
            self._tell_seconds(at_ns)
            self.log.record((at_ns - self.start_ns) / 1e9, node, kind, fields)
        self._tell_seconds(self.mark_ns)

    def _tell_seconds(self, until_ns: int) -> None:
        while self._seconds is not None and self.start_ns + self._next_s * 10**9 <= until_ns:
            self._at_ns = self.start_ns + self._next_s * 10**9
            self._next_s += 1
            try:
                self._seconds()
            finally:
                self._at_ns = 0

    def finish(self) -> None:
        """Nobody is left: release everything."""
        self._heard.clear()
        self.read()
        self._release(time.monotonic_ns())
        os.close(self._file)
