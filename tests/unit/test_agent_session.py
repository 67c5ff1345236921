"""`--zebra-agent`: campaigns over tests that know nothing of zebra; docs/agent.md says what examples/agent holds."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.projects import decide
from zebra.campaign.result import ParameterResult

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "examples" / "agent").glob("*.py"))
FENCE = re.compile(r"^```python +(\S+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def run(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "-p", "zebra", "-p", "no:cacheprovider", "-p", "no:randomly", *options]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def campaign(folder: Path, agent: str, *options: str) -> tuple[dict[str, ParameterResult], str, int]:
    """The verdicts by parameter, what was said, and the exit code."""
    result, done = decide(folder, f"--zebra-agent={agent}", *options)
    return {p.name: p for p in result.parameters}, done.stdout, done.returncode


@pytest.fixture
def store(tmp_path: Path) -> Path:
    for file in FILES:
        shutil.copy(file, tmp_path)
    return tmp_path


def test_the_page_quotes_the_files() -> None:
    quoted = dict(FENCE.findall((ROOT / "docs" / "agent.md").read_text()))
    assert {name: text.strip() for name, text in quoted.items()} == {f.name: f.read_text().strip() for f in FILES}


def test_a_campaign_decides_tests_that_know_nothing_of_zebra_and_its_token_runs_again(store: Path) -> None:
    found, said, code = campaign(store, "store_adapter:ADAPTER")
    assert {name: result.verdict for name, result in found.items()} == {
        "store.encoding": "unsafe", "store.read_bytes": "safe"}, said  # fmt: skip
    assert code == 1
    unsafe = found["store.encoding"]
    assert unsafe.direction == "both" and unsafe.roles == ["client", "server"]
    lines = dict(enumerate((store / "store.py").read_text().splitlines(), 1))
    for role, sites in unsafe.sites.items():
        for site in sites:
            file, _, line = site.partition(":")
            assert file == "store.py" and "settings.encoding" in lines[int(line)], (role, site)
    assert unsafe.evidence is not None
    again = run(store, f"--zebra-replay={unsafe.evidence.replay}", "test_store.py")
    assert again.returncode == 1 and "1 failed" in again.stdout, again.stdout


def test_without_a_campaign_the_agent_says_who_reads_what(store: Path) -> None:
    done = run(store, "--zebra-agent=store_adapter:ADAPTER")
    assert done.returncode == 0
    assert "  store.encoding: client, server\n  store.read_bytes: client, server\n" in done.stdout


ADAPTER = """
from zebra.agent.adapters.environ import Environ
ADAPTER = Environ("app", {"APP_EARLY": 1, "APP_LATE": 1})
"""

UNCERTAIN = '''
"""Two parameters that both nodes read; one is read when the module is imported, too."""
import os
import pytest
from zebra import agent

EARLY = os.environ.get("APP_EARLY", "1")


def start(role: str) -> tuple[str, str]:
    with agent.node(role):
        return os.environ.get("APP_EARLY", "1"), os.environ.get("APP_LATE", "1")


@pytest.fixture
def nodes() -> list[tuple[str, str]]:
    return [start("server"), start("worker"), start("worker")]


def test_all_have_something(nodes: list[tuple[str, str]]) -> None:
    assert all(early and late for early, late in nodes)


def test_that_is_skipped() -> None:
    pytest.skip("not here")


class TestOwn:
    @pytest.mark.parametrize("late", ["3", "5"])
    def test_that_sets_it_itself(self, late: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("APP_LATE", late)
        own = {late, str(2 * int(late)), str(int(late) // 2)}
        assert {start("server")[1], start("worker")[1]} <= {*own, "0", "1", "2"}
'''


def test_parameters_read_at_import_are_never_safe_and_skipped_tests_are_named_and_no_problem(tmp_path: Path) -> None:
    (tmp_path / "test_app.py").write_text(UNCERTAIN)
    (tmp_path / "app_adapter.py").write_text(ADAPTER)
    found, said, code = campaign(tmp_path, "app_adapter:ADAPTER")
    early, late = found["app.APP_EARLY"], found["app.APP_LATE"]
    assert (early.verdict, late.verdict) == ("untested", "safe"), said
    assert "uncertain, test_app.py:7 reads it" in early.note
    assert "not run: test_app.py::test_that_is_skipped: skipped: " in said
    assert "left out" not in said and code == 0


def test_bad_input_is_one_line(store: Path) -> None:
    (store / "test_marked.py").write_text(
        "import pytest\n@pytest.mark.zebra('owl')\nasync def test_x(cluster):\n    pass\n"
    )
    for options, said in (
        (("--zebra-agent=dusk",), "zebra: --zebra-agent: agent 'dusk' is unknown"),
        (
            ("--zebra-agent=store:Settings",),
            "agent 'store:Settings' is not a zebra.agent.Adapter, it has",
        ),
        (
            ("--zebra-agent=store_adapter:ADAPTER",),
            "is for tests without the marker zebra, test_marked.py::test_x",
        ),
        (("--zebra-agent=store_adapter:ADAPTER", "-n2"), "zebra: --zebra-agent and xdist's -n do not mix"),
        (
            ("--zebra-agent=store_adapter:ADAPTER", "--zebra-campaign", "--zebra-executor=tcp://127.0.0.1:1"),
            "do not mix",
        ),
        (("--zebra-agent=store_adapter:ADAPTER", "--zebra-timeout=soon", "test_store.py"), "timeout: 'soon'"),
    ):
        done = run(store, *options)
        assert done.returncode == 4 and said in done.stderr, (options, done.stdout, done.stderr)
        assert "Traceback" not in done.stdout + done.stderr
