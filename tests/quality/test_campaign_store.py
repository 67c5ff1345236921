"""Campaigns over a store: cut short at any trial and resumed, they come to what they would have come to."""

from __future__ import annotations

import re
import sqlite3
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import pytest

from tests.quality import depot
from zebra.campaign.conduct import Conduct, Options
from zebra.campaign.progress import Progress
from zebra.campaign.result import CampaignResult
from zebra.campaign.trial import Trial, TrialResult
from zebra.errors import ConfigError
from zebra.run import run
from zebra.spec import RunSpec

SPECS = [RunSpec(test="tests:first", target="depot"), RunSpec(test="tests:second", target="depot", seed=1)]
CODES = {"tests:first": "1", "tests:second": "1"}


class InProcess:
    """Carries trials out in this process, in any order, and remembers every one. How long a run took is made up: it
    hangs on the run, as nothing else is the same whenever a campaign is cut."""

    def __init__(self, substrate: str = "sim", seed: int = 0, target: Any = depot.TARGET) -> None:
        self.made: list[Trial] = []
        self.substrate, self.random, self.target = substrate, Random(seed), target

    def results(self, trials: Sequence[Trial], until: float | None = None) -> Iterator[tuple[int, TrialResult]]:
        order = list(enumerate(trials))
        self.random.shuffle(order)
        for number, trial in order:
            if until is not None and time.monotonic() >= until:
                return
            self.made.append(trial)
            yield number, self._one(trial)

    def _one(self, trial: Trial) -> TrialResult:
        spec = msgspec.structs.replace(trial.spec, substrate="sim")
        outcome = run(depot.store_and_read, spec, target=self.target, record_reads=trial.record_reads)
        if trial.history:
            assert not Path(trial.history).exists(), "left by the run that was cut off"
            Path(trial.history).write_text(f"{trial.spec.seed}\n")
        return TrialResult(
            result=outcome.result, message=outcome.message, kinds=tuple(sorted(outcome.kinds)),
            reads=tuple(sorted(outcome.reads)), faults=outcome.faults,
            wall_s=Random(msgspec.msgpack.encode(trial.spec)).uniform(0.1, 3.0),
        )  # fmt: skip

    def close(self) -> None:
        pass


def conduct(directory: Path, executor: InProcess, *, codes: dict[str, str] = CODES, specs: Sequence[RunSpec] = SPECS,
            target: Any = None, **options: Any) -> tuple[CampaignResult, list[str]]:  # fmt: skip
    directory.mkdir(exist_ok=True)
    specs = [msgspec.structs.replace(spec, substrate=executor.substrate) for spec in specs]
    made = Conduct(
        target or executor.target, specs, directory, codes, Options(**{"seed": 0, "params": "depot.[dls]*", **options})
    )
    try:
        result = made.run(executor, Progress("depot", quiet=True), lambda spec: f"{spec.test} {spec.seed}")
        made.tidy()
        return result, made.lines
    finally:
        made.close()


@pytest.mark.parametrize("substrate", ["sim", "process"])
@pytest.mark.parametrize("seed", range(4))
def test_a_campaign_cut_at_random_trials_and_resumed_is_the_same_as_one_in_a_piece(
    substrate: str, seed: int, tmp_path: Path
) -> None:
    whole = InProcess(substrate)
    expected, _ = conduct(tmp_path / "whole", whole)
    assert {p.verdict for p in expected.parameters} == {"safe", "unsafe"}
    history = (tmp_path / "whole" / "history.jsonl").read_text()
    random, executor, pieces = Random(seed), InProcess(substrate, seed), tmp_path / "pieces"
    for attempt in range(200):
        result, lines = conduct(pieces, executor, budget=f"{random.randint(1, 30)} trials", resume=attempt > 0)
        if not any("the budget of" in line for line in lines):
            break
        assert not _is_complete(result)
    assert not any("another course" in line for line in lines)
    assert result == expected
    assert len(executor.made) == len(whole.made) == expected.trials.total
    assert (pieces / "history.jsonl").read_text() == history
    assert not (pieces / "trials").exists()


def _is_complete(result: CampaignResult) -> bool:
    return not any(p.verdict == "undecided" or "not explained" in p.note for p in result.parameters)


def test_a_finished_campaign_is_resumed_without_a_run(tmp_path: Path) -> None:
    expected, _ = conduct(tmp_path / "it", InProcess())
    history = (tmp_path / "it" / "history.jsonl").read_text()
    (tmp_path / "it" / "history.jsonl").unlink()
    executor = InProcess()
    result, lines = conduct(tmp_path / "it", executor, resume=True)
    assert (result, executor.made) == (expected, [])
    assert lines == ["this campaign is finished: nothing was run"]
    assert (tmp_path / "it" / "history.jsonl").read_text() == history


def test_trials_that_the_resumed_campaign_does_not_ask_for_again_are_said(tmp_path: Path) -> None:
    executor = InProcess()
    conduct(tmp_path / "it", executor, budget="10 trials")
    database = sqlite3.connect(tmp_path / "it" / "campaign.sqlite")
    database.execute("UPDATE trials SET spec = x'00' WHERE spec = (SELECT max(spec) FROM trials)")
    database.commit()
    database.close()
    result, lines = conduct(tmp_path / "it", executor, resume=True)
    assert any(line.startswith("1 stored trials were not asked for again") for line in lines)
    assert result == conduct(tmp_path / "whole", InProcess())[0], "what is missing is run again, nothing counts twice"


def test_a_history_that_is_gone_is_recorded_again(tmp_path: Path) -> None:
    expected, _ = conduct(tmp_path / "whole", InProcess())
    executor = InProcess()
    for attempt in range(200):
        conduct(tmp_path / "it", executor, budget="20 trials", resume=attempt > 0)
        if list((tmp_path / "it" / "trials").glob("*")):
            break
    gone = list((tmp_path / "it" / "trials").glob("*"))
    for path in gone:
        path.unlink()
    result, _lines = conduct(tmp_path / "it", executor, resume=True)
    assert result == expected
    assert len(executor.made) == expected.trials.total + len(gone)
    assert (tmp_path / "it" / "history.jsonl").read_text() == (tmp_path / "whole" / "history.jsonl").read_text()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 1}, "with seed 0, this one has 1"),
        ({"params": "depot.*"}, "with params 'depot.[dls]*', this one has 'depot.*'"),
        ({"specs": SPECS[:1]}, "over other tests"),
        ({"codes": {**CODES, "tests:first": "2"}}, "made by other code"),
        ({"target": replace(depot.TARGET, name="shed")}, "with target 'depot', this one has 'shed'"),
    ],
)
def test_a_store_of_another_campaign_is_refused_in_one_line(
    change: dict[str, Any], message: str, tmp_path: Path
) -> None:
    conduct(tmp_path / "it", InProcess(), budget="3 trials")
    with pytest.raises(ConfigError, match=re.escape(message)) as error:
        conduct(tmp_path / "it", InProcess(), resume=True, **change)
    assert "\n" not in str(error.value) and str(tmp_path / "it" / "campaign.sqlite") in str(error.value)
    with pytest.raises(ConfigError, match="with substrate 'sim', this one has 'process'"):
        conduct(tmp_path / "it", InProcess("process"), resume=True)


def test_what_cannot_be_resumed_is_said_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no campaign to resume"):
        conduct(tmp_path / "it", InProcess(), resume=True)
    store = tmp_path / "it" / "campaign.sqlite"
    store.write_bytes(b"this is no database" * 100)
    with pytest.raises(ConfigError, match="not a campaign's store"):
        conduct(tmp_path / "it", InProcess(), resume=True)
    store.unlink()
    database = sqlite3.connect(store)
    database.execute("PRAGMA user_version = 99")
    database.close()
    with pytest.raises(ConfigError, match="of version 99, this zebra reads 1"):
        conduct(tmp_path / "it", InProcess(), resume=True)
    database = sqlite3.connect(store)
    database.execute("CREATE TABLE of_others (x)")
    database.execute("PRAGMA user_version = 0")
    database.close()
    with pytest.raises(ConfigError, match="of version 0"):
        conduct(tmp_path / "it", InProcess(), resume=True)


def test_a_new_campaign_replaces_the_store_and_says_when_the_old_one_was_not_finished(tmp_path: Path) -> None:
    conduct(tmp_path / "it", InProcess(), budget="5 trials")
    executor = InProcess()
    _, lines = conduct(tmp_path / "it", executor, params="depot.label")
    assert any("an unfinished campaign of 5 trials was replaced" in line for line in lines)
    _, lines = conduct(tmp_path / "it", InProcess(), params="depot.label")
    assert lines == []


def test_a_budget_of_time_ends_a_campaign_with_what_is_decided(tmp_path: Path) -> None:
    result, lines = conduct(tmp_path / "it", InProcess(), budget="50ms")
    assert any("the budget of 50ms ended: --zebra-resume goes on from here" in line for line in lines)
    undecided = [p for p in result.parameters if p.verdict == "undecided"]
    assert undecided and all("the budget of 50ms ended" in p.note for p in undecided)
    assert result.never == [] and all("undecided" in line or "unsafe" in line for line in result.problems())


def test_a_budget_is_never_overspent(tmp_path: Path) -> None:
    executor = InProcess()
    result, _ = conduct(tmp_path / "it", executor, budget="7 trials")
    assert len(executor.made) == 7 == result.trials.total


@pytest.mark.parametrize("text", ["soon", "10", "-3 trials", "0 trials", "0s", "10 minutes", "trials", "1e99h"])
def test_a_budget_that_is_none_is_one_line(text: str) -> None:
    with pytest.raises(ConfigError, match="--zebra-budget") as error:
        Options(seed=0, budget=text)
    assert "\n" not in str(error.value)


def test_a_result_that_cannot_be_stored_ends_the_campaign_in_one_line(tmp_path: Path) -> None:
    class Locked(InProcess):
        def _one(self, trial: Trial) -> TrialResult:
            if len(self.made) == 3:
                other.execute("BEGIN IMMEDIATE")
            return super()._one(trial)

    (tmp_path / "it").mkdir()
    executor, other = Locked(), sqlite3.connect(tmp_path / "it" / "campaign.sqlite", isolation_level=None)
    other.execute("PRAGMA busy_timeout = 0")
    with pytest.raises(ConfigError, match=r"campaign.sqlite: cannot be written .*--zebra-resume goes on"):
        conduct(tmp_path / "it", executor, incremental=True)
    other.close()
    result, _ = conduct(tmp_path / "it", executor, resume=True)
    assert result == conduct(tmp_path / "whole", InProcess())[0]
    assert len(executor.made) == result.trials.total + 1, "one result was lost"


def test_what_is_accepted_may_change_until_the_end_and_after_it(tmp_path: Path) -> None:
    conduct(tmp_path / "it", InProcess(), params="depot.l*", budget="5 trials")
    for accepted in (["depot.limit"], []):
        result, _ = conduct(tmp_path / "it", InProcess(), params="depot.l*", resume=True, accepted=accepted)
        assert [p.name for p in result.parameters if p.accepted] == accepted
