"""The pooled search: its posterior against plain enumeration, its pools, its decisions."""

from __future__ import annotations

from itertools import product
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zebra.campaign import posterior as module
from zebra.campaign.choose import Chooser, Costs
from zebra.campaign.posterior import PRIOR, Posterior, Prior
from zebra.campaign.search import MISSED, ROUNDS_MAX, SURE, SUSPECT, Search

Runs = list[tuple[list[int], bool]]


def enumerated(prior: Prior, odds: list[float], runs: Runs) -> list[float]:
    """Each item's risk by going through every set of bad items, their levels, every flake rate and every share."""
    count, levels = len(odds), range(len(prior.q))
    urn = prior.urn * np.array(prior.q_weights) / sum(prior.q_weights)
    total, bad = 0.0, np.zeros(count)
    for state in product([None, *levels], repeat=count):
        drawn, weight = urn.copy(), 1.0
        for level in state:
            if level is not None:
                weight *= drawn[level] / drawn.sum()
                drawn[level] += 1
        share = 0.0
        for p in prior.share_grid():
            chances = [w * p / (1 - p + w * p) for w in odds]
            share += np.prod([c if s is not None else 1 - c for c, s in zip(chances, state, strict=True)])
        likely = 0.0
        for f, f_weight in zip(prior.f, prior.f_weights, strict=True):
            chance = f_weight
            for pool, failed in runs:
                passes = (1 - f) * np.prod([1 - prior.q[s] for i in pool if (s := state[i]) is not None])
                chance *= 1 - passes if failed else passes
            likely += chance
        weight *= share * likely
        total += weight
        bad += weight * np.array([s is not None for s in state])
    return [float(risk) for risk in bad / total]


@st.composite
def experiments(draw: st.DrawFn) -> tuple[list[float], Runs]:
    count = draw(st.integers(1, 4))
    odds = draw(st.lists(st.sampled_from([0.15, 1.0]), min_size=count, max_size=count))
    pools = st.lists(st.integers(0, count - 1), unique=True, max_size=count)
    return odds, draw(st.lists(st.tuples(pools, st.booleans()), max_size=6))


@settings(max_examples=40, deadline=None)
@given(experiments())
def test_the_posterior_is_nearly_what_enumeration_says(experiment: tuple[list[float], Runs]) -> None:
    """Joining items that were alike so far costs a factor of three at most, where they turn out not to be."""
    odds, runs = experiment
    belief = Posterior(len(odds), PRIOR, odds)
    for pool, failed in runs:
        belief.observe(pool, failed)
    for found, true in zip(belief.risks(), enumerated(PRIOR, odds, runs), strict=True):
        assert true / 3 - 2e-3 <= found <= 3 * true + 2e-3


@settings(max_examples=20, deadline=None)
@given(experiments())
def test_it_is_exact_where_nothing_is_joined_or_dropped(experiment: tuple[list[float], Runs]) -> None:
    odds, runs = experiment
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "JOINED_RISK", 0.0)
        patch.setattr(module, "DROPPED", 1e-300)
        belief = Posterior(len(odds), PRIOR, odds)
        for pool, failed in runs:
            belief.observe(pool, failed)
        assert belief.risks() == pytest.approx(enumerated(PRIOR, odds, runs), rel=1e-6, abs=1e-9)
        assert belief.lost <= 1e-12


def test_splitting_a_cell_teaches_nothing() -> None:
    belief = Posterior(20)
    belief.observe(range(12), True)
    before = belief.risks()
    belief.isolate([0, 1, 2, 13])
    assert belief.risks() == pytest.approx(before, abs=2e-4)


def test_flakiness_is_learned_from_runs_that_nothing_can_have_failed() -> None:
    flaky, steady = Posterior(5), Posterior(5)
    for i in range(20):
        flaky.observe((), i % 4 == 0)
        steady.observe((), False)
    assert flaky.flake() > 0.1 > 0.01 > steady.flake()


def test_one_failure_weighs_less_in_a_flaky_test() -> None:
    flaky, steady = Posterior(5), Posterior(5)
    for i in range(20):
        flaky.observe((), i % 4 == 0)
        steady.observe((), False)
    for belief in (flaky, steady):
        belief.observe([0], True)
    assert flaky.risks()[0] < 0.5 < steady.risks()[0]


# -- pools ---------------------------------------------------------------------------------------------------------


def test_a_pool_never_holds_two_items_of_a_group_nor_one_that_is_not_allowed() -> None:
    groups = [i // 3 for i in range(24)]
    search, random = Search(24, groups=groups), Random(0)
    for _ in range(15):
        for pool in search.pools(3):
            assert pool and len({groups[item] for item in pool}) == len(pool)
            assert set(pool) <= search.open
            search.took(pool, random.random() < 0.3)


def test_the_first_pool_of_many_items_is_about_as_likely_to_fail_as_to_pass() -> None:
    belief = Posterior(200)
    (pool,) = Chooser(belief).choose(range(200))
    assert 0.35 < belief.passes(pool) < 0.65


def test_where_failures_are_dear_pools_are_smaller() -> None:
    (cheap,) = Chooser(Posterior(200)).choose(range(200))
    (dear,) = Chooser(Posterior(200), Costs(pass_s=1.0, fail_s=10.0)).choose(range(200))
    assert len(dear) < len(cheap) / 2


def test_pools_of_one_look_ahead_do_not_ask_the_same() -> None:
    pools = Chooser(Posterior(200)).choose(range(200), runs=4)
    assert len(pools) == 4
    assert all(set(a) != set(b) for i, a in enumerate(pools) for b in pools[:i])


@pytest.mark.parametrize("count", [2, 3, 24, 200])
def test_what_has_passed_has_passed_without_each_other_group(count: int) -> None:
    groups = [i // 2 for i in range(count)]
    search, companies = Search(count, groups=groups), dict[int, set[int]]()
    while pools := search.pools(2):
        for pool in pools:
            search.took(pool, False)
            for item in pool:
                own = companies.setdefault(groups[item], set(groups))
                own &= {groups[other] for other in pool}
    assert companies == {group: {group} for group in groups}
    assert search.mixed.runs < 20


# -- the search ----------------------------------------------------------------------------------------------------


def play(count: int, bad: set[int], seed: int, q: float = 1.0, f: float = 0.0, mask: int | None = None) -> Search:
    search, random = Search(count, groups=None if mask is None else range(count)), Random(seed)

    def fails(pool: list[int]) -> bool:
        return random.random() < f or (mask not in pool and any(i in bad and random.random() < q for i in pool))

    for _ in range(500):
        pools, suspects = search.pools(), sorted(search.suspects())
        for pool in pools:
            search.took(pool, fails(pool))
        for item in [] if pools else suspects:
            failed = fails([item])
            search.took([item], failed)
            if failed and search.needs_controls(item):
                search.was_alike([item], controls := fails([]))
                search.hits[item] += not controls
            search.judge(item)
        if not pools and not suspects:
            return search
    raise AssertionError("the search does not end")


@settings(max_examples=12, deadline=None)
@given(st.integers(1, 40), st.integers(0, 3), st.integers(0, 999))
def test_a_noiseless_search_ends_and_finds_exactly_the_bad(count: int, k: int, seed: int) -> None:
    bad = set(Random(seed).sample(range(count), min(k, count)))
    search = play(count, bad, seed)
    assert search.unsafe == bad and not search.invalid and not search.undecided
    assert search.residual() <= MISSED
    assert set(search.passed) == set(range(count)) - bad


def test_an_item_whose_other_value_fails_by_itself_is_invalid_not_unsafe() -> None:
    search = Search(4)
    search.took([2], True)
    for _ in range(6):
        search.took([2], True)
        search.was_alike([2], True)
        if search.judge(2):
            break
    assert search.invalid == {2} and not search.unsafe


def test_nothing_is_unsafe_without_controls() -> None:
    search = Search(4)
    for _ in range(8):
        search.took([1], True)
        search.judge(1)
    assert search.mixed.risks()[1] > SURE and search.suspects() == {1} and not search.unsafe


def test_a_suspect_that_neither_passes_nor_gets_controls_that_pass_is_given_up() -> None:
    search = Search(4)
    for _ in range(ROUNDS_MAX):
        search.took([1], True)
        search.judge(1)
    assert search.undecided == {1} and search.mixed.risks()[1] > SUSPECT


def test_every_item_has_been_in_a_run_that_passed_before_a_search_ends() -> None:
    search = Search(30, Prior(clean=1e6), groups=[i // 5 for i in range(30)])
    runs = 0
    while pools := search.pools(2):
        for pool in pools:
            runs += 1
            search.took(pool, False)
    assert set(search.passed) == set(range(30)) and runs <= 5 + 4 * 2


@pytest.mark.parametrize(("count", "k"), [(60, 3), (200, 8)])
def test_about_as_many_runs_are_to_come_as_it_takes_and_hardly_any_at_the_end(count: int, k: int) -> None:
    guess = Search(count).to_come()
    search = play(count, set(Random(0).sample(range(count), k)), 0)
    assert search.mixed.runs / 3 < guess < 3 * search.mixed.runs
    assert 0 <= search.to_come() < 1 and Search(0).to_come() == 0


@pytest.mark.parametrize("seed", range(5))
def test_a_search_ends_though_the_bad_items_are_more_alike_than_the_prior_expects(seed: int) -> None:
    """Four of the six cases of one parameter fail: far less likely, item by item, than that none does."""
    groups, odds, bad = [0] * 6 + [1] * 4, [1.0, *[0.15] * 5, 1.0, *[0.15] * 3], {2, 3, 4, 5}
    order = Random(seed).sample(range(6), 6)
    search = Search(10, PRIOR, odds, groups, seeds=2)
    search.was_alike((), failed=False)

    def fails(pool: list[int]) -> bool:
        return any(item < 6 and order[item] in bad for item in pool)

    runs = 0
    while (pools := search.pools(8)) or search.suspects():
        for pool in pools:
            search.took(pool, failed=fails(pool))
        for item in sorted(search.suspects()):
            while item in search.suspects():
                search.took([item], failed=fails([item]))
                search.was_alike((), failed=False)
                search.hits[item] += fails([item])
                if search.judge(item, alike=0.0):
                    search.drop(range(6))
        runs += len(pools)
        assert runs < 100
    assert len(search.unsafe) == 1 and search.unsafe <= {item for item in range(6) if order[item] in bad}
    assert {6, 7, 8, 9} <= search.passed.keys()


def test_runs_that_are_forgotten_are_as_if_they_had_never_been() -> None:
    """Items 0 and 1 are of one group, 2 and 3 of another; what both groups were in is forgotten."""
    groups, runs = [0, 0, 1, 1, 2], [([0, 2], True), ([1, 3, 4], True), ([0, 4], False), ([3], True), ([2, 4], False)]
    search, other = Search(5, groups=groups), Search(5, groups=groups)
    for pool, failed in runs:
        search.took(pool, failed)
        if pool not in ([0, 2], [1, 3, 4]):
            other.took(pool, failed)
    search.forget({0, 1})
    assert search.mixed.risks() == pytest.approx(other.mixed.risks())
    assert search.mixed.runs == other.mixed.runs == 3
    assert search.passed == other.passed


@pytest.mark.parametrize("mask", [6, 8, 39])
def test_what_another_item_masks_is_found(mask: int) -> None:
    assert play(40, {7}, 0, mask=mask).unsafe == {7}
