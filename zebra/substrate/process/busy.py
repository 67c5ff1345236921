"""How long processes lately waited for a processor: what a busy machine does to a run in real time.

Source: the kernel's documentation, scheduler/sched-stats: the first two numbers of `/proc/<pid>/schedstat` are the
nanoseconds that a process ran, and those that it was ready to run and waited for its turn.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping

from zebra.substrate import LATELY_S

LOOK_S = 1.0
"""Pause between two looks."""


class Waits:
    """What each process waited for a processor, by a name that it keeps when another process takes its place.

    Of a process with many threads the first alone counts.
    """

    def __init__(self) -> None:
        self._seen: dict[str, tuple[int, int]] = {}
        self._total: dict[str, int] = {}
        self._looks: deque[tuple[float, dict[str, int]]] = deque()

    def due(self) -> bool:
        """Whether it is time for another look."""
        return not self._looks or time.monotonic() >= self._looks[-1][0] + LOOK_S

    def look(self, pids: Mapping[str, int]) -> None:
        """Look what processes waited so far, by name."""
        at_s = time.monotonic()
        for name, pid in pids.items():
            waited = waited_ns(pid)
            known, counted = self._seen.get(name, (pid, waited))
            self._seen[name] = (pid, waited)
            more = waited - counted if known == pid else waited
            self._total[name] = self._total.get(name, 0) + max(0, more)  # of a process that has just ended it is less
        self._looks.append((at_s, dict(self._total)))
        while len(self._looks) > 1 and self._looks[1][0] <= at_s - LATELY_S:
            self._looks.popleft()

    def lately(self) -> dict[str, float]:
        """Seconds that each waited in about the last `LATELY_S` before the last look, most first."""
        if not self._looks:
            return {}
        before, after = self._looks[0][1], self._looks[-1][1]
        waited = {name: (after[name] - before.get(name, 0)) / 1e9 for name in after}
        return dict(sorted(waited.items(), key=lambda item: -item[1]))


def waited_ns(pid: int) -> int:
    """Nanoseconds that a process waited for a processor so far; 0 if it is gone or the kernel does not count them."""
    try:
        with open(f"/proc/{pid}/schedstat") as file:
            return int(file.read().split()[1])
    except (OSError, IndexError):
        return 0
