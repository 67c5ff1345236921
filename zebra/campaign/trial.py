"""A trial: one run that a campaign makes, and who carries it out."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import Literal, Protocol

import msgspec

from zebra.errors import ZebraError
from zebra.outcome import FAILED, Result
from zebra.params import Assignment, Read
from zebra.spec import RunSpec

Purpose = Literal["prerun", "pooled", "control", "confirm", "requires"]


class Trial(msgspec.Struct, frozen=True, kw_only=True):
    """One run to make. `spec.test` says of which test; with `history` its events are kept in that file."""

    spec: RunSpec
    purpose: Purpose
    record_reads: bool = False
    history: str = ""


SKIPPED = "skipped: "
"""How the message of a run begins whose test skipped itself; that is inconclusive."""


class TrialResult(msgspec.Struct, frozen=True, kw_only=True):
    """What a trial came to. `faults` names the faults that were injected, `kinds` the event kinds that occurred.

    `duration_s` is run time, `wall_s` the machine's. `output` is the end of what a trial that did not pass wrote to
    stdout and stderr. `uncertain` holds the parameters that were read where nobody knows for which node, with the site.
    """

    result: Result
    message: str = ""
    violation: str = ""
    kinds: tuple[str, ...] = ()
    faults: tuple[str, ...] = ()
    reads: tuple[Read, ...] = ()
    unapplied: tuple[str, ...] = ()
    uncertain: dict[str, str] = {}
    wall_s: float = 0.0
    duration_s: float = 0.0
    output: str = ""

    @property
    def failed(self) -> bool:
        return self.result in FAILED

    @property
    def skipped(self) -> bool:
        return self.result == "inconclusive" and self.message.startswith(SKIPPED)

    @property
    def passed(self) -> bool:
        return self.result == "pass"


class BudgetSpent(ZebraError):
    """The campaign may make no more trials; the message says what it had to spend."""


class Runner(Protocol):
    """Carries out trials, several at a time if it can; the results come in the order of the trials.

    Raises BudgetSpent when there may be no more.
    """

    def map(self, trials: Sequence[Trial]) -> list[TrialResult]: ...


class Executor(Protocol):
    """Where trials are carried out: each result comes with its trial's number in the batch, as soon as it is there.

    `until` is a time of `time.monotonic()` at which the results end, though not all trials have one; an executor that
    was stopped so takes no further trials.
    """

    def results(self, trials: Sequence[Trial], until: float | None = None) -> Iterator[tuple[int, TrialResult]]: ...

    def close(self) -> None: ...


def trial_seed(campaign_seed: int, *what: object) -> int:
    """The seed of a trial: a number of 63 bits that depends on the campaign's seed and on what the trial is."""
    text = "/".join(map(str, (campaign_seed, *what)))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def without(assignment: Assignment, *names: str) -> Assignment:
    """The assignment without some parameters."""
    return {name: shares for name, shares in assignment.items() if name not in names}
