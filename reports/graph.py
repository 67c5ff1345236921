"""The picture of a target's structure at a violation: who hung on whom in the tree that broke.

Parents stand to the left of their children. A tree needs each child once; a link beyond that closes a cycle or gives a
second parent, and is drawn as a red curve. How links follow from events says the target (`zebra.structure`).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from zebra.events import Event
from zebra.reports.picture import Label, Shape
from zebra.reports.story import Story, describe, moment
from zebra.reports.wording import count, one_line
from zebra.structure import Link, Structure

ROW, BOX, MARGIN, NAME_MAX = 24.0, 18.0, 14.0, 26
WIDTH, GAP_MIN, GAP_MAX = 1180.0, 44.0, 110.0  # the gaps between columns shrink until all of them fit
GRAPHS_MAX, NODES_MAX, LEAVES = 2, 120, 6
"""So many groups are drawn, of each so many nodes; of a node's plain leaves so many, the rest is one box."""


Box = tuple[float, float, float]
"""Left, right and middle of a node's box in pixels."""


@dataclass(frozen=True, slots=True)
class Curve:
    """An SVG path; `arrow` is the path of its head."""

    path: str
    arrow: str
    css: str
    title: str


class Graph:
    """One group's links at some moment of the run, and those `closed` by its last event, as shapes and curves."""

    def __init__(
        self, group: str, links: Sequence[Link], closed: Sequence[Link], story: Story, at_s: float, why: str
    ) -> None:
        self.group, self.story, self.at_s, self.why = group, story, at_s, why
        self.closed, links = set(closed), [*links, *closed]
        self.shapes, self.labels, self.curves, self.notes = list[Shape](), list[Label](), list[Curve](), list[str]()
        said, ends = story.said(), (end for link in links for end in (link.parent, link.child))
        self.named = [end for end in dict.fromkeys(ends) if end in said]
        self.down = set(story.down_at(at_s))
        self.links = self._without_excess(links)
        counted = [link for link in self.links if not link.stale and link not in self.closed]
        self.cyclic = cyclic(counted)
        parents = Counter(link.child for link in counted)
        self.doubled = {child for child, number in parents.items() if number > 1}
        stale = sum(link.stale for link in links)
        more = (f", {number:,} {name}" for number, name in ((stale, "stale"), (len(closed), "just closed")) if number)
        self.tally = count(len(links) - stale - len(closed), "link") + "".join(more)
        self.column, self.row, self.tree = dict[str, int](), dict[str, float](), set[Link]()
        self._place()
        self._draw()

    @property
    def wrong(self) -> bool:
        return bool(self.cyclic or self.doubled)

    @property
    def stale(self) -> bool:
        return any(link.stale for link in self.links)

    @property
    def caption(self) -> str:
        return one_line(f"{self.group} at {moment(round(self.at_s, 6))} ({self.why}): {self.tally}", 200)

    def _without_excess(self, links: Sequence[Link]) -> list[Link]:
        """All links, without the plain leaves of a parent beyond a few, and without what is then still too much."""
        parents, times = {link.parent for link in links}, Counter(link.child for link in links)
        leaves, left, hidden = Counter[str](), list[Link](), defaultdict[str, list[str]](list)
        for link in links:
            plain = link.child not in parents and link.child not in self.named and times[link.child] == 1
            if plain and not link.stale and link.child not in self.down:
                leaves[link.parent] += 1
                if leaves[link.parent] > LEAVES:
                    hidden[link.parent].append(link.child)
                    continue
            left.append(link)
        self.more = {f"{parent}\n+": (parent, children) for parent, children in hidden.items()}
        if len(left) > NODES_MAX:
            self.notes.append(f"{len(left) - NODES_MAX:,} more links are not shown; those of the evidence come first.")
            named = set(self.named)
            left = sorted(left, key=lambda link: link.child not in named and link.parent not in named)[:NODES_MAX]
        return left

    def _place(self) -> None:
        """A row per leaf, parents in the middle of their children; a cycle begins at a node that the evidence names."""
        below = defaultdict[str, list[Link]](list)
        for link in sorted(self.links, key=lambda link: link in self.cyclic):  # a cycle's way has the last rows
            below[link.parent].append(link)
        children = {link.child for link in self.links}
        nodes = dict.fromkeys(n for link in self.links for n in (link.parent, link.child))
        roots = [node for node in nodes if node not in children]
        starts = [*sorted(roots, key=self._order), *(n for n in self.named if n in nodes), *nodes]
        self.rows = 0.0
        for start in starts:
            if start not in self.column:
                self._descend(start, below)

    def _order(self, node: str) -> tuple[bool, str]:
        return node not in self.named, node

    def _descend(self, start: str, below: dict[str, list[Link]]) -> None:
        """Places a node and all below it that have no place yet, depth first, without recursion."""
        self.column[start] = 0
        path, order = [(start, iter(below[start]))], list[str]()
        while path:
            node, rest = path[-1]
            link = next((link for link in rest if link.child not in self.column), None)
            if link is not None:
                self.column[link.child] = len(path)
                self.tree.add(link)
                path.append((link.child, iter(below[link.child])))
            else:
                path.pop()
                order.append(node)
        for node in order:
            rows = [self.row[link.child] for link in below[node] if link in self.tree]
            if (folded := f"{node}\n+") in self.more:
                rows.append(self.rows)
                self.row[folded], self.column[folded] = self.rows, self.column[node] + 1
                self.rows += 1
            if not rows:
                rows.append(self.rows)
                self.rows += 1
            self.row[node] = (min(rows) + max(rows)) / 2

    def _draw(self) -> None:
        boxes = dict[str, Box]()
        widest, x = defaultdict[int, float](float), MARGIN
        for node, column in self.column.items():
            widest[column] = max(widest[column], 20 + 6.6 * len(self._text(node)))
        free = WIDTH - 2 * MARGIN - 30 - sum(widest.values())
        lefts, gap = {}, round(min(GAP_MAX, max(GAP_MIN, free / max(1, len(widest) - 1))))
        for column in sorted(widest):
            lefts[column] = x
            x += widest[column] + gap
        self.width = max(560.0, x - gap + MARGIN + 30)
        for node, column in self.column.items():
            middle = MARGIN + ROW * self.row[node] + ROW / 2
            boxes[node] = (lefts[column], lefts[column] + 20 + 6.6 * len(self._text(node)), middle)
        extra = [link for link in self.links if link not in self.tree]
        self.height = 2 * MARGIN + ROW * self.rows + (34 if extra else 0)
        for rest, (node, _) in self.more.items():
            self._straight(boxes[node], boxes[rest], Link(group=self.group, parent=node, child="the others"))
        for link in self.links:
            if link in self.tree:
                self._straight(boxes[link.parent], boxes[link.child], link)
        for link in extra:
            self._curved(boxes[link.parent], boxes[link.child], link)
        for node, (left, right, middle) in boxes.items():
            css = "unit" + (" named" if node in self.named else "") + (" gone" if node in self.down else "")
            title = self._title(node)
            self.shapes.append(Shape(left, middle - BOX / 2, round(right - left, 1), BOX, css, title))
            self.labels.append(Label((left + right) / 2, middle, self._text(node), "unit-name", title))

    def _text(self, node: str) -> str:
        if node in self.more:
            return f"+ {len(self.more[node][1]):,} more"
        return one_line(node, NAME_MAX) + (" (down)" if node in self.down else "")

    def _title(self, node: str) -> str:
        if node in self.more:
            return one_line(", ".join(self.more[node][1]), 400)
        place = self.story.places.get(node, {})
        return one_line(", ".join([node, *(f"{key} {place[key]}" for key in ("role", "rack", "dc") if key in place)]))

    def _css(self, link: Link) -> str:
        if link in self.closed:
            return "link stale closed"
        if link.stale:
            return "link stale"
        return "link wrong" if link in self.cyclic or link.child in self.doubled else "link"

    def _straight(self, parent: Box, child: Box, link: Link) -> None:
        (_, x, y), (to, _, down) = parent, child
        middle = (x + to) / 2
        path = f"M{x:g} {y:g}C{middle:g} {y:g} {middle:g} {down:g} {to - 6:g} {down:g}"
        self.curves.append(Curve(path, f"M{to:g} {down:g}l-7 -3.5v7z", self._css(link), _about(link)))
        self._mark(link, middle - 3, (y + down) / 2)

    def _curved(self, parent: Box, child: Box, link: Link) -> None:
        """From below the parent round to below the child."""
        x, y = (parent[0] + parent[1]) / 2, parent[2] + BOX / 2
        to, end = (child[0] + child[1]) / 2, child[2] + BOX / 2
        low = max(y, end) + 34
        path = f"M{x:g} {y:g}C{x:g} {low:g} {to:g} {low:g} {to:g} {end + 6:g}"
        self.curves.append(Curve(path, f"M{to:g} {end:g}l-3.5 7h7z", self._css(link), _about(link)))
        self._mark(link, (x + to) / 2, (y + 6 * low + end + 6) / 8)

    def _mark(self, link: Link, x: float, y: float) -> None:
        """The number that a link has in the list of the evidence."""
        for number, event in list(enumerate(self.story.evidence, 1))[::-1]:
            if {link.group, link.parent, link.child} <= {str(value) for value in event.fields.values()}:
                self.shapes.append(Shape(round(x - 7, 1), y - 7, 14, 14, "ring", describe(event, 200)))
                self.labels.append(Label(x, y, str(number), "number", describe(event, 200)))
                break


def _about(link: Link) -> str:
    stale = ", stale: a newer epoch took its place, or who made it is down" if link.stale else ""
    return one_line(f"{link.parent} to {link.child} {link.name}{stale}", 200)


def cyclic(links: Sequence[Link]) -> set[Link]:
    """The links that lie on a cycle: their parent can be reached from their child."""
    below = defaultdict[str, list[str]](list)
    for link in links:
        below[link.parent].append(link.child)
    found = set()
    for link in links:
        seen, left = {link.child}, [link.child]
        while left and link.parent not in seen:
            fresh = [node for node in below[left.pop()] if node not in seen]
            seen.update(fresh)
            left += fresh
        if link.parent in seen:
            found.add(link)
    return found


def graphs(story: Story, events: Sequence[Event], structure: Callable[[], Structure]) -> Iterator[Graph]:
    """The groups that the first violation concerns, as they were when it was found; none if it concerns none."""
    if not story.violations:
        return
    found_s = story.found_s(story.violations[0])
    last = max((event.seq for event in story.evidence if event.t >= found_s - 1e-9), default=-1)
    followed, before = structure(), set[Link]()
    for event in events:
        if event.t > found_s + 1e-9 or (last >= 0 and event.seq > last):
            break
        if event.seq == last:
            before = set(followed.links())
        followed.see(event)
    links = list(followed.links())
    closed = sorted(before.difference(links), key=lambda link: (link.parent, link.child, link.name))
    for group, why in concerned(story, links + closed)[:GRAPHS_MAX]:
        there, gone = ([link for link in some if link.group == group] for some in (links, closed))
        yield Graph(group, there, gone, story, found_s, why)


def concerned(story: Story, links: Sequence[Link]) -> list[tuple[str, str]]:
    """The groups that the evidence names, most often first, and why; else that of most links between its nodes.

    A field names a group if it is the group, or a path that the group is the beginning of.
    """
    groups, times = dict.fromkeys(link.group for link in links), Counter[str]()
    for event in story.evidence:
        said = [value for value in event.fields.values() if isinstance(value, str)]
        times.update(group for group in groups if any(v == group or v.startswith(group + "/") for v in said))
    if times:
        return [(group, "named by the evidence") for group, _ in times.most_common()]
    named = story.said()
    near = Counter(link.group for link in links if named.intersection((link.parent, link.child)))
    return [(group, "most links of the nodes that the evidence names") for group, _ in near.most_common(1)]
