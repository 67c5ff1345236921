"""Quantities as people write them."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zebra.errors import ConfigError
from zebra.units import BYTES, COUNT, OFFSET, RATE, SECONDS, SHARE, seconds, show, size_bytes


@pytest.mark.parametrize(
    ("unit", "text", "number"),
    [
        (SECONDS, "250ms", 0.25),
        (SECONDS, " 2 min ", 120.0),
        (SECONDS, "1e3us", 1e-3),
        (SECONDS, 3, 3),
        (OFFSET, "-200ms", -0.2),
        (BYTES, "8MiB", 8 << 20),
        (BYTES, "1.5kB", 1500),
        (RATE, "100Mbit/s", 12.5e6),
        (RATE, "1MiB/s", 2.0**20),
        (SHARE, "50%", 0.5),
        (SHARE, "0.25", 0.25),
        (COUNT, 3, 3),
    ],
)
def test_a_quantity_is_read_as_a_plain_number(unit: Any, text: Any, number: Any) -> None:
    assert unit.parse(text, "it") == pytest.approx(number)


@pytest.mark.parametrize(
    ("unit", "bad"),
    [
        (SECONDS, "-1s"),
        (SECONDS, "5"),
        (SECONDS, "5 parsecs"),
        (SECONDS, True),
        (SECONDS, None),
        (SECONDS, math.nan),
        (SECONDS, math.inf),
        (SECONDS, "1e999s"),
        (SECONDS, 10**400),
        pytest.param(SECONDS, 10**5000, id="huge"),
        (BYTES, "1.0001kB"),
        (BYTES, 0.5),
        (RATE, 0),
        (RATE, "100Mbit"),
        (SHARE, 1.01),
        (SHARE, "101%"),
        (COUNT, 0),
        (COUNT, 2.5),
    ],
)
def test_a_bad_quantity_is_refused_with_its_name(unit: Any, bad: Any) -> None:
    with pytest.raises(ConfigError, match="the thing"):
        unit.parse(bad, "the thing")


def test_sizes_that_are_whole_stay_whole() -> None:
    assert isinstance(size_bytes("8MiB"), int)
    assert isinstance(BYTES.parse(5.0, "size"), int)


def test_a_value_is_shown_as_people_write_it() -> None:
    assert show(8 << 20, "B") == "8MiB"
    assert show(0.25, "s") == "250ms"
    assert show(True, "") == "true"


@given(st.floats(-1e8, 1e8, allow_nan=False))
def test_a_shown_time_is_read_back_exactly(value: Any) -> None:
    assert OFFSET.parse(show(value, "s"), "it") == value


@given(st.integers(0, 1 << 60))
def test_a_shown_size_is_read_back_exactly_up_to_a_float(value: Any) -> None:
    assert size_bytes(show(value, "B")) == int(float(value)) or value % 1024 == 0


@given(st.text() | st.none() | st.booleans() | st.integers() | st.floats() | st.lists(st.integers()))
def test_whatever_is_given_only_a_config_error_is_raised(value: Any) -> None:
    for unit in (SECONDS, OFFSET, BYTES, RATE, SHARE, COUNT):
        try:
            assert unit.minimum <= unit.parse(value, "it") <= unit.maximum
        except ConfigError:
            pass
    try:
        assert seconds(value) >= 0
    except ConfigError:
        pass
