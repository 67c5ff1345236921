"""Projects as users have them: a folder with a target and a test, and sessions in it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from zebra.campaign.result import CampaignResult

DEPOT = (Path(__file__).parent / "quality" / "depot.py").read_text()
COUNTED = """
from pathlib import Path

import pytest
from depot import TARGET

@pytest.mark.zebra(TARGET, server=2)
async def test_store(cluster):
    with open(Path(__file__).with_name("runs.log"), "a") as log:
        log.write("run\\n")
    print("said by a trial")
    await cluster.client.round_trip("hello")
"""


def fill(folder: Path, test: str) -> Path:
    """The folder, with the target `depot` and this test in it."""
    (folder / "depot.py").write_text(DEPOT)
    (folder / "test_it.py").write_text(test)
    return folder


def runs(folder: Path) -> int:
    """How many runs the test COUNTED has begun, in all campaigns."""
    log = folder / "runs.log"
    return log.read_text().count("run") if log.exists() else 0


def environment(*folders: Path, **more: str) -> dict[str, str]:
    """An environment in which modules of these folders can be imported."""
    paths = [*map(str, folders), *filter(None, [os.environ.get("PYTHONPATH")])]
    made = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), **more}
    for name in ("ZEBRA_STEADY", "CI"):  # where CI is set, hypothesis draws the same for all seeds
        made.pop(name, None)
    return made


def start(folder: Path, *arguments: str, env: dict[str, str] | None = None) -> subprocess.Popen[str]:
    """The `zebra` command in a folder."""
    command = [sys.executable, "-m", "zebra.cli", *arguments]
    return subprocess.Popen(command, cwd=folder, env=env or environment(folder), stdout=subprocess.PIPE,
                            stderr=subprocess.STDOUT, text=True)  # fmt: skip


def zebra(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """What the `zebra` command comes to in a folder."""
    command = [sys.executable, "-m", "zebra.cli", *arguments]
    return subprocess.run(command, cwd=folder, env=environment(folder), capture_output=True, text=True, check=False)


def campaign(folder: Path, report: str = "zebra-report") -> Any:
    """The campaign.json that is in a folder."""
    return json.loads((folder / report / "campaign.json").read_text())


def decide(folder: Path, *options: str) -> tuple[CampaignResult, subprocess.CompletedProcess[str]]:
    """A campaign by a session of pytest in a folder: what it found, and what it said."""
    command = [sys.executable, "-m", "pytest", "-p", "zebra", "-p", "no:cacheprovider", "--zebra-campaign", *options]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    file = folder / "zebra-report" / "campaign.json"
    assert file.exists(), done.stdout + done.stderr
    return CampaignResult.load(file), done
