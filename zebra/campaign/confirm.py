"""The sequential test that turns a suspect into a verdict, and its error.

A round uses one fresh seed for three runs: mixed, everyone on the one value, everyone on the other. Were the mixture
harmless, its run would be no likelier to fail than either control, so that "mixed fails and both controls pass" has
probability at most max f(1-f)^2 = 4/27 a round. Each such round multiplies the evidence by 0.97/(4/27), each other
by 0.03/(23/27); by Ville's inequality evidence that ever reaches 1/alpha is false with probability at most alpha,
whenever one stops. Source: the bound is in ../shared/research/zebraconf.md section 3.2; the test is a likelihood ratio.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

WORST = 4 / 27
"""The largest chance per round of a false hit."""

EXPECTED = 0.97
"""The chance per round of a hit that the test is tuned for."""

ROUNDS_MAX = 12

Decision = Literal["unsafe", "invalid", "flaky", "cleared", "undecided"]


@dataclass(frozen=True, slots=True)
class Round:
    """One round's three results: did the mixed run fail, and did each control pass (None: it was not needed)?"""

    seed: int
    mixed_failed: bool
    base_passed: bool | None = None
    other_passed: bool | None = None

    @property
    def hit(self) -> bool:
        return self.mixed_failed and self.base_passed is True and self.other_passed is True


@dataclass(slots=True)
class Evidence:
    """The rounds so far; `threshold` is 1/alpha."""

    threshold: float
    rounds: list[Round] = field(default_factory=list)

    @property
    def value(self) -> float:
        value = 1.0
        for round_ in self.rounds:
            value *= EXPECTED / WORST if round_.hit else (1 - EXPECTED) / (1 - WORST)
        return value

    @property
    def invalid_side(self) -> Literal["base", "other"] | None:
        """The value that fails by itself in every round whose mixed run failed, if it is always the same one alone."""
        failing = [r for r in self.rounds if r.mixed_failed]
        if failing and all(r.base_passed and r.other_passed is False for r in failing):
            return "other"
        if failing and all(r.other_passed and r.base_passed is False for r in failing):
            return "base"
        return None

    def rounds_to_go(self) -> int:
        """How many hits in a row would decide."""
        count, value = 0, self.value
        while value < self.threshold:
            value *= EXPECTED / WORST
            count += 1
        return count

    def decision(self) -> Decision | None:
        """The verdict on the suspect, or None while more rounds are needed."""
        failing = [r for r in self.rounds if r.mixed_failed]
        if self.value >= self.threshold:
            return "unsafe"
        if len(failing) >= 3 and self.invalid_side is not None:
            return "invalid"
        if len(failing) >= 3 and not any(r.hit for r in failing):
            return "flaky"
        if not failing and len(self.rounds) >= 2:
            return "cleared"
        if len(self.rounds) >= ROUNDS_MAX:
            return "undecided"
        return None


def decide(threshold: float, play: Callable[[list[int]], list[Round]], seeds: Callable[[int], int]) -> Evidence:
    """Play rounds until the evidence decides. `play` takes seeds, returns their rounds; `seeds(i)` is the i-th seed."""
    evidence = Evidence(threshold)
    while evidence.decision() is None:
        done = len(evidence.rounds)
        wanted = 1 if done == 0 else max(1, min(evidence.rounds_to_go(), ROUNDS_MAX - done))
        if done and not evidence.rounds[0].hit:
            wanted = min(wanted, 2)
        evidence.rounds += play([seeds(done + i) for i in range(wanted)])
    return evidence
