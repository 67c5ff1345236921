"""The structure at a violation: which links there are, which of them are wrong, and where they are drawn."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zebra.events import Event
from zebra.reports.graph import LEAVES, Graph, cyclic, graphs
from zebra.reports.story import Story
from zebra.structure import Link, Links
from zebra.targets.owl.view import OpenEdges

Entry = tuple[float, str, str, dict[str, Any]]
TREES = partial(Links, "tree.add", "tree.del", group="shard", epoch="epoch")


def history(*entries: Entry, evidence: tuple[int, ...] = (), found_s: float | None = None) -> list[Event]:
    """The entries as events 1, 2, …, then a violation that names some of them, recorded a second later."""
    events = [Event(0, 0.0, "", "run", {"target": "t", "places": []})]
    events += [Event(number, *entry) for number, entry in enumerate(entries, 1)]
    end_s = events[-1].t + 1.0
    broken: dict[str, Any] = {"invariant": "i", "message": "broken", "events": list(evidence)}
    broken |= {} if found_s is None else {"found_s": found_s}
    return [*events, Event(len(events), end_s, "", "violation", broken)]


def tree(t: float, verb: str, parent: str, child: str, epoch: int = 1, by: str = "distributor-1") -> Entry:
    return t, by, f"tree.{verb}", {"shard": "/a", "epoch": epoch, "parent": parent, "child": child}


def links(*entries: Entry) -> set[tuple[str, str, bool]]:
    followed = TREES()
    for event in history(*entries):
        followed.see(event)
    return {(link.parent, link.child, link.stale) for link in followed.links()}


def drawn(events: list[Event], structure: Any = TREES) -> list[Graph]:
    return list(graphs(Story(events), events, structure))


def test_links_come_and_go_with_their_events() -> None:
    added = tree(1, "add", "d", "a"), tree(2, "add", "a", "b")
    assert links(*added) == {("d", "a", False), ("a", "b", False)}
    assert links(*added, tree(3, "del", "a", "b")) == {("d", "a", False)}


def test_a_link_of_an_older_epoch_or_of_a_node_that_is_down_is_stale() -> None:
    added = tree(1, "add", "d", "a"), tree(2, "add", "d", "b")
    assert links(*added, tree(3, "add", "a", "b", epoch=2)) == {("d", "a", True), ("d", "b", True), ("a", "b", False)}
    assert links(*added, (3.0, "distributor-1", "node.crash", {})) == {("d", "a", True), ("d", "b", True)}
    again = tree(4, "add", "d", "a", by="distributor-2")
    assert ("d", "a", False) in links(*added, (3.0, "distributor-1", "node.crash", {}), again)
    other = tree(3, "add", "e", "c", epoch=9, by="distributor-2")
    assert ("d", "a", False) in links(*added, other)


def test_a_key_identifies_a_link_where_its_ends_do_not() -> None:
    followed = Links("open", "close", group="chunk", parent="src", key="edge")
    for number, (kind, edge) in enumerate((("open", 1), ("open", 2), ("close", 1))):
        followed.see(Event(number, 0.0, "n", kind, {"edge": edge, "chunk": "c", "src": "a", "child": "b"}))
    assert list(followed.links()) == [Link(group="c", parent="a", child="b", name="2")]


def edge(t: float, kind: str, number: int, parent: str, child: str, by: str = "tracker-1") -> Entry:
    fields = {"edge": f"e{number}", "chunk": "c1", "parent": parent, "src": parent, "child": child, "why": "done"}
    return t, by, f"edge.{kind}", fields


def test_owls_edges_are_those_that_its_invariants_count() -> None:
    opened = [edge(1, "open", 1, "peer-1", "peer-2"), edge(2, "open", 2, "peer-2", "peer-3")]
    taken = [edge(3, "adopt", 1, "peer-1", "peer-2", by="tracker-2"), edge(4, "close", 1, "peer-1", "peer-2")]
    gone: list[Entry] = [(5.0, "peer-3", "node.crash", {})]
    followed = OpenEdges()
    for event in history(*opened, *taken):
        followed.see(event)
    assert {(link.group, link.name) for link in followed.links()} == {
        ("c1", "e1"),
        ("c1", "e2"),
    }  # not its own to close
    for event in history(*gone):
        followed.see(event)
    assert [link.name for link in followed.links()] == ["e1"]


def test_a_cycle_is_marked_and_drawn_as_it_was_when_it_was_found() -> None:
    cycle = [edge(1, "open", 1, "a", "b"), edge(2, "open", 2, "b", "c"), edge(3, "open", 3, "c", "a")]
    later = [edge(3, "close", 1, "a", "b"), edge(3.5, "open", 4, "a", "d")]
    (graph,) = drawn(history(edge(0.5, "open", 9, "x", "a"), *cycle, *later, evidence=(3, 4), found_s=3.0), OpenEdges)
    assert {(link.parent, link.child) for link in graph.cyclic} == {("a", "b"), ("b", "c"), ("c", "a")}
    assert [curve.css for curve in graph.curves].count("link wrong") == 4  # and the second parent of a
    assert sorted(graph.column) == ["a", "b", "c", "x"]
    assert graph.column["x"] == 0
    assert sorted(label.text for label in graph.labels if label.css == "number") == ["1", "2"]
    assert graph.at_s == 3.0


def test_a_link_that_the_last_event_closed_is_drawn_as_closed() -> None:
    entries = edge(1, "open", 1, "a", "b"), edge(2, "open", 2, "b", "c"), edge(3, "close", 2, "b", "c")
    (graph,) = drawn(history(*entries, evidence=(3,), found_s=3.0), OpenEdges)
    assert sorted(curve.css for curve in graph.curves) == ["link", "link stale closed"]
    assert graph.tally == "1 link, 1 just closed" and not graph.wrong


def test_what_an_invariant_finds_by_the_clock_is_drawn_as_it_was_then() -> None:
    events = history(
        tree(1, "add", "d", "a"), tree(5, "add", "d", "b"), tree(9, "add", "d", "c"), evidence=(1,), found_s=7
    )
    (graph,) = drawn(events)
    assert {link.child for link in graph.links} == {"a", "b"}


def test_nodes_that_the_message_names_are_marked() -> None:
    events = history(tree(1, "add", "d", "proxy-1"), tree(2, "add", "d", "proxy-11"), evidence=(1,))
    events[-1].fields["message"] = "proxy-11: too late, proxy-2 is not there"
    assert drawn(events)[0].named == ["d", "proxy-1", "proxy-11"]
    assert Story(events).said() >= {"proxy-11", "proxy-2"}


def test_a_second_parent_is_wrong_unless_its_link_is_stale() -> None:
    (graph,) = drawn(history(tree(1, "add", "d", "a"), tree(2, "add", "e", "a"), evidence=(2,)))
    assert graph.doubled == {"a"} and graph.wrong
    (graph,) = drawn(history(tree(1, "add", "d", "a"), tree(2, "add", "e", "a", epoch=2), evidence=(2,)))
    assert not graph.doubled and not graph.wrong and graph.stale
    assert sorted(curve.css for curve in graph.curves) == ["link", "link stale"]


def test_the_group_drawn_is_one_that_the_evidence_names() -> None:
    other = (2.0, "d", "tree.add", {"shard": "/b", "epoch": 1, "parent": "d", "child": "z"})
    ready = (3.0, "z", "content.ready", {"path": "/b/c/d", "proxy": "z"})
    assert [graph.group for graph in drawn(history(tree(1, "add", "d", "a"), other, ready, evidence=(3,)))] == ["/b"]
    served = (3.0, "a", "app.get", {"ok": False})
    assert [graph.group for graph in drawn(history(tree(1, "add", "d", "a"), other, served, evidence=(3,)))] == ["/a"]
    assert drawn(history(tree(1, "add", "d", "a"), other, (3.0, "q", "app.get", {}), evidence=(3,))) == []


def test_plain_leaves_are_folded_and_nodes_that_are_down_or_named_are_not() -> None:
    children = [f"p{number}" for number in range(40)]
    added = [tree(1, "add", "d", child) for child in children]
    (graph,) = drawn(
        history(*added, (2.0, "p39", "node.crash", {}), (3.0, "p38", "seen", {"shard": "/a"}), evidence=(42,))
    )
    texts = [label.text for label in graph.labels]
    assert f"+ {40 - 2 - LEAVES} more" in texts
    assert "p38" in texts and "p39 (down)" in texts
    assert sum(s.css.startswith("unit") for s in graph.shapes) == 1 + LEAVES + 2 + 1


def test_many_links_are_bounded() -> None:
    chain = [tree(1, "add", f"p{number}", f"p{number + 1}") for number in range(400)]
    (graph,) = drawn(history(*chain, evidence=(400,)))
    assert len(graph.shapes) < 250 and "more links are not shown" in graph.notes[0]
    assert "p400" in graph.column


pairs = st.lists(st.tuples(st.integers(0, 7), st.integers(0, 7)), max_size=14, unique=True)


@given(pairs)
def test_every_link_and_node_is_drawn_once_and_no_two_boxes_meet(ends: list[tuple[int, int]]) -> None:
    entries = [tree(1, "add", f"p{parent}", f"p{child}") for parent, child in ends]
    graphs = drawn(history(*entries, evidence=tuple(range(1, len(entries) + 1))))
    assert len(graphs) == bool(ends)
    for graph in graphs:
        assert len(graph.curves) == len(ends)
        boxes = [(s.x, s.x + s.width, s.y, s.y + s.height) for s in graph.shapes if s.css != "ring"]
        assert len(boxes) == len({end for pair in ends for end in pair})
        for index, (left, right, top, bottom) in enumerate(boxes):
            assert left >= 0 and right <= graph.width and top >= 0 and bottom <= graph.height
            assert not any(a < right and left < b and c < bottom and top < d for a, b, c, d in boxes[:index])


@given(pairs)
def test_a_link_is_on_a_cycle_exactly_when_taking_it_away_leaves_a_way_back(ends: list[tuple[int, int]]) -> None:
    every = [Link(group="g", parent=str(parent), child=str(child)) for parent, child in ends]
    reach = {(link.parent, link.child) for link in every}
    for middle in map(str, range(8)):
        reach |= {(a, d) for a, b in reach for c, d in reach if b == c == middle}
    assert cyclic(every) == {link for link in every if link.parent == link.child or (link.child, link.parent) in reach}


def test_without_a_violation_nothing_is_drawn() -> None:
    assert drawn(history(tree(1, "add", "d", "a"))[:-1]) == []


@pytest.mark.parametrize("missing", ["shard", "parent", "child", "epoch"])
def test_an_event_without_its_fields_is_refused(missing: str) -> None:
    entry = tree(1, "add", "d", "a")
    del entry[3][missing]
    with pytest.raises(KeyError):
        list(drawn(history(entry, evidence=(1,))))
