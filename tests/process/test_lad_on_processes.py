"""LAD's shipped scenarios, unchanged, on real processes."""

from __future__ import annotations

from pathlib import Path

from tests.scenarios import pass_in_a_session


def test_every_scenario_of_lad_passes_on_processes(tmp_path: Path) -> None:
    pass_in_a_session("lad", "process", tmp_path, count=16)
