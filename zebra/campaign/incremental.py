"""What a campaign has to decide anew since another was finished, and how the verdicts of both come together.

A test is changed when it is new, did not pass on its own before, or its code (`zebra.campaign.code`) is another. When
the default of a parameter is another, every test is changed, as every run had it. A parameter is decided anew in all
tests when it is new or declared otherwise, was undecided, or what showed its verdict is gone or changed. What was safe
or untested is tried in the changed tests only. All other verdicts are carried over.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import msgspec

from zebra.campaign import baselines, code
from zebra.campaign.result import CampaignResult, ParameterResult
from zebra.campaign.store import Basis
from zebra.params import Space

if TYPE_CHECKING:
    from zebra.campaign.campaign import Campaign

CARRIED = "carried over, as nothing that it rests on has changed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What has changed: tests to search, and parameters to decide in all tests, each with why."""

    before: Basis
    tests: Mapping[str, str] = field(default_factory=dict)
    parameters: Mapping[str, str] = field(default_factory=dict)

    def wanted(self, test: str, name: str) -> bool:
        """Whether a parameter is to be tried in a test."""
        return name in self.parameters or (test in self.tests and self._verdict(name) in ("safe", "untested"))

    def _verdict(self, name: str) -> str:
        return next((p.verdict for p in self.before.result.parameters if p.name == name), "")

    def lines(self) -> list[str]:
        """What is done anew and why, for people."""
        tests = [f"changed since: {test} ({why})" for test, why in self.tests.items()]
        return tests + [f"decided anew: {name} ({why})" for name, why in self.parameters.items()]

    def merged(self, now: CampaignResult) -> CampaignResult:
        """The verdicts of a campaign over what has changed, with those that are carried over."""
        old = {result.name: result for result in self.before.result.parameters}
        found = [self._merged(result, old.get(result.name)) for result in now.parameters]
        decided = [result for result in found if CARRIED not in result.note]
        bad = sum(result.verdict in ("unsafe", "invalid") for result in decided)
        bits = round(baselines.bound_bits(len(decided), bad), 1) if decided else 0.0
        before = self.before.result
        return msgspec.structs.replace(
            now, parameters=found, bound_bits=bits, rolling=before.rolling, rolled=now.rolled + before.rolled
        )

    def carried(self, now: Collection[str]) -> set[str]:
        """The parameters whose evidence is carried over: all but those that were decided now."""
        return {result.name for result in self.before.result.parameters} - self.parameters.keys() - set(now)

    def _merged(self, now: ParameterResult, old: ParameterResult | None) -> ParameterResult:
        if old is None or now.name in self.parameters or now.verdict not in ("safe", "untested"):
            return now
        tried = set(self.before.tried.get(now.name, ()))
        if now.verdict == "untested" and (old.verdict != "safe" or not tried or tried - self.tests.keys()):
            kept = msgspec.structs.replace(old, accepted=now.accepted)
            kept.note = old.note if CARRIED in old.note else "; ".join(filter(None, (CARRIED, old.note)))
            return kept
        if now.verdict == "safe" and old.verdict == "safe" and tried - self.tests.keys():
            now.note += f"; beside {len(tried - self.tests.keys())} tests that have not changed"
            now.risk = round(min(1.0, now.risk + old.risk), 4)
            now.roles = sorted({*now.roles, *old.roles})
        return now


def change_since(before: Basis, tests: Mapping[str, str], space: Space, names: Collection[str]) -> Change:
    """What has changed since a campaign; `tests` holds digests of the tests' code, `names` what is to be decided."""
    moved = [name for name, shown in before.defaults.items() if name in list(space) and _default(space, name) != shown]
    changed = {
        test: f"the default of {moved[0]} is another" if moved else "its code" if test in before.tests else "new"
        for test, digest in tests.items()
        if moved or before.tests.get(test) != digest
    }
    old = {result.name: result for result in before.result.parameters}
    gone = before.tests.keys() - tests.keys()
    again: dict[str, str] = {}
    for name in names:
        if why := _why_again(name, old.get(name), before, space, changed, gone):
            again[name] = why
    for name in names:
        needs = {text.partition("=")[0] for text in old[name].requires} if name in old and name not in again else set()
        if both := sorted(needs & again.keys()):
            again[name] = f"it requires {both[0]}"
    return Change(before=before, tests=changed, parameters=again)


def _why_again(name: str, old: ParameterResult | None, before: Basis, space: Space,
               changed: Mapping[str, str], gone: Collection[str]) -> str:  # fmt: skip
    if old is None:
        return "new"
    if before.parameters.get(name) != code.of_parameter(space[name]):
        return "declared otherwise"
    if old.verdict == "undecided":
        return "was undecided"
    if old.evidence is not None and (old.evidence.test in changed or old.evidence.test in gone):
        return f"the test that showed it to be {old.verdict} is {'gone' if old.evidence.test in gone else 'changed'}"
    tried = before.tried.get(name, [])
    return "the tests that tried it are gone" if tried and all(test in gone for test in tried) else ""


def _default(space: Space, name: str) -> str:
    return space[name].show(space[name].default)


def basis(result: CampaignResult, campaign: Campaign | None, tests: Mapping[str, str], space: Space,
          change: Change | None) -> Basis:  # fmt: skip
    """What a campaign that has all its verdicts leaves to the next."""
    out = {line.partition(": ")[0] for line in (*result.left_out, *result.skipped)}
    tried: dict[str, set[str]] = {}
    if change is not None:
        for name, known in change.before.tried.items():
            still = {test for test in known if test in tests and test not in change.tests}
            tried[name] = set() if name in change.parameters else still
    for name, state in campaign.state.items() if campaign is not None else ():
        tried.setdefault(name, set()).update(case.test for case in state.cases)
    return Basis(
        result=result, tests={test: digest for test, digest in tests.items() if test not in out},
        parameters={p.name: code.of_parameter(space[p.name]) for p in result.parameters},
        defaults={name: _default(space, name) for name in space},
        tried={name: sorted(known) for name, known in tried.items()},
    )  # fmt: skip
