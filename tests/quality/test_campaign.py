"""Campaigns on a target whose right verdicts are known: the search, the accounting, the explanations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from tests.quality import depot
from zebra.campaign.campaign import Campaign
from zebra.campaign.result import CampaignResult, ParameterResult
from zebra.campaign.trial import Trial, TrialResult
from zebra.run import run
from zebra.spec import RunSpec


class InProcess:
    """Runs trials one after the other in this process, and counts them."""

    def __init__(self) -> None:
        self.count = 0

    def map(self, trials: Sequence[Trial]) -> list[TrialResult]:
        self.count += len(trials)
        return [self._one(trial) for trial in trials]

    def _one(self, trial: Trial) -> TrialResult:
        outcome = run(depot.store_and_read, trial.spec, target=depot.TARGET, record_reads=trial.record_reads)
        return TrialResult(
            result=outcome.result, message=outcome.message, kinds=tuple(sorted(outcome.kinds)),
            reads=tuple(sorted(outcome.reads)),
            faults=outcome.faults,
        )  # fmt: skip


def campaign(seed: int, **options: Any) -> tuple[CampaignResult, InProcess]:
    runner = InProcess()
    spec = RunSpec(test="tests:store_and_read", target="depot")
    made = Campaign(depot.TARGET, [spec], runner, seed=seed, describe=lambda spec: spec.test, **options)
    return made.run(), runner


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_verdicts_are_the_right_ones_for_every_seed(seed: int) -> None:
    result, _ = campaign(seed)
    found = {p.name.removeprefix("depot."): p for p in result.parameters}
    assert {name: p.verdict for name, p in found.items()} == {
        "digest": "unsafe", "limit": "unsafe", "salt": "unsafe", "retries": "safe", "cache": "safe", "label": "safe",
        "pause": "safe", "broken": "invalid", "unread": "untested",
    }  # fmt: skip
    assert "invalid for everyone: 0" in found["retries"].note
    assert found["salt"].requires == ["depot.digest=crc"]
    assert found["digest"].requires == []
    assert found["digest"].direction == "both"
    holder, _, rest = found["limit"].direction.partition(">")
    assert set(holder.split("+")) <= {"client", "server", "server-1", "server-2"} and rest
    assert found["limit"].values == (["50", "100"] if holder.startswith("server") else ["100", "50"])
    assert found["digest"].roles == ["client", "server"]


def test_every_execution_is_counted_once_and_under_one_purpose() -> None:
    result, runner = campaign(0)
    trials = result.trials
    assert trials.total == runner.count
    assert trials.total == trials.prerun + trials.pooled + trials.control + trials.confirm + trials.requires
    assert result.trials.prerun == 1


def test_pooling_needs_fewer_runs_than_the_two_baselines() -> None:
    result, _ = campaign(0)
    assert result.trials.pooled < result.baselines.one_by_one
    assert result.bound_bits > 0


def test_only_the_parameters_asked_for_are_decided() -> None:
    result, _ = campaign(0, params="depot.d*")
    assert [p.name for p in result.parameters] == ["depot.digest"]


def test_accepted_parameters_are_no_problem_and_stale_acceptance_is() -> None:
    result, _ = campaign(0, accepted=["depot.digest", "depot.cache"])
    problems = result.problems()
    assert not any("depot.digest" in problem for problem in problems)
    assert "accepted as unsafe but safe: depot.cache" in problems
    assert "unsafe and not accepted: depot.limit" in problems


def test_one_campaign_seed_gives_one_course() -> None:
    first, second = campaign(5)[0], campaign(5)[0]
    assert first == second


Fails = Callable[[set[str], set[str], int], bool]
"""Whether a run fails: by the parameters that are mixed, those with an unusual value anywhere, and its seed."""


class Scripted(InProcess):
    """Fails a run for its assignment, after a real pre-run: `fails(mixed parameters, those not at their default)`."""

    def __init__(self, fails: Fails) -> None:
        super().__init__()
        self.fails = fails

    def _one(self, trial: Trial) -> TrialResult:
        if trial.purpose == "prerun":
            return super()._one(trial)
        shares = {name.removeprefix("depot."): who for name, who in trial.spec.assignment.items()}
        mixed = {name for name, who in shares.items() if len(who) > 1}
        return TrialResult(result="fail" if self.fails(mixed, set(shares), trial.spec.seed) else "pass")


def scripted(fails: Fails, seed: int) -> dict[str, ParameterResult]:
    spec = RunSpec(test="tests:store_and_read", target="depot")
    made = Campaign(depot.TARGET, [spec], Scripted(fails), seed=seed, describe=lambda spec: spec.test)
    return {p.name.removeprefix("depot."): p for p in made.run().parameters}


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_pair_that_fails_only_together_is_reported_with_each_other(seed: int) -> None:
    found = scripted(lambda mixed, *_: mixed >= {"label", "cache"}, seed)
    assert {name for name, p in found.items() if p.verdict == "unsafe"} == {"label", "cache"}
    assert [name.partition("=")[0] for name in found["label"].requires] == ["depot.cache"]
    assert [name.partition("=")[0] for name in found["cache"].requires] == ["depot.label"]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_one_that_fails_together_with_any_of_the_others_is_found(seed: int) -> None:
    """None of the others is needed as long as there is another one."""
    found = scripted(lambda mixed, *_: "label" in mixed and len(mixed) > 1, seed)
    assert found["label"].verdict == "unsafe"
    assert len(found["label"].requires) == 1
    assert sum(p.verdict == "unsafe" for p in found.values()) == 2


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_value_that_a_parameter_needs_is_no_fault_of_the_one_that_has_it(seed: int) -> None:
    found = scripted(lambda mixed, unusual, _: "label" in mixed and "cache" in unusual, seed)
    assert {name for name, p in found.items() if p.verdict == "unsafe"} == {"label"}
    assert [name.partition("=")[0] for name in found["label"].requires] == ["depot.cache"]
    assert found["cache"].verdict == "safe"


@pytest.mark.parametrize("partners", [{"label"}, {"label", "pause"}])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_values_that_all_nodes_cannot_have_together_are_safe_and_named(partners: set[str], seed: int) -> None:
    """Neither is invalid, as each alone works: `cache` with any of its partners does not."""
    runs = 0

    def fails(mixed: set[str], unusual: set[str], _: int) -> bool:
        nonlocal runs
        runs += 1
        alike = unusual - mixed
        return "cache" in alike and bool(partners & alike)

    found = scripted(fails, seed)
    assert {p.verdict for name, p in found.items() if name != "unread"} == {"safe"}
    said = "fails for everyone together with depot."
    assert all(f"{said}cache=" in found[name].note for name in partners)
    assert all(f"{said}{name}=" in found["cache"].note for name in partners)
    assert all(said not in p.note for name, p in found.items() if name not in partners | {"cache"})
    assert runs < 120


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_what_a_culprit_has_hidden_is_searched_again_once_it_is_out(seed: int) -> None:
    found = scripted(lambda mixed, *_: "digest" in mixed or "label" in mixed, seed)
    assert {name for name, p in found.items() if p.verdict == "unsafe"} == {"digest", "label"}
    assert found["digest"].requires == found["label"].requires == []


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_parameter_that_another_one_masks_is_found(seed: int) -> None:
    found = scripted(lambda mixed, *_: "label" in mixed and "salt" not in mixed, seed)
    assert {name for name, p in found.items() if p.verdict == "unsafe"} == {"label"}
    assert all(p.risk < 0.1 for p in found.values())


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_who_only_shifts_the_seeds_on_which_a_pair_fails_is_not_blamed_with_it(seed: int) -> None:
    """As a parameter does that decides who becomes the leader, where only the leader's value counts."""
    found = scripted(lambda mixed, _, at: mixed >= {"label", "cache"} and (at // 8 + ("salt" in mixed)) % 3 > 0, seed)
    assert {name for name, p in found.items() if p.verdict == "unsafe"} == {"label", "cache"}
    assert found["salt"].verdict == "safe" and all(p.risk < 0.1 for p in found.values())
