"""What holds for all tests: where ZEBRA_NO_SKIPS is set, as in CI, a skipped test fails the session.

ZEBRA_MAY_SKIP names the one reason for skips that this machine is excused for.
"""

from __future__ import annotations

import os
from typing import Any

import pytest

pytest_plugins = ["pytester"]


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    reporter: Any = session.config.pluginmanager.get_plugin("terminalreporter")
    if not os.environ.get("ZEBRA_NO_SKIPS") or reporter is None:
        return
    excused = os.environ.get("ZEBRA_MAY_SKIP")
    if any(not excused or excused not in str(report.longrepr) for report in reporter.stats.get("skipped", ())):
        reporter.write_line("ZEBRA_NO_SKIPS is set, and tests were skipped: this machine is expected to run them all")
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
