"""pytest-randomly, pytest-timeout and pytest-asyncio in the same session do no harm, to tests and to campaigns."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests import projects
from tests.projects import fill

TEST = """
import pytest
from depot import TARGET

@pytest.mark.zebra(TARGET, server=2)
async def test_first(cluster):
    await cluster.client.round_trip("hello")

@pytest.mark.zebra(TARGET, server=3)
async def test_second(cluster):
    await cluster.client.round_trip("hello")

@pytest.mark.zebra(TARGET, server=2)
async def test_third(cluster):
    await cluster.client.round_trip("hello")
"""
NONE = ("-p", "no:randomly", "-p", "no:timeout", "-p", "no:asyncio")
RANDOMLY = ("-p", "no:timeout", "-p", "no:asyncio")
TIMEOUT = ("-p", "no:randomly", "-p", "no:asyncio")
ASYNCIO = ("-p", "no:randomly", "-p", "no:timeout", "--asyncio-mode=auto",
           "-o", "asyncio_default_fixture_loop_scope=function")  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return fill(tmp_path, TEST)


def session(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "-v", "-W", "error", "-p", "no:cacheprovider", *arguments]
    env = projects.environment(folder, PYTHONHASHSEED="0", PYTEST_ADDOPTS="")
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)


def campaign(folder: Path, *arguments: str) -> Any:
    result = session(folder, "--zebra-campaign", "--zebra-params=depot.l*", *arguments)
    assert result.returncode in (0, 1), result.stdout + result.stderr
    return projects.campaign(folder)


def runs(folder: Path) -> list[tuple[str, int]]:
    """Test and seed of each run, in the order of the runs."""
    lines = (folder / "zebra-report" / "history.jsonl").read_text().splitlines()
    return [(event["test"], event["seed"]) for event in map(json.loads, lines) if event["kind"] == "run"]


def test_seeds_hang_on_no_order(folder: Path) -> None:
    orders = []
    for arguments in (NONE, (*RANDOMLY, "-p", "randomly", "--randomly-seed=1"), (*RANDOMLY, "--randomly-seed=5")):
        result = session(folder, *arguments)
        assert result.returncode == 0, result.stdout + result.stderr
        orders.append(runs(folder))
    assert len({tuple(order) for order in orders}) > 1, "the order was shuffled"
    assert len({frozenset(order) for order in orders}) == 1, "each test has the seed that it always has"


def test_a_campaign_is_the_same_in_whatever_order_tests_are_shuffled(folder: Path) -> None:
    expected = campaign(folder, *NONE)
    assert {p["verdict"] for p in expected["parameters"]} == {"safe", "unsafe"}
    assert campaign(folder, *RANDOMLY, "--randomly-seed=5") == expected


def test_a_campaign_is_the_same_with_asyncio_mode_auto(folder: Path) -> None:
    result = session(folder, *ASYNCIO)
    assert result.returncode == 0 and "3 passed" in result.stdout, result.stdout + result.stderr
    assert campaign(folder, *ASYNCIO) == campaign(folder, *NONE)


def test_an_async_test_without_the_marker_is_still_pytest_asyncios(folder: Path) -> None:
    with open(folder / "test_it.py", "a") as file:
        file.write("\nasync def test_plain():\n    import asyncio\n    assert asyncio.get_running_loop().time() > 0\n")
    result = session(folder, *ASYNCIO)
    assert result.returncode == 0 and "4 passed" in result.stdout, result.stdout + result.stderr


@pytest.mark.parametrize("method", ["signal", "thread"])
def test_a_time_limit_ends_a_trial(folder: Path, method: str) -> None:
    (folder / "test_it.py").write_text(f"""
import pytest
from depot import TARGET

@pytest.mark.timeout(2, method="{method}")
@pytest.mark.zebra(TARGET, server=2)
async def test_first(cluster):
    while len({{cluster.config_of(server).label for server in cluster.nodes("server")}}) > 1:
        pass
    await cluster.client.round_trip("hello")
""")
    found = campaign(folder, *TIMEOUT, "--zebra-params=depot.label")
    (label,) = found["parameters"]
    assert (label["verdict"], label["evidence"]["outcome"]) == ("unsafe", "hang" if method == "signal" else "crash")
    kept = (folder / "zebra-report" / "output" / "depot.label" / "trial.txt").read_text() if method == "thread" else ""
    assert method == "signal" or "Timeout" in kept, kept


def test_a_time_limit_that_is_not_reached_changes_nothing(folder: Path) -> None:
    assert campaign(folder, *TIMEOUT, "--timeout=100") == campaign(folder, *NONE)
