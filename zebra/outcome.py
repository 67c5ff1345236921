"""What one run came to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from zebra.errors import InvariantViolated, ZebraError
from zebra.events import Event, History
from zebra.invariant import Violation
from zebra.params import Read
from zebra.spec import RunSpec
from zebra.substrate import LATELY_S

Result = Literal["pass", "fail", "hang", "crash", "slow", "invalid", "inconclusive", "infrastructure"]
FAILED: frozenset[str] = frozenset({"fail", "hang", "crash", "slow"})

BUSY = "the machine was busy"
"""How the line of a failure begins that says which nodes had to wait."""

BUSY_S = 1.0
"""So many of the last `LATELY_S` seconds a node has to wait for a processor to be named."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What one run came to.

    `message` is one line for people; `error` the exception behind a fail or crash; `duration_s` is run time, `wall_s`
    the machine's. `exercised` and `unknown` name the invariants that saw an event and those that saw none; `kinds` are
    the event kinds that occurred; `reads` what a recording run read; `unapplied` the parameters that a live server did
    not show as its node's configuration has them; `faults` the names of the faults injected;
    `waits` the nodes of a failed run that shortly before its end waited for a processor of a busy machine, and how long
    in seconds; `outputs` the last lines that the nodes involved in a failure wrote, on real substrates, and `output`
    the directory that has the rest; `unhealed` says what of faults could not be undone; `replay` is the command that
    runs it again.
    """

    spec: RunSpec
    result: Result
    message: str = ""
    violation: Violation | None = None
    error: BaseException | None = None
    history: History
    duration_s: float
    wall_s: float
    exercised: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()
    kinds: frozenset[str] = frozenset()
    reads: frozenset[Read] = frozenset()
    unapplied: frozenset[str] = frozenset()
    faults: tuple[str, ...] = ()
    waits: Mapping[str, float] = field(default_factory=dict)
    outputs: Mapping[str, str] = field(default_factory=dict)
    output: Path | None = None
    unhealed: tuple[str, ...] = ()
    replay: str = ""

    @property
    def failed(self) -> bool:
        return self.result in FAILED

    def explain(self) -> str:
        """For people: what broke, the events that show it, the faults that were on, and the command that replays it."""
        lines = [f"{self.result}: {self.message}"]
        if self.violation is not None:
            seqs = set(self.violation.seqs())
            lines[0] = (
                f"{self.violation.invariant} does not hold at t={self.violation.t:.6f} s: {self.violation.message}"
            )
            lines += [f"  {event!r}" for event in self.history if event.seq in seqs]
        for event, end_s in _bands(self.history):
            until = "the end" if end_s is None else f"{end_s:.3f} s"
            lines.append(f"fault {event['fault']} on {', '.join(event['on'])} from {event.t:.3f} s to {until}")
        if self.spec.assignment:
            lines.append(f"assignment: {self.spec.assignment}")
        if self.waits:
            waits = ", ".join(f"{node} {seconds:.1f} s" for node, seconds in self.waits.items())
            lines.append(f"{BUSY}: of the last {LATELY_S:g} s these waited for a processor: {waits}")
        for node, text in self.outputs.items():
            lines += [f"{node} wrote last:", *(f"  {line}" for line in text.splitlines())]
        lines += [f"not undone: {what}" for what in self.unhealed]
        if self.output is not None:
            lines.append(f"output of all nodes: {self.output}")
        return "\n".join([*lines, f"replay: {self.replay}"])

    def raise_failure(self) -> None:
        """Raise what went wrong: the test's own exception, InvariantViolated, or a ZebraError that says it."""
        if self.violation is not None:
            raise InvariantViolated(self.violation, self.spec.token())
        if self.error is not None:
            raise self.error
        if self.result != "pass":
            raise ZebraError(f"{self.result}: {self.message}")


def _bands(history: History) -> list[tuple[Event, float | None]]:
    """Each fault's inject event, and when it was healed (None: it was still on)."""
    faults = history.of("fault.inject", "fault.heal")
    healed = {event["id"]: event.t for event in faults if event.kind == "fault.heal"}
    return [(event, healed.get(event["id"])) for event in faults if event.kind == "fault.inject"]
