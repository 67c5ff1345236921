"""What campaigns can see beside static mixtures: rolling changes, one odd one out, slowness, profiles, rules."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import pytest

from tests.quality import vault
from zebra import RunSpec, Schedule, run
from zebra.campaign.campaign import Campaign
from zebra.campaign.result import CampaignResult, ParameterResult
from zebra.campaign.trial import Trial, TrialResult
from zebra.errors import ConfigError
from zebra.injection.schedule import Roll
from zebra.params.rules import Constraint, Rules
from zebra.reports import wording
from zebra.spec import decode_token


class InProcess:
    """Runs trials one after the other in this process."""

    def __init__(self, scenario: Any) -> None:
        self.scenario, self.specs = scenario, list[RunSpec]()

    def map(self, trials: Sequence[Trial]) -> list[TrialResult]:
        self.specs += [trial.spec for trial in trials]
        return [self._one(trial) for trial in trials]

    def _one(self, trial: Trial) -> TrialResult:
        outcome = run(self.scenario, trial.spec, target=vault.TARGET, record_reads=trial.record_reads)
        return TrialResult(
            result=outcome.result, message=outcome.message, reads=tuple(sorted(outcome.reads)),
            duration_s=outcome.duration_s,
        )  # fmt: skip


def campaign(scenario: Any = None, seed: int = 0, **options: Any) -> tuple[CampaignResult, InProcess]:
    runner = InProcess(scenario or vault.store_and_compare)
    made = Campaign(vault.TARGET, [RunSpec(test="tests:vault", target="vault")], runner, seed=seed, **options)
    return made.run(), runner


def by_name(result: CampaignResult) -> dict[str, ParameterResult]:
    return {p.name.removeprefix("vault."): p for p in result.parameters}


@pytest.fixture(scope="module")
def static() -> dict[str, ParameterResult]:
    return by_name(campaign()[0])


@pytest.fixture(scope="module")
def rolling() -> CampaignResult:
    return campaign(rolling="restart")[0]


# -- what static mixtures show ------------------------------------------------------------------------------------


def test_static_mixtures_do_not_see_what_only_a_change_shows(static: dict[str, ParameterResult]) -> None:
    assert {name: p.verdict for name, p in static.items()} == {
        "packing": "safe", "format": "safe", "vote": "unsafe", "codec": "unsafe", "password": "untested",
        "peer_password": "untested", "page": "safe", "secrecy": "unsafe", "batch": "unsafe",
    }  # fmt: skip


def test_one_odd_one_out_is_tried_where_odd_and_even_ones_leave_nobody_alone(
    static: dict[str, ParameterResult],
) -> None:
    assert "replica-" in static["vote"].note and ":odd" not in static["vote"].note
    counts = re.match(r"(\d+) of (\d+) runs alone failed, (\d+) beside controls that passed, ", static["vote"].note)
    assert counts is not None and int(counts[2]) >= int(counts[1]) >= int(counts[3]) >= 2
    assert static["vote"].evidence is not None and "alone with its vote" in static["vote"].evidence.violation


def test_a_run_that_passes_but_takes_far_longer_than_agreeing_nodes_is_slow(static: dict[str, ParameterResult]) -> None:
    evidence = static["codec"].evidence
    assert evidence is not None and evidence.outcome == "slow" and "at most were expected" in evidence.violation
    spec, _ = decode_token(evidence.replay)
    assert run(vault.store_and_compare, spec, target=vault.TARGET).result == "slow"


def test_slowness_can_be_left_out() -> None:
    assert by_name(campaign(slow=0.0, params="vault.codec")[0])["codec"].verdict == "safe"


# -- rolling changes ----------------------------------------------------------------------------------------------


def test_a_rolling_change_finds_what_static_mixtures_miss(rolling: CampaignResult) -> None:
    found = by_name(rolling)
    assert {name for name, p in found.items() if p.rolling} == {"packing", "format"}
    assert found["page"].verdict == "safe" and found["vote"].verdict == "unsafe"
    assert rolling.rolling == "restart" and rolling.rolled and not rolling.not_rolling


def test_a_state_that_is_not_readable_after_the_change_has_no_safe_order(rolling: CampaignResult) -> None:
    packing = by_name(rolling)["packing"]
    assert packing.rollouts and not any(rollout.safe for rollout in packing.rollouts)
    assert packing.direction == ""
    assert "no order is safe" in wording.rollout(packing) and "while nodes change" in wording.situation(packing)


def test_the_order_matters_where_one_order_is_safe(rolling: CampaignResult) -> None:
    rollouts = {(r.values, tuple(r.order)): r.safe for r in by_name(rolling)["format"].rollouts}
    assert rollouts == {
        (("1", "2"), ("replica", "primary")): True, (("1", "2"), ("primary", "replica")): False,
        (("2", "1"), ("replica", "primary")): False, (("2", "1"), ("primary", "replica")): True,
    }  # fmt: skip
    assert "to 2: replica first, then primary" in wording.rollout(by_name(rolling)["format"])


def test_an_order_that_follows_from_a_direction_is_tried_and_one_of_no_direction_is_not(
    rolling: CampaignResult,
) -> None:
    batch, secrecy = by_name(rolling)["batch"], by_name(rolling)["secrecy"]
    assert dict(zip(batch.direction.split(">"), batch.values, strict=True)) == {"primary": "100", "replica": "50"}
    assert {(r.values, tuple(r.order)): r.safe for r in batch.rollouts} == {
        (("50", "100"), ("replica", "primary")): True, (("100", "50"), ("primary", "replica")): True,
    }  # fmt: skip
    assert "all replica first, then primary (6 rolling changes passed)" in wording.rollout(batch)
    assert (secrecy.direction, secrecy.rollouts) == ("both", [])


def test_the_evidence_of_a_rolling_change_is_replayed_by_its_token_alone(rolling: CampaignResult) -> None:
    for name in ("packing", "format"):
        evidence = by_name(rolling)[name].evidence
        assert evidence is not None
        spec, _ = decode_token(evidence.replay)
        assert [type(step) for step in spec.schedule.steps] == [Roll]
        outcome = run(vault.store_and_compare, spec, target=vault.TARGET)
        assert (outcome.result, outcome.message) == (evidence.outcome, evidence.violation)


def test_restarts_that_a_test_does_not_bear_are_blamed_on_nobody() -> None:
    result, _ = campaign(vault.without_restarts, rolling="restart", params="vault.p*")
    found = by_name(result)
    assert found["packing"].verdict == found["page"].verdict == "safe"
    assert result.rolled == 0 and all("tests:vault" in line for line in result.not_rolling)
    assert any(problem.startswith("no rolling change was tried") for problem in result.problems())


def test_a_rolling_campaign_has_the_same_static_verdicts_and_one_course(rolling: CampaignResult) -> None:
    assert campaign(rolling="restart")[0] == rolling


def test_reloading_needs_roles_that_can() -> None:
    result, _ = campaign(rolling="reload", params="vault.page")
    assert result.rolled == 0 and "has no `reload(config)`" in result.not_rolling[0]


def test_a_roll_goes_on_to_its_end_when_the_test_is_over() -> None:
    roll = Roll(nodes=("replica", "primary"), values={"vault.page": 8}, at_s=1000.0, every_s=50.0)
    outcome = run(vault.store_and_compare, RunSpec(target="vault", schedule=Schedule((roll,))), target=vault.TARGET)
    assert outcome.result == "pass" and outcome.duration_s < 100
    changed = [e for e in outcome.history.of("node.configure") if e["config"]["page"] == 8]
    assert [e.node for e in changed] == [*(f"replica-{i}" for i in range(1, 6)), "primary-1"]


def test_where_its_readers_code_reads_a_parameter_is_in_the_result(static: dict[str, ParameterResult]) -> None:
    assert set(static["format"].sites) == {"primary", "replica"} and set(static["vote"].sites) == {"replica"}
    assert all(
        site.startswith("tests/quality/vault.py:") for sites in static["format"].sites.values() for site in sites
    )
    assert set(static["secrecy"].sites) == {"primary", "replica"}


# -- profiles and rules ---------------------------------------------------------------------------------------------


def test_a_profile_is_unsafe_where_its_members_have_nothing_to_try(static: dict[str, ParameterResult]) -> None:
    secrecy = static["secrecy"]
    assert set(secrecy.values) == {"off", "on"} and secrecy.roles == ["primary", "replica"]
    assert secrecy.evidence is not None and "wrong password" in secrecy.evidence.violation


def test_values_of_a_file_make_the_members_invalid_and_never_meet_the_profile_in_one_run() -> None:
    rules = Rules(values={"vault.password": ("s3cret",), "vault.peer_password": ("s3cret",)})
    result, runner = campaign(rules=rules, params="vault.[ps]*", slow=0.0)
    found = by_name(result)
    assert found["password"].verdict == "invalid" and found["secrecy"].verdict == "unsafe"
    names = [set(spec.assignment) for spec in runner.specs]
    assert not any("vault.secrecy" in each and "vault.password" in each for each in names)


def test_a_constraint_makes_a_value_valid_and_its_runs_replay_without_the_rules() -> None:
    values = Rules(values={"vault.password": ("s3cret",)})
    alone = by_name(campaign(rules=values, params="vault.password")[0])
    assert alone["password"].verdict == "invalid"
    needs = Constraint("vault.password", ("s3cret",), {"vault.peer_password": "s3cret"})
    both = by_name(campaign(rules=values + Rules(constraints=(needs,)), params="vault.password")[0])
    assert both["password"].verdict == "unsafe" and both["password"].evidence is not None
    spec, _ = decode_token(both["password"].evidence.replay)
    assert "vault.peer_password" in spec.assignment
    assert run(vault.store_and_compare, spec, target=vault.TARGET).failed


def test_a_profile_of_a_file_is_searched_and_replays_without_the_file() -> None:
    from zebra import Profile

    mine = Profile("vault.mine", {"usual": {}, "other": {"vault.codec": "y", "vault.page": 8}})
    found = by_name(campaign(rules=Rules(profiles=(mine,)), params="vault.mine")[0])["mine"]
    assert found.verdict == "unsafe" and set(found.values) == {"usual", "other"} and found.trials
    assert found.evidence is not None
    spec, _ = decode_token(found.evidence.replay)
    assert set(spec.assignment) == {"vault.codec", "vault.page"}
    assert run(vault.store_and_compare, spec, target=vault.TARGET).result == "slow"


def test_what_is_excluded_is_untested_with_the_reason_and_what_is_left_out_is_named() -> None:
    rules = Rules(
        exclude={"vault.v*": "known"}, exclude_values={"vault.page": {8: "too large"}}, values={"vault.page": (6,)}
    )
    found = by_name(campaign(rules=rules, params="vault.*")[0])
    assert (found["vote"].verdict, found["vote"].note) == ("untested", "excluded: known")
    assert found["page"].verdict == "safe" and "not tried: 8 (too large)" in found["page"].note


def test_rules_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"did you mean vault\.page"):
        campaign(rules=Rules(values={"vault.pge": (1,)}))
