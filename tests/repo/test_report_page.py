"""`index.html` opened in a browser: it asks for nothing, complains about nothing, and answers to the mouse."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import zebra
from tests import browser
from zebra import RunSpec
from zebra.events import Event, History
from zebra.report import Report
from zebra.reports.html import html
from zebra.targets.owl import TARGET, test_owl

pytestmark = pytest.mark.skipif(not browser.program(), reason="Chromium is not installed")

LEFT, PLOT, WIDTH = 132.0, 1020.0, 1164.0  # of every picture over time, in its own units


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a planted bug's run on Owl and of the same run without it."""
    directory = tmp_path_factory.mktemp("report")
    for variant in ("bug.descendant", ""):
        spec = RunSpec(
            test="owl::mid_stream", target="owl", topology=TARGET.topology.with_counts({"tracker": 2, "peer": 6}),
            seed=1, variant=variant,
        )  # fmt: skip
        zebra.run(test_owl.test_source_crashes_mid_stream, spec, history=History(directory / "history.jsonl"))
    html(Report.load(directory))
    return directory / "index.html"


@pytest.fixture
def window(tmp_path: Path) -> Iterator[Any]:
    with browser.Browser(tmp_path / "profile") as opened:
        yield opened


def place(window: Any, selector: str) -> dict[str, float]:
    """Where an element is in the window, after scrolling there."""
    find = f"document.querySelector({json.dumps(selector)})"
    window.value(f"{find}.scrollIntoView({{block: 'center'}})")
    found: dict[str, float] = window.value(f"{find}.getBoundingClientRect().toJSON()")
    return found


def visible_ticks(window: Any) -> int:
    number: int = window.value("[...document.querySelectorAll('.run .tick')].filter(t => t.checkVisibility()).length")
    return number


def test_the_page_asks_for_nothing_and_logs_nothing(written: Path, window: Any) -> None:
    window.open(written)
    assert window.requests == [written.resolve().as_uri()]
    assert window.troubles == []
    assert window.value("document.querySelectorAll('.run svg.over-time').length") >= 4
    assert window.value("document.querySelectorAll('svg.graph .wrong').length") >= 2
    assert window.value("[...document.querySelectorAll('h2')].map(h => h.textContent)") == [
        "Runs",
        "What no run exercised",
        "What faults hit",
        "Timelines",
    ]


def test_the_violation_stands_at_the_event_that_broke_the_invariant(written: Path) -> None:
    broken = next(run for run in Report.load(written.parent).runs() if run.outcome == "fail")
    (violation,) = (event for event in broken.events if event.kind == "violation")
    last = max((event for event in broken.events if event.seq in violation["events"]), key=lambda event: event.seq)
    assert violation["found_s"] == last.t < violation.t
    page = written.read_text()
    assert f"owl.no_cycle at {last.t:.6f}".rstrip("0") in page
    assert page.count(f"zebra replay {broken.token}") == 1 and broken.token.startswith("zebra1.")


def test_a_page_that_asks_or_complains_is_noticed(tmp_path: Path, window: Any) -> None:
    canary = tmp_path / "canary.html"
    canary.write_text("<img src='http://127.0.0.1:9/x.png'><script>console.error('no'); missing();</script>")
    window.open(canary)
    assert window.requests == [canary.as_uri(), "http://127.0.0.1:9/x.png"]
    assert any("missing is not defined" in trouble for trouble in window.troubles)
    assert any("'no'" in trouble for trouble in window.troubles)


def test_a_drag_zooms_all_pictures_of_the_run_and_the_button_leads_back(written: Path, window: Any) -> None:
    window.open(written)
    before = visible_ticks(window)
    box = place(window, ".run svg[data-lanes]")
    unit, y = box["width"] / WIDTH, box["top"] + box["height"] / 2
    left, right = (box["left"] + unit * (LEFT + PLOT * share) for share in (0.25, 0.5))
    window.drag(left, y, right, y)
    end_s = window.value("Number(document.querySelector('svg[data-lanes]').dataset.to)")
    text = window.value("document.querySelector('.run .zoomed span').textContent")
    start, end = (float(word) for word in text.split() if word[0].isdigit())
    assert start == pytest.approx(end_s * 0.25, rel=0.02) and end == pytest.approx(end_s * 0.5, rel=0.02)
    assert visible_ticks(window) < before
    button = place(window, ".run .zoomed button")
    window.click(button["left"] + 5, button["top"] + 5)
    assert window.value("document.querySelector('.run .zoomed').hidden")
    assert visible_ticks(window) == before
    assert window.troubles == []


def test_a_click_on_a_lane_lists_its_events(written: Path, window: Any) -> None:
    window.open(written)
    box = place(window, ".run svg[data-lanes]")
    unit = box["width"] / WIDTH
    node, y = window.value(
        "(() => { const s = document.querySelector('svg[data-lanes]'); const [n, y] = JSON.parse(s.dataset.lanes)[1];"
        "return [JSON.parse(s.closest('.run').querySelector('script.events').textContent).nodes[n], y]; })()"
    )
    window.click(box["left"] + unit * (LEFT + 1), box["top"] + unit * (y + 6))
    shown = window.value("document.querySelector('#inspect').innerText")
    assert shown.startswith(node) and "node.ready" in shown
    button = place(window, "#inspect button")
    window.click(button["left"] + 5, button["top"] + 5)
    assert window.value("document.querySelector('#inspect').hidden")
    assert window.troubles == []


def test_a_click_on_a_colour_hides_its_events(written: Path, window: Any) -> None:
    window.open(written)
    name, before = window.value("document.querySelector('.run input').name"), visible_ticks(window)
    box = place(window, ".run input")
    window.click(box["left"] + 4, box["top"] + 4)
    run_ticks = f"[...document.querySelector('.run').querySelectorAll('.tick.{name}')]"
    assert window.value(f"{run_ticks}.length") > 0
    assert window.value(f"{run_ticks}.every(t => getComputedStyle(t).display === 'none')")
    assert visible_ticks(window) < before


ATTACKS = (
    "</script><script>window.hit = 1</script>",
    "<img src=x onerror='window.hit = 2'>",
    "'\"><svg onload=window.hit=3>",
    "</title></text></svg><iframe src='http://127.0.0.1:9/'></iframe>",
    "<!--<script>",
)


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_text_in_an_event_never_runs(written: Path, tmp_path: Path, window: Any, attack: str) -> None:
    """In names of nodes, faults, kinds and fields, in messages and in what is clicked on."""

    def tainted(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: tainted(inner) for name, inner in value.items()} | {attack: attack}
        if isinstance(value, list):
            return [tainted(inner) for inner in value]
        return value + attack if isinstance(value, str) else value

    with open(tmp_path / "history.jsonl", "wb") as file:
        for line in (written.parent / "history.jsonl").read_bytes().splitlines():
            event = Event.from_json(line)
            fields = {name: value if name == "outcome" else tainted(value) for name, value in event.fields.items()}
            fields["a"] = attack  # comes first
            kind = event.kind if event.kind.partition(".")[0] in ("run", "node", "violation") else event.kind + attack
            file.write(Event(event.seq, event.t, event.node and event.node + attack, kind, fields).to_json() + b"\n")
    html(Report.load(tmp_path))
    window.open(tmp_path / "index.html")
    box = place(window, ".run svg[data-lanes]")
    unit = box["width"] / WIDTH
    window.click(box["left"] + unit * (LEFT + 1), box["top"] + box["height"] / 2)
    assert f"a={attack}" in window.value("document.querySelector('#inspect li').textContent")
    assert window.value("window.hit") is None
    assert window.requests == [(tmp_path / "index.html").as_uri()]
    assert window.troubles == []
