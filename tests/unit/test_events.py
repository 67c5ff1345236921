"""Events and histories."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zebra.errors import ConfigError
from zebra.events import Event, EventLog, History, first_difference, read_runs
from zebra.testing import event, history

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(
    st.dictionaries(st.text().filter(lambda name: name not in ("seq", "t", "node", "kind")), json_values, max_size=4)
)
def test_an_event_is_read_back_from_its_line(fields: Any) -> None:
    made = Event(7, 1.25, "peer-1", "edge.open", fields)
    assert Event.from_json(made.to_json()) == made


@given(st.text() | st.binary() | st.from_regex(r'\{"seq":.{0,30}\}'))
def test_text_that_is_no_event_is_a_config_error(line: Any) -> None:
    try:
        assert Event.from_json(line).kind
    except ConfigError:
        pass


@pytest.mark.parametrize(
    "line",
    [
        '{"seq": 1, "t": 0, "node": "a"}',
        '{"seq": null, "t": 0, "node": "a", "kind": "k"}',
        '{"seq": 1e400, "t": 0, "node": "a", "kind": "k"}',
        '{"seq": 1, "t": 1' + "0" * 400 + ', "node": "a", "kind": "k"}',
        "[" * 100_000,
        "[]",
        b"\xff",
    ],
)
def test_a_damaged_line_is_a_config_error(line: Any) -> None:
    with pytest.raises(ConfigError, match="not an event"):
        Event.from_json(line)


def test_a_log_numbers_events_and_tells_listeners_in_order() -> None:
    log, heard = EventLog(History(), lambda: 2.5), []
    log.listeners.append(lambda each: heard.append(each.seq))
    log.emit("a", "x", n=1)
    log.emit("b", "y")
    assert heard == [0, 1]
    assert [(e.node, e.kind, e.t) for e in log.history] == [("a", "x", 2.5), ("b", "y", 2.5)]
    assert log.history.of("x")[0]["n"] == 1
    assert log.history.of("x")[0].get("missing", 3) == 3


def test_a_history_on_disk_is_the_same_as_one_in_memory(tmp_path: Any) -> None:
    events = history(event("run", schema=1), event("x", node="a", n=1), event("y", node="b"))
    memory, disk = History(), History(tmp_path / "history.jsonl")
    for each in events:
        memory.append(each)
        disk.append(each)
    assert list(disk) == events
    disk.close()
    assert disk.digest() == memory.digest()
    assert len(disk) == len(memory) == 3


def test_runs_follow_each_other_in_one_file(tmp_path: Any) -> None:
    path = tmp_path / "history.jsonl"
    for seed in (1, 2):
        stored = History(path)
        for each in history(event("run", seed=seed), event("x")):
            stored.append(each)
        stored.close()
        assert len(list(stored)) == 2
    assert [run[0]["seed"] for run in read_runs(path)] == [1, 2]


def test_the_first_difference_is_found_and_equal_histories_have_none() -> None:
    a = history(event("x", n=1), event("y"))
    b = history(event("x", n=1), event("z"))
    assert first_difference(a, a) is None
    assert first_difference(a, b) == (a[1], b[1])
    assert first_difference(a, a[:1]) == (a[1], None)
