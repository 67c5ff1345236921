"""What no run exercised, and which events the page's script gets when there are too many."""

from __future__ import annotations

import json
from typing import Any

import pytest

from zebra.campaign.result import Baselines, CampaignResult, ParameterResult, Trials
from zebra.events import Event
from zebra.report import Run
from zebra.reports.details import Details
from zebra.reports.gaps import Coverage, Gap
from zebra.reports.story import Story
from zebra.targets.owl import TARGET

Entry = tuple[float, str, dict[str, Any]]


def run(*entries: Entry, target: str = "nowhere", **end: Any) -> Run:
    events = [Event(0, 0.0, "", "run", {"target": target, "test": "t", "places": []})]
    events += [Event(number, t, "n-1", kind, fields) for number, (t, kind, fields) in enumerate(entries, 1)]
    return Run(events=[*events, Event(len(events), 9.0, "", "run.end", {"outcome": "pass"} | end)])


def missing(*runs: Run, campaign: CampaignResult | None = None) -> dict[str, list[tuple[str, str]]]:
    coverage = Coverage()
    for one in runs:
        coverage.see(one)
    found: list[Gap] = coverage.gaps(campaign)
    return {gap.title: gap.names for gap in found}


def fault(number: int, name: str, took_effect: bool) -> list[Entry]:
    return [
        (number, "fault.inject", {"id": number, "fault": name, "on": ["n-1"]}),
        (number + 0.5, "fault.heal", {"id": number, "hits": int(took_effect), "took_effect": took_effect}),
    ]


def campaign(*parameters: ParameterResult, **rest: Any) -> CampaignResult:
    return CampaignResult(
        target="owl", substrate="sim", seed=0, trials=Trials(), bound_bits=0.0, baselines=Baselines(),
        parameters=list(parameters), **rest,
    )  # fmt: skip


def test_a_run_that_exercised_all_leaves_no_gap() -> None:
    done: list[Entry] = [(1, "op.invoke", {"f": "get"}), (2, "op.ok", {"f": "get"})]
    assert missing(run(*done, *fault(3, "host.crash", True), exercised=["a"], unknown=[])) == {}


def test_an_invariant_is_missing_unless_some_run_exercised_it() -> None:
    first, second = run(unknown=["a", "b"], exercised=[]), run(unknown=["b"], exercised=["a"])
    assert missing(first, second) == {"Invariants that judged nothing": [("b", "")]}


def test_a_fault_without_effect_is_counted_among_all_its_injections() -> None:
    entries = [*fault(1, "network.loss", True), *fault(3, "network.loss", False), *fault(5, "host.crash", True)]
    assert missing(run(*entries)) == {"Faults without effect": [("network.loss", "1 of 2 times")]}


def test_operations_that_never_succeeded_are_named() -> None:
    tried: list[Entry] = [
        (1, "op.invoke", {"f": "put"}),
        (2, "op.unknown", {"f": "put"}),
        (3, "op.invoke", {"f": "get"}),
    ]
    assert missing(run(*tried), run((1, "op.invoke", {"f": "get"}), (2, "op.ok", {"f": "get"}))) == {
        "Operations that never succeeded": [("put", "1 tried")]
    }


def test_events_that_a_target_should_have_now_and_then_are_named() -> None:
    seen: list[Entry] = [(1, kind, {}) for kind in TARGET.sometimes[1:]]
    assert missing(run(*seen, target="owl")) == {"Never happened": [(TARGET.sometimes[0], "")]}


@pytest.mark.parametrize("target", ["", "no-such-target", ":", "a:b", "..:x", "zebra.no_module:TARGET"])
def test_a_target_that_is_not_to_be_found_does_no_harm(target: str) -> None:
    assert missing(run(target=target)) == {}


def test_a_campaign_names_what_it_did_not_decide() -> None:
    undecided = ParameterResult(name="p", verdict="undecided", note="budget spent")
    untested = ParameterResult(name="q", verdict="untested")
    safe = ParameterResult(name="r", verdict="safe", note="9 tests")
    found = missing(campaign=campaign(undecided, untested, safe, never=["k"], left_out=["test_x"], unexplained=2))
    assert found == {
        "Never happened": [("k", "")],
        "Parameters without a verdict": [("p", "undecided: budget spent"), ("q", "untested")],
        "Tests left out": [("test_x", "")],
        "Failures without a culprit": [("2 failures", "")],
    }


def details(size_bytes: int) -> tuple[dict[str, Any], list[str]]:
    entries: list[Entry] = [(t, "often", {"n": t}) for t in range(1, 9) for _ in range(50)]
    entries += [(2.5, "now.and.then", {"why": f"{n} <b>"}) for n in range(20)] + [(3.0, "once", {})]
    made = Details(Story(run(*sorted(entries, key=lambda e: e[0])).events), size_bytes)
    return json.loads(made.json), made.notes


def test_all_events_are_there_while_there_is_room() -> None:
    data, notes = details(100_000)
    assert data["complete"] and not notes
    assert [kind for kind, _ in data["kinds"]] == ["once", "now.and.then", "often"]
    assert len(data["events"]) == 421
    assert data["events"] == sorted(data["events"], key=lambda event: event[0])
    assert [2.5, 0, 1, "why=3 <b>"] in data["events"]


def test_the_fields_of_frequent_kinds_are_left_out_first_and_then_their_events() -> None:
    data, notes = details(21_000)
    assert data["complete"] and {len(event) for event in data["events"]} == {4}
    data, notes = details(1_200)
    assert not data["complete"] and len(data["events"]) == 21
    assert notes == ["400 events are in history.jsonl only: often"]
    data, notes = details(700)
    assert [event[2] for event in data["events"]] == [0]
    assert len(notes) == 1 and "420 events are in history.jsonl only" in notes[0]


def test_nothing_in_the_scripts_data_can_end_the_script() -> None:
    story = Story(run((1, "</script>", {"<!--": "&amp;\u2028"})).events)
    made = Details(story, 10_000)
    assert not set("<>&\u2028") & set(made.json)
    assert json.loads(made.json)["kinds"] == [["</script>", "k0"]]
