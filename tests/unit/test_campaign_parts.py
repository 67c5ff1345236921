"""The parts of a campaign that need no runs: plan, pool, confirm, explain, baselines, seeds."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Annotated, Literal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zebra import Param, Topology
from zebra.campaign import baselines
from zebra.campaign.confirm import ROUNDS_MAX, WORST, Evidence, Round, decide
from zebra.campaign.explain import necessary, sides
from zebra.campaign.plan import Case, cases_of, mixed, pools
from zebra.campaign.pool import Search
from zebra.campaign.trial import trial_seed
from zebra.params import Space


class Config(msgspec.Struct, frozen=True, kw_only=True):
    size: Annotated[int, Param("4", "16")] = 8
    mode: Literal["a", "b"] = "a"


SPACE = Space("t", Config)
PLACES = Topology(counts={"peer": 3, "hub": 1, "client": 1}).places()


def case(name: str, who: str = "peer:odd", test: str = "test") -> Case:
    return Case(test=test, parameter=name, base=0, other=1, who=who)


# -- plan ---------------------------------------------------------------------------------------------------------


def test_a_parameter_of_one_role_is_tried_on_every_other_node_both_ways() -> None:
    found = cases_of("test", SPACE["t.mode"], "a", ("peer",), PLACES)
    assert [(c.base, c.other, c.who) for c in found] == [("a", "b", "peer:odd"), ("b", "a", "peer:odd")]


def test_a_parameter_of_two_roles_is_also_tried_role_against_role() -> None:
    found = cases_of("test", SPACE["t.mode"], "a", ("hub", "peer"), PLACES)
    assert {c.who for c in found} == {"hub", "peer:odd", "peer:even"}
    assert len(found) == 6  # hub against peers is peers against hub the other way round


def test_every_candidate_is_paired_with_the_observed_value() -> None:
    found = cases_of("test", SPACE["t.size"], 8, ("peer",), PLACES)
    assert {(c.base, c.other) for c in found} == {(8, 4), (4, 8), (8, 16), (16, 8)}


def test_a_parameter_that_one_node_reads_has_no_case() -> None:
    assert cases_of("test", SPACE["t.mode"], "a", ("hub",), PLACES) == []


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


# -- pool ---------------------------------------------------------------------------------------------------------


def search(names: Sequence[str], guilty: set[str], pools: int = 1) -> tuple[set[str], int]:
    """The suspects that a noiseless search ends in, and its runs; each of the pools has a case of every parameter."""
    decided: set[str] = set()
    cases = [[case(name, f"node-{pool}") for name in names] for pool in range(pools)]
    pending = Search(cases, lambda c: c.parameter not in decided)
    runs = 0
    while True:
        batch = pending.next_batch()
        for pool in batch:
            runs += 1
            pending.took(pool, failed=any(c.parameter in guilty for c in pool.cases))
        if not batch and not pending.suspects:
            return decided, runs
        while pending.suspects:
            decided.add(pending.suspects.pop().parameter)


@given(st.integers(1, 40), st.data())
def test_a_noiseless_search_finds_exactly_the_guilty(count: int, data: st.DataObject) -> None:
    names = [f"p{i}" for i in range(count)]
    guilty = data.draw(st.sets(st.sampled_from(names), max_size=6))
    found, runs = search(names, guilty)
    assert found == guilty
    assert runs <= 1 + 2 * len(guilty) * (count.bit_length() + 1)
    assert search(names, guilty, pools=5)[0] == guilty, "a culprit that was found by another pool accuses nobody else"


def test_a_clean_pool_costs_one_run_and_one_culprit_costs_a_halving() -> None:
    names = [f"p{i}" for i in range(64)]
    assert search(names, set()) == (set(), 1)
    assert search(names, {"p63"})[1] <= 7  # each second half is known to be guilty without a run
    assert search(names, {"p0"})[1] <= 13


# -- confirm ------------------------------------------------------------------------------------------------------


def play(mixed_fails: Sequence[bool], base: bool = True, other: bool = True) -> Evidence:
    rounds = iter(mixed_fails)

    def rounds_of(seeds: list[int]) -> list[Round]:
        return [
            Round(s, failed, base if failed else None, other if failed else None)
            for s, failed in zip(seeds, rounds, strict=False)
        ]

    return decide(2000.0, rounds_of, lambda i: i)


@pytest.mark.parametrize(
    ("fails", "base", "other", "decision"),
    [
        ([True] * 20, True, True, "unsafe"),
        ([False] * 20, True, True, "cleared"),
        ([True] * 20, True, False, "invalid"),
        ([True] * 20, False, True, "invalid"),
        ([True] * 20, False, False, "flaky"),
        ([True, False] * 20, True, True, "undecided"),
    ],
)
def test_rounds_lead_to_the_decision_that_they_mean(fails: list[bool], base: bool, other: bool, decision: str) -> None:
    assert play(fails, base, other).decision() == decision


def test_one_lucky_pass_among_failures_does_not_hide_an_unsafe_parameter() -> None:
    assert play([True, True, True, False, *[True] * 20]).decision() == "unsafe"


@pytest.mark.parametrize("threshold", [100.0, 2000.0])
@pytest.mark.parametrize("chance", [WORST, 0.1, 0.02])
def test_harmless_mixtures_are_called_unsafe_less_often_than_stated(threshold: float, chance: float) -> None:
    def wrong(rounds: list[Round]) -> float:
        """The exact probability, over all courses of at most ROUNDS_MAX rounds."""
        evidence = Evidence(threshold, rounds)
        if evidence.value >= threshold:
            return 1.0
        hits = sum(r.hit for r in rounds)
        if (
            len(rounds) == ROUNDS_MAX
            or Evidence(threshold, [Round(0, True, True, True)] * (hits + ROUNDS_MAX - len(rounds))).value < threshold
        ):
            return 0.0
        key = (len(rounds), hits)
        if key not in memo:
            memo[key] = chance * wrong([*rounds, Round(0, True, True, True)]) + (1 - chance) * wrong(
                [*rounds, Round(0, False)]
            )
        return memo[key]

    memo: dict[tuple[int, int], float] = {}
    assert wrong([]) <= 1 / threshold


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
