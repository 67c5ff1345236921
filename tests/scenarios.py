"""Scenarios that targets ship, as tests run them: by themselves in simulation, or in a pytest session of their own."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from random import Random
from types import ModuleType
from typing import Any

import zebra
from zebra import Outcome, RunSpec, Target
from zebra.outcome import BUSY
from zebra.params import Assignment
from zebra.params.assignment import parse
from zebra.target import find_target

TRIES = 3
"""How often a scenario is run on a machine that is too busy for it."""


def scenarios_of(module: ModuleType) -> list[Any]:
    """The scenarios in a module, by name."""
    functions = inspect.getmembers(module, inspect.iscoroutinefunction)
    return [function for name, function in functions if name.startswith("test_")]


def run(scenario: Any, assignment: Assignment | None = None, **spec: Any) -> Outcome:
    """One run in simulation with the nodes and the values that the marker asks for, and with `assignment` over these.

    `spec` holds further fields of the RunSpec.
    """
    [marker] = scenario.pytestmark
    target = find_target(marker.args[0])
    counts = {name: value for name, value in marker.kwargs.items() if name in target.all_roles}
    assert marker.kwargs.keys() - counts.keys() <= {"assignment", "substrates"}, (
        "what else it asks for is not done here"
    )
    values = {**parse(marker.kwargs.get("assignment", {})), **(assignment or {})}
    topology = target.topology.with_counts(counts)
    return zebra.run(scenario, RunSpec(target=target.name, topology=topology, assignment=values, **spec))


def mixture(target: Target, names: Iterable[str], shares: Sequence[str], seed: int) -> Assignment:
    """Each parameter with one value for all nodes and, maybe, another one for a share of them, as the seed has it."""
    random, assignment = Random(seed), dict[str, dict[str, Any]]()
    for name in (f"{target.name}.{name}" for name in names):
        values = (target.space[name].default, *target.space[name].alternatives())
        who = random.choice(shares)
        assignment[name] = {"*": random.choice(values), who: random.choice(values)}
    return assignment


def pass_in_a_session(target: str, substrate: str, directory: Path, *names: str, count: int = 0) -> None:
    """Scenarios of a target pass on a substrate: those of these names, or all, which are `count`.

    One that fails while nodes had to wait for a processor, as the failure itself says, says little: it is run again.
    """
    left, passed = names, 0
    for attempt in range(TRIES):
        result = _session(target, substrate, directory / f"report-{attempt}", left)
        passed += sum(map(int, re.findall(r"^(?:\d+ failed, )?(\d+) passed", result.stdout, re.MULTILINE)))
        left = tuple(re.findall(r"^FAILED \S+::(\w+)", result.stdout, re.MULTILINE))
        _, *parts = re.split(r"^_+ (\w+) _+$", result.stdout, flags=re.MULTILINE)
        busy = {name for name, text in zip(parts[::2], parts[1::2], strict=True) if f"\n{BUSY}: " in text}
        if not left or not busy.issuperset(left):
            break
        print(result.stdout)
    assert result.returncode == 0, result.stdout + result.stderr
    assert passed == (count or len(names)), result.stdout


def _session(target: str, substrate: str, report: Path, names: Sequence[str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--pyargs", f"zebra.targets.{target}"]
    options = [f"--zebra-substrate={substrate}", f"--zebra-report={report}", "-k", " or ".join(names)]
    return subprocess.run([*command, *options], cwd=report.parent, capture_output=True, text=True, check=False)
