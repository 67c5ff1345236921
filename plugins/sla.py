"""Most operations are done in time."""

from __future__ import annotations

from collections import deque
from functools import partial

from zebra.events import Event
from zebra.invariant import Factory, Violation, invariant

EVIDENCE = 5


class Sla:
    """The `share` of the operations that ended ok within `within_s` seconds.

    Judged once at the end, when what still waits for longer than that counts as late; with `window_s` also after each
    operation, over those that ended in the last `window_s` seconds. Fewer than `at_least` operations are not judged.
    """

    def __init__(self, of: str, within_s: float, share: float, window_s: float, at_least: int) -> None:
        self.of, self.within_s, self.share, self.window_s, self.at_least = of, within_s, share, window_s, at_least
        self.waiting: dict[tuple[str, int], Event] = {}
        self.recent: deque[tuple[Event, bool]] = deque()
        self.good_recent = self.good = self.total = 0
        self.late: deque[Event] = deque(maxlen=EVIDENCE)

    def check(self, event: Event) -> Violation | None:
        if self.of and event["f"] != self.of:
            return None
        if event.kind == "op.invoke":
            self.waiting[event["client"], event["op"]] = event
            return None
        began = self.waiting.pop((event["client"], event["op"]), None)
        if began is None:
            return None
        good = event.kind == "op.ok" and event.t - began.t <= self.within_s
        self.total += 1
        self.good += good
        if not good:
            self.late.append(event)
        return self._window(event, good) if self.window_s else None

    def end(self, now_s: float) -> Violation | None:
        overdue = [event for event in self.waiting.values() if now_s - event.t > self.within_s]
        self.late.extend(overdue)
        return self._judge(self.good, self.total + len(overdue), "of all operations")

    def _window(self, event: Event, good: bool) -> Violation | None:
        self.recent.append((event, good))
        self.good_recent += good
        while event.t - self.recent[0][0].t > self.window_s:
            self.good_recent -= self.recent.popleft()[1]
        return self._judge(self.good_recent, len(self.recent), f"of those in the last {self.window_s:g} s")

    def _judge(self, good: int, total: int, which: str) -> Violation | None:
        if total < max(self.at_least, 1) or good >= self.share * total:
            return None
        what = f"{good} of {total} ok within {self.within_s:g} s {which}, {self.share:.4g} is promised"
        return Violation(what, tuple(self.late))


def sla(name: str = "general.sla", *, of: str = "", within_s: float = 1.0, share: float = 0.99,
        window_s: float = 0.0, at_least: int = 20) -> Factory:  # fmt: skip
    """Of the operations called `of` (all when "") the `share` are ok within `within_s` seconds."""
    kinds = ("op.invoke", "op.ok", "op.fail", "op.unknown")
    return invariant(name, kinds)(partial(Sla, of, within_s, share, window_s, at_least))


sla()
