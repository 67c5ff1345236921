"""Operations over time: how long each took, how it ended, and what is summed up when there are many."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zebra.events import Event
from zebra.reports.operations import ENOUGH, Operations, operations, percentile
from zebra.reports.picture import LEFT, PLOT
from zebra.reports.story import Story
from zebra.reports.timeline import Timeline

Entry = tuple[float, str, dict[str, Any]]


def history(*entries: Entry, seconds: float = 100.0) -> list[Event]:
    ordered = sorted(entries, key=lambda entry: entry[0])
    events = [Event(0, 0.0, "", "run", {"target": "t", "places": []})]
    events += [
        Event(number, t, "" if kind.startswith("fault") else "client-1", kind, fields)
        for number, (t, kind, fields) in enumerate(ordered, 1)
    ]
    return [*events, Event(len(events), seconds, "", "run.end", {"outcome": "pass"})]


def op(number: int, start: float, lasted: float | None, outcome: str = "ok", f: str = "get") -> list[Entry]:
    fields = {"op": number, "client": "client-1/1000", "f": f}
    begun: list[Entry] = [(start, "op.invoke", fields | {"key": f"k{number}"})]
    return begun if lasted is None else [*begun, (start + lasted, f"op.{outcome}", fields | {"why": "because"})]


def many(number: int, outcome: str = "ok", lasted: float = 0.01) -> list[Entry]:
    return [entry for i in range(number) for entry in op(i, 99.0 * i / number, lasted * (1 + i % 7), outcome)]


def picture(events: list[Event], budget: int = 1500) -> Operations:
    story = Story(events)
    return Operations(story, operations(events), 0.0, story.end_s, budget)


def test_an_operation_lasts_from_its_invocation_to_its_end() -> None:
    found = operations(history(*op(1, 2, 0.5), *op(2, 1, 3, "fail"), *op(3, 4, 1, "unknown"), *op(4, 90, None)))
    assert [(o.start, o.end, o.outcome) for o in found] == [
        (1, 4, "fail"),
        (2, 2.5, "ok"),
        (4, 5, "unknown"),
        (90, 100, "unknown"),
    ]
    assert "because" in found[0].title
    assert "had not ended" in found[3].title


def test_operations_of_a_client_that_starts_again_are_told_apart() -> None:
    assert [o.lasted_s for o in operations(history(*op(1, 1, 2), *op(1, 10, 5)))] == [2, 5]


def test_dots_bands_and_lanes_share_one_scale() -> None:
    fault = {"id": 1, "fault": "network.loss", "on": ["client-1"]}
    events = history((20.0, "fault.inject", fault), (45.0, "fault.heal", fault), *op(1, 20, 1), *op(2, 45, 1, "fail"))
    plot, story = picture(events), Story(events)
    lanes = Timeline(story, story.nodes, 0.0, story.end_s, 1000)
    (wide,) = [s for s in plot.shapes if s.css == "band wide"]
    (band,) = [s for s in lanes.shapes if s.css == "band"]
    assert (wide.x, wide.width) == (band.x, band.width) == (LEFT + PLOT * 0.2, PLOT * 0.25)
    dots = {s.css: s.x + s.width / 2 for s in plot.shapes if "dot" in s.css}
    assert dots == {"dot op-ok": LEFT + PLOT * 0.2, "dot op-fail": LEFT + PLOT * 0.45}
    assert wide.y + wide.height == plot.bottom


def test_slower_is_higher_and_each_kind_has_a_panel() -> None:
    plot = picture(history(*op(1, 10, 0.01), *op(2, 20, 1.0), *op(3, 30, 0.1, f="put")))
    assert plot.kinds == ["get", "put"]
    fast, slow, put = (s.y for s in plot.shapes if s.css == "dot op-ok")
    assert slow < fast < put


def test_an_unknown_outcome_is_shown_from_its_beginning_to_its_end() -> None:
    plot = picture(history(*op(1, 25, 50, "unknown")))
    (line,) = [s for s in plot.shapes if s.css == "op-unknown while"]
    assert (line.x, line.width) == (LEFT + PLOT * 0.25, PLOT * 0.5)
    assert plot.counts == {"unknown": 1}


def test_the_rate_counts_every_operation_by_how_it_ended() -> None:
    plot = picture(history(*many(300), *op(900, 50, 1, "fail"), *op(901, 50, 1, "unknown")))
    counted = dict.fromkeys(("ok", "fail", "unknown"), 0)
    for shape in plot.shapes:
        if shape.css in ("op-ok", "op-fail", "op-unknown"):
            number, outcome = shape.title.split()[:2]
            counted[outcome] += int(number)
    assert counted == {"ok": 300, "fail": 1, "unknown": 1}


def test_many_operations_are_summed_up_and_failures_stay_visible_one_by_one() -> None:
    plot = picture(history(*many(20_000), *op(90_000, 50, 30, "fail"), *op(90_001, 50, 30, "unknown")))
    assert len(plot.shapes) < 2000
    assert sum(s.css == "dot op-fail" for s in plot.shapes) == sum(s.css == "dot op-unknown" for s in plot.shapes) == 1
    cells = [s for s in plot.shapes if s.css.startswith("op-ok d")]
    assert sum(int(s.title.split()[0].replace(",", "")) for s in cells) == 20_000
    assert plot.notes == ["20,000 get that succeeded are summed up in green, stronger for more."]


def test_of_very_many_failures_a_part_is_drawn_and_the_rest_counted() -> None:
    plot = picture(history(*many(10_000, "fail")))
    drawn = sum(s.css == "dot op-fail" for s in plot.shapes)
    assert 300 < drawn <= 750
    assert plot.notes == [f"{10_000 - drawn:,} more failed or unknown get are in the rate only."]


def test_percentiles_are_of_those_that_succeeded_and_need_enough_of_them() -> None:
    assert not picture(history(*many(ENOUGH - 1), *op(900, 50, 30, "fail"))).percentiles
    plot = picture(history(*many(400), *op(900, 50, 30, "fail")))
    slowest = max(float(s.title.split()[1]) for s in plot.shapes if s.css == "p99")
    assert slowest == 70  # ms, seven times 10: the failure of 30 s is not among them
    for fast, slow in zip(
        (s for s in plot.shapes if s.css == "p50"), (s for s in plot.shapes if s.css == "p99"), strict=True
    ):
        assert fast.x == slow.x and slow.y <= fast.y + 1


@given(st.lists(st.floats(0.001, 1000), min_size=1), st.sampled_from([0.01, 0.5, 0.9, 0.99, 1.0]))
def test_a_percentile_is_the_smallest_value_that_enough_do_not_exceed(values: list[float], share: float) -> None:
    found = percentile(values, share)
    below = sum(value <= found for value in values)
    assert found in values and below >= share * len(values)
    assert all(sum(v <= other for v in values) < share * len(values) for other in values if other < found)


def test_an_operation_that_took_no_time_and_a_run_of_no_length_can_be_drawn() -> None:
    plot = picture(history(*op(1, 0, 0), seconds=0.0))
    assert all(LEFT - 5 <= s.x <= LEFT + PLOT + 5 for s in plot.shapes)


def test_rarer_kinds_than_there_are_panels_are_in_the_rate() -> None:
    entries = [entry for i in range(8) for n in range(9 - i) for entry in op(10 * i + n, 10 + n, 1, f=f"f{i}")]
    plot = picture(history(*entries))
    assert plot.kinds == ["f0", "f1", "f2", "f3"]
    assert plot.notes == ["14 operations of 4 rarer kinds are in the rate only."]


@pytest.mark.parametrize("value", [None, {}, [1], "x"])
def test_what_anybody_may_have_written_in_an_event_does_no_harm(value: Any) -> None:
    events = history((1.0, "op.invoke", {"op": value}), (2.0, "op.ok", {"op": value}), (3.0, "op.fail", {}))
    assert [o.lasted_s for o in operations(events)] == [1.0]
    assert picture(events).kinds == ["op"]
