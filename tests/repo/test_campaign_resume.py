"""A campaign that is killed with SIGKILL, at whatever moment, and resumed: as a user does it, with real processes."""

from __future__ import annotations

import fcntl
import signal
import subprocess
import sys
import time
from pathlib import Path
from random import Random

import pytest

from tests.projects import COUNTED, campaign, environment, fill, runs, start

WORKERS = 2


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return fill(tmp_path, COUNTED)


def zebra(folder: Path, report: str, *more: str, what: tuple[str, ...] = ("test_it.py",)) -> subprocess.Popen[str]:
    return start(folder, "campaign", *what, "--report", report, "--params", "depot.l*", *more)


def plain_pytest(folder: Path, report: str, *more: str, hashes: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--zebra-campaign", "test_it.py",
               f"--zebra-report={report}", "--zebra-params=depot.l*", *more]  # fmt: skip
    return subprocess.Popen(command, cwd=folder, env=environment(folder, PYTHONHASHSEED=str(hashes)),
                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)  # fmt: skip


def ended(process: subprocess.Popen[str]) -> str:
    output, _ = process.communicate(timeout=300)
    return output


def kill_after(process: subprocess.Popen[str], folder: Path, wanted: int) -> bool:
    """Kill a campaign once so many runs have begun; False if it was over before."""
    deadline = time.monotonic() + 300
    while process.poll() is None and time.monotonic() < deadline:
        if runs(folder) >= wanted:
            process.send_signal(signal.SIGKILL)
            process.communicate()  # until the trial server has ended too, which holds the pipe
            return True
        time.sleep(0.001)
    return False


def test_a_campaign_killed_at_random_moments_comes_to_the_same_verdicts(folder: Path) -> None:
    process = zebra(folder, "whole")
    output = ended(process)
    assert process.returncode == 1, output
    expected, total = campaign(folder, "whole"), runs(folder)
    assert expected["trials"]["total"] == total > 12
    (folder / "runs.log").unlink()
    random, kills, output = Random(0), 0, ""
    for attempt in range(4):
        process = zebra(folder, "pieces", *(["--resume"] if attempt else []))
        if not kill_after(process, folder, runs(folder) + random.randint(1, total // 3)):
            output = ended(process)
            break
        kills += 1
    if not output:
        process = zebra(folder, "pieces", "--resume")
        output = ended(process)
    assert process.returncode == 1, output
    assert kills >= 2 and "trials were stored" in output
    assert campaign(folder, "pieces") == expected
    assert total <= runs(folder) <= total + kills * WORKERS, f"{kills} kills"
    assert (folder / "pieces" / "history.jsonl").read_bytes() == (folder / "whole" / "history.jsonl").read_bytes()


def test_the_course_of_a_campaign_hangs_on_no_hash(folder: Path) -> None:
    process = plain_pytest(folder, "pieces", hashes=1)
    assert kill_after(process, folder, 8)
    before = runs(folder)
    process = plain_pytest(folder, "pieces", "--zebra-resume", hashes=2)
    output = ended(process)
    assert process.returncode == 1 and "another course" not in output, output
    assert before < campaign(folder, "pieces")["trials"]["total"]
    assert 0 <= runs(folder) - campaign(folder, "pieces")["trials"]["total"] <= WORKERS


def test_a_campaign_on_processes_takes_the_same_course_when_resumed(folder: Path) -> None:
    options = ("--substrate", "process")
    process = zebra(folder, "pieces", *options)
    assert kill_after(process, folder, 6), "it was over too soon"
    process = zebra(folder, "pieces", "--resume", *options)
    output = ended(process)
    assert "resumed: " in output and "another course" not in output, output
    verdicts = {p["name"]: p["verdict"] for p in campaign(folder, "pieces")["parameters"]}
    assert verdicts == {"depot.limit": "unsafe", "depot.label": "safe"}
    assert 0 <= runs(folder) - campaign(folder, "pieces")["trials"]["total"] <= WORKERS


def test_an_incremental_campaign_runs_what_a_change_has_touched(folder: Path) -> None:
    (folder / "test_other.py").write_text(COUNTED.replace("hello", "good bye").replace("runs.log", "other.log"))
    arguments = ("--params", "depot.label", "--incremental")

    def output_of(*more: str) -> str:
        process = zebra(folder, "zebra-report", *arguments, *more, what=("test_it.py", "test_other.py"))
        output = ended(process)
        assert process.returncode == 0, output
        return output

    assert "no finished campaign is stored" in output_of()
    before, other = runs(folder), (folder / "other.log").read_text()
    assert "nothing has changed" in output_of() and runs(folder) == before
    with open(folder / "test_other.py", "a") as file:
        file.write("\nUNUSED = 1\n")
    output = output_of()
    assert "changed since: test_other.py::test_store (its code)" in output
    assert runs(folder) == before and len((folder / "other.log").read_text()) > len(other)
    (label,) = campaign(folder, "zebra-report")["parameters"]
    assert label["verdict"] == "safe" and "beside 1 tests that have not changed" in label["note"]


def test_a_live_campaign_is_refused_in_one_line(folder: Path) -> None:
    (folder / "zebra-report").mkdir()
    with open(folder / "zebra-report" / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for more in ([], ["--resume"], ["--incremental"]):
            process = zebra(folder, "zebra-report", *more)
            output = ended(process)
            assert process.returncode == 2
            assert "zebra-report is in use by another session" in output and "Traceback" not in output


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--resume"], "there is no campaign to resume"),
        (["--budget", "a lot"], "--budget: 'a lot' is no budget"),
        (["--resume", "--incremental"], "leave out --zebra-incremental"),
    ],
)
def test_bad_input_is_one_line_and_code_2(folder: Path, more: list[str], message: str) -> None:
    process = zebra(folder, "zebra-report", *more)
    output = ended(process)
    assert process.returncode == 2 and message in output and "Traceback" not in output, output


def test_a_spent_budget_exits_with_3_and_a_plain_session_leaves_the_store_alone(folder: Path) -> None:
    process = zebra(folder, "zebra-report", "--params", "depot.label", "--budget", "3 trials")
    output = ended(process)
    assert process.returncode == 3, output
    assert "undecided: depot.label: the budget of 3 trials ended" in output
    assert "--zebra-resume goes on from here" in output
    plain = subprocess.run([sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-q"], cwd=folder,
                           env=environment(folder), capture_output=True, text=True, check=False)  # fmt: skip
    assert plain.returncode == 0, plain.stdout
    process = zebra(folder, "zebra-report", "--params", "depot.label", "--resume")
    output = ended(process)
    assert process.returncode == 0 and "resumed: 3 trials were stored" in output, output
