"""The trial server: order, isolation, limits, and nothing left behind."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from zebra.campaign.server import TrialServer
from zebra.campaign.trial import Trial, TrialResult
from zebra.errors import ZebraInternalError
from zebra.run import RunSpec

STATE: list[int] = []


def trial(test: str, seed: int = 0) -> Trial:
    return Trial(spec=RunSpec(test=test, target="t", seed=seed), purpose="pooled")


def run_trial(trial: Trial) -> TrialResult:
    kind = trial.spec.test
    if kind == "exit":
        os._exit(7)
    if kind == "raise":
        raise ValueError("bad luck")
    if kind == "hang":
        time.sleep(3600)
    if kind == "child":
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(3600)"])
        return TrialResult(result="pass", message=str(child.pid))
    if kind == "later":
        time.sleep(0.05 * (5 - trial.spec.seed))
    STATE.append(trial.spec.seed)
    return TrialResult(result="pass", message=f"{trial.spec.seed} {len(STATE)}")


@contextmanager
def server(workers: int = 3, trial_s: float = 30.0) -> Iterator[TrialServer]:
    made = TrialServer(run_trial, workers=workers, trial_s=trial_s)
    try:
        yield made
    finally:
        made.close()


def test_results_come_in_the_order_of_the_trials_and_no_state_leaks_between_them() -> None:
    with server() as made:
        results = made.map([trial("later", seed) for seed in range(5)])
    assert [result.message for result in results] == [f"{seed} 1" for seed in range(5)]
    assert STATE == []


def test_a_trial_that_ends_its_process_is_a_crash_and_one_that_raises_is_infrastructure() -> None:
    with server() as made:
        results = made.map([trial("exit"), trial("raise"), trial("ok")])
    assert [result.result for result in results] == ["crash", "infrastructure", "pass"]
    assert results[1].message == "ValueError: bad luck"


def test_a_trial_over_its_limit_is_killed_and_counts_as_hang() -> None:
    with server(trial_s=0.3) as made:
        results = made.map([trial("hang"), trial("ok")])
    assert [result.result for result in results] == ["hang", "pass"]
    assert "0.3 s of wall time" in results[0].message


def test_what_a_trial_started_dies_with_it() -> None:
    with server() as made:
        (result,) = made.map([trial("child")])
    deadline = time.monotonic() + 5
    while _runs(int(result.message)) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not _runs(int(result.message))


def test_a_server_that_is_gone_is_said_so() -> None:
    with server() as made:
        os.kill(made.pid, 9)
        with pytest.raises(ZebraInternalError, match="ended in the middle"):
            made.map([trial("ok")])


def _runs(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
