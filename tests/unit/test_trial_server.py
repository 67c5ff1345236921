"""The trial server: order, isolation, limits, output, and nothing left behind."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from zebra.campaign.server import TrialServer
from zebra.campaign.trial import Trial, TrialResult
from zebra.errors import ZebraInternalError
from zebra.spec import RunSpec

STATE: list[int] = []


def trial(test: str, seed: int = 0, history: str = "") -> Trial:
    return Trial(spec=RunSpec(test=test, target="t", seed=seed), purpose="pooled", history=history)


def run_trial(trial: Trial, directory: Path) -> TrialResult:
    kind = trial.spec.test
    if kind == "exit":
        print("about to exit")
        os._exit(7)
    if kind == "abort":
        os.abort()
    if kind == "raise":
        raise ValueError("bad luck")
    if kind == "hang":
        print("about to hang")
        subprocess.Popen([sys.executable, "-c", "import time; time.sleep(3600)"])
        time.sleep(3600)
    if kind == "child":
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(3600)"])
        return TrialResult(result="pass", message=str(child.pid))
    if kind == "orphan":
        if os.fork() == 0:
            time.sleep(3600)
        os._exit(7)
    if kind == "later":
        time.sleep(0.05 * (5 - trial.spec.seed))
    if kind == "talk":
        for number in range(200):
            print(f"trial {trial.spec.seed} line {number}")
            os.write(2, b"and an error\n")
        (directory / "own").write_text("mine")
        return TrialResult(result="fail", message=str(directory))
    STATE.append(trial.spec.seed)
    return TrialResult(result="pass", message=f"{trial.spec.seed} {len(STATE)}")


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    return tmp_path / "scratch"


@contextmanager
def server(scratch: Path, workers: int = 3, trial_s: float = 30.0) -> Iterator[TrialServer]:
    made = TrialServer(run_trial, workers=workers, trial_s=trial_s, scratch=scratch)
    try:
        yield made
    finally:
        made.close()


def test_results_come_in_the_order_of_the_trials_and_no_state_leaks_between_them(scratch: Path) -> None:
    with server(scratch) as made:
        results = made.map([trial("later", seed) for seed in range(5)])
    assert [result.message for result in results] == [f"{seed} 1" for seed in range(5)]
    assert STATE == []


def test_results_come_as_soon_as_they_are_there(scratch: Path) -> None:
    with server(scratch) as made:
        numbers = [number for number, _ in made.results([trial("hang", 0), trial("ok"), trial("ok")], _soon(2.0))]
    assert sorted(numbers) == [1, 2]


def test_more_trials_than_a_socket_holds_are_carried_out(scratch: Path) -> None:
    with server(scratch) as made:
        results = made.map([trial("ok" + "x" * 20_000, seed) for seed in range(60)])
    assert [result.message for result in results] == [f"{seed} 1" for seed in range(60)]


def test_a_trial_that_ends_its_process_is_a_crash_and_one_that_raises_is_infrastructure(scratch: Path) -> None:
    with server(scratch) as made:
        results = made.map([trial("exit"), trial("abort"), trial("raise"), trial("ok")])
    assert [result.result for result in results] == ["crash", "crash", "infrastructure", "pass"]
    assert "(exit code 7)" in results[0].message and "(signal 6)" in results[1].message
    assert "Fatal Python error: Aborted" in results[1].output, "faulthandler says where"
    assert results[2].message == "ValueError: bad luck"


def test_a_crash_is_seen_at_once_though_a_process_of_the_trial_lives_on(scratch: Path) -> None:
    with server(scratch, trial_s=3600.0) as made:
        (result,) = made.map([trial("orphan")])
    assert result.result == "crash"


def test_a_trial_over_its_limit_is_killed_and_counts_as_hang(scratch: Path) -> None:
    with server(scratch, trial_s=0.5) as made:
        results = made.map([trial("hang"), trial("ok")])
        assert [result.result for result in results] == ["hang", "pass"]
        assert "0.5 s of wall time" in results[0].message
        assert not _wait_for_end_of(_children_of_group(made.pid))


def test_what_a_trial_wrote_is_kept_though_it_crashed_or_was_killed(scratch: Path, tmp_path: Path) -> None:
    history = tmp_path / "000007.jsonl"
    with server(scratch, trial_s=1.0) as made:
        crash, hang = made.map([trial("exit", history=str(history)), trial("hang")])
    assert crash.output == "about to exit\n" and hang.output == "about to hang\n"
    assert (tmp_path / "000007" / "trial.txt").read_text() == "about to exit\n"


def test_trials_at_the_same_time_do_not_mix_their_output_and_leave_no_directory(scratch: Path) -> None:
    with server(scratch, workers=4) as made:
        results = made.map([trial("talk", seed) for seed in range(12)])
    for seed, result in enumerate(results):
        lines = result.output.splitlines()
        assert [line for line in lines if line.startswith("trial")] == [f"trial {seed} line {n}" for n in range(200)]
        assert lines.count("and an error") == 200
    assert len({result.message for result in results}) == 12
    assert list(scratch.iterdir()) == []


def test_what_a_trial_started_dies_with_it(scratch: Path) -> None:
    with server(scratch) as made:
        (result,) = made.map([trial("child")])
    assert not _wait_for_end_of([int(result.message)])


def test_a_trial_that_is_killed_right_after_its_fork_takes_its_group_along(scratch: Path) -> None:
    with server(scratch, trial_s=0.0, workers=8) as made:
        results = made.map([trial("hang") for _ in range(40)])
        assert {result.result for result in results} == {"hang"}
        assert not _wait_for_end_of(_children_of_group(made.pid))


def test_the_server_ends_what_is_running_when_its_controller_is_gone(scratch: Path) -> None:
    with server(scratch, trial_s=3600.0) as made:
        assert list(made.results([trial("hang")], _soon(1.0))) == []
        left = _children_of_group(made.pid)
        assert left, "the trial is running"
    assert not _wait_for_end_of(left)


def test_a_server_that_is_gone_is_said_so(scratch: Path) -> None:
    with server(scratch) as made:
        os.kill(made.pid, 9)
        with pytest.raises(ZebraInternalError, match="ended in the middle"):
            made.map([trial("ok")])


def _soon(wall_s: float) -> float:
    return time.monotonic() + wall_s


def _children_of_group(parent: int) -> list[int]:
    """The processes below one, and those in their groups."""
    about = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        about[int(path.parent.name)] = (int(fields[1]), int(fields[2]))
    children = {pid for pid, (above, _) in about.items() if above == parent}
    return [pid for pid, (_, group) in about.items() if pid in children or group in children]


def _wait_for_end_of(pids: list[int]) -> list[int]:
    """Those that still run after a while."""
    deadline = _soon(5.0)
    while any(map(_runs, pids)) and time.monotonic() < deadline:
        time.sleep(0.01)
    return [pid for pid in pids if _runs(pid)]


def _runs(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
