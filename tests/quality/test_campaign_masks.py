"""Values that fail by themselves and are masked by others, in a campaign over many parameters.

As a server's password and the one it logs in with: neither works without the other, and a user's name makes the second
harmless.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

import msgspec
import pytest

from zebra import Node, RunSpec, Target, Topology
from zebra.campaign.campaign import Campaign
from zebra.campaign.trial import Trial, TrialResult
from zebra.params.recording import Read

MANY = 100
NAMES = [f"wide.p{number:03}" for number in range(MANY)]
Config = msgspec.defstruct(
    "Config", [(name.removeprefix("wide."), int, 1) for name in NAMES], frozen=True, kw_only=True
)


class Role:
    """Reads everything; it is not run, as the outcomes are made up."""

    def __init__(self, node: Node[msgspec.Struct]) -> None:
        self.node = node


TARGET = Target(name="wide", config=Config, roles={"a": Role, "b": Role}, topology=Topology(counts={"a": 1, "b": 1}))
READS = tuple(Read(role=role, parameter=name, value=1) for role in ("a", "b") for name in NAMES)


class Locked:
    """Fails when all nodes have the lock and not the key, or the key and neither the lock nor the name, or what is
    broken; and when they differ in one more parameter."""

    def __init__(self, seed: int) -> None:
        self.lock, self.key, self.name, self.broken, self.mixed = Random(seed).sample(NAMES, 5)
        self.runs = 0

    def map(self, trials: Sequence[Trial]) -> list[TrialResult]:
        self.runs += len(trials)
        return [TrialResult(result="fail" if self._fails(trial) else "pass", reads=READS) for trial in trials]

    def _fails(self, trial: Trial) -> bool:
        alike = {name for name, who in trial.spec.assignment.items() if len(who) == 1}
        unlocked = alike & {self.lock, self.key, self.name} in (set(), {self.name}, {self.key, self.name})
        fits = unlocked or {self.lock, self.key} <= alike
        return self.broken in alike or not fits or self.mixed in trial.spec.assignment.keys() - alike


@pytest.mark.parametrize("seed", range(4))
def test_values_that_mask_each_other_are_found_to_be_invalid(seed: int) -> None:
    locked = Locked(seed)
    spec = RunSpec(test="tests:locked", target="wide")
    result = Campaign(TARGET, [spec], locked, seed=seed, describe=lambda spec: spec.test).run()
    found = {p.name: p.verdict for p in result.parameters if p.verdict != "safe"}
    invalid = dict.fromkeys([locked.lock, locked.key, locked.broken], "invalid")
    assert found == invalid | {locked.mixed: "unsafe"}
    assert result.unexplained == 0
    assert locked.runs < 2 * MANY + 50, "or it does not understand what fails"
