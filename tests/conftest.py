"""What holds for all tests: where ZEBRA_NO_SKIPS is set, as in CI, a skipped test fails the session."""

from __future__ import annotations

import os
from typing import Any

import pytest

pytest_plugins = ["pytester"]


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    reporter: Any = session.config.pluginmanager.get_plugin("terminalreporter")
    if os.environ.get("ZEBRA_NO_SKIPS") and reporter is not None and reporter.stats.get("skipped"):
        reporter.write_line("ZEBRA_NO_SKIPS is set, and tests were skipped: this machine is expected to run them all")
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
