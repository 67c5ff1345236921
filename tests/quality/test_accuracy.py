"""benchmarks/accuracy.py tells what a campaign missed, and what it reported falsely."""

from __future__ import annotations

import accuracy
import pytest

from zebra.campaign.result import Baselines, CampaignResult, ParameterResult, Trials
from zebra.target import find_target

FIVE = tuple(accuracy.TRUTHS["postgres"].unsafe)


def result(**verdicts: str) -> CampaignResult:
    """A result of PostgreSQL in which the five are unsafe as they should be, but for what is given."""
    given = dict.fromkeys(FIVE, "unsafe") | {"work_mem": "safe"} | verdicts
    parameters = [
        ParameterResult(name=f"postgres.{name}", verdict=verdict, direction="primary>standby")  # type: ignore[arg-type]
        for name, verdict in given.items()
    ]
    return CampaignResult(target="postgres", substrate="process", seed=0, trials=Trials(total=9), bound_bits=0.0,
                          baselines=Baselines(), parameters=parameters)  # fmt: skip


def test_all_found_and_nothing_else_is_right() -> None:
    row = accuracy.score("postgres", result())
    assert (row["recall"], row["precision"], row["wrong"], row["decided"]) == (1.0, 1.0, [], 6)


@pytest.mark.parametrize(
    ("verdicts", "recall", "precision", "wrong"),
    [
        ({"max_connections": "safe"}, 0.8, 1.0, "max_connections was missed: safe"),
        ({"work_mem": "unsafe"}, 1.0, 5 / 6, "work_mem is reported and not known to be unsafe"),
        ({"work_mem": "undecided"}, 1.0, 1.0, "work_mem is undecided"),
    ],
)
def test_what_is_wrong_is_said(verdicts: dict[str, str], recall: float, precision: float, wrong: str) -> None:
    row = accuracy.score("postgres", result(**verdicts))
    assert (row["recall"], row["precision"], row["wrong"]) == (recall, precision, [wrong])


def test_a_direction_a_requirement_and_an_invalid_parameter_count() -> None:
    turned = result()
    turned.parameters[0].direction = "both"
    assert accuracy.score("postgres", turned)["wrong"] == [
        "max_connections: direction both, by the source primary>standby"
    ]
    owl = result()
    owl.parameters = [
        ParameterResult(name=f"owl.{name}", verdict="unsafe", direction="both")
        for name in accuracy.TRUTHS["owl"].unsafe
    ]
    assert accuracy.score("owl", owl)["wrong"] == [
        "chunk.size: requires owl.chunk.id_scheme=index by the source",
        "invalid are none, not retry.attempts, external.limit",
    ]


@pytest.mark.parametrize(
    ("how", "wrong"), [("restart", []), ("", ["appendonly is reported and not known to be unsafe"])]
)
def test_what_is_unsafe_while_nodes_change_is_expected_of_rolling_changes_alone(how: str, wrong: list[str]) -> None:
    valkey = result()
    valkey.rolling = how
    directions = accuracy.TRUTHS["valkey"].unsafe | {"appendonly": ""} | ({"dbfilename": ""} if how else {})
    valkey.parameters = [
        ParameterResult(name=f"valkey.{name}", verdict="unsafe", direction=direction, rolling=not direction)
        for name, direction in directions.items()
    ]
    assert accuracy.score("valkey", valkey)["wrong"] == wrong


@pytest.mark.parametrize("target", accuracy.TRUTHS)
def test_what_is_known_of_a_target_are_parameters_of_it(target: str) -> None:
    if reason := find_target(target).unavailable:
        pytest.skip(reason)
    assert {f"{target}.{name}" for name in accuracy.TRUTHS[target].unsafe} <= set(find_target(target).space)
