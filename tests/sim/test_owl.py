"""Owl works: its scenarios pass for many seeds, one seed gives one history, and its parts do what they say."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.scenarios import mixture, run, scenarios_of
from zebra import ConfigError
from zebra.target import find_target
from zebra.targets.owl import TARGET, test_owl
from zebra.targets.owl.chunks import cut, find_piece
from zebra.targets.owl.config import ChunkConfig, common_version
from zebra.targets.owl.forest import BORROWED, EXT, KEPT, UNROOTED, Edge, Forest, Loan
from zebra.targets.owl.messages import Manifest
from zebra.topology import Topology

SCENARIOS = scenarios_of(test_owl)
SAFE = (
    "chunk.id_scheme",
    "transfer.codec",
    "lease.ttl",
    "advert.ttl",
    "proto.version",
    "selection.policy",
    "cache.capacity",
    "fetch.parallel",
    "tracker.pick",
)
PLACES = {place.node: place for place in Topology(counts={"peer": 8}).places()}


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
def test_scenario_passes_for_many_seeds(scenario: Any) -> None:
    for seed in range(8):
        outcome = run(scenario, seed=seed)
        assert outcome.result == "pass", f"seed {seed}: {outcome.message}"


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
def test_safe_parameters_may_be_mixed_at_will(scenario: Any) -> None:
    for seed in range(4):
        assignment = mixture(TARGET, SAFE, ("peer", "peer:odd", "peer:even", "tracker:odd", "tracker:even"), seed)
        outcome = run(scenario, assignment, seed=seed)
        assert outcome.result == "pass", f"{assignment}: {outcome.message}"


def test_one_seed_gives_one_history() -> None:
    first, second, other = (run(test_owl.test_tracker_loss_interrupts_no_download, seed=seed) for seed in (3, 3, 4))
    assert first.history.digest() == second.history.digest() != other.history.digest()


def test_scenarios_together_show_what_sometimes_happens() -> None:
    seen = frozenset[str]().union(*(run(scenario).kinds for scenario in SCENARIOS))
    assert set(TARGET.sometimes) <= seen


def test_scenarios_together_exercise_every_invariant() -> None:
    seen = {name for scenario in SCENARIOS for name in run(scenario).exercised}
    assert seen >= {factory.zebra_name for factory in TARGET.invariants}


def test_owl_is_found_by_its_name() -> None:
    assert find_target("owl") is TARGET
    assert len(TARGET.space.matching()) == 17
    assert set(TARGET.space) - set(TARGET.space.matching()) == {"owl.advert.every", "owl.rpc.timeout"}


def test_disjoint_versions_are_refused_loudly() -> None:
    outcome = run(test_owl.test_object_reaches_every_peer, {"owl.proto.version": {"*": "3-3", "tracker": "1-2"}})
    assert outcome.result in ("crash", "fail")
    assert "speaks 3-3" in outcome.message


def test_version_that_is_no_range_is_bad_input() -> None:
    with pytest.raises(ConfigError, match=r"owl.proto.version"):
        run(test_owl.test_object_reaches_every_peer, {"owl.proto.version": {"*": "three"}})


# -- parts -------------------------------------------------------------------------------------------------------


def test_common_version_is_the_highest_in_both_ranges() -> None:
    assert common_version("1-3", "2-5") == common_version("2-5", "1-3") == 3
    assert common_version("1-2", "2-3") == 2
    assert common_version("1-1", "2-3") == 0


def test_chunks_cover_an_object_and_ids_lead_back_to_them() -> None:
    manifest = Manifest(object="o", length=20, digest="")
    for scheme in ("index", "range"):
        config = ChunkConfig(size=8, id_scheme=scheme)
        pieces = cut(manifest, config)
        assert [(piece.start, piece.length) for piece in pieces] == [(0, 8), (8, 8), (16, 4)]
        assert tuple(find_piece(piece.chunk, manifest, config) for piece in pieces) == pieces
    assert find_piece("o#9", manifest, ChunkConfig(size=8)) is None


def forest(*edges: tuple[str, str], kept: tuple[str, ...] = ()) -> Forest:
    """A forest of the members peer-1 to peer-8 with these (child, parent) edges."""
    made = Forest(PLACES)
    for peer in kept:
        made.keep(peer, PLACES[peer])
    for number, (child, parent) in enumerate(edges):
        made.open(Edge(id=str(number), child=child, parent=parent, source=parent), PLACES[child])
    return made


def test_walk_leads_to_what_the_top_stands_on() -> None:
    made = forest(
        ("peer-1", EXT),
        ("peer-2", "peer-1"),
        ("peer-4", "peer-3"),
        ("peer-5", "far-1"),
        ("peer-6", "peer-7"),
        kept=("peer-7",),
    )
    assert (made.walk("peer-2").path, made.walk("peer-2").top) == (["peer-2", "peer-1"], EXT)
    assert made.walk("peer-4").top == UNROOTED
    assert (made.walk("peer-5").path, made.walk("peer-5").top) == (["peer-5", "far-1"], BORROWED)
    assert made.walk("peer-6").top == KEPT


def test_loan_makes_its_parent_and_all_above_have_a_lent_descendant() -> None:
    made = forest(("peer-1", EXT), ("peer-2", "peer-1"), ("peer-3", "peer-1"))
    made.lend("e", Loan(parent="peer-2", child="far-1", until_s=1.0))
    assert made.has_lent_descendant("peer-1") and made.has_lent_descendant("peer-2")
    assert not made.has_lent_descendant("peer-3")
    assert made.uploads("peer-2") == 1
    made.take_back("e")
    assert not made.has_lent_descendant("peer-1") and made.uploads("peer-2") == 0


def test_near_offers_the_closest_with_room_first() -> None:
    made = forest(("peer-2", EXT), ("peer-3", "peer-2"), ("peer-4", "peer-2"), kept=("peer-1",))
    assert list(made.near(PLACES["peer-3"], limit=2, most=9))[:2] == ["peer-3", "peer-1"]  # own host and rack first
    assert "peer-2" not in made.near(PLACES["peer-3"], limit=2, most=9)
    assert made.external() == 1


PEERS = st.sampled_from(sorted(PLACES))


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(("open", "close", "keep", "unkeep", "lend", "take")), PEERS, PEERS), max_size=40)
)
def test_near_and_top_agree_with_a_look_at_every_peer(steps: list[tuple[str, str, str]]) -> None:
    made = Forest(PLACES)
    limits = (1, 2, 4)
    list(made.near(PLACES["peer-1"], 2, 1))  # one index is there from the start, the others are made at the end
    for number, (what, peer, other) in enumerate(steps):
        if what == "open" and peer not in made.edges and peer != other:
            made.open(
                Edge(id=str(number), child=peer, parent=EXT if number % 5 == 0 else other, source=other), PLACES[peer]
            )
        elif what == "close":
            made.close(peer)
            made.withdraw(peer)
        elif what == "keep":
            made.keep(peer, PLACES[peer])
        elif what == "unkeep":
            made.kept.pop(peer, None)
            made.withdraw(peer)
        elif what == "lend":
            made.lend(f"to {peer}", Loan(parent=other, child="far-1", until_s=1.0))
        else:
            made.take_back(f"to {peer}")
    on_offer = {*made.kept, *made.edges}
    for limit in limits:
        near = list(made.near(PLACES["peer-3"], limit, most=len(PLACES)))
        assert len(near) == len(set(near))
        assert set(near) == {peer for peer in on_offer if made.uploads(peer) < limit}
    known: dict[str, str] = {}
    assert [made.top(peer, known) for peer in PLACES] == [made.walk(peer).top for peer in PLACES]
