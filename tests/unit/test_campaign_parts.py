"""The parts of a campaign that need no runs: plan, pool, confirm, explain, baselines, seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from random import Random
from typing import Annotated, Literal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zebra import Param, Topology
from zebra.campaign import baselines
from zebra.campaign.explain import sides
from zebra.campaign.halving import least, necessary
from zebra.campaign.plan import Case, cases_of, designed, mixed, one_by_one, pools
from zebra.campaign.trial import trial_seed
from zebra.params import Space
from zebra.params.assignment import values_for
from zebra.topology import Place


class Config(msgspec.Struct, frozen=True, kw_only=True):
    size: Annotated[int, Param("4", "16")] = 8
    mode: Literal["a", "b"] = "a"


SPACE = Space("t", Config)
PLACES = Topology(counts={"peer": 3, "hub": 1, "client": 1}).places()


def case(name: str, who: str = "peer:odd", test: str = "test") -> Case:
    return Case(test=test, parameter=name, base=0, other=1, who=who)


# -- plan ---------------------------------------------------------------------------------------------------------


def test_a_parameter_of_one_role_is_tried_on_every_other_node_both_ways() -> None:
    found = cases_of("test", SPACE["t.mode"], "a", ("peer",), PLACES, one_by_one)
    assert [(c.base, c.other, c.who) for c in found] == [("a", "b", "peer:odd"), ("b", "a", "peer:odd")]


def test_a_parameter_of_two_roles_is_also_tried_role_against_role() -> None:
    found = cases_of("test", SPACE["t.mode"], "a", ("hub", "peer"), PLACES, one_by_one)
    assert {c.who for c in found} == {"hub", "peer:odd", "peer:even"}
    assert len(found) == 6  # hub against peers is peers against hub the other way round


def test_every_candidate_is_paired_with_the_observed_value() -> None:
    found = cases_of("test", SPACE["t.size"], 8, ("peer",), PLACES, one_by_one)
    assert {(c.base, c.other) for c in found} == {(8, 4), (4, 8), (8, 16), (16, 8)}


def test_a_parameter_that_one_node_reads_has_no_case() -> None:
    assert cases_of("test", SPACE["t.mode"], "a", ("hub",), PLACES, one_by_one) == []


@given(
    st.dictionaries(st.sampled_from(["a", "b", "c", "d", "e", "f"]), st.integers(1, 4), min_size=1), st.integers(0, 99)
)
def test_designed_cases_keep_all_roles_apart_both_ways_and_split_every_role(counts: dict[str, int], seed: int) -> None:
    places, random = Topology(counts=counts).places(), Random(seed)

    def shapes(roles: Sequence[str], reading: Sequence[Place]) -> list[str]:
        return designed(roles, reading, random)

    found = cases_of("test", SPACE["t.mode"], "a", tuple(counts), places, shapes)
    held = [{place.node: values_for({"t.mode": c.shares()}, place)["t.mode"] for place in places} for c in found]
    for one in counts:
        for other in set(counts) - {one}:
            assert any(
                {values[p.node] for p in places if p.role == one} == {"a"}
                and {values[p.node] for p in places if p.role == other} == {"b"}
                for values in held
            )
        if counts[one] > 1:
            assert {(values[f"{one}-1"], values[f"{one}-2"]) for values in held} >= {("a", "b"), ("b", "a")}
        if counts[one] > 1:
            changed = {sum(values[p.node] == "b" for p in places if p.role == one) for values in held}
            assert {1, counts[one] - 1} <= changed
    assert len(found) <= 2 * (len(counts) - 1).bit_length() + 2 + 2 * (max(counts.values()) > 3)


@given(st.dictionaries(st.sampled_from("abcdef"), st.integers(0, 9), max_size=6), st.integers(0, 99))
def test_pools_hold_every_case_once_and_no_parameter_twice(counts: dict[str, int], seed: int) -> None:
    cases = {name: [case(name, f"node-{i + 1}") for i in range(count)] for name, count in counts.items()}
    made = pools(cases, Random(seed))
    assert sorted((c.parameter, c.who) for pool in made for c in pool) == sorted(
        (c.parameter, c.who) for own in cases.values() for c in own
    )
    assert all(len({c.parameter for c in pool}) == len(pool) for pool in made)
    assert len(made) == max(counts.values(), default=0)


def test_mixed_gives_one_value_to_some_and_another_to_the_rest() -> None:
    assert mixed([case("t.size")]) == {"t.size": {"*": 0, "peer:odd": 1}}


# -- explain ------------------------------------------------------------------------------------------------------


@given(st.integers(0, 20), st.data())
def test_what_a_failure_needs_is_found_by_halving(count: int, data: st.DataObject) -> None:
    items = list(range(count))
    needed = data.draw(st.sets(st.sampled_from(items)) if items else st.just(set[int]()))
    asked = 0

    def cures(some: Sequence[int]) -> bool:
        nonlocal asked
        asked += 1
        return bool(needed & set(some))

    assert set(necessary(items, cures)) == needed
    assert needed or asked <= 1


@given(st.integers(1, 40), st.data())
def test_nothing_is_named_as_needed_that_does_not_cure_alone(count: int, data: st.DataObject) -> None:
    """Some pairs fail by themselves unless a third item is there."""
    some = st.integers(0, count - 1)
    needed, clashes = data.draw(st.sets(some)), data.draw(st.lists(st.tuples(some, some, some), max_size=4))

    def cures(items: Sequence[int]) -> bool:
        clash = any({one, other} <= set(items) and third not in items for one, other, third in clashes)
        return bool(needed & set(items)) and not clash

    assert all(cures([item]) for item in necessary(range(count), cures))


def test_a_half_that_fails_for_a_reason_of_its_own_does_not_put_the_blame_on_the_other() -> None:
    """As NATS did: fewer batches at a time cure, but with smaller ones there is too little to fetch, unless less is."""
    items = ["batches", "size", "timeout", "pings", "tls", "fetch"]

    def cures(some: Sequence[str]) -> bool:
        return "batches" in some and not ("size" in some and "fetch" not in some)

    assert necessary(items, cures) == ["batches"]


@given(st.integers(1, 40), st.data())
def test_what_fails_together_is_cut_down_until_nothing_can_be_left_out(count: int, data: st.DataObject) -> None:
    some = st.sets(st.integers(0, count - 1), min_size=1, max_size=4)
    bad, asked = data.draw(st.lists(some, min_size=1, max_size=3)), 0

    def fails(items: Sequence[int]) -> bool:
        nonlocal asked
        asked += 1
        return any(each <= set(items) for each in bad)

    found = least(range(count), fails)
    assert set(found) in bad and not any(each < set(found) for each in bad)
    assert asked <= 1 + len(found) * (1 + math.ceil(math.log2(count)))


@pytest.mark.parametrize(
    ("who", "expected"),
    [
        ("hub", ("hub", "peer")),
        ("peer", ("peer", "hub")),
        ("peer:odd", ("peer-1+peer-3", "peer-2+hub-1")),
        ("peer-2", ("peer-2", "peer-1+peer-3+hub-1")),
    ],
)
def test_the_two_sides_are_named_by_role_where_a_whole_role_holds_a_value(who: str, expected: tuple[str, str]) -> None:
    assert sides(case("t.mode", who), ("hub", "peer"), PLACES) == expected


# -- baselines ----------------------------------------------------------------------------------------------------


def test_one_by_one_runs_every_case_of_a_safe_parameter_and_stops_at_a_failure() -> None:
    cases = {"safe": [case("safe", f"n-{i}") for i in range(5)], "bad": [case("bad", f"n-{i}") for i in range(5)]}
    assert (
        baselines.one_by_one(cases, lambda c: c.parameter == "bad" and c.who == "n-2", lambda _: False, 12)
        == 5 + 3 + 2 + 12
    )


def test_zebraconf_runs_both_halves_of_a_failed_pool_and_then_its_rounds() -> None:
    pool = [case(f"p{i}") for i in range(4)]
    assert baselines.zebraconf([pool], lambda _: False, lambda _: False) == 1
    assert baselines.zebraconf([pool], lambda c: c.parameter == "p0", lambda _: False) == 1 + 1 + 1 + 1 + 1 + 2 + 21
    assert baselines.zebraconf([pool, pool], lambda c: c.parameter == "p0", lambda _: False) == 28 + 1


def test_the_bound_counts_the_possible_answers() -> None:
    assert baselines.bound_bits(60, 3) == pytest.approx(15.06, abs=0.01)


def test_trial_seeds_differ_and_repeat() -> None:
    assert len({trial_seed(0, "pool", i) for i in range(1000)}) == 1000
    assert trial_seed(0, "pool", 1) == trial_seed(0, "pool", 1) != trial_seed(1, "pool", 1)
