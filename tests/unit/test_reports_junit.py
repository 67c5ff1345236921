"""`junit.xml`: valid against the schema that Jenkins has, whatever the texts, and never green by accident."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lxml import etree  # type: ignore[import-untyped]

from zebra.campaign.result import Baselines, CampaignResult, Evidence, ParameterResult, Trials, Verdict
from zebra.events import Event
from zebra.report import Report
from zebra.reports.junit import junit

SCHEMA = etree.XMLSchema(file=str(Path(__file__).parents[1] / "data" / "junit-10.xsd"))


def cases(directory: Path, result: CampaignResult | None = None) -> dict[str, Any]:
    """The cases of the file that `junit` writes, by name, after checking the file against the schema."""
    assert junit(Report(directory=directory, campaign=result)) == f"junit: {directory / 'junit.xml'}"
    root = etree.parse(str(directory / "junit.xml")).getroot()
    SCHEMA.assertValid(root)
    return {case.get("name"): case for case in root.iter("testcase")}


def kinds(case: Any) -> list[str]:
    return [child.tag for child in case]


def parameter(verdict: Verdict, text: str = "owl.integrity: wrong bytes", **rest: Any) -> ParameterResult:
    evidence = Evidence(test="test_owl.py::test_get", outcome="fail", violation=text, replay="zebra1.AAAA.01234567")
    values, note = ["crc32c", "sha256"], f"note {text}"
    name = rest.pop("name", f"owl.{verdict}")
    return ParameterResult(name=name, verdict=verdict, values=values, note=note, evidence=evidence, **rest)


def campaign(*parameters: ParameterResult, target: str = "owl") -> CampaignResult:
    return CampaignResult(
        target=target, substrate="sim", seed=0, trials=Trials(total=9), bound_bits=3.0, baselines=Baselines(),
        parameters=list(parameters),
    )  # fmt: skip


def write_runs(directory: Path, *runs: tuple[str, str, str]) -> None:
    """Stores runs of (test, outcome, message); without an outcome the run was cut off."""
    with open(directory / "history.jsonl", "wb") as file:
        for test, outcome, message in runs:
            file.write(Event(0, 0.0, "", "run", {"test": test}).to_json() + b"\n")
            if outcome:
                end = {"outcome": outcome, "message": message, "replay": "zebra1.AAAA.01234567"}
                file.write(Event(1, 12.34567, "", "run.end", end).to_json() + b"\n")


def test_each_verdict_has_its_result(tmp_path: Path) -> None:
    verdicts: list[Verdict] = ["unsafe", "undecided", "untested", "invalid", "safe"]
    known = parameter("unsafe", name="owl.known", accepted=True)
    found = cases(tmp_path, campaign(known, *map(parameter, verdicts)))
    assert {name: kinds(case) for name, case in found.items()} == {
        "owl.unsafe": ["failure"],
        "owl.undecided": ["error"],
        "owl.untested": ["skipped"],
        "owl.invalid": ["skipped"],
        "owl.safe": ["system-out"],
        "owl.known": ["system-out"],
    }
    assert {case.get("classname") for case in found.values()} == {"owl"}
    assert "accepted although unsafe" in found["owl.known"].findtext("system-out")
    failure = found["owl.unsafe"].find("failure")
    assert failure.get("message") == "owl.integrity: wrong bytes"
    assert failure.text.splitlines()[-1] == "replay: zebra replay zebra1.AAAA.01234567"
    suite = found["owl.safe"].getparent()
    assert [suite.get(name) for name in ("tests", "failures", "errors", "skipped")] == ["6", "1", "1", "2"]


def test_only_an_unsafe_parameter_can_be_accepted(tmp_path: Path) -> None:
    found = cases(tmp_path, campaign(parameter("undecided", accepted=True), parameter("untested", accepted=True)))
    assert [kinds(case) for case in found.values()] == [["error"], ["skipped"]]


@pytest.mark.parametrize(
    ("outcome", "kind"),
    [
        ("pass", []),
        *((outcome, ["failure"]) for outcome in ("fail", "hang", "crash", "slow", "invalid")),
        *((outcome, ["error"]) for outcome in ("inconclusive", "infrastructure", "")),
    ],
)
def test_each_outcome_of_a_run_has_its_result(tmp_path: Path, outcome: str, kind: list[str]) -> None:
    write_runs(tmp_path, ("test_owl.py::test_get", outcome, ""))
    assert kinds(cases(tmp_path)["test_get"]) == kind


@pytest.mark.parametrize(
    ("test", "classname", "name"),
    [
        ("targets/owl/test_owl.py::test_get", "targets.owl.test_owl", "test_get"),
        ("tests/test_a.py::TestB::test_c[x/y::z.py]", "tests.test_a.TestB", "test_c[x/y::z.py]"),
        ("zebra.targets.owl.scenarios:fanout", "zebra.targets.owl.scenarios", "fanout"),
        ("fanout", "zebra", "fanout"),
    ],
)
def test_names_come_from_the_test_id(tmp_path: Path, test: str, classname: str, name: str) -> None:
    write_runs(tmp_path, (test, "pass", ""))
    assert cases(tmp_path)[name].get("classname") == classname


def test_a_report_without_runs_is_valid(tmp_path: Path) -> None:
    assert cases(tmp_path) == {}


def test_control_characters_are_written_out(tmp_path: Path) -> None:
    write_runs(tmp_path, ("test_a", "fail", "red \x1b[31m nul \x00 \ufffe <tag> ]]>\nsecond line"))
    failure = cases(tmp_path)["test_a"].find("failure")
    assert failure.get("message") == r"red \x1b[31m nul \x00 \xfffe <tag> ]]>"
    assert failure.text.splitlines()[1:] == ["second line", "replay: zebra replay zebra1.AAAA.01234567"]


nasty = st.text(st.characters(codec="utf-8") | st.sampled_from("\x00\x0b\x1b\x7f\x85\ufffe\uffff\r\n\t<>&\"']"))


@settings(max_examples=40, deadline=None)
@given(text=nasty)
def test_any_text_gives_a_valid_file(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    directory = tmp_path_factory.getbasetemp()
    write_runs(directory, (f"a{text}", "fail", text), (text, "infrastructure", text))
    cases(directory)
    cases(directory, campaign(parameter("unsafe", text), parameter("undecided", text, name=text), target=text))
