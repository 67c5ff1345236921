"""`index.html`: the whole report as one page that loads nothing from anywhere, to look at, print, mail and archive."""

from __future__ import annotations

import base64
import hashlib
from collections import Counter, defaultdict
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup

from zebra.campaign.result import CampaignResult
from zebra.report import Report, Run
from zebra.reports import story, wording
from zebra.reports.details import Details, lanes_json
from zebra.reports.exposure import Exposures
from zebra.reports.gaps import Coverage, known_target
from zebra.reports.graph import Graph, graphs
from zebra.reports.operations import Operations, operations
from zebra.reports.story import Story
from zebra.reports.timeline import Timeline

INDEX, SCRIPT = "index.html", "page.js.html.j2"
DRAWN_MAX = 24  # runs drawn, the failed ones first; every run is in the table
SHAPES_PER_RUN, SHAPES, DETAIL_BYTES = 6000, 24_000, 2_400_000
"""What bounds the page: shapes (about 150 bytes each) and events that the script may list, for all drawn runs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunView:
    """One run as the page shows it: its structure at the violation, a close-up, its operations, all of its lanes."""

    number: int
    run: Run
    story: Story
    graphs: list[Graph]
    operations: Operations | None
    timelines: list[tuple[str, Timeline]]
    details: Details
    notes: list[str]

    def lanes(self, timeline: Timeline) -> str:
        return lanes_json(timeline.lanes.items(), self.details.nodes)

    @property
    def spec(self) -> dict[str, Any]:
        return self.run.events[0].fields

    @property
    def assignment(self) -> list[tuple[str, list[tuple[str, list[str]]]]]:
        """Per parameter the values with the nodes that hold each."""
        rows = []
        for name, values in (self.spec.get("assignment") or {}).items():
            holders = defaultdict[str, list[str]](list)
            values = values if isinstance(values, dict) else {"*": values}
            for who, value in sorted(values.items(), key=lambda item: item[0] == "*"):
                rest = "all others" if len(values) > 1 else "all nodes"
                holders[str(value)].append(rest if who == "*" else str(who))
            rows.append((str(name), list(holders.items())))
        return rows


@dataclass(frozen=True, slots=True)
class Row:
    """What the table says of every run."""

    number: int
    test: str
    outcome: str
    message: str
    token: str
    duration_s: float
    target: str
    substrate: str
    seed: str


def html(report: Report) -> str:
    """Writes `index.html` and returns where."""
    rows, coverage, exposures = list[Row](), Coverage(), Exposures()
    for number, run in enumerate(report.runs(), 1):
        spec = run.events[0]
        about = (str(spec.get(name, "")) for name in ("target", "substrate", "seed"))
        rows.append(Row(number, run.test, run.outcome, run.message, run.token, run.duration_s, *about))
        coverage.see(run)
        exposures.see(run)
    rows.sort(key=lambda row: wording.severity(row.outcome))
    path = report.directory / INDEX
    script = (Path(__file__).parent / SCRIPT).read_text(encoding="utf-8")
    page = _template().render(
        campaign=report.campaign,
        rows=rows,
        outcomes=Counter(row.outcome for row in rows),
        views=_views(report, [row.number for row in rows[:DRAWN_MAX]]),
        by_token={row.token: row.number for row in rows[:DRAWN_MAX] if row.token},
        proven=_proven(report.campaign),
        gaps=coverage.gaps(report.campaign),
        coverage=coverage.summary if rows else "",
        exposures=exposures,
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        words=wording,
        moments=story,
        drawn_max=DRAWN_MAX,
    )
    path.write_text(page, encoding="utf-8")
    return f"html: {path}"


def _proven(campaign: CampaignResult | None) -> dict[str, list[str]]:
    """Per token the parameters that its run is the evidence for."""
    names = defaultdict[str, list[str]](list)
    for parameter in wording.ranked(campaign) if campaign is not None else []:
        if parameter.evidence is not None:
            names[parameter.evidence.replay].append(parameter.name)
    return names


def _views(report: Report, drawn: list[int]) -> list[RunView]:
    share = max(1, len(drawn))
    budget = min(SHAPES_PER_RUN, SHAPES // share)
    views = {
        number: _view(number, run, budget, DETAIL_BYTES // share)
        for number, run in enumerate(report.runs(), 1)
        if number in drawn
    }
    return [views[number] for number in drawn]


def _view(number: int, run: Run, budget: int, detail_bytes: int) -> RunView:
    told = Story(run.events)
    close, timelines = told.close_up(), list[tuple[str, Timeline]]()
    if close is not None:
        near = told.concerned(*close)
        near = near if len(near) <= 20 else told.witnesses()[:20]
        caption = f"Close-up, {story.moment(round(close[0], 3))} to {story.moment(round(close[1], 3))}"
        timelines.append((f"{caption}: the nodes concerned", Timeline(told, near, *close, budget // 4)))
    ops = operations(run.events)
    plot = Operations(told, ops, 0.0, told.end_s, budget // 4) if ops else None
    spent = sum(len(timeline.shapes) for _, timeline in timelines) + (len(plot.shapes) if plot is not None else 0)
    timelines.insert(0, ("Whole run", Timeline(told, told.nodes, 0.0, told.end_s, budget - spent)))
    drawn, note = _graphs(told, run)
    return RunView(
        number=number, run=run, story=told, graphs=drawn, operations=plot, timelines=timelines,
        details=Details(told, detail_bytes), notes=[note] if note else [],
    )  # fmt: skip


def _graphs(told: Story, run: Run) -> tuple[list[Graph], str]:
    """The structure at the violation where the target offers it, or why there is none."""
    name = str(run.events[0].get("target", ""))
    target = known_target(name) if told.violations else None
    if target is None or target.structure is None:
        return [], ""
    try:
        return list(graphs(told, run.events, target.structure)), ""
    except Exception as error:  # the target's code, and a history that anybody may have written
        return [], wording.one_line(f"The structure of {name} cannot be drawn: {type(error).__name__}: {error}", 300)


@cache
def _template() -> Any:
    """The template; every text that it shows is escaped, and characters that would not show are written out."""

    def visible(value: object) -> object:
        return wording.printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value

    loader = FileSystemLoader(Path(__file__).parent)
    environment = Environment(loader=loader, autoescape=True, finalize=visible, trim_blocks=True, lstrip_blocks=True)
    return environment.get_template("index.html.j2")
