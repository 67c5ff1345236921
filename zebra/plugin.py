"""The pytest plugin: `pytest -p zebra`. Thin, and inert until a test marked `zebra` is collected.

It imports nothing of the engine at start; `zebra.session` holds what a session with zebra tests needs.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from zebra.session import Session

OPTIONS: tuple[tuple[str, str, str], ...] = (
    ("substrate", "sim", "where nodes run (see `zebra list substrates`)"),
    ("docker-image", "", "substrate docker: the image of nodes' containers, if not this machine's own Python"),
    ("toxiproxy", "", "substrate process: URL of a Toxiproxy server that does what links suffer, on this machine"),
    ("seed", "0", "seed of the session, a number or `random`"),
    ("agent", "", "adapter that tells apart the nodes in one process; then unmarked tests take part, not marked ones"),
    ("params", "*", "campaign: only parameters whose names match this glob"),
    ("accept", "", "campaign: file of parameters accepted as unsafe, one a line (default: the target's own list)"),
    ("rules", "", "campaign: YAML file of further values, exclusions, constraints and profiles"),
    ("rolling", "", "campaign: also change values node by node while tests run, by `restart` or `reload`"),
    ("slow", "3", "campaign: a run fails that takes so many times what agreeing nodes take at most; 0 for never"),
    ("workers", "2", "campaign: trials at a time, more where the target sleeps more than it works"),
    ("budget", "", "campaign: wall time, such as 10min, or number of executions, such as '500 trials', to spend now"),
    ("executor", "", "campaign: address of a Dask scheduler, tcp://host:port, whose workers carry out the trials"),
    ("report", "zebra-report", "directory of the report"),
    ("spare", "", "selections that no fault may hit, such as 'tracker-1, dc(r1-dc1)'; it is refused before it acts"),
    ("at-once", "", "how many nodes faults may hit at a time"),
    ("timeout", "", "limit of run time per run, such as 10min (default: the marker's, or 600 s)"),
)


FLAGS: tuple[tuple[str, str], ...] = (
    ("resume", "campaign: go on with the one that was interrupted in the report directory"),
    ("incremental", "campaign: decide only what a change has touched since the one that is finished there"),
)


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("zebra", "zebra: clusters, mixed configurations, faults, invariants")
    for name, default, text in OPTIONS:
        group.addoption(
            f"--zebra-{name}", metavar=name.upper(), default=None, help=f"{text}; default {default or 'none'}"
        )
        parser.addini(f"zebra_{name.replace('-', '_')}", f"{text} (as --zebra-{name})", default=default)
    group.addoption("--zebra-serve", type=int, metavar="FD", default=None, help=argparse.SUPPRESS)
    for name, text in FLAGS:
        group.addoption(f"--zebra-{name}", action="store_true", help=text)
    group.addoption(
        "--zebra-campaign", action="store_true", help="decide which parameters are unsafe when nodes disagree"
    )
    group.addoption(
        "--zebra-replay", metavar="TOKEN", default=None, help="run again exactly what a token (or a file of one) says"
    )
    parser.addini("zebra_invariants", "invariants checked in every zebra test, by name", type="args", default=[])


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers",
        "zebra(target, *, topology, assignment, schedule, invariants, substrates, variant, timeout, errors, leaks, "
        "**counts): run the test on a cluster of the target, with so many nodes of each role",
    )
    if config.getoption("numprocesses", None):
        if config.getoption("--zebra-campaign"):
            raise pytest.UsageError("zebra: --zebra-campaign and xdist's -n do not mix, a campaign has --zebra-workers")
        if not hasattr(config, "workerinput"):
            for folder in ("parts", "replays", "output"):  # what workers will write, before any of them does
                shutil.rmtree(_parts(config).with_name(folder), ignore_errors=True)


def _parts(config: pytest.Config) -> Path:
    """Where xdist's workers leave their histories."""
    given = config.getoption("--zebra-report")
    return Path(config.getini("zebra_report") if given is None else given) / "parts"


_KEY: pytest.StashKey[Any] = pytest.StashKey()


def pytest_sessionstart(session: pytest.Session) -> None:
    """An agent has to be on before the tests are imported, and what they test."""
    config = session.config
    if config.getoption("--zebra-agent") or config.getini("zebra_agent") or config.getoption("--zebra-replay"):
        session_of(config).begin_agent()


def session_of(config: pytest.Config) -> Session:
    """The zebra session of a pytest session, made on first use."""
    if _KEY not in config.stash:
        from zebra.session import Session

        config.stash[_KEY] = Session(config)
    session: Session = config.stash[_KEY]
    return session


@pytest.fixture
def cluster() -> Any:
    """The running target of a test marked `zebra`; a handle until the test's call begins."""
    return None


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    marked = [item for item in items if item.get_closest_marker("zebra") is not None]
    if marked or _KEY in config.stash or config.getoption("--zebra-campaign"):
        session_of(config).collected(items, marked)


def pytest_runtestloop(session: pytest.Session) -> bool | None:
    if session.config.getoption("--zebra-campaign") and not session.config.option.collectonly:
        if session.testsfailed:
            raise session.Interrupted(f"{session.testsfailed} error(s) during collection")
        return session_of(session.config).campaign(session)
    return None


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    if _KEY not in item.config.stash:
        yield
        return
    with session_of(item.config).under_agent(item):
        yield


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    if pyfuncitem.get_closest_marker("zebra") is None:
        return None
    session_of(pyfuncitem.config).call(pyfuncitem)
    return True


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    outcome: Any = yield
    if call.when == "call" and _KEY in item.config.stash:
        session_of(item.config).annotate(item, outcome.get_result())


def pytest_report_teststatus(report: Any) -> tuple[str, str, str] | None:
    result = getattr(report, "zebra_result", "")
    if report.when == "call" and result in ("inconclusive", "infrastructure"):
        return result, "?", result.upper()
    return None


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    if _KEY in config.stash or (config.getoption("numprocesses", None) and _parts(config).exists()):
        session_of(config).summary(terminalreporter)


def pytest_unconfigure(config: pytest.Config) -> None:
    if _KEY in config.stash:
        session_of(config).close()
        session_of(config).end_agent()
