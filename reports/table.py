"""What a campaign or a session found, as plain text for a terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from tabulate import tabulate

from zebra.campaign.result import CampaignResult, ParameterResult
from zebra.report import Report, Run
from zebra.reports import wording
from zebra.reports.wording import count, one_line

PASSED_MAX = 40  # passed runs beyond these are counted, not listed


def table(report: Report) -> str:
    """Returns the table of verdicts, or of runs without a campaign, and what it takes to reproduce each failure."""
    blocks = _campaign(report.campaign) if report.campaign is not None else _runs(report)
    return wording.printable("\n\n".join(block for block in blocks if block))


def _campaign(campaign: CampaignResult) -> Iterator[str]:
    heading = ("parameter", "verdict", "values", "roles", "direction", "requires", "trials", "risk", "note")
    rows = [_row(parameter) for parameter in wording.ranked(campaign)]
    yield _headline(campaign)
    yield _grid(heading, rows, (None, None, 28, 20, 20, 30, None, None, 44))
    yield "\n".join(_accounting(campaign))
    yield "\n".join(line for parameter in wording.ranked(campaign) for line in _finding(parameter))


def _headline(campaign: CampaignResult) -> str:
    """For example "owl on sim, seed 0: 4 parameters: 2 unsafe (1 accepted), 2 safe"."""
    parts = [
        f"{n} {verdict}" + (f" ({known} accepted)" if known else "") for verdict, n, known in wording.tally(campaign)
    ]
    counted = f"{count(len(campaign.parameters), 'parameter')}: {', '.join(parts) or 'nothing was tested'}"
    return f"{campaign.target} on {campaign.substrate}, seed {campaign.seed}: {counted}"


def _row(p: ParameterResult) -> tuple[str, ...]:
    values, roles, requires = " / ".join(p.values), ", ".join(p.roles), ", ".join(p.requires)
    direction = "rolling" if p.rolling else p.direction
    return p.name, wording.label(p), values, roles, direction, requires, str(p.trials), wording.risk(p), p.note


def _accounting(campaign: CampaignResult) -> Iterator[str]:
    trials, baselines = campaign.trials, campaign.baselines
    kinds = ("prerun", "pooled", "control", "confirm", "requires", "cached")
    yield f"{count(trials.total, 'trial')}: " + ", ".join(f"{getattr(trials, kind):,} {kind}" for kind in kinds)
    yield (
        f"the same verdicts one by one: {baselines.one_by_one:,} runs, by ZebraConf's procedure: "
        f"{baselines.zebraconf:,}; information bound: {campaign.bound_bits:.1f} bits (no search can do with fewer runs)"
    )
    if campaign.error_rate:
        yield f"stated error rate: {campaign.error_rate:g}"
    if campaign.reads_unseen:
        yield "what the servers read cannot be observed: each parameter counts as read by every node that has it"
    if campaign.rolling:
        yield f"rolling changes (by {campaign.rolling}): {count(campaign.rolled, 'case')}"
    for line in campaign.skipped:
        yield f"not run: {one_line(line)}"
    for line in campaign.not_rolling:
        yield f"no rolling changes in {one_line(line)}"
    if campaign.never:
        yield f"never happened, in any trial: {one_line(', '.join(campaign.never))}"


def _finding(p: ParameterResult) -> Iterator[str]:
    """The violation of a parameter that fails the campaign or is not valid, and the command that shows it again."""
    if p.evidence is None or wording.accepted(p) or p.verdict not in ("unsafe", "invalid"):
        return
    yield f"{p.name} {p.verdict} {wording.situation(p)}".rstrip() + f": {one_line(p.evidence.violation)}"
    if order := wording.rollout(p):
        yield f"  roll-out: {order}" + ("; the order matters" if wording.order_matters(p) else "")
    if p.sites:
        yield f"  read by {wording.sites(p)}"
    yield f"  replay: zebra replay {p.evidence.replay}"


def _runs(report: Report) -> Iterator[str]:
    rows, found, outcomes = list[tuple[str, ...]](), list[str](), Counter[str]()
    for run in report.runs():
        outcomes[run.outcome] += 1
        if wording.severity(run.outcome) < 2:
            found.append(_failure(run))
        if wording.severity(run.outcome) < 2 or outcomes["pass"] <= PASSED_MAX:
            rows.append(_run_row(run))
    if not rows:
        yield "no run was stored"
        return
    yield _grid(("test", "outcome", "run time", "message"), rows, (None, None, None, 60))
    if outcomes["pass"] > PASSED_MAX:
        yield f"{outcomes['pass'] - PASSED_MAX:,} more passed"
    yield f"{count(outcomes.total(), 'run')}: " + ", ".join(
        f"{number:,} {_counted(outcome)}" for outcome, number in outcomes.most_common()
    )
    yield "\n\n".join(found)


def _run_row(run: Run) -> tuple[str, ...]:
    message = one_line(run.message, 60)
    return run.test, wording.outcome_label(run.outcome), wording.time_text(run.duration_s), message


def _counted(outcome: str) -> str:
    return f"{outcome} (?)" if outcome in wording.UNCLEAR else outcome


def _failure(run: Run) -> str:
    message = run.message.replace("\n", "\n  ")
    replay = f"\n  replay: zebra replay {run.token}" if run.token else ""
    return f"{wording.outcome_label(run.outcome)}  {one_line(run.test)}\n  {message}{replay}"


def _grid(heading: tuple[str, ...], rows: list[tuple[str, ...]], widths: tuple[int | None, ...]) -> str:
    cells = [[one_line(cell) for cell in row] for row in rows]
    right = tuple("right" if name in ("trials", "risk", "run time") else "left" for name in heading)
    return tabulate(cells, headers=heading, maxcolwidths=list(widths), disable_numparse=True, colalign=right)
