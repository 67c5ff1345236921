"""The smallest reporter: it shows nothing, and is where to start a reporter of your own."""

from __future__ import annotations

from zebra.report import Report


def noop(report: Report) -> str:
    """A reporter reads `report`, may write a file into `report.directory`, and returns text for the terminal."""
    return ""
