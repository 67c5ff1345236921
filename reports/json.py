"""`campaign.json` in its normal form: every field present, in the order of design section 12."""

from __future__ import annotations

from zebra.report import CAMPAIGN, Report


def json(report: Report) -> str:
    """Writes `campaign.json`; without a campaign there is nothing to write, since runs are in `history.jsonl`."""
    if report.campaign is None:
        return ""
    path = report.directory / CAMPAIGN
    report.campaign.save(path)
    return f"json: {path}"
