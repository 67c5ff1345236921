"""What a campaign found: the contents of `campaign.json`. Source: ../shared/design.md section 12."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec

from zebra.errors import ConfigError

Verdict = Literal["safe", "unsafe", "invalid", "undecided", "untested"]


class Trials(msgspec.Struct, kw_only=True):
    """How many runs the campaign made, by what they were for; every execution of a test counts once."""

    total: int = 0
    prerun: int = 0
    pooled: int = 0
    control: int = 0
    confirm: int = 0
    requires: int = 0
    cached: int = 0


class Baselines(msgspec.Struct, kw_only=True):
    """Runs that other procedures would have needed for the same verdicts (see `zebra.campaign.baselines`)."""

    zebraconf: int = 0
    one_by_one: int = 0


class Evidence(msgspec.Struct, kw_only=True):
    """The run that shows a parameter to be unsafe or invalid; `replay` is the token that runs it again."""

    test: str
    outcome: str
    violation: str
    replay: str


class Rollout(msgspec.Struct, kw_only=True):
    """A rolling change that was tried: from one value to another, the roles in this order, node by node.

    `safe` if all its `runs`, each on a seed of its own, passed.
    """

    values: tuple[str, str]
    order: list[str]
    safe: bool
    runs: int


class ParameterResult(msgspec.Struct, kw_only=True, omit_defaults=False):
    """The verdict on one parameter.

    `values` is the pair that clashed, as a person would write them; `direction` is `both` or `X>Y` (unsafe when X
    holds `values[0]` and Y `values[1]`), or "" when it is unsafe only while nodes change from `values[1]` to
    `values[0]` (`rolling`); `requires` holds `name=value` and `fault:name`. `rollouts` are the rolling changes that
    were tried to find a safe order. `sites` is for each role where its code reads the parameter, as `path:line`, as
    far as that was noted. `accepted` says that the user knows it to be unsafe. `risk` is for `safe` the chance that
    these tests show it to be unsafe and that was missed. `note` says in one line why, or for `safe` what it was tested
    with.
    """

    name: str
    verdict: Verdict
    roles: list[str] = []
    values: list[str] = []
    direction: str = ""
    requires: list[str] = []
    rolling: bool = False
    rollouts: list[Rollout] = []
    sites: dict[str, list[str]] = {}
    trials: int = 0
    accepted: bool = False
    risk: float = 0.0
    note: str = ""
    evidence: Evidence | None = None


class CampaignResult(msgspec.Struct, kw_only=True):
    """All verdicts of one campaign.

    `bound_bits` is log2 of the number of possible answers: no search needs fewer runs. `error_rate` is the expected
    share of false ones among the parameters called unsafe. `never` lists the target's `sometimes` events that no run of
    a campaign over all parameters had, `left_out` the tests that do not pass on their own, `skipped` those that skip
    themselves; `unexplained` counts pooled failures that led to no culprit.
    With `reads_unseen` nobody can observe what the servers read: each parameter counts as read by all that have it.
    `rolling` is how rolling changes were made ("" if none were wanted), `rolled` how many cases of theirs there were;
    `not_rolling` names the tests that do not bear them. `cut` says why the campaign ended before it had all verdicts.
    """

    schema: int = 1
    target: str
    substrate: str
    seed: int
    trials: Trials
    bound_bits: float
    baselines: Baselines
    error_rate: float = 0.0
    never: list[str] = []
    left_out: list[str] = []
    skipped: list[str] = []
    unexplained: int = 0
    reads_unseen: bool = False
    rolling: str = ""
    not_rolling: list[str] = []
    rolled: int = 0
    cut: str = ""
    parameters: list[ParameterResult]

    def problems(self) -> list[str]:
        """What keeps the campaign from being a success, a line each: why its exit code is not 0."""
        lines = [
            f"unsafe and not accepted: {p.name}" for p in self.parameters if p.verdict == "unsafe" and not p.accepted
        ]
        lines += [
            f"accepted as unsafe but {p.verdict}: {p.name}"
            for p in self.parameters
            if p.accepted and p.verdict not in ("unsafe", "undecided")
        ]
        lines += [f"never happened in any run: {kind}" for kind in self.never]
        lines += [f"left out, does not pass on its own: {test}" for test in self.left_out]
        if self.rolling and not self.rolled and not self.cut:
            lines.append("no rolling change was tried: no test bears rolling restarts of nodes that read a parameter")
        return lines + [f"undecided: {p.name}: {p.note}" for p in self.parameters if p.verdict == "undecided"]

    def save(self, path: Path) -> None:
        path.write_bytes(msgspec.json.format(msgspec.json.encode(self), indent=1) + b"\n")

    @classmethod
    def load(cls, path: Path) -> CampaignResult:
        """The result stored at `path`; raises ConfigError when it is not one."""
        try:
            return msgspec.json.decode(path.read_bytes(), type=cls)
        except (msgspec.DecodeError, OSError) as error:
            raise ConfigError(f"{path}: not a campaign result ({error})") from None
