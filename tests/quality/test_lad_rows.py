"""LAD's unsafe parameters: each breaks by its own mechanism where nodes disagree, and not once a safe form is chosen.

The tables are those of ../shared/targets/lad.md section 3 and ../shared/targets/other.md section 1.
"""

from __future__ import annotations

from typing import Any

import pytest

from tests.scenarios import run
from zebra.params import Assignment
from zebra.targets.lad import TARGET, test_lad

SEEDS = range(3)
DEEP, PAIR = test_lad.test_large_value_arrives_or_is_refused, test_lad.test_commit_reaches_every_app
SHARDS, RESTART, IDLE, ZIPPED, STAGED, MODE, OUTAGE, PROTOCOL, MANY, AUTHORS = (
    test_lad.test_two_shards_take_turns,
    test_lad.test_distributors_are_restarted,
    test_lad.test_nothing_happens_for_a_while,
    test_lad.test_compressible_value_is_read_by_all,
    test_lad.test_change_is_exposed_in_stages,
    test_lad.test_new_mode_is_understood_or_refused,
    test_lad.test_everything_starts_again_without_the_store,
    test_lad.test_peers_change_their_protocol_together,
    test_lad.test_many_hosts_share_one_distributor,
    test_lad.test_two_authors_take_turns,
)

ROWS = [
    ("lad.shard.depth", {"*": 2, "proxy": 3}, PAIR, "lad.propagation", "safe.depth_in_subscribe"),
    ("lad.shard.depth", {"*": 2, "proxy": 1}, PAIR, "lad.propagation", "safe.depth_in_subscribe"),
    ("lad.update.seq_mode", {"*": "zxid", "proxy": "per_shard"}, SHARDS, "lad.no_spurious_repair", "safe.mode_in_ack"),
    ("lad.update.seq_mode", {"*": "per_shard", "proxy": "zxid"}, RESTART, "lad.propagation", "safe.mode_in_ack"),
    ("lad.value.max_bytes", {"*": "100MiB", "proxy": "5MiB"}, DEEP, "lad.propagation", "safe.least_reader_limit"),
    ("lad.value.max_bytes", {"*": "100MiB", "distributor": "5MiB"}, DEEP, "lad.propagation", "safe.least_reader_limit"),
    ("lad.lease.ttl", {"*": "30s", "proxy": "3s"}, IDLE, "lad.no_spurious_repair", "safe.lease_in_ack"),
    ("lad.digest.over", {"*": "raw", "proxy": "wire"}, ZIPPED, "lad.no_spurious_repair", "safe.name_coverage"),
    ("lad.artefact.digest", {"*": "sha256", "app": "md5"}, PAIR, "lad.acceptance", "safe.name_digest"),
    ("lad.schema.rev", {"*": 2, "app:odd": 1}, MODE, "lad.same_value", "safe.least_schema"),
    ("lad.selector.seed", {"*": 0, "proxy": 7}, STAGED, "lad.stage_kept", "safe.seed_in_gate"),
    ("lad.fallback.mode", {"*": "last_good", "app:odd": "default"}, OUTAGE, "lad.agreement", "safe.last_good_first"),
    ("lad.apply.mode", {"*": "live", "app:odd": "restart"}, PROTOCOL, "lad.agreement", "safe.protocol_at_restart"),
]


@pytest.mark.parametrize(("name", "shares", "scenario", "what", "safe"), ROWS)
def test_row_breaks_by_its_mechanism(name: str, shares: dict[str, Any], scenario: Any, what: str, safe: str) -> None:
    for seed in SEEDS:
        outcome = run(scenario, {name: shares}, seed=seed)
        assert outcome.violation is not None, outcome.message
        assert outcome.violation.invariant == what, outcome.message


@pytest.mark.parametrize(("name", "shares", "scenario", "what", "safe"), ROWS)
def test_safe_form_makes_the_row_safe(name: str, shares: dict[str, Any], scenario: Any, what: str, safe: str) -> None:
    for seed in SEEDS:
        outcome = run(scenario, {name: shares}, seed=seed, variant=safe)
        assert outcome.result == "pass", outcome.message


@pytest.mark.parametrize(
    ("name", "shares", "scenario"),
    [
        ("lad.value.max_bytes", {"*": "5MiB", "proxy": "100MiB"}, DEEP),
        ("lad.lease.ttl", {"*": "3s", "proxy": "30s"}, IDLE),
        ("lad.schema.rev", {"*": 1, "app": 2}, MODE),
        ("lad.update.seq_mode", {"*": "per_shard", "proxy": "zxid"}, SHARDS),
    ],
)
def test_other_way_round_is_safe(name: str, shares: dict[str, Any], scenario: Any) -> None:
    for seed in SEEDS:
        assert run(scenario, {name: shares}, seed=seed).result == "pass"


def test_coverage_of_a_digest_does_not_matter_where_nothing_is_compressed() -> None:
    assignment: Assignment = {"lad.digest.over": {"*": "raw", "proxy": "wire"}, "lad.content.codec": {"*": "none"}}
    assert run(ZIPPED, assignment).result == "pass"


@pytest.mark.parametrize(
    ("name", "shares", "scenario", "fault"),
    [
        ("lad.update.seq_mode", {"*": "per_shard", "proxy": "zxid"}, RESTART, "host.restart"),
        ("lad.fallback.mode", {"*": "last_good", "app:odd": "default"}, OUTAGE, "host.crash"),
    ],
)
def test_row_needs_its_fault(name: str, shares: dict[str, Any], scenario: Any, fault: str) -> None:
    assert run(scenario, {name: shares}, without_faults=(fault,)).result == "pass"


def test_smaller_tick_takes_the_lead_and_nothing_breaks() -> None:
    """The row that looks unsafe and heals itself: an assertion that the leader never changes would report it."""
    for seed in SEEDS:
        assert run(PAIR, {"lad.store.tick": {"*": "2s", "store-3": "0.1s"}}, seed=seed).result == "pass"


CONTROLS = {"lad.poll.interval": (10.0, SHARDS), "lad.tree.fanout": (1, MANY)}


@pytest.mark.parametrize("name", sorted(set(TARGET.space) - {row[0] for row in ROWS}))
def test_safe_parameter_stays_safe(name: str) -> None:
    parameter = TARGET.space[name]
    for value in parameter.alternatives():
        if CONTROLS.get(name, (None,))[0] == value:
            continue
        for role in ("proxy", "distributor", "store", "app"):
            outcome = run(DEEP, {name: {"*": parameter.default, f"{role}:odd": value}})
            assert outcome.result == "pass", outcome.message


@pytest.mark.parametrize("name", list(TARGET.space))
def test_value_passes_when_all_nodes_have_it(name: str) -> None:
    """Rule H; the two controls fail."""
    for value in TARGET.space[name].alternatives():
        control, scenario = CONTROLS.get(name, (None, DEEP))
        outcome = run(scenario if value == control else DEEP, {name: {"*": value}})
        assert outcome.result == ("fail" if value == control else "pass"), outcome.message
