"""Every invariant of Owl catches a bug that was planted for it, by name, and the same run without the bug passes."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.scenarios import run
from zebra import Cluster
from zebra.targets.owl import TARGET, test_owl
from zebra.targets.owl.test_owl import fetching


@pytest.mark.zebra("owl", tracker=1, superpeer=0, peer=6)
async def everybody_at_the_store(cluster: Cluster) -> None:
    """A policy by which no peer may serve and one at a time may go to the store."""
    await cluster.client.push_policy("default", external_limit=1, uploads=0)
    async with fetching(cluster, (await cluster.client.publish(size="1MiB"), cluster.up("peer"))):
        pass


@pytest.mark.zebra("owl", tracker=2, peer=2)
async def one_region_after_the_other(cluster: Cluster) -> None:
    obj = await cluster.client.publish(size="1MiB")
    for peer in cluster.up("peer"):
        await cluster.client.fetch(obj, peer)
        await asyncio.sleep(test_owl.heard_s(cluster))


@pytest.mark.zebra("owl", tracker=1, superpeer=0, peer=2)
async def one_flipped_bit(cluster: Cluster) -> None:
    obj = await cluster.client.publish(size="1MiB")
    await cluster.client.fetch(obj, "peer-1")
    await cluster.client.flip("peer-1")
    await cluster.client.fetch(obj, "peer-2")


MUTANTS = [
    ("bug.descendant", test_owl.test_source_crashes_mid_stream, "owl.no_cycle"),
    ("bug.no_d2", test_owl.test_crossed_trees_lose_the_store, "owl.no_cycle"),
    ("bug.no_d1_d2", test_owl.test_tops_of_trees_lose_the_store, "owl.no_cycle"),
    ("bug.forget_lent", test_owl.test_crossed_trees_lose_the_store, "owl.no_cycle"),
    ("bug.two_edges", test_owl.test_tops_of_trees_lose_the_store, "owl.single_source"),
    ("bug.cache_before_verify", test_owl.test_object_reaches_every_peer, "owl.integrity"),
    ("bug.serve_ahead", test_owl.test_object_reaches_every_peer, "owl.cut_through_honesty"),
    ("bug.resume_from_zero", test_owl.test_source_crashes_mid_stream, "owl.resume"),
    ("bug.no_external_limit", everybody_at_the_store, "owl.external_economy"),
    ("bug.lend_nothing", one_region_after_the_other, "owl.external_economy"),
    ("bug.hasty", test_owl.test_slow_store_is_waited_for, "owl.no_false_blame"),
    ("bug.ignore_evict", test_owl.test_superpeers_take_copies_over, "owl.obedience"),
    ("bug.get_hangs", one_flipped_bit, "owl.completion"),
    ("bug.slow_repair", test_owl.test_source_crashes_mid_stream, "owl.repair"),
    ("bug.no_reregister", test_owl.test_tracker_loss_interrupts_no_download, "owl.tracker_loss"),
    ("bug.lazy", test_owl.test_object_reaches_every_peer, "owl.sla"),
]


@pytest.mark.parametrize(("variant", "scenario", "name"), MUTANTS, ids=[variant for variant, _, _ in MUTANTS])
def test_invariant_catches_the_bug_planted_for_it(variant: str, scenario: Any, name: str) -> None:
    outcome = run(scenario, seed=1, variant=variant)
    assert outcome.violation is not None, outcome.message
    assert outcome.violation.invariant == name, outcome.message
    assert run(scenario, seed=1).result == "pass"


def test_every_invariant_and_every_planted_bug_is_in_the_table() -> None:
    assert {name for _, _, name in MUTANTS} == {factory.zebra_name for factory in TARGET.invariants}
    bugs = {variant for variant in TARGET.variants if variant.startswith("bug.")}
    assert {variant for variant, _, _ in MUTANTS} == bugs - {"bug.no_length_check"}  # that one is in test_owl_rows.py
