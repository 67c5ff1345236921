"""What all pictures over time share: one scale, the faults above it, the violation across it, plain shapes.

A picture is a list of rectangles and texts in pixels, drawn back to front by the page's template. Pictures of one run
and one stretch of time have the same scale, so that they line up when they stand below each other.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from zebra.reports.story import Fault, Story, moment
from zebra.reports.wording import one_line

LEFT, PLOT, RIGHT = 132.0, 1020.0, 12.0  # pixels for names, for time, and beside it
AXIS, FAULT_ROW, FAULT_ROWS_MAX = 26.0, 18.0, 8
STEPS = [unit * 10.0**power for power in range(-7, 1) for unit in (1, 2, 5)] + [
    10,
    15,
    20,
    30,
    60,
    120,
    300,
    600,
    1800,
    3600,
]


@dataclass(frozen=True, slots=True)
class Shape:
    """A rectangle in pixels: `css` names its look, `title` is what the pointer shows."""

    x: float
    y: float
    width: float
    height: float
    css: str
    title: str = ""


@dataclass(frozen=True, slots=True)
class Label:
    """A text; one with a `span` names what lies between two x, and moves along when the reader zooms in."""

    x: float
    y: float
    text: str
    css: str
    title: str = ""
    span: tuple[float, float] | None = None


class Picture:
    """A run between two times; `notes` say what was left out or summed up."""

    def __init__(self, story: Story, start: float, end: float) -> None:
        self.story, self.start, self.end = story, start, max(end, start + 1e-6)
        self.shapes, self.labels, self.notes = list[Shape](), list[Label](), list[str]()
        self.width, self.height = LEFT + PLOT + RIGHT, 0.0
        self._place_faults()

    def _x(self, time_s: float) -> float:
        share = (min(max(time_s, self.start), self.end) - self.start) / (self.end - self.start)
        return round(LEFT + share * PLOT, 1)

    def _shape(self, x: float, y: float, width: float, height: float, css: str, title: str = "") -> None:
        self.shapes.append(Shape(x, y, round(width, 1), height, css, title))

    def _place_faults(self) -> None:
        """Faults above everything else, each in the first row where neither bar nor name meets another."""
        self.faults, ends = list[tuple[Fault, int]](), list[float]()
        for fault in self.story.faults:
            if fault.start <= self.end and fault.end >= self.start:
                left = self._fault_name_x(fault)
                begin, right = min(left, self._x(fault.start)), max(left + _name_width(fault), self._x(fault.end))
                row = next((row for row, end in enumerate(ends) if end + 8 <= begin), len(ends))
                ends[row : row + 1] = [right]
                self.faults.append((fault, row))
        self.top = AXIS + FAULT_ROW * min(len(ends), FAULT_ROWS_MAX) + (6 if ends else 0)
        if hidden := sum(row >= FAULT_ROWS_MAX for _, row in self.faults):
            self.notes.append(f"{hidden:,} more faults are shown by their bands only.")

    def _fault_name_x(self, fault: Fault) -> float:
        """In the bar where there is room, else behind it, else before it."""
        left, right, width = self._x(fault.start), self._x(fault.end), _name_width(fault)
        if right - left >= width:
            return left + 5
        return right + 5 if right + width <= LEFT + PLOT else max(LEFT, left - width + 3)

    def _draw_scale(self, bottom: float) -> None:
        step = next((step for step in STEPS if (self.end - self.start) / step <= 11), 7200.0)
        digits = max(0, -math.floor(math.log10(step) + 1e-9))
        for index in range(math.ceil(self.start / step - 1e-9), math.floor(self.end / step + 1e-9) + 1):
            x = self._x(index * step)
            self._shape(x, AXIS - 7, 1, bottom - AXIS + 7, "grid")
            for y in (AXIS - 16, bottom + 11)[: 1 + (bottom > 420)]:
                css = "time" if x < LEFT + PLOT - 16 else "time end"
                self.labels.append(Label(x, y, f"{index * step:.{digits}f} s", css))

    def _draw_faults(self) -> None:
        for fault, row in self.faults:
            if row < FAULT_ROWS_MAX:
                x, right, y = self._x(fault.start), self._x(fault.end), AXIS + row * FAULT_ROW
                self._shape(x, y, max(3.0, right - x), FAULT_ROW - 3, "fault", fault.title)
                css, middle = "name" if right - x >= _name_width(fault) else "name out", y + (FAULT_ROW - 3) / 2
                at = self._fault_name_x(fault)
                self.labels.append(Label(at, middle, _fault_name(fault), css, fault.title, (x, right)))

    def _draw_violations(self) -> None:
        """A line across the whole height where each violation was found, with its name at the bottom."""
        for violation in self.story.violations[:9]:
            found_s = self.story.found_s(violation)
            x, title = self._x(found_s), f"{violation.get('invariant', 'violation')} at {moment(found_s)}"
            self._shape(x - 1, AXIS - 7, 2, self.height - 12 - AXIS + 7, "violation", one_line(title))
            css = "broken end" if x > LEFT + PLOT / 2 else "broken"
            self.labels.append(Label(x + (-6 if "end" in css else 6), self.height - 10, one_line(title, 90), css))


def _fault_name(fault: Fault) -> str:
    return one_line(f"{fault.name}  {fault.where}", 60)


def _name_width(fault: Fault) -> float:
    return 6.0 * len(_fault_name(fault)) + 10
