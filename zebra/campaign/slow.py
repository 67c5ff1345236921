"""Slow: a run that passes, but takes several times as long as the same test ever does while all nodes agree.

Time is the run's own: virtual on `sim`, where it depends on the seed alone; the machine's elsewhere, where a run must
also be slower by a few seconds, and several runs must be known to compare with.
"""

from __future__ import annotations

import msgspec

from zebra.campaign.trial import TrialResult
from zebra.injection.schedule import Roll
from zebra.params import Assignment
from zebra.params.assignment import is_mixed
from zebra.spec import RunSpec

RATIO = 3.0
"""So many times the slowest run in which all nodes agree."""

CONTROLS = 2
"""So many runs in which all agree must be known."""

REAL_S, REAL_CONTROLS = 2.0, 4
"""On real substrates: at least so many seconds longer, and so many runs to compare with."""


class Pace:
    """How long the tests take while all nodes agree, and which runs are slow by that. `ratio` 0: none is."""

    def __init__(self, ratio: float = RATIO) -> None:
        self.ratio = ratio
        self._slowest: dict[tuple[str, bool], tuple[int, float]] = {}

    def note(self, spec: RunSpec, own: Assignment, result: TrialResult) -> None:
        """A run has ended; only those that pass while all agree are of interest."""
        if result.passed and agrees(spec, own):
            count, slowest = self._slowest.get(_kind(spec), (0, 0.0))
            self._slowest[_kind(spec)] = count + 1, max(slowest, result.duration_s)

    def limit_s(self, spec: RunSpec) -> float:
        """The run time beyond which a run of this kind is slow; 0 if none is known."""
        count, slowest = self._slowest.get(_kind(spec), (0, 0.0))
        real = spec.substrate != "sim"
        if not self.ratio or count < (REAL_CONTROLS if real else CONTROLS):
            return 0.0
        return max(self.ratio * slowest, slowest + REAL_S if real else 0.0)

    def judged(self, spec: RunSpec, own: Assignment, result: TrialResult) -> TrialResult:
        """The result, or `slow` in place of a pass."""
        limit_s = self.limit_s(spec)
        if not result.passed or not limit_s or result.duration_s <= limit_s or agrees(spec, own):
            return result
        message = f"took {result.duration_s:.3g} s, {limit_s:.3g} s at most were expected of what agreeing nodes do"
        return msgspec.structs.replace(result, result="slow", message=message)


def _rolls(spec: RunSpec) -> list[Roll]:
    return [step for step in spec.schedule.steps if isinstance(step, Roll)]


def _kind(spec: RunSpec) -> tuple[str, bool]:
    """Runs that compare: of one test, with rolling restarts or without."""
    return spec.test, bool(_rolls(spec))


def agrees(spec: RunSpec, own: Assignment) -> bool:
    """Whether all nodes have the same values throughout, but for what the test itself assigns."""
    mixed = any(is_mixed(shares) for name, shares in spec.assignment.items() if shares != own.get(name))
    return not mixed and not any(step.values for step in _rolls(spec))
