"""pytest's whole protocol for one test, in a process forked for a trial: nothing of another trial is shared.

Source of the traps: ../shared/research/probes.md section 4.
"""

from __future__ import annotations

import random
import sys
from pathlib import Path

import pytest
from _pytest.runner import runtestprotocol

from zebra.campaign.server import capture_into


def run_protocol(item: pytest.Item, seed: int, directory: Path) -> list[pytest.TestReport]:
    """Run a test with the fixtures of every scope made for it alone; its reports are returned and told nobody else.

    What wraps pytest's protocol (time limits, warnings, faulthandler) is in force; what would run a failed test again
    is not. The test's output goes to the trial's, its `tmp_path` lies in `directory`, and what hypothesis and the
    module `random` draw follows from `seed`.
    """
    _keep_output(item.config, directory)
    _own_temporary_directory(item.config, directory)
    _seed_draws(seed, directory)
    protocol = _Protocol()
    item.config.pluginmanager.register(protocol)
    item.ihook.pytest_runtest_protocol(item=item, nextitem=None)
    return protocol.reports


def first_line_of(report: pytest.TestReport) -> str:
    """What went wrong, in a line."""
    crash = getattr(report.longrepr, "reprcrash", None)
    text = str(report.longrepr if crash is None else crash.message)
    return next(iter(text.strip().splitlines()), report.outcome)


class _Protocol:
    def __init__(self) -> None:
        self.reports: list[pytest.TestReport] = []

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> bool:
        self.reports = runtestprotocol(item, log=False, nextitem=None)
        return True


def _keep_output(config: pytest.Config, directory: Path) -> None:
    """The trial's output goes to its own file: pytest's is shared by all trials, and lost with one that is killed."""
    capture = config.pluginmanager.get_plugin("capturemanager")
    if capture is not None:
        capture.stop_global_capturing()
        capture._method = "no"
        capture.start_global_capturing()
        capture_into(directory)


def _own_temporary_directory(config: pytest.Config, directory: Path) -> None:
    factory = getattr(config, "_tmp_path_factory", None)
    if factory is not None:
        factory._basetemp = directory / "tmp"
        factory._basetemp.mkdir()


def _seed_draws(seed: int, directory: Path) -> None:
    random.seed(seed)
    if "hypothesis" in sys.modules:
        from hypothesis import core
        from hypothesis.configuration import set_hypothesis_home_dir

        core.global_force_seed = seed  # type: ignore[assignment]
        set_hypothesis_home_dir(directory / "hypothesis")
