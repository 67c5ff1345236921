"""Nothing outlives a pytest session, however it ends; `ends.py` does the same many times."""

from __future__ import annotations

import re

import pytest

from tests.leftovers import ends
from zebra.registry import load


@pytest.mark.parametrize("substrate", ["process", "netns", "docker"])
def test_nothing_is_left_whatever_way_a_session_ends(substrate: str) -> None:
    reason = load("substrates", substrate).SUBSTRATE.unavailable()
    if reason:
        pytest.skip(f"{substrate}: {reason}")
    found = ends.every_way(substrate)
    assert {name: (end.left, end.output) for name, end in found.items() if end.left} == {}
    otherwise = {name for name, end in found.items() if not re.search(ends.WAYS[name].says, end.output)}
    assert {name: found[name].output for name in otherwise} == {}
    for name in ("pass", "fail"):
        made = re.search(r"zebra: (\d+) objects made, none left", found[name].output)
        assert made is not None and int(made[1]) >= 8, "two runs, each a zygote and three nodes"
