"""What holds for all tests: where ZEBRA_NO_SKIPS is set, as in CI, a skipped test fails the session.

ZEBRA_MAY_SKIP names the reasons for skips that this machine is excused for, separated by semicolons. Plugins that are
there to be tested beside (tests/repo/test_other_plugins.py) are off elsewhere, also in the sessions that tests start.
Tests are marked with what they need of the machine: `docker`, `netns` (namespaces), `server` (one that is not ours).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

pytest_plugins = ["pytester"]
os.environ.setdefault("PYTEST_ADDOPTS", "-p no:randomly -p no:timeout -p no:asyncio")

NEEDS = {"docker": "docker", "netns": "netns", "real": "server"}
"""The marker of each folder of tests; in a folder for all substrates a test's parameter tells."""

SKIPPED = 9
"""The exit status where tests were skipped that should have run. It is none of pytest's: failures have a second try."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: Sequence[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if not item.path.is_relative_to(here):  # a target's tests, run from this directory
            continue
        folder = item.path.relative_to(here).parts[0]
        given = item.callspec.params if isinstance(item, pytest.Function) and hasattr(item, "callspec") else {}
        words = {folder, *(map(str, given.values()) if folder in ("leftovers", "real") else ())}
        for word in sorted(words & NEEDS.keys()):
            item.add_marker(NEEDS[word])


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    reporter: Any = session.config.pluginmanager.get_plugin("terminalreporter")
    if not os.environ.get("ZEBRA_NO_SKIPS") or reporter is None:
        return
    excused = list(filter(None, os.environ.get("ZEBRA_MAY_SKIP", "").split(";")))
    skips = [str(report.longrepr) for report in reporter.stats.get("skipped", ())]
    if any(not any(reason in skip for reason in excused) for skip in skips):
        reporter.write_line("ZEBRA_NO_SKIPS is set, and tests were skipped: this machine is expected to run them all")
        session.exitstatus = SKIPPED
