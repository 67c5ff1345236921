"""The picture of a run's operations: how many ended per second, and how long each took, over the faults.

An operation lasts from its `op.invoke` to the event that ended it, and stands at the time when it was invoked.
Percentiles are of those that succeeded. An unknown outcome is shown as such: the operation may have taken effect, and
may do so still.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from zebra.events import Event
from zebra.reports.picture import LEFT, PLOT, STEPS, Label, Picture
from zebra.reports.story import Story, moment
from zebra.reports.wording import one_line, time_text

PANELS_MAX, RATE_HEIGHT, PANEL_HEIGHT, GAP, CELL = 4, 64.0, 112.0, 20.0, 4
BINS, ENOUGH = 60, 20
"""At most so many stretches of time; percentiles need so many operations that succeeded."""
OUTCOMES = ("ok", "fail", "unknown")
BANDS_MAX, FEW, FEWEST = 200, 150, 300


@dataclass(frozen=True, slots=True)
class Operation:
    """`outcome` is ok, fail or unknown; one that had not ended when the run did is unknown."""

    f: str
    client: str
    start: float
    end: float
    outcome: str
    about: str = ""

    @property
    def lasted_s(self) -> float:
        return self.end - self.start

    @property
    def title(self) -> str:
        text = f"{self.f} by {self.client}: {self.outcome} after {time_text(self.lasted_s)}, from {moment(self.start)}"
        return one_line(f"{text} {self.about}".strip(), 160)


def operations(events: Iterable[Event]) -> list[Operation]:
    """The operations of all clients, in the order of their invocation."""
    going, ended, end_s = dict[tuple[str, object], Event](), list[tuple[int, Operation]](), 0.0
    for event in events:
        end_s = event.t
        if event.kind == "op.invoke":
            going[event.node, str(event.get("op"))] = event
        elif event.kind.startswith("op.") and event.kind[3:] in OUTCOMES:
            began = going.pop((event.node, str(event.get("op"))), None)
            if began is not None:
                ended.append((began.seq, _operation(began, event.t, event.kind[3:], str(event.get("why", "")))))
    left = [(began.seq, _operation(began, end_s, "unknown", "(had not ended)")) for began in going.values()]
    return [operation for _, operation in sorted(ended + left, key=lambda entry: entry[0])]


def _operation(began: Event, end_s: float, outcome: str, why: str) -> Operation:
    given = [f"{name}={value}" for name, value in began.fields.items() if name not in ("op", "client", "f")]
    about = why or " ".join(given)
    return Operation(str(began.get("f", "op")), str(began.get("client", began.node)), began.t, end_s, outcome, about)


class Operations(Picture):
    """Operations between two times: one panel for the rate, one for the latency of each kind (`f`)."""

    def __init__(self, story: Story, ops: Sequence[Operation], start: float, end: float, budget: int) -> None:
        super().__init__(story, start, end)
        self.ops = [op for op in ops if op.start <= self.end and op.end >= self.start]
        self.percentiles = False
        self.counts = Counter(op.outcome for op in self.ops)
        kinds = Counter(op.f for op in self.ops)
        self.kinds = [kind for kind, _ in kinds.most_common(PANELS_MAX)]
        if hidden := sum(n for kind, n in kinds.items() if kind not in self.kinds):
            self.notes.append(f"{hidden:,} operations of {len(kinds) - PANELS_MAX:,} rarer kinds are in the rate only.")
        self.bottom = self.top + RATE_HEIGHT + len(self.kinds) * (GAP + PANEL_HEIGHT)
        self.height = self.bottom + (18 if self.bottom > 420 else 4) + (20 if story.violations else 0)
        self._draw_scale(self.bottom)
        self._draw_bands()
        self._draw_rate()
        for index, kind in enumerate(self.kinds):
            top = self.top + RATE_HEIGHT + GAP + index * (GAP + PANEL_HEIGHT)
            share = kinds[kind] / sum(kinds[shown] for shown in self.kinds)
            self._draw_latency(kind, top, max(FEWEST, int(budget * share)))
        self._draw_faults()
        self._draw_violations()

    def _draw_bands(self) -> None:
        for fault, _ in self.faults[:BANDS_MAX]:
            x = self._x(fault.start)
            width = max(2.0, self._x(fault.end) - x)
            self._shape(x, self.top, width, self.bottom - self.top, "band wide", fault.title)

    def _frame(self, top: float, height: float, name: str, about: str = "") -> None:
        self._shape(LEFT, top + height, PLOT, 1, "base")
        self.labels.append(Label(LEFT - 122, top + 8, one_line(name, 12), "panel", name))
        if about:
            self.labels.append(Label(LEFT - 122, top + 24, about, "panel quiet"))

    def _bins(self, number: int) -> float:
        """The length of a stretch of time, such that there are at most BINS, each with a few operations."""
        fewest_s = (self.end - self.start) / min(BINS, max(BINS // 3, number // 4))
        return next((step for step in STEPS if step >= fewest_s), fewest_s)

    def _draw_rate(self) -> None:
        length_s = self._bins(len(self.ops))
        bins = defaultdict[int, Counter[str]](Counter)
        for op in self.ops:
            if op.end <= self.end:
                bins[math.floor(op.end / length_s)][op.outcome] += 1
        self._frame(self.top, RATE_HEIGHT, "ended per s", f"in {time_text(length_s)}")
        rates = {index: bins[index].total() / length_s for index in bins}
        most = max(rates.values(), default=1.0)
        self.labels.append(Label(LEFT - 8, self.top + 8, f"{most:,.0f}" if most >= 100 else f"{most:.3g}", "node"))
        self.labels.append(Label(LEFT - 8, self.top + RATE_HEIGHT - 4, "0", "node"))
        for index, ended in sorted(bins.items()):
            x, y = self._x(index * length_s), self.top + RATE_HEIGHT
            width = max(1.5, self._x((index + 1) * length_s) - x - 1)
            for outcome in OUTCOMES:
                if ended[outcome]:
                    height = max(1.5, RATE_HEIGHT * rates[index] / most * ended[outcome] / ended.total())
                    y -= height
                    title = f"{ended[outcome]:,} {outcome} from {moment(round(index * length_s, 6))} on"
                    self._shape(x, round(y, 1), width, round(height, 1), f"op-{outcome}", title)

    def _draw_latency(self, kind: str, top: float, budget: int) -> None:
        ops = [op for op in self.ops if op.f == kind]
        self._frame(top, PANEL_HEIGHT, kind, f"{len(ops):,}")
        lowest = math.floor(math.log10(max(1e-6, min(op.lasted_s for op in ops))) + 1e-9)
        highest = max(lowest + 1, math.ceil(math.log10(max(1e-6, max(op.lasted_s for op in ops))) - 1e-9))

        def y(lasted_s: float) -> float:
            share = (math.log10(max(lasted_s, 1e-6)) - lowest) / (highest - lowest)
            return round(top + PANEL_HEIGHT - 4 - share * (PANEL_HEIGHT - 10), 1)

        for power in range(lowest, highest + 1, 1 + (highest - lowest) // 5):
            self._shape(LEFT, y(10.0**power), PLOT, 1, "grid")
            self.labels.append(Label(LEFT - 8, y(10.0**power), f"{_decade(power)}", "node"))
        heights = {id(op): y(op.lasted_s) for op in ops}
        self._draw_dots(ops, heights, budget)
        fine = [op for op in ops if op.outcome == "ok"]
        if len(fine) >= ENOUGH:
            self.percentiles = True
            self._draw_percentiles(fine, y)

    def _draw_dots(self, ops: Sequence[Operation], heights: dict[int, float], budget: int) -> None:
        """One dot per operation; when there are too many, cells of those that succeeded, stronger for more."""
        fine, bad = [op for op in ops if op.outcome == "ok"], [op for op in ops if op.outcome != "ok"]
        if len(bad) > budget // 2:
            shown = bad[:: math.ceil(2 * len(bad) / budget)]
            self.notes.append(f"{len(bad) - len(shown):,} more failed or unknown {bad[0].f} are in the rate only.")
            bad = shown
        if len(fine) + len(bad) > budget:
            self._draw_cells(fine, heights, budget - len(bad))
            fine = []
        for op in (*fine, *bad):
            self._dot(op, heights[id(op)])

    def _draw_cells(self, ops: Sequence[Operation], heights: dict[int, float], room: int) -> None:
        size = CELL
        while len(cells := self._cells(ops, heights, size)) > room:
            size += 2
        most = max(map(len, cells.values()))
        for (column, row), cell in cells.items():
            shade = math.ceil(4 * math.sqrt(len(cell) / most))
            title = f"{len(cell):,} {cell[0].f} ok around {time_text(cell[0].lasted_s)}, {moment(cell[0].start)}"
            self._shape(LEFT + column * size, row * size, size, size, f"op-ok d{shade}", one_line(title, 160))
        self.notes.append(f"{len(ops):,} {ops[0].f} that succeeded are summed up in green, stronger for more.")

    def _cells(
        self, ops: Sequence[Operation], heights: dict[int, float], size: int
    ) -> dict[tuple[int, int], list[Operation]]:
        cells = defaultdict[tuple[int, int], list[Operation]](list)
        for op in ops:
            cells[int(self._x(op.start) - LEFT) // size, int(heights[id(op)]) // size].append(op)
        return cells

    def _dot(self, op: Operation, y: float) -> None:
        size = 6 if len(self.ops) < FEW else 4
        x = self._x(op.start)
        if op.outcome == "unknown" and self.counts["unknown"] < FEW:
            self._shape(x, y - 0.5, self._x(op.end) - x, 1, "op-unknown while", op.title)
        self._shape(round(x - size / 2, 1), y - size / 2, size, size, f"dot op-{op.outcome}", op.title)

    def _draw_percentiles(self, ops: Sequence[Operation], y: Callable[[float], float]) -> None:
        length_s, bins = self._bins(len(ops) // 2), defaultdict[int, list[float]](list)
        for op in ops:
            bins[math.floor(op.start / length_s)].append(op.lasted_s)
        for index, lasted in sorted(bins.items()):
            x = self._x(index * length_s)
            width = self._x((index + 1) * length_s) - x
            for name, share in (("p99", 0.99), ("p50", 0.50)):
                value_s = percentile(lasted, share)
                title = f"{name} {time_text(value_s)} of {len(lasted):,} from {moment(round(index * length_s, 6))} on"
                self._shape(x, y(value_s) - 1, width, 2.5 if name == "p50" else 2, name, title)


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least this share of them does not exceed; so p99 of fewer than 100 is the largest."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def _decade(power: int) -> str:
    unit, name = (6, "µs") if power < -3 else (3, "ms") if power < 0 else (0, "s")
    return f"{10 ** (power + unit):g} {name}"
