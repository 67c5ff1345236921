"""A campaign as a user starts it: through pytest and the `zebra` command, with trials from the forked server."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

DEPOT = (Path(__file__).parents[1] / "quality" / "depot.py").read_text()
TEST = """
import pytest
from depot import TARGET

@pytest.mark.zebra(TARGET, server=2)
async def test_store(cluster):
    await cluster.client.round_trip("hello")
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "depot.py").write_text(DEPOT)
    (tmp_path / "test_it.py").write_text(TEST)
    return tmp_path


def zebra(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    environment.pop("ZEBRA_STEADY", None)
    command = [sys.executable, "-m", "zebra.cli", *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_a_campaign_on_a_users_tests_prints_verdicts_and_writes_its_report(folder: Path) -> None:
    result = zebra(folder, "campaign", "test_it.py", "--seed", "3")
    assert result.returncode == 1, result.stdout + result.stderr
    assert "unsafe and not accepted: depot.digest" in result.stdout
    report = folder / "zebra-report"
    campaign = json.loads((report / "campaign.json").read_text())
    verdicts = {p["name"].removeprefix("depot."): p["verdict"] for p in campaign["parameters"]}
    assert {name for name, verdict in verdicts.items() if verdict == "unsafe"} == {"digest", "limit", "salt"}
    assert {path.name for path in report.iterdir()} >= {"index.html", "junit.xml", "history.jsonl"}
    assert not (report / "trials").exists()
    runs = [json.loads(line) for line in (report / "history.jsonl").read_text().splitlines()]
    evidence = [event for event in runs if event["kind"] == "run.end"]
    assert len(evidence) == 3 and all(event["outcome"] == "fail" for event in evidence)
    token = next(p["evidence"]["replay"] for p in campaign["parameters"] if p["name"] == "depot.salt")
    again = zebra(folder, "replay", token)
    assert again.returncode == 1, again.stdout + again.stderr
    assert "the check does not match" in again.stdout
    written = (report / "index.html").read_text()
    assert zebra(folder, "report", "zebra-report").returncode == 1
    assert (report / "index.html").read_text() == written


def test_a_forked_trial_a_replay_and_pytest_write_the_same_bytes(folder: Path) -> None:
    assert zebra(folder, "campaign", "owl", "--params", "owl.checksum.*", "--quiet").returncode == 0
    report = folder / "zebra-report"
    token = json.loads((report / "campaign.json").read_text())["parameters"][0]["evidence"]["replay"].split()[-1]
    trial = (report / "history.jsonl").read_bytes()
    assert trial.count(b"\n") > 100
    assert zebra(folder, "replay", token).returncode == 1
    assert (report / "replay" / "history.jsonl").read_bytes() == trial
    command = [sys.executable, "-m", "pytest", "--pyargs", "zebra.targets.owl", "--zebra-replay", token]
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert result.returncode == 1, result.stdout + result.stderr
    assert (report / "history.jsonl").read_bytes() == trial


def test_accepted_parameters_make_a_campaign_pass(folder: Path) -> None:
    (folder / "accepted.txt").write_text("depot.digest  # known\n\n# a comment\ndepot.salt\ndepot.limit\n")
    result = zebra(folder, "campaign", "test_it.py", "--accept", "accepted.txt", "--quiet")
    assert result.returncode == 0, result.stdout + result.stderr


def test_an_accept_file_with_an_unknown_parameter_is_one_line_that_names_it(folder: Path) -> None:
    (folder / "accepted.txt").write_text("depot.digest\ndepot.digset\n")
    result = zebra(folder, "campaign", "test_it.py", "--accept", "accepted.txt")
    assert result.returncode == 2
    assert "accepted.txt:2: depot has no parameter 'depot.digset'" in result.stdout + result.stderr
    assert "Traceback" not in result.stdout + result.stderr


def test_a_trial_that_kills_its_process_is_a_crash_and_nothing_of_it_stays(folder: Path) -> None:
    (folder / "test_it.py").write_text(
        TEST.replace(
            "    await",
            "    import os\n    labels = {cluster.config_of(server).label for server in cluster.nodes('server')}\n"
            "    if len(labels) > 1:\n        os._exit(7)\n    await",
        )
    )
    result = zebra(folder, "campaign", "test_it.py", "--params", "depot.label")
    assert result.returncode == 1, result.stdout + result.stderr
    parameter = json.loads((folder / "zebra-report" / "campaign.json").read_text())["parameters"][0]
    assert (parameter["verdict"], parameter["evidence"]["outcome"]) == ("unsafe", "crash")


def test_a_test_that_fails_on_its_own_is_left_out_and_named(folder: Path) -> None:
    (folder / "test_it.py").write_text(TEST + TEST.replace("test_store", "test_broken") + "    assert False\n")
    result = zebra(folder, "campaign", "test_it.py", "--params", "depot.cache")
    assert result.returncode == 1
    assert "left out, does not pass on its own: test_it.py::test_broken" in result.stdout


def test_unmarked_tests_are_deselected_with_a_count(folder: Path) -> None:
    (folder / "test_it.py").write_text(TEST + "\ndef test_plain(): pass\n")
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--zebra-campaign", "--zebra-params=depot.cache"],
        cwd=folder, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
    assert "1 deselected" in result.stdout


def test_an_interrupted_campaign_ends_with_130_and_leaves_no_process(folder: Path) -> None:
    (folder / "test_it.py").write_text(TEST + "    import os\n    while True: os.stat('.')\n")
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    command = [sys.executable, "-m", "zebra.cli", "campaign", "test_it.py"]
    process = subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    deadline = time.monotonic() + 60
    children: list[int] = []
    while time.monotonic() < deadline and len(children) < 2:
        time.sleep(0.05)
        children = _descendants(process.pid)
    assert len(children) >= 2, "the server and its trial"
    process.send_signal(2)
    output = process.communicate(timeout=30)[0].decode()
    assert process.returncode == 130, output
    assert not [pid for pid in children if _alive(pid)]


def _descendants(pid: int) -> list[int]:
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = status.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == pid:
            child = int(status.parent.name)
            found += [child, *_descendants(child)]
    return found


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
