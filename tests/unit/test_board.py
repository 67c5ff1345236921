"""The board: what the session imposes is what a node sees, and each effect has its own counters."""

from __future__ import annotations

import os
import tempfile
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zebra.errors import ConfigError
from zebra.substrate import Effect
from zebra.substrate.process.board import EFFECTS_MAX, Board, Imposed
from zebra.substrate.process.capabilities import Inside


def effect(number: int, capability: str = "disks", size: int = 1) -> Effect:
    return Effect(id=number, capability=capability, arguments={"nodes": ["a"], "text": "x" * size})


def test_a_node_sees_its_own_effects_by_capability_and_only_while_they_are_on() -> None:
    board = Board(2)
    one, two = Imposed(board, 1), Imposed(board, 2)
    board.impose(1, [effect(7), effect(8, "clocks")])
    assert [each.id for each in one.disks()] == [7]
    assert [each.id for each in one.clocks()] == [8]
    assert not one.application() and not two.disks()
    board.impose(1, [effect(8, "clocks")])
    assert not one.disks() and [each.id for each in one.clocks()] == [8]


def test_effects_on_thousands_of_nodes_fit() -> None:
    board, everybody = Board(1), tuple(f"server-{number}" for number in range(10_000))
    many = [Effect(id=n, capability="disks", arguments={"nodes": everybody, "rate": 1.0}) for n in range(9)]
    board.impose(1, many)
    assert [each.arguments for each in Imposed(board, 1).disks()] == [{"rate": 1.0}] * 9


def test_who_is_up_is_seen_at_once() -> None:
    board = Board(2)
    board.set_up(2, True)
    assert board.is_up(2) and not board.is_up(1)


def test_too_many_effects_are_refused_and_those_that_are_on_stay() -> None:
    board, seen = Board(1), None
    for size in (1, 20_000):
        effects = [effect(number, size=size) for number in range(EFFECTS_MAX + (size == 1))]
        board.impose(1, [effect(99)])
        with pytest.raises(ConfigError, match="effects"):
            board.impose(1, effects)
        seen = [each.id for each in Imposed(board, 1).disks()]
    assert seen == [99]


def test_a_board_in_a_file_is_shared_by_who_opens_it() -> None:
    with tempfile.TemporaryFile() as file:
        os.truncate(file.fileno(), Board.size_bytes(3))
        mine, theirs = Board(3, file.fileno()), Board(3, file.fileno())
        mine.impose(3, [effect(1)])
        Imposed(theirs, 3).disks()[0].hits += 5
        assert mine.counted(3, 1) == (5, 0)


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 9), st.integers(0, 3)), max_size=80))
@settings(max_examples=50, deadline=None)
def test_hits_go_to_the_effect_that_had_them(steps: list[tuple[bool, int, int]]) -> None:
    """A model: impose and lift ten effects in any order while the node counts."""
    board = Board(1)
    inside, node = Inside(board, {"a": 1}), Imposed(board, 1)
    effects = {number: effect(number) for number in range(10)}
    on: list[int] = []
    wanted = dict.fromkeys(effects, 0)
    for impose, number, hits in steps:
        if impose and number not in on:
            inside.impose("a", effects[number])
            on.append(number)
        elif not impose:
            inside.lift("a", effects[number])
            on = [each for each in on if each != number]
        assert [each.id for each in node.disks()] == on
        for each in node.disks():
            each.hits += hits
            wanted[each.id] += hits
        inside.count(effects[number])
        if number in on:
            assert effects[number].hits == wanted[number]
    for number in on:
        inside.lift("a", effects[number])
    assert {number: each.hits for number, each in effects.items()} == wanted


def test_a_node_never_reads_half_of_a_change() -> None:
    board, over = Board(1), threading.Event()
    states = [[effect(n, size=n * 40) for n in range(1, top)] for top in (1, 4, 9)]

    def change() -> None:
        while not over.is_set():
            for state in states:
                board.impose(1, state)

    writer = threading.Thread(target=change)
    writer.start()
    try:
        for _ in range(3000):
            _, found = board.read(1)
            assert [number for _, number, _, _ in found] in ([e.id for e in state] for state in states)
    finally:
        over.set()
        writer.join()
