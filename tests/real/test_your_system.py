"""docs/your-system.md and examples/your_system say the same, and its campaign finds what the page says."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from tests.projects import decide

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "examples" / "your_system").glob("*.py"))
FENCE = re.compile(r"^```python +(\S+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def test_the_page_quotes_the_files() -> None:
    quoted = dict(FENCE.findall((ROOT / "docs" / "your-system.md").read_text()))
    assert {name: text.strip() for name, text in quoted.items()} == {f.name: f.read_text().strip() for f in FILES}


def test_the_target_has_forty_lines() -> None:
    lines = [line for line in (ROOT / "examples" / "your_system" / "notes.py").read_text().splitlines() if line.strip()]
    assert len([line for line in lines if not line.startswith(("import", "from", '"""'))]) <= 40


@pytest.mark.parametrize(("parameter", "verdict"), [("notes.max_length", "unsafe"), ("notes.retry_s", "safe")])
def test_the_campaign_decides_as_the_page_says(tmp_path: Path, parameter: str, verdict: str) -> None:
    for file in FILES:
        shutil.copy(file, tmp_path)
    result, done = decide(tmp_path, f"--zebra-params={parameter}", "--zebra-workers=8", "test_notes.py")
    [found] = result.parameters
    assert found.verdict == verdict, done.stdout
    assert done.returncode == (verdict == "unsafe")
