"""The page of all faults is what the code says, and the code says it of every fault."""

from __future__ import annotations

from pathlib import Path

from zebra.injection.describe import describe, refusals
from zebra.injection.fault import catalogue
from zebra.substrate.sim import SUBSTRATE

PAGE = Path(__file__).parents[2] / "docs" / "faults.md"


def test_the_page_is_up_to_date() -> None:
    assert PAGE.read_text() == describe(), "write it anew: python -m zebra.injection.describe > docs/faults.md"


def test_every_fault_has_a_row_with_its_settings_and_substrates() -> None:
    rows = {line.split("`")[1]: line for line in describe().splitlines() if line.startswith("| `")}
    shipped = [name for name, cls in catalogue().items() if cls.__module__.startswith("zebra.")]
    assert list(rows) == shipped
    for row in rows.values():
        level, _, about, substrates = (cell.strip() for cell in row.split("|")[2:6])
        assert level in ("application", "host", "network", "cluster")
        assert about.endswith(".")
        assert substrates
    assert "`spare=0` (number)" in rows["host.process_limit"]
    assert "`rate=10MB/s` (rate)" in rows["application.leak"]
    assert "sim" not in rows["host.process_limit"].split("|")[-2]


def test_a_cell_is_empty_for_a_reason() -> None:
    assert refusals("host.process_limit", SUBSTRATE) == ["a simulated node has one thread and starts no programs"]
    assert refusals("host.zombie", SUBSTRATE) == []

    class Poor:
        capabilities = ("links",)

    assert refusals("host.zombie", Poor) == ["it does not offer processes"]
