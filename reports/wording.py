"""The words and the order in which all reporters present verdicts and outcomes."""

from __future__ import annotations

import re

from zebra.campaign.result import CampaignResult, ParameterResult, Verdict

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
    """Which disagreement is unsafe: "when peer holds 4MiB and superpeer holds 256KiB"; "" unless two values clash."""
    if parameter.verdict != "unsafe" or len(parameter.values) != 2:
        return ""
    (a, b), (x, arrow, y) = parameter.values, parameter.direction.partition(">")
    needed = f", given {' and '.join(parameter.requires)}" if parameter.requires else ""
    if arrow:
        return f"when {x} holds {a} and {y} holds {b}{needed}; the reverse passed"
    return f"when some nodes hold {a} and others {b}, either way round{needed}"


def rollout(parameter: ParameterResult) -> str:
    """In which order nodes may change the value one after the other; "" when no order is called for."""
    if not situation(parameter):
        return ""
    (a, b), (x, arrow, y) = parameter.values, parameter.direction.partition(">")
    if arrow:
        return f"to {a}: all {y} first, then {x}; to {b}: all {x} first, then {y}"
    return "no order is safe: change all nodes at once, while they are stopped"


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
