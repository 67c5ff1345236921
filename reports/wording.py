"""The words and the order in which all reporters present verdicts and outcomes."""

from __future__ import annotations

import re

from zebra.campaign.result import CampaignResult, ParameterResult, Rollout, Verdict

VERDICTS: tuple[Verdict, ...] = ("unsafe", "invalid", "undecided", "safe", "untested")
UNCLEAR = ("inconclusive", "infrastructure")

# What XML 1.0 forbids, what a terminal obeys, and what turns the direction of writing round.
_UNPRINTABLE = re.compile("[^\t\n -~\u00a0-\u2029\u202f-\u2065\u206a-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def printable(text: str) -> str:
    """The text with each character that could harm a terminal or an XML file written out, as in `\\x1b`."""
    return _UNPRINTABLE.sub(lambda match: f"\\x{ord(match[0]):02x}", text)


def one_line(text: str, width: int = 1000) -> str:
    """The printable text on one line of at most `width` characters."""
    line = " ".join(printable(text).split())
    return line if len(line) <= width else line[: width - 1] + "…"


def ranked(campaign: CampaignResult) -> list[ParameterResult]:
    """The parameters with the worst verdicts first; of the unsafe ones those that nobody accepted."""
    return sorted(campaign.parameters, key=lambda p: (VERDICTS.index(p.verdict), accepted(p), p.name))


def accepted(parameter: ParameterResult) -> bool:
    """Only an unsafe parameter can be accepted: any other verdict stays what it is."""
    return parameter.accepted and parameter.verdict == "unsafe"


def tally(campaign: CampaignResult) -> list[tuple[Verdict, int, int]]:
    """How many parameters have each verdict that occurs, and how many of those the user has accepted."""
    found = {verdict: [p for p in campaign.parameters if p.verdict == verdict] for verdict in VERDICTS}
    return [(verdict, len(ps), sum(map(accepted, ps))) for verdict, ps in found.items() if ps]


def label(parameter: ParameterResult) -> str:
    """The verdict, with a remark when the user has accepted it."""
    return f"{parameter.verdict} (accepted)" if accepted(parameter) else parameter.verdict


def situation(parameter: ParameterResult) -> str:
    """Which disagreement is unsafe: "when peer holds 4MiB and superpeer holds 256KiB"; "" unless two values clash.

    Of a parameter that shows in rolling changes only, which change is unsafe.
    """
    if parameter.verdict != "unsafe" or len(parameter.values) != 2:
        return ""
    (a, b), (x, arrow, y) = parameter.values, parameter.direction.partition(">")
    needed = f", given {' and '.join(parameter.requires)}" if parameter.requires else ""
    if parameter.rolling:
        return f"while nodes change from {b} to {a} one after the other{needed}; mixtures that last passed"
    if arrow:
        return f"when {x} holds {a} and {y} holds {b}{needed}; the reverse passed"
    return f"when some nodes hold {a} and others {b}, either way round{needed}"


def rollout(parameter: ParameterResult) -> str:
    """In which order nodes may change the value one after the other; "" when no order is called for."""
    if not situation(parameter):
        return ""
    if parameter.rolling:
        targets = dict.fromkeys(rollout.values[1] for rollout in parameter.rollouts)
        found = "; ".join(_tried(to, parameter.rollouts) for to in targets)
        return found or "no order is known to be safe: change all nodes at once, while they are stopped"
    (a, b), (x, arrow, y) = parameter.values, parameter.direction.partition(">")
    if arrow:
        to_a, to_b = (_confirmed(to, parameter.rollouts) for to in (a, b))
        return f"to {a}: all {y} first, then {x}{to_a}; to {b}: all {x} first, then {y}{to_b}"
    return "no order is safe: change all nodes at once, while they are stopped"


def _confirmed(to: str, rollouts: list[Rollout]) -> str:
    """What became of the order that follows from the direction, where it was tried."""
    for rollout in rollouts:
        if rollout.values[1] == to:
            runs = count(rollout.runs, "rolling change")
            return f" ({runs} passed)" if rollout.safe else f" (but of {runs} one failed: no order is safe)"
    return ""


def _tried(to: str, rollouts: list[Rollout]) -> str:
    """What rolling changes to a value came to: "to 2: replica first, then primary (6 runs passed)"."""
    safe = [r for r in rollouts if r.values[1] == to and r.safe]
    unsafe = [r for r in rollouts if r.values[1] == to and not r.safe]
    if not safe:
        return (
            f"to {to}: no order is safe, each that was tried failed: change all nodes at once, while they are stopped"
        )
    orders = " or ".join(f"{_order(r)} ({count(r.runs, 'run')} passed)" for r in safe)
    return f"to {to}: {orders}" + (f", not {' or '.join(map(_order, unsafe))}" if unsafe else "")


def _order(rollout: Rollout) -> str:
    first, *rest = rollout.order
    return f"{first} first, then {', then '.join(rest)}" if rest else f"{first}, node by node"


def order_matters(parameter: ParameterResult) -> bool:
    """Whether a change is safe in one order of the roles and not in another."""
    if parameter.rolling:
        outcomes = {(r.values[1], r.safe) for r in parameter.rollouts}
        return any((to, True) in outcomes and (to, False) in outcomes for to, _ in outcomes)
    return ">" in parameter.direction


def risk(parameter: ParameterResult) -> str:
    """The residual risk of a verdict of safe: "0.4 %"; "" for others."""
    return f"{100 * parameter.risk:.2g} %" if parameter.verdict == "safe" else ""


def sites(parameter: ParameterResult) -> str:
    """Where the code of each role reads a parameter: "peer: app/peer.py:12; hub: app/hub.py:7"; "" if nobody knows."""
    return "; ".join(f"{role}: {', '.join(places)}" for role, places in parameter.sites.items())


def severity(outcome: str) -> int:
    """0 for a failed run, 1 for one that could not be decided, 2 for one that passed."""
    return 2 if outcome == "pass" else 1 if outcome in UNCLEAR else 0


def outcome_label(outcome: str) -> str:
    """The outcome, with `?` before one that decides nothing."""
    return f"? {outcome}" if outcome in UNCLEAR else outcome


def count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def time_text(time_s: float) -> str:
    """Run time as a person would write it: "3.2 ms", "12.43 s", "9 min 41.5 s"."""
    milliseconds = time_s * 1000
    if time_s < 1:
        return f"{round(milliseconds, 1 if milliseconds >= 10 else 3):g} ms"
    if time_s < 60:
        return f"{time_s:.2f} s"
    minutes, tenths = divmod(round(time_s * 10), 600)
    return f"{minutes} min {tenths / 10:.1f} s"
