"""Rules, rolling changes and oracles as a user asks for them: options, markers, one-line errors."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.projects import DEPOT, campaign, fill, zebra

TEST = """
import pytest
from depot import TARGET

@pytest.mark.zebra(TARGET, server=2, errors=["panic"], leaks=True)
async def test_store(cluster):
    await cluster.client.round_trip("hello")
"""
RULES = """\
values:
  depot.cache: [99]
exclude:
  depot.retries: {0: turns retries off}
profiles:
  depot.style:
    usual: {}
    new: {depot.digest: adler, depot.label: b}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    fill(tmp_path, TEST)
    (tmp_path / "rules.yaml").write_text(RULES)
    return tmp_path


def found(folder: Path) -> dict[str, dict[str, object]]:
    return {p["name"].removeprefix("depot."): p for p in campaign(folder)["parameters"]}


def test_a_file_of_rules_adds_a_profile_that_is_searched_reported_and_replayed(folder: Path) -> None:
    result = zebra(folder, "campaign", "test_it.py", "--rules", "rules.yaml", "--params", "depot.[srcb]*", "-q")
    assert result.returncode == 1, result.stdout + result.stderr
    verdicts = {name: p["verdict"] for name, p in found(folder).items()}
    assert verdicts == {"style": "unsafe", "salt": "unsafe", "retries": "safe", "cache": "safe", "broken": "invalid"}
    assert "not tried: 0 (turns retries off)" in str(found(folder)["retries"]["note"])
    assert found(folder)["style"]["values"] in (["new", "usual"], ["usual", "new"])
    evidence = found(folder)["style"]["evidence"]
    assert isinstance(evidence, dict)
    again = zebra(folder, "replay", evidence["replay"])
    assert again.returncode == 1 and "the check does not match" in again.stdout + again.stderr


def test_rolling_changes_that_no_test_bears_are_a_problem_and_no_verdict(folder: Path) -> None:
    result = zebra(folder, "campaign", "test_it.py", "--rolling", "reload", "--params", "depot.cache", "-q")
    assert result.returncode == 1, result.stdout + result.stderr
    assert "no rolling change was tried" in result.stdout and "has no `reload(config)`" in result.stdout
    assert found(folder)["cache"]["verdict"] == "safe"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--rules", "missing.yaml"), "cannot read missing.yaml"),
        (("--rules", "bad.yaml"), "bad.yaml:2: parameter 'depot.dgest' is unknown, did you mean depot.digest?"),
        (("--rolling", "sideways"), "--zebra-rolling: 'sideways' is neither `restart` nor `reload`"),
        (("--slow", "fast"), "--zebra-slow: 'fast' is neither a number above 1 nor 0"),
        (("--slow", "0.5"), "--zebra-slow: '0.5' is neither a number above 1 nor 0"),
    ],
)
def test_an_option_that_cannot_be_is_one_line(folder: Path, arguments: tuple[str, ...], message: str) -> None:
    (folder / "bad.yaml").write_text("values:\n  depot.dgest: [crc]\n")
    result = zebra(folder, "campaign", "test_it.py", *arguments)
    assert result.returncode == 2, result.stdout + result.stderr
    assert message in result.stdout + result.stderr and "Traceback" not in result.stdout + result.stderr


def test_a_pattern_in_a_marker_that_is_none_is_one_line(folder: Path) -> None:
    (folder / "test_it.py").write_text(TEST.replace("panic", "("))
    result = zebra(folder, "campaign", "test_it.py")
    assert result.returncode == 2, result.stdout + result.stderr
    assert "errors: '(' is not a regular expression" in result.stdout + result.stderr


def test_a_test_that_leaves_a_task_behind_by_itself_is_left_out_by_name(folder: Path) -> None:
    (folder / "depot.py").write_text(
        DEPOT.replace("        self.rpc = Rpc", "        import asyncio\n        self.t = asyncio.create_task("
                      "asyncio.sleep(1e6))\n        self.rpc = Rpc")
    )  # fmt: skip
    (folder / "test_it.py").write_text(TEST + TEST.replace("test_store", "test_lax").replace(", leaks=True", ""))
    result = zebra(folder, "campaign", "test_it.py", "--params", "depot.cache", "-q")
    assert result.returncode == 1, result.stdout + result.stderr
    assert "left out, does not pass on its own: test_it.py::test_store: fail: zebra.leaks" in result.stdout
    assert found(folder)["cache"]["verdict"] == "safe"
