"""A report: what one session left in its report directory, and the reporters that present it.

A reporter reads only what is stored (`history.jsonl`, `campaign.json`), so `zebra report DIR` can write it again.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from zebra.campaign.result import CampaignResult
from zebra.errors import ConfigError
from zebra.events import Event, read_runs

HISTORY, CAMPAIGN = "history.jsonl", "campaign.json"
OUTPUT = "output"
"""The folder of what nodes wrote in runs that failed: `output/<test or parameter>/<node>.stdout`."""


class Reporter(Protocol):
    """Presents a report: may write a file into `report.directory`, and returns text for the terminal ("" for none)."""

    def __call__(self, report: Report) -> str: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One stored run: its events begin with `run` (the RunSpec) and end, unless it was cut off, with `run.end`."""

    events: list[Event] = field(repr=False)

    @property
    def test(self) -> str:
        return str(self.events[0]["test"])

    @property
    def outcome(self) -> str:
        return str(self._end.get("outcome", "infrastructure")) if self._end else "infrastructure"

    @property
    def message(self) -> str:
        return str(self._end.get("message", "")) if self._end else "the run was cut off before its end"

    @property
    def token(self) -> str:
        """What `zebra replay` takes: a token, or the path of the file that holds it; "" for a run that passed."""
        return str(self._end.get("replay", "")).removeprefix("zebra replay ") if self._end else ""

    @property
    def duration_s(self) -> float:
        return self.events[-1].t

    @property
    def _end(self) -> Event | None:
        return self.events[-1] if self.events[-1].kind == "run.end" else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The stored results of one session; `campaign` is None when it was not a campaign."""

    directory: Path
    campaign: CampaignResult | None

    def runs(self) -> Iterator[Run]:
        """The stored runs in order; reads the file anew on each call."""
        path = self.directory / HISTORY
        if path.exists():
            for events in read_runs(path):
                yield Run(events=events)

    @classmethod
    def load(cls, directory: Path) -> Report:
        """The report in a directory; raises ConfigError when there is none or it is not readable."""
        campaign = directory / CAMPAIGN
        if not campaign.exists() and not (directory / HISTORY).exists():
            raise ConfigError(f"{directory}: no report here, expected {HISTORY} or {CAMPAIGN}")
        return cls(directory=directory, campaign=CampaignResult.load(campaign) if campaign.exists() else None)
