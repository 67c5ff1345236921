"""The claims of the LAD paper come out at a small scale too, from real runs: what benchmarks/lad.py --quick prints."""

from __future__ import annotations

import lad

ROWS = {"subscribers", "update_size", "latency", "more_files", "herd", "write_stall", "planes", "links", "stages"}
REPORTED_ONLY = {"stages"}


def test_every_claim_is_reproduced_at_a_small_scale() -> None:
    rows = {row.name: row for row in lad.measure(list(lad.CLAIMS), quick=True)}
    assert set(rows) == ROWS
    for row in rows.values():
        assert row.reproduced is (None if row.name in REPORTED_ONLY else True), lad.show(row)


def test_claim_that_does_not_come_out_is_shown_as_such() -> None:
    row = lad.Row(
        name="n", claim="c", source="s", result="r", reproduced=False, why="it was slow", numbers={}, wall_s=1.0
    )
    assert "NOT reproduced (it was slow)" in lad.show(row)
