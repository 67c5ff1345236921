"""Events of several processes are released in one order, none before all have been heard of later."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from zebra.events import EventLog, History
from zebra.substrate.process.life import Voice
from zebra.substrate.process.order import Order


class Bench:
    def __init__(self, directory: Path) -> None:
        self.path, self.late, self.seconds = directory / "events", list[str](), list[float]()
        self.order = Order(
            self.path, {1: "a-1", 2: "b-1"}, self.late.append, lambda: self.seconds.append(self.log_now())
        )
        self.log = self.order.log = EventLog(History(), self.order.now)
        self.log_now = self.order.now
        self.log.divert = self.order.put
        for node in (1, 2):
            self.order.expect(node)

    def line(self, at_ns: int, node: int, *event: Any) -> None:
        with open(self.path, "ab") as file:
            file.write(b"\n" + msgspec.json.encode([at_ns, node, *event]) + b"\n")

    def seen(self) -> list[str]:
        self.order.release()
        return [f"{event.node} {event.kind}" for event in self.log.history]


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    yield made
    made.order.finish()


def test_an_event_waits_until_every_node_was_heard_of_later(bench: Bench) -> None:
    now = time.monotonic_ns()
    bench.line(now + 200, 1, 1, 1, "second", {})
    assert bench.seen() == []
    bench.line(now + 100, 2, 1, 1, "first", {})
    assert bench.seen() == []
    bench.line(now + 300, 2)
    assert bench.seen() == ["b-1 first"]
    bench.line(now + 300, 1)
    assert bench.seen() == ["b-1 first", "a-1 second"]


def test_the_order_is_time_then_node_then_number(bench: Bench) -> None:
    now = time.monotonic_ns() + 1000
    for node, number in ((2, 1), (1, 2), (1, 1)):
        bench.line(now, node, 1, number, f"said-{number}", {})
    for node in (1, 2):
        bench.line(now + 1, node)
    assert bench.seen() == ["a-1 said-1", "a-1 said-2", "b-1 said-1"]


def test_dead_and_paused_nodes_are_not_waited_for(bench: Bench) -> None:
    bench.line(time.monotonic_ns(), 1, 1, 1, "word", {})
    time.sleep(0.001)
    bench.line(time.monotonic_ns(), 1)
    assert bench.seen() == []
    bench.order.excuse(2)
    assert bench.seen() == ["a-1 word"]


def test_a_node_that_was_stopped_in_the_middle_of_emit_has_said_it_when_it_goes_on(bench: Bench) -> None:
    old = time.monotonic_ns()
    bench.order.excuse(2)
    bench.order.excuse(1)
    bench.order.release()
    bench.order.expect(2)
    bench.line(old, 2, 1, 1, "word", {})
    bench.order.release()
    bench.order.excuse(2)
    assert bench.seen() == ["b-1 word"]
    assert bench.late == []


def test_an_event_older_than_what_was_released_is_never_slipped_in(bench: Bench) -> None:
    now = time.monotonic_ns()
    for node in (1, 2):
        bench.line(now + 500, node)
    bench.order.release()
    bench.line(now + 400, 1, 1, 1, "word", {})
    assert bench.seen() == []
    assert bench.late and "a-1 said word" in bench.late[0]


def test_a_line_torn_by_a_kill_takes_no_other_with_it(bench: Bench) -> None:
    now = time.monotonic_ns()
    with open(bench.path, "ab") as file:
        file.write(b'\n[123, 1, 1, 1, "to')
    bench.line(now + 10, 1, 1, 1, "whole", {})
    for node in (1, 2):
        bench.line(now + 20, node)
    assert bench.seen() == ["a-1 whole"]


def test_the_session_s_own_events_take_their_place(bench: Bench) -> None:
    bench.log.emit("", "fault.inject")
    bench.line(time.monotonic_ns(), 1, 1, 1, "then", {})
    bench.line(time.monotonic_ns(), 2)
    bench.line(time.monotonic_ns(), 1)
    bench.line(time.monotonic_ns(), 2)
    assert bench.seen() == [" fault.inject", "a-1 then"]


def test_full_seconds_are_told_between_the_events(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    told: list[str] = []
    bench.log.listeners.append(lambda event: told.append(event.kind))
    bench.order._seconds = lambda: told.append(f"{bench.order.now():.0f}")
    start = bench.order.start_ns
    for at_s, kind in ((0.5, "half"), (1.5, "later")):
        bench.line(start + int(at_s * 1e9), 1, 1, 1, kind, {})
    for node in (1, 2):
        bench.line(start + int(2.2e9), node)
    bench.order.release()
    bench.order.finish()
    assert told == ["half", "1", "later", "2"]


def test_emit_has_reached_the_kernel_when_it_returns(tmp_path: Path) -> None:
    path = tmp_path / "events"
    path.touch()
    voice = Voice(path, 1, 1)
    voice.emit("word", number=1)
    assert b'"word",{"number":1}]' in path.read_bytes()
    with pytest.raises(TypeError):
        voice.emit("word", what=object())
    check: Callable[[], None] = voice.beat
    check()
    assert path.read_bytes().count(b"\n") == 4
