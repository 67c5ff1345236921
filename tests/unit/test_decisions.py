"""Decisions left to chance on links: the same for the same seed and traffic, told as made, in bounded number."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from zebra.events import EventLog, History
from zebra.proxy.link import Link
from zebra.proxy.port import Port
from zebra.proxy.proxy import Proxy
from zebra.proxy.toxics import Drop, Duplicate, Latency, Loss, Reorder, Reset, Toxic
from zebra.substrate import Effect
from zebra.substrate.decisions import RECORDED_MAX, Decisions

NODES = ("a", "b", "c")
WAYS = [(source, target, over) for source in NODES for target in NODES if source != target for over in ("udp", "tcp")]
Decision = tuple[str, str, int]


class Handle:
    def cancel(self) -> None: ...
    def add_done_callback(self, done: Any) -> None: ...


class Still:
    """A loop in which no time passes and nothing that was put off comes."""

    def time(self) -> float:
        return 0.0

    def call_at(self, *_: Any) -> Handle:
        return Handle()

    call_later = call_at

    def create_task(self, work: Any) -> Handle:
        work.close()
        return Handle()


def opened(proxy: Proxy, name: str, source: str, target: str, toxics: tuple[Toxic, ...]) -> Link:
    """One direction of a connection, which nobody reads from."""

    def ignore(*_: Any) -> None: ...

    link = Link(proxy.loop, source, target, name, proxy.random(name), proxy.decided, ignore, ignore, ignore)
    link.ready = False
    link.change(toxics)
    link.arrive("open")
    return link


def decisions(seed: int, traffic: list[tuple[int, int]], *toxics: Toxic) -> dict[tuple[str, str, str], list[Decision]]:
    """What is decided on each way when messages, each (number of the way, bytes), pass in this order."""
    told: dict[tuple[str, str, str], list[Decision]] = {}

    def tell(toxic: Toxic, source: str, target: str, what: str, over: str, size: int) -> None:
        told.setdefault((source, target, "udp" if over == "datagram" else "tcp"), []).append((what, over, size))

    proxy = Proxy(Still(), seed, lambda *_: toxics, str, decided=tell)  # type: ignore[arg-type]
    ports = {node: Port(proxy, node, ("", 1)) for node in NODES}
    streams: dict[tuple[str, str], Link] = {}
    for number, size in traffic:
        source, target, over = WAYS[number]
        if over == "udp":
            ports[target].datagram_received(bytes(size), (source, 1))
            continue
        if (source, target) not in streams:
            streams[source, target] = opened(proxy, f"{source}>{target}:1/1/out", source, target, toxics)
        streams[source, target].arrive("data", bytes(size))
    return told


def noise() -> tuple[Toxic, ...]:
    return (Latency(latency_s=0.1, jitter_s=0.1), Loss(probability=0.3), Duplicate(probability=0.3, after_s=1.0),
            Reorder(probability=0.3), Reset(probability=0.1))  # fmt: skip


MESSAGES = st.lists(st.tuples(st.integers(0, len(WAYS) - 1), st.integers(1, 1500)), max_size=60)


@given(st.integers(), MESSAGES, st.randoms(use_true_random=False))
def test_what_is_decided_on_a_way_does_not_depend_on_what_passes_on_others(seed: int, sent: Any, random: Any) -> None:
    order = [number for number, _ in sent]
    random.shuffle(order)
    rest = {way: iter([size for number, size in sent if number == way]) for way in set(order)}
    other = [(number, next(rest[number])) for number in order]
    assert decisions(seed, sent, *noise()) == decisions(seed, other, *noise())


def test_another_seed_decides_otherwise_and_each_kind_is_told() -> None:
    sent = [(number % len(WAYS), 100 + number) for number in range(600)]
    first = decisions(1, sent, *noise())
    assert first != decisions(2, sent, *noise())
    assert first.keys() == set(WAYS)
    for (_, _, over), told in first.items():
        kinds = {"loss", "duplicate", "reorder"} if over == "udp" else {"loss", "reset"}
        assert {what for what, _, _ in told} == kinds
        assert {size for _, _, size in told if size} <= {size for _, size in sent}


def test_the_opening_of_a_connection_is_told_as_such() -> None:
    told = decisions(0, [(WAYS.index(("a", "b", "tcp")), 5)], Loss(probability=1.0))["a", "b", "tcp"]
    assert set(told) == {("loss", "connect", 0), ("loss", "stream", 5)}


def test_what_is_not_left_to_chance_is_not_told() -> None:
    sent = [(number, 10) for number in range(len(WAYS))]
    assert decisions(0, sent, Drop(), Latency(latency_s=1.0, jitter_s=1.0)) == {}


def test_of_each_effect_so_many_decisions_are_recorded_and_no_more() -> None:
    history = History()
    record = Decisions(EventLog(history, lambda: 1.0))
    one, two = (Effect(id=number, capability="links", arguments={}, fault=number * 10) for number in (1, 2))
    for _ in range(RECORDED_MAX + 500):
        record(one, "a", "b", "loss", "datagram", 7)
    record(two, "b", "a", "reset", "stream", 8)
    *first, last = history
    assert [event["number"] for event in first] == list(range(1, RECORDED_MAX + 1))
    assert last.fields == {
        "fault": 20, "effect": 2, "number": 1, "what": "reset", "over": "stream", "source": "b", "target": "a",
        "bytes": 8,
    }  # fmt: skip
