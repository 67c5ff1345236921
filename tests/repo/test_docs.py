"""Samples in the documentation run: files named in a fence are written, lines after `$` executed, examples quoted."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    [
        ROOT / "README.md",
        *(ROOT / "docs").glob("*.md"),
        *(ROOT / "targets").glob("*/README.md"),
        ROOT / "CONTRIBUTING.md",
    ]
)
FENCE = re.compile(r"^```(\w+)?(?: +(\S+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
QUOTE = re.compile(r"<!-- (examples/\S+) -->\n```\w+\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)#\s]+)\)")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_samples_of_a_page_run(page: Path, tmp_path: Path) -> None:
    for language, name, text in FENCE.findall(page.read_text()):
        if language == "python" and name:
            (tmp_path / name).write_text(text)
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    for language, _, text in FENCE.findall(page.read_text()):
        for line in text.splitlines():
            if language == "console" and line.startswith("$ "):
                result = subprocess.run(
                    shlex.split(line[2:]), cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
                )
                assert result.returncode == 0, f"{line}\n{result.stdout}\n{result.stderr}"
    tests = sorted(str(path) for path in tmp_path.glob("test_*.py"))
    if tests:
        command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-W", "error", *tests]
        result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_quoted_examples_are_what_the_files_hold(page: Path) -> None:
    for name, text in QUOTE.findall(page.read_text()):
        assert (ROOT / name).read_text().strip() == text.strip(), name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for link in LINK.findall(page.read_text()):
        if not link.startswith("http"):
            assert (page.parent / link).exists(), link


@pytest.mark.parametrize("example", sorted((ROOT / "examples").glob("*.py")), ids=lambda path: path.name)
def test_examples_run(example: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "--zebra-report",
        os.devnull + "-report",
        str(example),
    ]
    command = [sys.executable, str(example)] if not example.name.startswith("test_") else command
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


def test_nothing_in_the_tree_names_this_machine() -> None:
    names = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files"], check=True, capture_output=True, text=True
    ).stdout.splitlines()
    bad = re.compile(r"/(?:work|root)/|farm-(?:studio|bench)")
    for name in names:
        path = ROOT / name
        if path.is_file() and path.suffix in (".py", ".md", ".toml", ".txt", ".j2", "") and path != Path(__file__):
            assert not bad.search(path.read_text(errors="replace")), name
