"""A campaign as a user starts it: through pytest and the `zebra` command, with trials from the forked server."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.projects import campaign, environment, fill, zebra

TEST = """
import pytest
from depot import TARGET

@pytest.mark.zebra(TARGET, server=2)
async def test_store(cluster):
    await cluster.client.round_trip("hello")
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return fill(tmp_path, TEST)


def test_a_campaign_on_a_users_tests_prints_verdicts_and_writes_its_report(folder: Path) -> None:
    result = zebra(folder, "campaign", "test_it.py", "--seed", "3")
    assert result.returncode == 1, result.stdout + result.stderr
    assert "unsafe and not accepted: depot.digest" in result.stdout
    assert "zebra depot: pre-run: " in result.stderr and "zebra depot: pools of test_store: " in result.stderr
    report = folder / "zebra-report"
    found = campaign(folder)
    verdicts = {p["name"].removeprefix("depot."): p["verdict"] for p in found["parameters"]}
    assert {name for name, verdict in verdicts.items() if verdict == "unsafe"} == {"digest", "limit", "salt"}
    assert {path.name for path in report.iterdir()} >= {"index.html", "junit.xml", "history.jsonl"}
    assert not (report / "trials").exists()
    runs = [json.loads(line) for line in (report / "history.jsonl").read_text().splitlines()]
    evidence = [event for event in runs if event["kind"] == "run.end"]
    assert len(evidence) == 3 and all(event["outcome"] == "fail" for event in evidence)
    token = next(p["evidence"]["replay"] for p in found["parameters"] if p["name"] == "depot.salt")
    again = zebra(folder, "replay", token)
    assert again.returncode == 1, again.stdout + again.stderr
    assert "the check does not match" in again.stdout
    written = (report / "index.html").read_text()
    assert zebra(folder, "report", "zebra-report").returncode == 1
    assert (report / "index.html").read_text() == written


def test_a_forked_trial_a_replay_and_pytest_write_the_same_bytes(folder: Path) -> None:
    quiet = zebra(folder, "campaign", "owl", "--params", "owl.checksum.*", "--quiet")
    assert quiet.returncode == 0 and "trials" not in quiet.stderr
    report = folder / "zebra-report"
    token = campaign(folder)["parameters"][0]["evidence"]["replay"].split()[-1]
    trial = (report / "history.jsonl").read_bytes()
    assert trial.count(b"\n") > 100
    assert zebra(folder, "replay", token).returncode == 1
    assert (report / "replay" / "history.jsonl").read_bytes() == trial
    command = [sys.executable, "-m", "pytest", "--pyargs", "zebra.targets.owl", "--zebra-replay", token]
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert result.returncode == 1, result.stdout + result.stderr
    assert (report / "history.jsonl").read_bytes() == trial


def test_on_a_terminal_a_campaign_shows_how_far_it_is(folder: Path) -> None:
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "zebra.cli", "campaign", "test_it.py"]
    with subprocess.Popen(
        command,
        cwd=folder,
        env=environment(folder, TERM="xterm", COLUMNS="140"),
        stdout=subprocess.DEVNULL,
        stderr=theirs,
    ) as process:
        os.close(theirs)
        shown = b""
        while part := _read(ours):
            shown += part
    os.close(ours)
    assert process.returncode == 1, shown
    plain = re.sub(rb"\x1b\[[\d;?]*[A-Za-z]", b"", shown).decode()
    assert re.search(r"depot: pools of test_store .* \d+ of about \d+ trials, \d unsafe", plain), plain
    assert "zebra depot: " not in plain, "that is for files"


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 1 << 16)
    except OSError:  # nobody has it open any more
        return b""


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
    parameter = campaign(folder)["parameters"][0]
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


HYPOTHESIS = """
import json, os
from pathlib import Path

import pytest
from depot import TARGET
from hypothesis import HealthCheck, given, settings, strategies as st

@pytest.fixture(scope="session")
def base(tmp_path_factory):
    return tmp_path_factory.mktemp("base")

@pytest.mark.zebra(TARGET, server=2)
async def test_store(cluster, tmp_path, base):
    drawn = []

    @settings(max_examples=5, deadline=None)
    @given(st.integers(0, 2**60))
    def draw(number):
        drawn.append(number)

    draw()
    (tmp_path / "mine").write_text("x")
    labels = sorted({cluster.config_of(server).label for server in cluster.nodes("server")})
    about = {"drawn": drawn, "labels": labels, "tmp": str(tmp_path), "base": str(base)}
    with open(Path(__file__).with_name("drawn.jsonl"), "a") as file:
        file.write(json.dumps(about) + "\\n")
    await cluster.client.round_trip("hello")
    assert len(labels) == 1
"""


def test_what_trials_draw_hangs_on_their_seed_and_their_directories_do_not_pile_up(folder: Path) -> None:
    (folder / "test_it.py").write_text(HYPOTHESIS)
    drawn = []
    for _ in range(2):
        result = zebra(folder, "campaign", "test_it.py", "--params", "depot.label", "--report", str(folder / "report"))
        assert result.returncode == 1, result.stdout + result.stderr
        trials = [json.loads(line) for line in (folder / "drawn.jsonl").read_text().splitlines()]
        (folder / "drawn.jsonl").unlink()
        drawn.append(sorted(trial["drawn"] for trial in trials))
        assert len({trial["tmp"] for trial in trials}) == len({trial["base"] for trial in trials}) == len(trials) > 5
        assert not [trial for trial in trials if Path(trial["tmp"]).exists() or Path(trial["base"]).exists()]
    assert drawn[0] == drawn[1], "the same seeds draw the same"
    assert len({tuple(numbers) for numbers in drawn[0]}) > 2, "other seeds draw other numbers"
    assert not (folder / ".hypothesis" / "examples").exists(), "no trial learns from another"


def interruptible() -> None:
    """What a shell starts in the background ignores SIGINT, and so would its children."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_an_interrupted_campaign_ends_with_130_and_leaves_no_process(folder: Path) -> None:
    (folder / "test_it.py").write_text(TEST + "    import os\n    while True: os.stat('.')\n")
    command = [sys.executable, "-m", "zebra.cli", "campaign", "test_it.py"]
    process = subprocess.Popen(command, cwd=folder, env=environment(folder), stdout=subprocess.PIPE,
                               stderr=subprocess.STDOUT, preexec_fn=interruptible)  # fmt: skip
    deadline = time.monotonic() + 60
    children: list[int] = []
    while time.monotonic() < deadline and len(children) < 2:
        time.sleep(0.05)
        children = _descendants(process.pid)
    assert len(children) >= 2, "the server and its trial"
    process.send_signal(2)
    output = process.communicate(timeout=30)[0].decode()
    assert process.returncode == 130, output
    assert "interrupted, 0 trials are stored: --zebra-resume goes on from here" in output
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
