"""A trial: one run that a campaign makes, and who carries it out."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Literal, Protocol

import msgspec

from zebra.params import Assignment, Read
from zebra.run import FAILED, Result, RunSpec

Purpose = Literal["prerun", "pooled", "control", "confirm", "requires"]


class Trial(msgspec.Struct, frozen=True, kw_only=True):
    """One run to make. `spec.test` says of which test; with `history` its events are kept in that file."""

    spec: RunSpec
    purpose: Purpose
    record_reads: bool = False
    history: str = ""


class TrialResult(msgspec.Struct, frozen=True, kw_only=True):
    """What a trial came to. `faults` names the faults that were injected, `kinds` the event kinds that occurred."""

    result: Result
    message: str = ""
    violation: str = ""
    kinds: tuple[str, ...] = ()
    faults: tuple[str, ...] = ()
    reads: tuple[Read, ...] = ()
    unapplied: tuple[str, ...] = ()
    wall_s: float = 0.0

    @property
    def failed(self) -> bool:
        return self.result in FAILED

    @property
    def passed(self) -> bool:
        return self.result == "pass"


class Runner(Protocol):
    """Carries out trials, several at a time if it can; the results come in the order of the trials."""

    def map(self, trials: Sequence[Trial]) -> list[TrialResult]: ...


def trial_seed(campaign_seed: int, *what: object) -> int:
    """The seed of a trial: a number of 63 bits that depends on the campaign's seed and on what the trial is."""
    text = "/".join(map(str, (campaign_seed, *what)))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def without(assignment: Assignment, *names: str) -> Assignment:
    """The assignment without some parameters."""
    return {name: shares for name, shares in assignment.items() if name not in names}
