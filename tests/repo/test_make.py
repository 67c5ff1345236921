"""What `make test` makes of pytest's ends: a second try for tests that failed, and nothing else is forgiven."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LIST = "v/cache/lastfailed"


def make(goal: str, stub: Path, tries: Path, script: str) -> int:
    """The status of a goal with a shell script in pytest's place."""
    stub.write_text(script)
    given = ["PYTEST=sh " + str(stub), f"TRIES={tries}"]
    command = ["make", "--silent", "-o", "venv", goal, *given]
    return subprocess.run(command, cwd=ROOT, capture_output=True, check=False).returncode


def lists(tries: Path, stream: str) -> str:
    """Shell that leaves the list of what failed, as pytest does."""
    return f"mkdir -p {tries}/{stream}/v/cache; touch {tries}/{stream}/{LIST}; "


@pytest.mark.parametrize(
    ("script", "listed", "passes"),
    [
        ("exit 0", False, True),
        ("exit 1", True, True),
        ("exit 1", False, False),  # it broke before a test ran
        ("exit 2", True, False),
        ("exit 9", True, False),  # tests were skipped
    ],
)
def test_a_session_is_forgiven_only_for_tests_that_are_tried_again(
    script: str, listed: bool, passes: bool, tmp_path: Path
) -> None:
    for goal, streams in (("test-real", ["real"]), ("test-others", ["repo", "docker"])):
        for stream in streams:
            tries, name = tmp_path / goal / stream, f"cache_dir={tmp_path / goal / stream}/{stream}"
            here = f'case "$*" in *"{name}"*) {lists(tries, stream) if listed else ""}{script};; esac'
            assert (make(goal, tmp_path / "stub", tries, here) == 0) is passes


def test_simulated_tests_have_no_second_try(tmp_path: Path) -> None:
    script = 'case "$*" in *tests/unit*) exit 1;; esac'
    assert make("test-others", tmp_path / "stub", tmp_path / "tries", script) != 0


def test_what_fails_again_has_failed_and_what_never_failed_is_not_run(tmp_path: Path) -> None:
    stub, tries = tmp_path / "stub", tmp_path / "tries"
    assert make("test-again", stub, tries, "exit 1") == 0
    for stream in ("real", "repo", "docker"):
        (tries / stream / "v/cache").mkdir(parents=True)
        (tries / stream / LIST).touch()
        assert make("test-again", stub, tries, "exit 0") == 0
        assert make("test-again", stub, tries, f'case "$*" in *--last-failed*/{stream}) exit 1;; esac') != 0
