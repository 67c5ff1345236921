"""The benchmark of trials runs, and forked trials are faster than fresh processes by far, whatever the machine does."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "trials.py"


def test_forked_trials_are_faster_than_fresh_processes() -> None:
    command = [sys.executable, str(BENCHMARK), "--json", "--rounds", "1"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    rows = json.loads(result.stdout)
    loaded = {row["environment"]: row["plugins"] for row in rows}
    assert loaded.keys() == {"hypothesis", "autoload off"}
    assert "hypothesis" in loaded["hypothesis"] and loaded["autoload off"] == "none"
    assert len({row["workers"] for row in rows}) == 2 and len(rows) == 4
    assert all(row["ratio"] > 2 for row in rows), rows
