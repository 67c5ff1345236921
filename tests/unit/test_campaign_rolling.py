"""Rolling changes and slowness, without runs: orders, cases, timing, limits."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zebra import Configure, RunSpec, Schedule
from zebra.campaign.rolling import BEGINS, LASTS, orders, roll, rolling_cases
from zebra.campaign.slow import CONTROLS, REAL_CONTROLS, REAL_S, Pace, agrees
from zebra.campaign.trial import TrialResult
from zebra.injection.schedule import Roll
from zebra.params import Profile, Space
from zebra.target import Target
from zebra.testing import EchoClient, EchoConfig, EchoServer

PROFILE = Profile("echo.manner", {"plain": {}, "polite": {"echo.greeting": "hello "}})
SPACE = Space("echo", EchoConfig, [PROFILE])


class Adaptable(EchoClient):
    async def reload(self, config: EchoConfig) -> None: ...


def target(client: type = EchoClient) -> Target:
    return Target(name="echo", config=EchoConfig, roles={"server": EchoServer}, client=client)


# -- rolling ------------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(st.sets(st.sampled_from(["a", "b", "c", "d"])), st.integers(0, 99))
def test_two_orders_hold_every_pair_of_roles_both_ways_round(roles: set[str], seed: int) -> None:
    found = orders(target(), sorted(roles | {"client"}), "restart", Random(seed))
    assert all(set(order) == roles for order in found)
    pairs = {(x, y) for order in found for i, x in enumerate(order) for y in order[i + 1 :]}
    assert pairs == {(x, y) for x in roles for y in roles if x != y}
    assert len(found) == min(len(roles), 2)


def test_a_client_takes_part_only_where_it_can_reload() -> None:
    for client, how, taken in (
        (EchoClient, "reload", False),
        (Adaptable, "reload", True),
        (Adaptable, "restart", False),
    ):
        (order, *_) = orders(target(client), ["client", "server"], how, Random(0))  # type: ignore[arg-type]
        assert ("client" in order) == taken


def test_each_value_is_rolled_to_and_back_in_every_order_of_its_readers() -> None:
    both = [("a", "b"), ("b", "a")]
    found = rolling_cases("t", SPACE["echo.manner"], "plain", ("a", "b", "client"), both)
    assert {(c.base, c.other, c.order) for c in found} == {
        (base, other, order) for base, other in (("plain", "polite"), ("polite", "plain")) for order in both
    }
    assert {c.order for c in rolling_cases("t", SPACE["echo.manner"], "plain", ("b",), both)} == {("a", "b")}
    assert rolling_cases("t", SPACE["echo.manner"], "plain", ("client",), both) == []
    assert rolling_cases("t", SPACE["echo.manner"], "", ("a", "b"), both) == []


@settings(deadline=None)
@given(st.integers(1, 40), st.floats(0, 1e4), st.integers(0, 999))
def test_a_roll_lies_within_the_time_that_the_test_takes_and_its_seed_draws_it(
    n: int, test_s: float, seed: int
) -> None:
    (step,) = roll(("a", "b"), {"x": 1}, n, test_s, "restart", seed).steps
    assert isinstance(step, Roll)
    assert step.at_s <= BEGINS * test_s + 1e-6 and step.every_s * n <= LASTS * test_s + 1e-3
    assert roll(("a", "b"), {}, n, test_s, "restart", seed).steps[0].at_s == step.at_s


# -- slow ---------------------------------------------------------------------------------------------------------

AGREED = RunSpec(target="echo", test="t", assignment={"echo.greeting": {"*": "a"}})
MIXED = RunSpec(target="echo", test="t", assignment={"echo.greeting": {"*": "a", "server-1": "b"}})


def took(duration_s: float, result: str = "pass") -> TrialResult:
    return TrialResult(result=result, duration_s=duration_s)  # type: ignore[arg-type]


def paced(times: list[float], spec: RunSpec = AGREED, ratio: float = 3.0) -> Pace:
    pace = Pace(ratio)
    for time_s in times:
        pace.note(spec, {}, took(time_s))
    return pace


def test_a_mixed_run_is_slow_beyond_three_times_the_slowest_in_which_all_agree() -> None:
    pace = paced([1.0, 2.0])
    assert pace.judged(MIXED, {}, took(6.1)).result == "slow"
    assert pace.judged(MIXED, {}, took(5.9)).result == "pass"
    assert pace.judged(AGREED, {}, took(60.0)).result == "pass"
    assert pace.judged(MIXED, {}, took(60.0, "fail")).result == "fail"


def test_nothing_is_slow_without_enough_to_compare_with_or_if_nobody_asks() -> None:
    assert paced([1.0] * (CONTROLS - 1)).judged(MIXED, {}, took(60.0)).result == "pass"
    assert paced([1.0, 1.0], ratio=0.0).judged(MIXED, {}, took(60.0)).result == "pass"
    pace = Pace()
    for _ in range(9):
        pace.note(MIXED, {}, took(1.0))
        pace.note(AGREED, {}, took(1.0, "fail"))
    assert pace.limit_s(MIXED) == 0.0


def test_a_slower_control_makes_the_same_run_pass() -> None:
    pace = paced([1.0, 1.0])
    assert pace.judged(MIXED, {}, took(9.0)).result == "slow"
    pace.note(AGREED, {}, took(4.0))
    assert pace.judged(MIXED, {}, took(9.0)).result == "pass"


def test_on_real_substrates_a_run_must_be_slower_by_seconds_too() -> None:
    real = RunSpec(target="echo", test="t", substrate="process")
    pace = paced([0.1] * REAL_CONTROLS, real)
    assert pace.limit_s(real) == pytest.approx(0.1 + REAL_S)
    assert paced([0.1] * (REAL_CONTROLS - 1), real).limit_s(real) == 0.0
    assert paced([5.0] * REAL_CONTROLS, real).limit_s(real) == pytest.approx(15.0)


def test_a_rolling_change_is_compared_with_plain_rolling_restarts() -> None:
    def rolling(**values: str) -> RunSpec:
        return RunSpec(target="echo", test="t", schedule=Schedule((Roll(nodes=("server",), values={**values}),)))

    pace = paced([1.0, 1.0])
    assert pace.limit_s(rolling(greeting="b")) == 0.0
    for _ in range(CONTROLS):
        pace.note(rolling(), {}, took(10.0))
    assert pace.limit_s(rolling(greeting="b")) == pytest.approx(30.0) and pace.limit_s(MIXED) == pytest.approx(3.0)


def test_what_the_test_itself_mixes_is_no_disagreement_of_the_campaign() -> None:
    own = {"echo.greeting": {"*": "a", "server-1": "b"}}
    assert agrees(MIXED, own) and not agrees(MIXED, {})  # type: ignore[arg-type]
    assert agrees(RunSpec(target="echo", schedule=Schedule((Configure(node="server-1", values={"x": 1}),))), {})
