"""Shipped scenarios of our targets, unchanged, in network namespaces: some of each."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.scenarios import pass_in_a_session
from zebra.substrate.netns import SUBSTRATE
from zebra.target import find_target

pytestmark = pytest.mark.skipif(bool(SUBSTRATE.unavailable()), reason=SUBSTRATE.unavailable())

SCENARIOS = {
    "owl": ("test_chunks_cross_every_divide", "test_slow_store_is_waited_for",
            "test_cached_content_outlives_the_store", "test_planned_restart_stalls_nobody"),
    "lad": ("test_commit_reaches_every_app", "test_two_shards_take_turns", "test_distributor_is_lost",
            "test_store_loses_its_leader"),
    "valkey": ("test_replicas_hold_what_the_primary_holds", "test_what_is_confirmed_outlives_restarts"),
}  # fmt: skip


@pytest.mark.parametrize("target", SCENARIOS)
def test_scenarios_pass_unchanged(target: str, tmp_path: Path) -> None:
    if find_target(target).unavailable:
        pytest.skip(find_target(target).unavailable)
    pass_in_a_session(target, "netns", tmp_path, *SCENARIOS[target])
