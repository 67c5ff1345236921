"""What a campaign knows of one parameter, and the verdict that follows from it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from math import exp

from zebra.campaign.plan import Case
from zebra.campaign.result import Evidence, ParameterResult, Verdict
from zebra.params import Assignment, Read
from zebra.params.parameter import Parameter, Value

SITES = 4
"""So many places in the code are named for a role that reads a parameter."""


@dataclass(slots=True)
class State:
    """What is known of one parameter."""

    roles: tuple[str, ...] = ()
    cases: list[Case] = field(default_factory=list)
    cleared: set[Case] = field(default_factory=set)
    failed: set[Case] = field(default_factory=set)
    unapplied: set[Case] = field(default_factory=set)
    undecided: list[str] = field(default_factory=list)
    invalid: dict[Value, str] = field(default_factory=dict)
    together: list[Case] = field(default_factory=list)
    given: Assignment = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)
    risk: float = 0.0
    trials: int = 0
    found: ParameterResult | None = None
    invalid_evidence: Evidence | None = None

    def is_invalid(self, case: Case) -> bool:
        """Whether one of the case's values fails for everybody."""
        return case.base in self.invalid or case.other in self.invalid


def verdict(state: State, parameter: Parameter, accepted: bool, sites: dict[str, list[str]]) -> ParameterResult:
    """The verdict on a parameter; the evidence is complete."""
    result = state.found or _unfound(state, parameter)
    result.accepted, result.trials, result.sites = accepted, state.trials, sites
    result.note = "; ".join([result.note, *_also(result.verdict, state, parameter)])
    return result


def _also(found: Verdict, state: State, parameter: Parameter) -> list[str]:
    """What else is worth knowing: values invalid, not shown by a running server, refused by it, or left out."""
    bad = ", ".join(map(parameter.show, state.invalid))
    unshown = {parameter.show(v) for c in state.unapplied for v in (c.base, c.other) if v != parameter.default}
    also = [f"invalid for everyone: {bad}"] if bad and found != "invalid" else []
    also += [f"no running server showed: {', '.join(sorted(unshown))}"] if unshown and found != "untested" else []
    also += [f"refused: {parameter.show(value)} ({said})" for value, said in parameter.param.refused]
    also += [f"not tried: {parameter.show(value)} ({why})" for value, why in parameter.without.items()]
    return also + list(dict.fromkeys(state.remarks))


def _unfound(state: State, parameter: Parameter) -> ParameterResult:
    """The verdict on a parameter that is not unsafe."""
    result = ParameterResult(name=parameter.name, verdict="safe", roles=list(state.roles))
    valid = [case for case in state.cases if not state.is_invalid(case) and case not in state.unapplied]
    if not state.cases:
        result.verdict = "untested"
        result.note = parameter.why or "no other value is known"
        if not state.roles:
            result.note = "no test reads it on two nodes"
        elif parameter.param.refused and not parameter.excluded:  # nothing else can be tried, and this needs no run
            result.verdict = "invalid"
            result.values = [parameter.show(value) for value, _ in parameter.param.refused]
    elif not valid and state.unapplied:
        result.verdict, result.note = "untested", "a running server does not show the values as they were set"
    elif not valid:
        result.verdict, result.evidence = "invalid", state.invalid_evidence
        result.values, result.note = [*map(parameter.show, state.invalid)], "fails on all nodes alike"
    elif state.undecided or any(case not in state.cleared for case in valid):
        result.verdict = "undecided"
        result.note = "; ".join(state.undecided) or "not every case was in a run that passed"
    else:
        tests = len({case.test for case in valid})
        result.risk = round(1 - exp(-state.risk), 4)
        result.note = f"{len(valid)} cases in {tests} tests, {state.trials} runs"
    return result


def read_sites(parameter: Parameter, reads: Iterable[Read]) -> dict[str, list[str]]:
    """For each role where its code reads a parameter, as `path:line`, as far as that was noted."""
    names, found = {parameter.name, *parameter.members}, dict[str, set[str]]()
    for read in reads:
        if read.parameter in names and read.site:
            found.setdefault(read.role, set()).add(read.site)
    return {role: sorted(sites)[:SITES] for role, sites in sorted(found.items())}
