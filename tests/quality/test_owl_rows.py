"""Owl's unsafe parameters: each breaks by its own mechanism where nodes disagree, and not once a safe form is chosen.

The table is that of ../shared/targets/owl.md section 3, "What a test must do to reveal each unsafe row".
"""

from __future__ import annotations

from typing import Any

import pytest

from tests.scenarios import run
from zebra.params import Assignment
from zebra.targets.owl import TARGET, test_owl

DIVIDE, SLOW, TOPS = (
    test_owl.test_chunks_cross_every_divide,
    test_owl.test_slow_store_is_waited_for,
    test_owl.test_tops_of_trees_lose_the_store,
)
SEEDS = range(3)

ROWS = [
    ("owl.chunk.size", {"*": "8MiB", "peer:odd": "4MiB"}, DIVIDE, "length", "safe.digest_in_manifest"),
    ("owl.checksum.algorithm", {"*": "crc32c", "peer-1": "crc32"}, DIVIDE, "checksum", "safe.name_algorithm"),
    ("owl.checksum.algorithm", {"*": "crc32c", "peer-1": "sha256"}, DIVIDE, "checksum", "safe.name_algorithm"),
    ("owl.transfer.encryption", {"*": "off", "peer-1": "psk"}, DIVIDE, "checksum", "safe.offer_encryption"),
    ("owl.transfer.frame_max", {"*": "4MiB", "peer:even": "256KiB"}, DIVIDE, "reset", "safe.limit_in_fetch"),
    ("owl.transfer.idle_timeout", {"*": "20s", "peer:even": "1s"}, SLOW, "stall", "safe.keepalive_in_fetch"),
    ("owl.delegation.loop_guard", {"*": "path", "tracker-2": "refuse"}, TOPS, "cycle", "safe.lent_never_borrows"),
]


@pytest.mark.parametrize(("name", "shares", "scenario", "what", "safe"), ROWS)
def test_row_breaks_by_its_mechanism(name: str, shares: dict[str, Any], scenario: Any, what: str, safe: str) -> None:
    for seed in SEEDS:
        violation = run(scenario, {name: shares}, seed=seed).violation
        assert violation is not None
        assert violation.invariant == ("owl.no_cycle" if what == "cycle" else "owl.no_false_blame")
        assert what in violation.message


@pytest.mark.parametrize(("name", "shares", "scenario", "what", "safe"), ROWS)
def test_safe_form_makes_the_row_safe(name: str, shares: dict[str, Any], scenario: Any, what: str, safe: str) -> None:
    for seed in SEEDS:
        outcome = run(scenario, {name: shares}, seed=seed, variant=safe)
        assert outcome.result == "pass", outcome.message


def test_chunk_size_needs_the_index_scheme() -> None:
    assignment: Assignment = {
        "owl.chunk.size": {"*": "8MiB", "peer:odd": "4MiB"},
        "owl.chunk.id_scheme": {"*": "range"},
    }
    assert run(DIVIDE, assignment).result == "pass"


def test_unchecked_length_ends_in_wrong_content() -> None:
    outcome = run(DIVIDE, {"owl.chunk.size": {"*": "8MiB", "peer:odd": "4MiB"}}, variant="bug.no_length_check")
    assert outcome.violation is not None
    assert outcome.violation.invariant == "owl.integrity"


@pytest.mark.parametrize(
    "name", sorted(set(TARGET.space) - {row[0] for row in ROWS} - {"owl.retry.attempts", "owl.external.limit"})
)
def test_safe_parameter_stays_safe(name: str) -> None:
    parameter = TARGET.space[name]
    for value in parameter.alternatives():
        for role in ("peer", "superpeer", "tracker"):
            outcome = run(DIVIDE, {name: {"*": parameter.default, f"{role}:odd": value}})
            assert outcome.result == "pass", outcome.message


@pytest.mark.parametrize("name", list(TARGET.space))
def test_value_passes_when_all_nodes_have_it(name: str) -> None:
    """Rule H; the three controls fail."""
    for value in TARGET.space[name].alternatives():
        control = name in ("owl.retry.attempts", "owl.external.limit") or (
            name == "owl.transfer.idle_timeout" and float(value) < 1e-3
        )
        outcome = run(DIVIDE, {name: {"*": value}})
        assert outcome.result == ("fail" if control else "pass"), outcome.message
