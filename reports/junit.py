"""`junit.xml` for CI servers, valid against Jenkins' junit-10 schema.

A campaign has one case per parameter, a session one per run. Nothing that failed or stayed open is ever skipped:
skipped are only parameters on which no verdict was possible, because they were not tested or their value is invalid.
"""

from __future__ import annotations

from collections.abc import Iterator

from junitparser import Error, Failure, JUnitXml, Skipped, TestCase, TestSuite
from junitparser.junitparser import FinalResult

from zebra.campaign.result import CampaignResult, ParameterResult
from zebra.report import Report, Run
from zebra.reports.wording import accepted, one_line, printable, ranked, rollout, severity, sites, situation

JUNIT = "junit.xml"
_RESULTS: dict[str, type[FinalResult]] = {
    "unsafe": Failure, "undecided": Error, "untested": Skipped, "invalid": Skipped,
}  # fmt: skip


def junit(report: Report) -> str:
    """Writes `junit.xml` and returns where."""
    campaign = report.campaign
    suite = TestSuite(one_line(f"zebra campaign {campaign.target}") if campaign is not None else "zebra")
    if campaign is not None:
        for name in ("target", "substrate", "seed", "error_rate"):
            suite.add_property(f"zebra.{name}", one_line(str(getattr(campaign, name))))
    suite.add_testcases(list(_parameters(campaign) if campaign is not None else map(_case, report.runs())))
    root = JUnitXml("zebra")
    root.add_testsuite(suite)  # not update_statistics(): its own count of skipped cases is not in the schema
    root.tests, root.failures, root.errors, root.time = suite.tests, suite.failures, suite.errors, suite.time
    path = report.directory / JUNIT
    root.write(str(path))
    return f"junit: {path}"


def _parameters(campaign: CampaignResult) -> Iterator[TestCase]:
    for parameter in ranked(campaign):
        case = TestCase(one_line(parameter.name), one_line(campaign.target))
        kind, text = _RESULTS.get(parameter.verdict), _explanation(parameter)
        if kind is not None and not accepted(parameter):
            case.result = _result(kind, parameter.verdict, text)
        elif accepted(parameter):
            case.system_out = f"accepted although {parameter.verdict}\n{text}"
        elif parameter.note:
            case.system_out = printable(parameter.note)
        yield case


def _explanation(p: ParameterResult) -> str:
    """The first line says what was seen, the last one replays it."""
    lines = [p.note or f"{p.verdict}: {' / '.join(p.values)}", situation(p), rollout(p) and f"roll-out: {rollout(p)}"]
    lines.append(sites(p) and f"read by {sites(p)}")
    if p.evidence is not None:
        lines.insert(0, p.evidence.violation)
        lines += [f"test: {p.evidence.test} ({p.evidence.outcome})", f"replay: zebra replay {p.evidence.replay}"]
    return printable("\n".join(line for line in lines if line))


def _case(run: Run) -> TestCase:
    path, bracket, example = run.test.partition("[")
    scope, _, name = path.replace("::", ":").rpartition(":")
    classname = scope.replace(".py:", ":").removesuffix(".py").replace("/", ".").replace(":", ".")
    case = TestCase(one_line(name + bracket + example), one_line(classname or "zebra"), round(run.duration_s, 3))
    if severity(run.outcome) < 2:
        replay = f"\nreplay: zebra replay {run.token}" if run.token else ""
        text = printable((run.message or run.outcome) + replay)
        case.result = _result(Failure if severity(run.outcome) == 0 else Error, run.outcome, text)
    return case


def _result(kind: type[FinalResult], name: str, text: str) -> FinalResult:
    result = kind(one_line(text.partition("\n")[0], 300), f"zebra.{name}")
    result.text = text
    return result
