"""What effects do to wall clocks and disks."""

from __future__ import annotations

import errno
from itertools import islice
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zebra.blob import Blob
from zebra.substrate import Effect
from zebra.substrate.inside import DiskEffects, wall_s
from zebra.substrate.stalls import PERIOD_S, slices

CLOCK: dict[str, Any] = {"offset_s": 0.0, "every_s": 0.0, "drift": 0.0, "freeze": False, "since_s": 0.0, "wall_s": 0.0}
DISK: dict[str, Any] = {"rate": 0.0, "capacity_bytes": None, "read_error": 0.0, "write_error": 0.0, "flip": 0.0,
                        "read_only": False}  # fmt: skip
EPOCH_S = 1_700_000_000.0


def clock(**arguments: Any) -> Effect:
    return Effect(id=1, capability="clocks", arguments=CLOCK | arguments)


def shown(effects: list[Effect], now_s: float) -> float:
    return wall_s(effects, EPOCH_S + now_s, now_s) - EPOCH_S


def test_each_kind_of_clock_fault() -> None:
    assert shown([clock(offset_s=-5.0)], 100.0) == 95.0
    assert shown([clock(drift=0.5, since_s=90.0)], 100.0) == 105.0
    frozen = clock(freeze=True, since_s=60.0, wall_s=EPOCH_S + 60.0)
    assert [shown([frozen], now_s) for now_s in (60.0, 70.0, 100.0)] == [60.0] * 3
    jumps = clock(offset_s=10.0, every_s=2.0, since_s=1.0)
    times = [shown([jumps], now_s) for now_s in (1.0, 2.9, 3.1, 4.9, 5.1)]
    assert times == pytest.approx([11.0, 12.9, 3.1, 4.9, 15.1], abs=1e-6)
    assert (frozen.hits, jumps.hits) == (3, 3), "a look at a clock that is right is no hit"


def test_the_first_of_two_freezes_counts_and_offsets_add_to_it() -> None:
    first, second = (clock(freeze=True, since_s=at, wall_s=EPOCH_S + at) for at in (5.0, 8.0))
    assert shown([first, second, clock(offset_s=1.0)], 20.0) == 6.0
    assert (first.hits, second.hits) == (1, 0)


@given(st.lists(st.tuples(st.floats(-1e6, 1e6), st.floats(-0.5, 10))), st.floats(0, 1e5))
@settings(max_examples=60, deadline=None)
def test_offsets_and_drifts_add_up_in_any_order(settings: list[tuple[float, float]], now_s: float) -> None:
    effects = [clock(offset_s=offset_s, drift=drift) for offset_s, drift in settings]
    wanted = now_s + sum(offset_s + drift * now_s for offset_s, drift in settings)
    assert shown(effects, now_s) == pytest.approx(wanted, abs=1e-3 + 1e-9 * abs(wanted))
    assert shown(effects[::-1], now_s) == pytest.approx(wanted, abs=1e-3 + 1e-9 * abs(wanted))


def disk(**arguments: Any) -> tuple[DiskEffects, Effect]:
    effect, random = Effect(id=1, capability="disks", arguments=DISK | arguments), Random(0)
    return DiskEffects(lambda: [effect], lambda: random), effect


def number(call: Any, *args: Any) -> int:
    with pytest.raises(OSError, match="file") as raised:
        call(*args)
    return raised.value.errno or 0


def test_each_kind_of_disk_fault() -> None:
    full, effect = disk(capacity_bytes=10)
    full.check_room("file", lambda: 10)
    assert effect.hits == 0
    assert number(full.check_room, "file", lambda: 11) == errno.ENOSPC
    locked, _ = disk(read_only=True)
    assert number(locked.check_change, "file") == errno.EROFS
    bad, effect = disk(write_error=1.0)
    bad.check("read_error", "file")
    assert number(bad.check_change, "file") == number(bad.check, "write_error", "file") == errno.EIO
    assert effect.hits == 2
    slow, effect = disk(rate=100.0)
    assert (slow.rate(50.0), effect.hits) == (50.0, 0)
    assert (slow.rate(1e9), effect.hits) == (100.0, 1)


@given(st.binary(max_size=200))
@settings(max_examples=60, deadline=None)
def test_a_flip_changes_one_bit_and_nothing_of_an_empty_file(content: bytes) -> None:
    flips, effect = disk(flip=1.0)
    read = bytes(flips.read(Blob.of(content)))
    assert len(read) == len(content)
    changed = [a ^ b for a, b in zip(read, content, strict=True) if a != b]
    assert [each.bit_count() for each in changed] == [1] * bool(content)
    assert effect.hits == bool(content)


@given(st.integers())
@settings(max_examples=60, deadline=None)
def test_a_share_of_the_reads_fails(seed: int) -> None:
    effect, random = Effect(id=1, capability="disks", arguments=DISK | {"read_error": 0.3}), Random(seed)
    some = DiskEffects(lambda: [effect], lambda: random)
    failed = 0
    for _ in range(500):
        try:
            some.check("read_error", "file")
        except OSError:
            failed += 1
    assert 80 < failed == effect.hits < 220


@given(st.floats(0.01, 0.99))
@settings(max_examples=60, deadline=None)
def test_a_slow_host_runs_for_its_share_of_each_period(cpu: float) -> None:
    first, *others = islice(slices(cpu, 0.0, 1.0, Random(0)), 4)
    assert first[0] <= cpu * PERIOD_S
    for runs_s, still_s in others:
        assert runs_s == pytest.approx(cpu * PERIOD_S)
        assert runs_s + still_s == pytest.approx(PERIOD_S)


@given(st.floats(0.001, 5), st.floats(1, 3), st.integers())
@settings(max_examples=60, deadline=None)
def test_an_unfair_host_stalls_once_in_each_span(stall_s: float, ratio: float, seed: int) -> None:
    every_s, at_s = stall_s * ratio, 0.0
    for span, (runs_s, still_s) in enumerate(islice(slices(0.0, stall_s, every_s, Random(seed)), 20)):
        assert 0 <= still_s <= stall_s
        at_s += runs_s
        assert span * every_s - 1e-6 <= at_s and at_s + still_s <= (span + 1) * every_s + 1e-6
        at_s += still_s
