"""Incremental campaigns: what each kind of change makes them decide anew, and what they carry over."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import msgspec
import pytest

from tests.quality import depot
from tests.quality import test_campaign_store as store
from zebra import Param
from zebra.campaign import code
from zebra.campaign.incremental import CARRIED, change_since
from zebra.campaign.result import Baselines, CampaignResult, Evidence, ParameterResult, Trials
from zebra.campaign.store import Basis
from zebra.errors import ConfigError
from zebra.params import Space
from zebra.spec import RunSpec

THIRD = RunSpec(test="tests:third", target="depot", seed=2)


class Wider(depot.DepotConfig, frozen=True, kw_only=True):
    """Another candidate of `limit`, which is safe: what it says of every other parameter is as before."""

    limit: Annotated[int, Param("200", minimum=0)] = 100


class Moved(depot.DepotConfig, frozen=True, kw_only=True):
    """Another default of `limit`."""

    limit: Annotated[int, Param("50", minimum=0)] = 101


class More(depot.DepotConfig, frozen=True, kw_only=True):
    """One parameter more that `depot.[dls]*` names, which nobody reads."""

    depth: int = 3


def verdicts(result: CampaignResult) -> dict[str, str]:
    return {p.name.removeprefix("depot."): p.verdict for p in result.parameters}


def carried(result: CampaignResult) -> set[str]:
    return {p.name.removeprefix("depot.") for p in result.parameters if CARRIED in p.note}


def again(tmp_path: Path, executor: Any = None, **options: Any) -> tuple[Any, CampaignResult, list[str]]:
    executor = store.InProcess() if executor is None else executor
    result, lines = store.conduct(tmp_path / "it", executor, incremental=True, **options)
    return executor, result, lines


@pytest.fixture
def before(tmp_path: Path) -> CampaignResult:
    result: CampaignResult = store.conduct(tmp_path / "it", store.InProcess())[0]
    assert verdicts(result) == {"digest": "unsafe", "limit": "unsafe", "label": "safe", "salt": "unsafe"}
    assert {p.evidence.test for p in result.parameters if p.evidence} == {"tests:first"}
    return result


def test_where_nothing_has_changed_nothing_is_run(before: CampaignResult, tmp_path: Path) -> None:
    history = (tmp_path / "it" / "history.jsonl").read_bytes()
    for _ in range(2):
        executor, result, lines = again(tmp_path)
        assert executor.made == [] and result.trials == Trials()
        assert carried(result) == {"digest", "limit", "label", "salt"} and verdicts(result) == verdicts(before)
        assert [p.evidence for p in result.parameters] == [p.evidence for p in before.parameters]
        assert all(p.note.count(CARRIED) == 1 for p in result.parameters)
        assert lines == ["nothing has changed since the campaign that is stored"]
        assert (tmp_path / "it" / "history.jsonl").read_bytes() == history


def test_a_test_whose_code_changed_is_searched_again_for_what_was_safe(before: CampaignResult, tmp_path: Path) -> None:
    codes = {**store.CODES, "tests:second": "2"}
    executor, result, lines = again(tmp_path, codes=codes)
    assert {trial.spec.test for trial in executor.made} == {"tests:second"}
    assert all(set(trial.spec.assignment) <= {"depot.label"} for trial in executor.made)
    assert verdicts(result) == verdicts(before) and carried(result) == {"digest", "limit", "salt"}
    assert result.trials.total == len(executor.made) > 0
    assert lines == ["changed since: tests:second (its code)"]
    label = next(p for p in result.parameters if p.name == "depot.label")
    assert "beside 1 tests that have not changed" in label.note
    assert again(tmp_path, codes=codes)[0].made == [], "and is then as good as the rest"


def test_what_a_changed_test_had_shown_is_decided_anew_in_all_tests(before: CampaignResult, tmp_path: Path) -> None:
    executor, result, lines = again(tmp_path, codes={**store.CODES, "tests:first": "2"})
    assert verdicts(result) == verdicts(before) and carried(result) == set()
    assert "decided anew: depot.digest (the test that showed it to be unsafe is changed)" in lines
    assert {trial.spec.test for trial in executor.made if trial.purpose == "prerun"} == {"tests:first"}
    assert result.trials.cached > 0, "the other test's pre-run is still stored"


def test_a_new_test_is_searched_for_what_was_safe(before: CampaignResult, tmp_path: Path) -> None:
    executor, result, _ = again(tmp_path, specs=[*store.SPECS, THIRD], codes={**store.CODES, THIRD.test: "1"})
    assert {trial.spec.test for trial in executor.made} == {THIRD.test}
    assert verdicts(result) == verdicts(before) and carried(result) == {"digest", "limit", "salt"}


def test_a_test_that_is_gone_takes_along_what_it_had_shown(before: CampaignResult, tmp_path: Path) -> None:
    executor, result, lines = again(tmp_path, specs=store.SPECS[1:], codes={"tests:second": "1"})
    assert "decided anew: depot.digest (the test that showed it to be unsafe is gone)" in lines
    assert {trial.spec.test for trial in executor.made} == {"tests:second"}
    assert verdicts(result) == verdicts(before) and carried(result) == {"label"}


def test_a_parameter_that_is_declared_otherwise_is_decided_in_all_tests(before: CampaignResult, tmp_path: Path) -> None:
    target = replace(depot.TARGET, config=Wider)
    executor, result, lines = again(tmp_path, store.InProcess(target=target))
    assert lines == ["decided anew: depot.limit (declared otherwise)"]
    searched = [trial for trial in executor.made if trial.purpose != "requires"]
    assert searched and all(
        set(trial.spec.assignment) == {"depot.limit"} for trial in searched if trial.spec.assignment
    )
    assert not [trial for trial in executor.made if trial.purpose == "prerun"], "the store still has them"
    assert carried(result) == {"digest", "label", "salt"} and "200" in str(result.parameters)


def test_a_new_parameter_is_decided(before: CampaignResult, tmp_path: Path) -> None:
    _, result, lines = again(tmp_path, store.InProcess(target=replace(depot.TARGET, config=More)))
    assert lines == ["decided anew: depot.depth (new)"]
    assert verdicts(result) == {**verdicts(before), "depth": "untested"} and "depth" not in carried(result)


def test_another_default_touches_everything(before: CampaignResult, tmp_path: Path) -> None:
    _, result, lines = again(tmp_path, store.InProcess(target=replace(depot.TARGET, config=Moved)))
    assert "changed since: tests:first (the default of depot.limit is another)" in lines
    assert carried(result) == set() and verdicts(result) == verdicts(before)


def test_without_a_finished_campaign_everything_is_decided(tmp_path: Path) -> None:
    _, result, lines = again(tmp_path)
    assert lines == ["no finished campaign is stored: everything is decided anew"]
    assert verdicts(result)["limit"] == "unsafe" and carried(result) == set()


def test_one_that_was_cut_short_is_resumed_as_it_was_begun(before: CampaignResult, tmp_path: Path) -> None:
    codes = {**store.CODES, "tests:first": "2"}
    executor, result, _ = again(tmp_path, codes=codes, budget="9 trials")
    assert len(executor.made) == 9 and "undecided" in verdicts(result).values()
    made: Sequence[Any] = executor.made
    result, lines = store.conduct(tmp_path / "it", executor, resume=True, codes=codes)
    assert "resumed: 9 trials were stored" in lines[-1]
    assert verdicts(result) == verdicts(before) and result.trials.total == len(made)
    assert len({msgspec.msgpack.encode(trial.spec) for trial in made}) == len(made), "no trial was made twice"


def test_a_campaign_over_something_else_is_refused(before: CampaignResult, tmp_path: Path) -> None:
    for options in ({"seed": 5}, {"params": "depot.label"}):
        with pytest.raises(ConfigError, match=r"--zebra-incremental: .* this one has"):
            again(tmp_path, **options)


def basis(*parameters: ParameterResult, tried: dict[str, list[str]]) -> Basis:
    space = Space("depot", depot.DepotConfig)
    result = CampaignResult(target="depot", substrate="sim", seed=0, trials=Trials(), bound_bits=0.0,
                            baselines=Baselines(), parameters=list(parameters))  # fmt: skip
    return Basis(
        result=result, tests={"a": "1", "b": "1"}, tried=tried,
        parameters={p.name: code.of_parameter(space[p.name]) for p in parameters},
        defaults={name: space[name].show(space[name].default) for name in space},
    )  # fmt: skip


def result(name: str, verdict: Any, test: str = "", requires: Sequence[str] = ()) -> ParameterResult:
    evidence = Evidence(test=test, outcome="fail", violation="", replay="") if test else None
    return ParameterResult(name=f"depot.{name}", verdict=verdict, evidence=evidence, requires=list(requires))


@pytest.mark.parametrize(
    ("old", "tests", "why"),
    [
        (result("salt", "undecided"), {"a": "1", "b": "1"}, "was undecided"),
        (result("salt", "invalid", "a"), {"a": "2", "b": "1"}, "the test that showed it to be invalid is changed"),
        (result("salt", "invalid", "a"), {"a": "1", "b": "2"}, ""),
        (result("salt", "unsafe", "a"), {"b": "1"}, "the test that showed it to be unsafe is gone"),
        (result("salt", "safe"), {"b": "2"}, "the tests that tried it are gone"),
        (result("salt", "untested"), {"a": "1", "b": "1"}, ""),
    ],
)
def test_when_a_parameter_is_decided_anew(old: ParameterResult, tests: dict[str, str], why: str) -> None:
    known = basis(old, tried={"depot.salt": ["a"]})
    change = change_since(known, tests, Space("depot", depot.DepotConfig), ["depot.salt"])
    assert change.parameters.get("depot.salt", "") == why


def test_a_parameter_goes_with_one_that_it_requires() -> None:
    known = basis(result("salt", "unsafe", "a", ["depot.digest=crc"]), result("digest", "undecided"), tried={})
    names = ["depot.salt", "depot.digest"]
    change = change_since(known, {"a": "1", "b": "1"}, Space("depot", depot.DepotConfig), names)
    assert change.parameters == {"depot.digest": "was undecided", "depot.salt": "it requires depot.digest"}
