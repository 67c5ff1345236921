"""The command that makes the table of docs/leftovers.md."""

from __future__ import annotations

import json
import subprocess
import sys


def test_kinds_alone_are_killed_as_often_as_asked_several_at_a_time() -> None:
    options = ["--alone", "--kills", "2", "--way", "zebra", "--only", "links r", "--jobs", "3", "--json"]
    said = subprocess.run([sys.executable, "-m", "tests.leftovers", *options], stdout=subprocess.PIPE, text=True)
    assert said.returncode == 0
    rows = json.loads(said.stdout)
    assert [row["case"].split("=")[0] for row in rows] == ["links reject", "links reorder", "links reset", "links rate"]
    assert all(row["kills"] == row["clean"] == 2 and not row["left"] for row in rows)


def test_nothing_to_kill_is_no_success() -> None:
    said = subprocess.run([sys.executable, "-m", "tests.leftovers", "--only", "no such kind"], stdout=subprocess.PIPE)
    assert said.returncode == 1
