"""The picture of a run: a lane per node over time.

A picture has a limited number of shapes, however long the run. When not all events find room, the rarer kinds are
still drawn one by one, and the frequent ones as density: a cell per lane and stretch of time, darker for more events.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

from zebra.events import Event
from zebra.reports.picture import LEFT, PLOT, Label, Picture, Shape
from zebra.reports.story import State, Story, describe, family, moment
from zebra.reports.wording import one_line, time_text

LANES_MAX, TICK = 80, 2
_LANE_HEIGHTS = ((8, 26.0), (16, 21.0), (32, 17.0), (48, 15.0), (LANES_MAX, 13.0))
Cells = dict[tuple[str, int], list[Event]]


class Timeline(Picture):
    """Some nodes of a run between two times, drawn back to front; `notes` say what was left out or summed up."""

    def __init__(self, story: Story, nodes: Sequence[str], start: float, end: float, budget: int) -> None:
        super().__init__(story, start, end)
        self.budget = budget
        self._place_lanes(nodes)
        self.height = self.bottom + (18 if self.bottom > 420 else 4) + (20 if story.violations else 0)
        self._draw_scale(self.bottom)
        self._draw_names()
        self._draw_states()
        self._draw_bands()
        self._draw_events()
        self._draw_faults()
        self._draw_violations()
        self._draw_evidence()

    def _place_lanes(self, nodes: Sequence[str]) -> None:
        if len(nodes) > LANES_MAX:
            first = self.story.concerned(self.start, self.end)
            chosen = set([*(n for n in first if n in nodes), *(n for n in nodes if n not in first)][:LANES_MAX])
            self.notes.append(f"{len(nodes) - LANES_MAX:,} more nodes are not shown; those concerned come first.")
            nodes = [node for node in nodes if node in chosen]
        self.step = next(step for most, step in _LANE_HEIGHTS if len(nodes) <= most)
        self.lanes, self.bottom, role = dict[str, float](), self.top, None
        for node in nodes:
            before, role = role, self.story.places.get(node, {}).get("role")
            self.bottom += 7 if self.lanes and role != before else 0
            self.lanes[node] = self.bottom
            self.bottom += self.step

    def _draw_names(self) -> None:
        for node, y in self.lanes.items():
            place = self.story.places.get(node, {})
            where = ", ".join(f"{key} {place[key]}" for key in ("role", "host", "rack", "dc", "region") if key in place)
            self.labels.append(Label(LEFT - 10, y + self.step / 2, one_line(node or "(run)", 19), "node", where))

    def _draw_bands(self) -> None:
        """Each fault behind the lanes of the nodes that it hit, neighbouring lanes in one piece."""
        lanes, pieces, most = list(self.lanes.items()), list[Shape](), self.budget // 6
        for fault, _ in self.faults:
            x, on, top = self._x(fault.start), set(fault.on), -1.0
            width = round(max(TICK, self._x(fault.end) - x), 1)
            for (node, y), after in zip(lanes, [*(node for node, _ in lanes[1:]), None], strict=True):
                if node in on:
                    top = y if top < 0 else top
                    if after not in on:
                        pieces.append(Shape(x, top, width, y + self.step - top, "band", fault.title))
                        top = -1.0
        self.shapes += pieces[:most]
        if len(pieces) > most:
            self.notes.append(f"{len(pieces) - most:,} pieces of later fault bands are not shown.")

    def _draw_states(self) -> None:
        """A bar while a node is up, hatched while it is paused, a thin line while it is down, a cross at a crash."""
        most, left_out = max(4, self.budget // 3 // max(1, len(self.lanes))), 0
        for node, y in self.lanes.items():
            states = [s for s in self.story.states.get(node, []) if s.start <= self.end and s.end >= self.start]
            longest = sorted(states, key=lambda state: state.start - state.end)[:most]
            left_out += len(states) - len(longest)
            self._shape(LEFT, y + self.step / 2 - 0.5, PLOT, 1, "down")
            for state in longest:
                self._draw_state(node, y, state)
        if left_out:
            self.notes.append(f"{left_out:,} of the shortest times up or down are not shown.")

    def _draw_state(self, node: str, y: float, state: State) -> None:
        x, title = self._x(state.start), f"{node} {state.name}, {moment(state.start)} to {moment(state.end)}"
        if state.name != "down":
            self._shape(x, y + 2, max(1.0, self._x(state.end) - x), self.step - 4, state.name, one_line(title))
        elif state.cause == "node.crash" and state.start >= self.start:
            self.labels.append(Label(x, y + self.step / 2, "×", "crash", one_line(f"{title} (crash)")))

    def _draw_events(self) -> None:
        inside = [e for e in self.story.marks if e.node in self.lanes and self.start <= e.t <= self.end]
        counts = Counter(event.kind for event in inside)
        room = max(200, self.budget - len(self.shapes) - len(self.labels) - 100)
        kinds = self._kinds_with_room(inside, counts, room)
        ticks = self._cells((event for event in inside if event.kind in kinds), TICK)
        if len(kinds) < len(counts):
            self._draw_density([event for event in inside if event.kind not in kinds], room - len(ticks))
        for (node, column), cell in ticks.items():
            rarest = min(cell, key=lambda event: (counts[event.kind], event.seq)).kind
            css = f"tick {self.story.colours[family(rarest)]}"
            self._shape(LEFT + column * TICK, self.lanes[node] + 2, TICK, self.step - 4, css, _title(cell))

    def _kinds_with_room(self, events: list[Event], counts: Counter[str], room: int) -> set[str]:
        """All kinds, if `room` ticks can show them one by one, or as many of the rarest as half of it can."""
        columns = defaultdict[str, set[tuple[str, int]]](set)
        for cell, inside in self._cells(events, TICK).items():
            for event in inside:
                columns[event.kind].add(cell)
        kinds, taken = set[str](), set[tuple[str, int]]()
        if len(set().union(*columns.values())) <= room:
            return set(counts)
        for kind in sorted(counts, key=lambda kind: (counts[kind], kind)):
            taken |= columns[kind]
            if len(taken) > room // 2:
                break
            kinds.add(kind)
        return kinds

    def _draw_density(self, events: list[Event], room: int) -> None:
        """A strip per lane, in cells wide enough to hold a few events; neighbours of one shade are one shape."""
        width = max(3, math.ceil(4 * PLOT * len({event.node for event in events}) / len(events)))
        while len(pieces := self._pieces(self._cells(events, width), width)) > room:
            width = math.ceil(width * 1.25)
        for node, column, end, shade, cell in pieces:
            x, right = LEFT + column * width, LEFT + min(PLOT, end * width)
            self._shape(x, self.lanes[node] + 3, right - x, self.step - 6, f"density d{shade}", _title(cell))
        kinds = ", ".join(f"{kind} ({n:,})" for kind, n in Counter(event.kind for event in events).most_common(8))
        stretch = time_text(width / PLOT * (self.end - self.start))
        self.notes.append(one_line(f"Summed up in grey, in cells of {stretch}, stronger for more: {kinds}."))

    def _pieces(self, cells: Cells, width: int) -> list[tuple[str, int, int, int, list[Event]]]:
        """Node, first column, column after the last, shade from 1 to 4, events."""
        most, pieces = max(map(len, cells.values())), list[tuple[str, int, int, int, list[Event]]]()
        for (node, column), cell in sorted(cells.items()):
            shade = math.ceil(4 * math.sqrt(len(cell) / most))
            if pieces and pieces[-1][0] == node and pieces[-1][2:4] == (column, shade):
                _, first, _, _, before = pieces.pop()
                pieces.append((node, first, column + 1, shade, before + cell))
            else:
                pieces.append((node, column, column + 1, shade, cell))
        return pieces

    def _cells(self, events: Iterable[Event], width: int) -> Cells:
        """The events by lane and column of pixels."""
        cells, scale = defaultdict[tuple[str, int], list[Event]](list), (PLOT - 0.001) / (self.end - self.start)
        for event in events:
            cells[event.node, int((event.t - self.start) * scale) // width].append(event)
        return cells

    def _draw_evidence(self) -> None:
        for number, event in enumerate(self.story.evidence[:99], 1):
            if event.node in self.lanes and self.start <= event.t <= self.end:
                middle, size = self.lanes[event.node] + self.step / 2, min(15.0, self.step - 2)
                self._shape(self._x(event.t) - size / 2, middle - size / 2, size, size, "ring", describe(event, 200))
                if self.step > 16:
                    self.labels.append(Label(self._x(event.t), middle, str(number), "number", describe(event, 200)))


def _title(cell: list[Event]) -> str:
    if len(cell) == 1:
        return describe(cell[0], 110)
    kinds = Counter(event.kind for event in cell).most_common(4)
    listed = ", ".join(f"{count}× {kind}" if count > 1 else kind for kind, count in kinds)
    return one_line(f"{moment(cell[0].t)} to {moment(cell[-1].t)}: {listed}", 140)
