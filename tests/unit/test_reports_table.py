"""What the terminal shows, and the reporters that do little."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from zebra.campaign.result import Baselines, CampaignResult, Evidence, ParameterResult, Rollout, Trials, Verdict
from zebra.events import Event
from zebra.report import Report
from zebra.reports import wording
from zebra.reports.json import json
from zebra.reports.noop import noop
from zebra.reports.table import PASSED_MAX, table

TOKEN = "zebra1.AAAA.01234567"


def parameter(name: str, verdict: Verdict, **rest: Any) -> ParameterResult:
    rest = dict[str, Any](values=["4MiB", "256KiB"], trials=12) | rest
    if verdict in ("unsafe", "invalid"):
        rest["evidence"] = Evidence(test="test_a", outcome="fail", violation=f"{name} broke\nit", replay=TOKEN)
    return ParameterResult(name=name, verdict=verdict, **rest)


def campaign(*parameters: ParameterResult) -> CampaignResult:
    return CampaignResult(
        target="owl", substrate="sim", seed=7, bound_bits=31.4, error_rate=0.01, never=["owl.delegated"],
        trials=Trials(total=268, prerun=9, pooled=118, control=84, confirm=45, requires=12, cached=31),
        baselines=Baselines(zebraconf=742, one_by_one=1910), parameters=list(parameters),
    )  # fmt: skip


def shown(directory: Path, *parameters: ParameterResult) -> str:
    return table(Report(directory=directory, campaign=campaign(*parameters)))


def shown_runs(directory: Path, *runs: tuple[str, str, str]) -> str:
    """The table of runs of (test, outcome, message)."""
    with open(directory / "history.jsonl", "wb") as file:
        for test, outcome, message in runs:
            end = {"outcome": outcome, "message": message, "replay": TOKEN}
            for event in (Event(0, 0, "", "run", {"test": test}), Event(1, 12.5, "", "run.end", end)):
                file.write(event.to_json() + b"\n")
    return table(Report(directory=directory, campaign=None))


def test_verdicts_are_ranked(tmp_path: Path) -> None:
    verdicts: list[Verdict] = ["untested", "safe", "undecided", "invalid", "unsafe"]
    rows = [parameter(f"p.{verdict}", verdict) for verdict in verdicts]
    text = shown(tmp_path, parameter("p.known", "unsafe", accepted=True), *rows)
    names = ["p.unsafe", "p.known", "p.invalid", "p.undecided", "p.safe", "p.untested"]
    assert [line.split()[0] for line in text.splitlines()[4:10]] == names
    assert "6 parameters: 2 unsafe (1 accepted), 1 invalid, 1 undecided, 1 safe, 1 untested" in text
    assert "unsafe (accepted)" in text.splitlines()[5]


def test_a_row_shows_all_that_decides_a_roll_out(tmp_path: Path) -> None:
    needs = {"roles": ["peer"], "direction": "superpeer>peer", "requires": ["fault:host.crash", "a=b"]}
    text = shown(tmp_path, parameter("p.a", "unsafe", note="3 of 3 seeds", **needs))
    for part in ("4MiB / 256KiB", "superpeer>peer", "fault:host.crash, a=b", "12", "3 of 3 seeds"):
        assert part in text.splitlines()[4]
    assert "when superpeer holds 4MiB and peer holds 256KiB, given fault:host.crash and a=b" in text
    assert "roll-out: to 4MiB: all peer first, then superpeer; to 256KiB: all superpeer first, then peer" in text


def test_a_safe_parameter_has_its_residual_risk_in_a_column_of_its_own(tmp_path: Path) -> None:
    lines = shown(tmp_path, parameter("p.safe", "safe", risk=0.0123), parameter("p.bad", "unsafe")).splitlines()
    assert "risk" in lines[2].split()
    assert "1.2 %" in next(line for line in lines if line.startswith("p.safe"))
    assert "%" not in next(line for line in lines if line.startswith("p.bad"))


def test_a_rolling_change_says_which_order_is_safe_and_where_the_value_is_read(tmp_path: Path) -> None:
    rollouts = [
        Rollout(values=("256KiB", "4MiB"), order=["replica", "primary"], safe=True, runs=6),
        Rollout(values=("256KiB", "4MiB"), order=["primary", "replica"], safe=False, runs=1),
        Rollout(values=("4MiB", "256KiB"), order=["replica", "primary"], safe=False, runs=2),
    ]
    sites = {"primary": ["app/primary.py:7"], "replica": ["app/replica.py:9", "app/wire.py:3"]}
    text = shown(tmp_path, parameter("p.a", "unsafe", rolling=True, rollouts=rollouts, sites=sites))
    assert "rolling" in text.splitlines()[4]
    assert "while nodes change from 256KiB to 4MiB one after the other" in text
    assert "to 4MiB: replica first, then primary (6 runs passed), not primary first, then replica" in text
    assert "to 256KiB: no order is safe, each that was tried failed" in text and "the order matters" in text
    assert "read by primary: app/primary.py:7; replica: app/replica.py:9, app/wire.py:3" in text


def test_an_order_that_follows_from_the_direction_says_whether_it_was_tried() -> None:
    rollouts = [
        Rollout(values=("256KiB", "4MiB"), order=["replica", "primary"], safe=True, runs=6),
        Rollout(values=("4MiB", "256KiB"), order=["primary", "replica"], safe=False, runs=2),
    ]
    found = parameter("p.a", "unsafe", direction="primary>replica", rollouts=rollouts)
    assert wording.rollout(found) == (
        "to 4MiB: all replica first, then primary (6 rolling changes passed); "
        "to 256KiB: all primary first, then replica (but of 2 rolling changes one failed: no order is safe)"
    )
    assert wording.order_matters(found)
    both = parameter("p.a", "unsafe", direction="both")
    assert wording.rollout(both).startswith("no order is safe") and not wording.order_matters(both)


def test_tests_that_bear_no_rolling_restart_are_named(tmp_path: Path) -> None:
    found = campaign(parameter("p.a", "safe"))
    found = msgspec.structs.replace(found, rolling="restart", rolled=12, not_rolling=["t::a, x then y: fail: no"])
    text = table(Report(directory=tmp_path, campaign=found))
    assert "rolling changes (by restart): 12 cases" in text and "no rolling changes in t::a, x then y: fail: no" in text
    assert not any("rolling" in problem for problem in found.problems())
    assert any("no rolling change was tried" in p for p in msgspec.structs.replace(found, rolled=0).problems())


def test_findings_have_their_violation_and_the_command_that_replays_them(tmp_path: Path) -> None:
    known = parameter("p.known", "unsafe", accepted=True)
    text = shown(tmp_path, parameter("p.a", "unsafe"), parameter("p.b", "invalid"), known)
    assert text.count(f"replay: zebra replay {TOKEN}") == 2
    assert ": p.a broke it\n" in text
    assert "p.known broke" not in text


def test_trials_stand_beside_what_others_would_need(tmp_path: Path) -> None:
    text = shown(tmp_path, parameter("p.a", "safe"))
    assert "268 trials: 9 prerun, 118 pooled, 84 control, 45 confirm, 12 requires, 31 cached" in text
    for part in ("1,910 runs", "742", "31.4 bits", "error rate: 0.01", "never happened, in any trial: owl.delegated"):
        assert part in text


def test_where_reads_cannot_be_observed_it_is_said(tmp_path: Path) -> None:
    found = campaign(parameter("owl.chunk.size", "safe"))
    said = "what the servers read cannot be observed"
    assert said not in table(Report(directory=tmp_path, campaign=found))
    assert said in table(Report(directory=tmp_path, campaign=msgspec.structs.replace(found, reads_unseen=True)))


def test_runs_that_did_not_pass_are_told_in_full(tmp_path: Path) -> None:
    long = "owl.integrity: " + "wrong " * 30
    runs = [("t::a", "pass", ""), ("t::b", "fail", long + "\nbytes"), ("t::c", "infrastructure", "no docker")]
    text = shown_runs(tmp_path, *runs)
    assert "3 runs: 1 pass, 1 fail, 1 infrastructure (?)" in text
    assert f"fail  t::b\n  {long}\n  bytes\n  replay: zebra replay {TOKEN}" in text
    assert "? infrastructure  t::c\n  no docker" in text
    assert text.count("t::a") == 1
    assert "12.50 s" in text


def test_very_many_passed_runs_are_counted(tmp_path: Path) -> None:
    text = shown_runs(tmp_path, *[(f"t::{n}", "pass", "") for n in range(PASSED_MAX + 60)], ("t::bad", "hang", "stuck"))
    assert text.count("t::") == PASSED_MAX + 2
    assert "60 more passed" in text


def test_no_control_character_reaches_the_terminal(tmp_path: Path) -> None:
    evil = "\x1b[31mred\x07\r\x9b\u202e"
    texts = [shown_runs(tmp_path, (evil, "fail", evil)), shown(tmp_path, parameter(evil, "unsafe", note=evil))]
    for text in texts:
        assert text == wording.printable(text)
        assert r"\x1b[31mred\x07" in text


def test_a_report_without_runs_says_so(tmp_path: Path) -> None:
    assert table(Report(directory=tmp_path, campaign=None)) == "no run was stored"


def test_json_writes_every_field_and_reads_back(tmp_path: Path) -> None:
    result = campaign(parameter("p.a", "unsafe"), parameter("p.b", "safe"))
    path = tmp_path / "campaign.json"
    assert json(Report(directory=tmp_path, campaign=result)) == f"json: {path}"
    assert CampaignResult.load(path) == result
    first = msgspec.json.decode(path.read_bytes())["parameters"][0]
    assert set(first) >= {"name", "verdict", "roles", "values", "direction", "requires", "trials", "evidence"}


def test_json_and_noop_write_nothing_without_a_campaign(tmp_path: Path) -> None:
    report = Report(directory=tmp_path, campaign=None)
    assert [json(report), noop(report)] == ["", ""]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("time_s", "text"),
    [(0, "0 ms"), (0.00312, "3.12 ms"), (0.99996, "1000 ms"), (12.431, "12.43 s"), (119.97, "2 min 0.0 s")],
)
def test_times_read_well(time_s: float, text: str) -> None:
    assert wording.time_text(time_s) == text
