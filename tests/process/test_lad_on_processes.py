"""LAD's shipped scenarios, unchanged, on real processes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def test_every_scenario_of_lad_passes_on_processes(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--pyargs", "zebra.targets.lad"]
    options = ["--zebra-substrate=process", f"--zebra-report={tmp_path / 'report'}"]
    result = subprocess.run([*command, *options], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "16 passed" in result.stdout
