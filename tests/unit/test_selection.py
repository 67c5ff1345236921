"""Whom a fault hits."""

from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import zebra
from zebra.errors import ConfigError
from zebra.injection.selection import Selection, check_form, resolve
from zebra.topology import Topology

PLACES = Topology(counts={"peer": 6, "store": 5, "client": 1}, regions=2, dcs=2, per_host={"peer": 2}).places()
NAMES = [place.node for place in PLACES]


def hit(*texts: str, seed: int = 0, down: Any = (), selectors: Any = None) -> tuple[str, ...]:
    return resolve([texts], PLACES, Random(seed), lambda node: node not in down, selectors or {}).nodes


def test_a_node_a_role_a_place_and_everyone_can_be_named() -> None:
    assert hit("peer-3") == ("peer-3",)
    assert hit("all(store)") == tuple(f"store-{n}" for n in range(1, 6))
    assert hit("region(r1)") == tuple(place.node for place in PLACES if place.region == "r1")
    assert hit("host(r1-peer-host1)") == ("peer-1", "peer-3")
    assert hit("*") == tuple(NAMES)


def test_nodes_named_twice_are_hit_once() -> None:
    assert hit("peer-1", "all(peer)", "peer-2") == tuple(f"peer-{n}" for n in range(1, 7))


def test_the_functions_write_what_the_parser_reads() -> None:
    assert [zebra.one("peer"), zebra.all_of("peer"), zebra.minority("peer"), zebra.majority("peer")] == [
        "one(peer)", "all(peer)", "minority(peer)", "majority(peer)",
    ]  # fmt: skip
    assert len(hit(zebra.minority("store"))) == 2
    assert len(hit(zebra.majority("store"))) == 3
    assert len(hit(zebra.minority("peer"))) == 2
    assert len(hit(zebra.majority("peer"))) == 4


def test_a_draw_depends_on_the_seed_alone() -> None:
    drawn = [hit("one(peer)", seed=seed) for seed in range(20)]
    assert drawn == [hit("one(peer)", seed=seed) for seed in range(20)]
    assert len(set(drawn)) > 3


def test_one_prefers_a_node_that_is_up() -> None:
    down = [f"peer-{n}" for n in (1, 2, 3, 4, 6)]
    assert all(hit("one(peer)", seed=seed, down=down) == ("peer-5",) for seed in range(5))
    assert len(hit("one(peer)", down=NAMES)) == 1


def test_a_targets_selector_is_asked_when_the_fault_is_injected() -> None:
    selectors = {"roots": lambda: ["store-2", "peer-1"], "none": lambda: []}
    assert hit("roots", selectors=selectors) == ("peer-1", "store-2")
    assert hit("one(roots)", selectors=selectors)[0] in ("peer-1", "store-2")
    assert hit("none", selectors=selectors) == ()
    with pytest.raises(ConfigError, match="'ghost-1', which is no node"):
        hit("ghosts", selectors={"ghosts": lambda: ["ghost-1"]})


@pytest.mark.parametrize("text", ["peer-99", "all(ghost)", "dc(r9-dc1)", "one(peer-3)"])
def test_a_selection_that_names_nothing_is_a_config_error(text: Any) -> None:
    with pytest.raises(ConfigError, match="names no node of this cluster"):
        hit(text)


@pytest.mark.parametrize(
    "text", ["", "one(peer", "peer)", "two(peer)", "peer 3", "one()", "one(one(peer))", "peer-1\n"]
)
def test_text_that_is_no_selection_is_a_config_error(text: Any) -> None:
    with pytest.raises(ConfigError, match="selection"):
        check_form(text)


@given(st.text() | st.from_regex(r"[a-z]{0,9}\(?[a-z*.-]{0,5}\)?", fullmatch=True))
def test_whatever_the_text_only_a_config_error_is_raised(text: Any) -> None:
    try:
        hit(text)
    except ConfigError:
        pass


# -- links -------------------------------------------------------------------------------------------------------


def selection(*groups: Any) -> Selection:
    return Selection(tuple(tuple(group) for group in groups), PLACES)


def test_a_host_fault_hits_all_that_share_the_host() -> None:
    assert selection(["peer-1"]).hosts() == ("peer-1", "peer-3")


def test_pairs_touch_a_selected_node_in_the_direction_asked() -> None:
    mine = selection(["peer-1"])
    assert ("peer-1", "store-1") in mine.pairs()
    assert ("store-1", "peer-1") in mine.pairs()
    assert ("store-1", "store-2") not in mine.pairs()
    assert ("peer-1", "peer-1") not in mine.pairs()
    assert ("store-1", "peer-1") not in mine.pairs("out")
    assert ("peer-1", "store-1") not in mine.pairs("in")


groups = st.lists(st.lists(st.sampled_from(NAMES), min_size=1, max_size=4), min_size=1, max_size=3)


@given(groups)
def test_links_between_groups_never_stay_within_one(chosen: Any) -> None:
    both = selection(*chosen).between()
    for a in NAMES:
        for b in NAMES:
            if (a, b) in both:
                assert a != b
                assert (b, a) in both
                assert any(a in one and b not in one for one in chosen) or len(chosen) == 1
                assert not any(a in one and b in one for one in chosen) or len(chosen) > 1


@given(groups)
def test_both_directions_are_out_and_in_together(chosen: Any) -> None:
    made = selection(*chosen)
    out, into, both = made.between("out"), made.between("in"), made.between()
    assert all(((a, b) in both) == ((a, b) in out or (a, b) in into) for a in NAMES for b in NAMES)
    assert all(((a, b) in out) == ((b, a) in into) for a in NAMES for b in NAMES)


def test_one_group_is_cut_from_everybody_else() -> None:
    cut = selection(["peer-1", "peer-2"]).between()
    assert ("peer-1", "client-1") in cut
    assert ("peer-1", "peer-2") not in cut


def test_pairs_know_when_they_are_empty() -> None:
    assert not selection(NAMES).between()
    assert selection(["peer-1"]).between()
