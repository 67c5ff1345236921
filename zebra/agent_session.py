"""The agent's side of a pytest session: tests that know nothing of zebra, each a run of an `inprocess` target."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from zebra.agent.adapter import find_adapter, target_of
from zebra.agent.agent import Agent
from zebra.campaign.trial import SKIPPED, Trial, TrialResult
from zebra.errors import ConfigError
from zebra.params import Read
from zebra.spec import INPROCESS, RunSpec
from zebra.units import seconds

TIMEOUT = "60s"
"""Limit of a test's wall time unless the user says another."""


class AgentSession:
    """An agent from before the tests are imported to the end of the session. Raises ConfigError and PluginError."""

    def __init__(self, name: str, timeout: str) -> None:
        adapter = find_adapter(name)
        self.name, self.target = name, target_of(name, adapter)
        self.timeout_s = seconds(timeout or TIMEOUT, "timeout")
        if self.target.unavailable:
            raise ConfigError(f"{name} is not available here: {self.target.unavailable}")
        self.agent = Agent(adapter, self.target.space)
        self._seen: dict[str, set[str]] = {}
        self._began = 0.0
        self.agent.start()

    def close(self) -> None:
        self.agent.stop()

    def spec(self, test: str, seed: int) -> RunSpec:
        """The run of a test as it is."""
        return RunSpec(test=test, target=self.name, substrate=INPROCESS, seed=seed, timeout_s=self.timeout_s)

    def check(self, marked: Sequence[pytest.Item]) -> None:
        """Raises ConfigError for tests that need a cluster of their own."""
        if marked:
            raise ConfigError(
                f"--zebra-agent={self.name} is for tests without the marker zebra, {marked[0].nodeid} has it: "
                "name the others, or leave out the option"
            )

    @contextmanager
    def around(self, spec: RunSpec, record: bool, directory: Path | None) -> Iterator[None]:
        """A test's whole protocol, fixtures included, is one run of the agent."""
        self._began = time.perf_counter()
        with self.agent.run(spec, record=record, directory=directory):
            yield
        for read in self.agent.reads:
            self._seen.setdefault(read.parameter, set()).add(read.role)

    # -- trials ----------------------------------------------------------------------------------------------

    def result(self, trial: Trial, reports: Sequence[pytest.TestReport]) -> TrialResult:
        """What a trial came to, from the reports of its set-up, call and tear-down."""
        wall_s = time.perf_counter() - self._began
        failed = next((report for report in reports if report.failed), None)
        skipped = next((report for report in reports if report.skipped and not hasattr(report, "wasxfail")), None)
        if failed is not None:
            why = _reason(failed)
            result, message = "hang" if "from pytest-timeout" in why else "fail", why
        elif skipped is not None:
            result, message = "inconclusive", f"{SKIPPED}{_reason(skipped)}"
        else:
            result, message = "pass", ""
        return TrialResult(
            result=result, message=message, wall_s=wall_s,  # type: ignore[arg-type]
            reads=tuple(sorted(self._certain())) if trial.record_reads else (),
            uncertain=dict(self.agent.uncertain_at) if trial.record_reads else {},
        )  # fmt: skip

    def _certain(self) -> list[Read]:
        """The reads of parameters that have one valid value throughout the test: what it changes itself is left out."""
        space, seen = self.target.space, dict[str, set[object]]()
        for read in self.agent.reads:
            seen.setdefault(read.parameter, set()).add(read.value)
        return [
            read
            for read in self.agent.reads
            if len(seen[read.parameter]) == 1 and _valid(space[read.parameter].parse, read)
        ]

    # -- for people ------------------------------------------------------------------------------------------

    def texts(self) -> list[str]:
        """What the agent has seen in a session without a campaign."""
        lines = [f"agent {self.name}: {len(self._seen)} parameters read by nodes"]
        lines += [f"  {name}: {', '.join(sorted(roles))}" for name, roles in sorted(self._seen.items())]
        lines += [f"  {name}: uncertain, read at {site}" for name, site in sorted(self.agent.uncertain_at.items())]
        return lines


def _valid(parse: Callable[[object], object], read: Read) -> bool:
    try:
        parse(read.value)
    except ConfigError:
        return False
    return True


def _reason(report: pytest.TestReport) -> str:
    """One line on why a test failed or was skipped."""
    crash = getattr(report.longrepr, "reprcrash", None)
    text = crash.message if crash is not None else report.longrepr
    text = text[2] if isinstance(text, tuple) else str(text)
    lines = text.strip().splitlines()
    return (lines[0] if crash is not None else lines[-1]) if lines else report.outcome
