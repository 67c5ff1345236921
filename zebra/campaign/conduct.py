"""A campaign from its options to what it leaves in the report directory: store, resume, budget, incremental mode."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from zebra.campaign import code
from zebra.campaign.budget import Budget
from zebra.campaign.campaign import Campaign
from zebra.campaign.incremental import Change, basis, change_since
from zebra.campaign.progress import Progress
from zebra.campaign.result import Baselines, CampaignResult, ParameterResult, Trials
from zebra.campaign.rolling import How
from zebra.campaign.slow import RATIO
from zebra.campaign.store import Identity, Recorded, Store
from zebra.campaign.trial import Executor
from zebra.errors import ConfigError
from zebra.params.rules import Rules
from zebra.report import HISTORY
from zebra.spec import RunSpec
from zebra.target import Target

STORE = "campaign.sqlite"
TRIALS = "trials"
"""The folder of histories of runs that may become evidence, while a campaign is not finished."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What the user chose. `look_ahead` is how many trials to keep a cluster busy with, 0 for what suits the target."""

    seed: int
    params: str = "*"
    accepted: Sequence[str] = ()
    budget: str = ""
    resume: bool = False
    incremental: bool = False
    look_ahead: int = 0
    rules: Rules = field(default_factory=Rules)
    rolling: How = ""
    slow: float = RATIO

    def __post_init__(self) -> None:
        if self.resume and self.incremental:
            raise ConfigError("--zebra-resume goes on with whatever was begun: leave out --zebra-incremental")
        Budget(self.budget)


class Conduct:
    """Carries a campaign out over `specs` and leaves its store, histories and evidence in `directory`.

    `codes` are digests of the tests' code, by the names in the specs (`zebra.campaign.code.of_test`). After `run`,
    `lines` says for people what was resumed, carried over or cut short, and `output` names for each parameter with
    evidence the directory of what the nodes of its failing run wrote. Raises ConfigError for options that do not fit
    what is stored.
    """

    def __init__(self, target: Target, specs: Sequence[RunSpec], directory: Path, codes: Mapping[str, str],
                 options: Options) -> None:  # fmt: skip
        self.target, self.specs, self.directory, self.options = target, list(specs), directory, options
        self.space = (target.rules + options.rules).applied(target.space)
        self.tests = {test: code.digest(own, code.installed()) for test, own in codes.items()}
        defaults = code.of_defaults(target.space)
        self._codes = {test: code.digest(own, defaults) for test, own in self.tests.items()}
        self.lines: list[str] = []
        self.output: dict[str, Path] = {}
        self.store = self._open()
        try:
            self._identify()
        except BaseException:
            self.store.close()
            raise

    def close(self) -> None:
        self.store.close()

    # -- which campaign --------------------------------------------------------------------------------------

    def _open(self) -> Store:
        path = self.directory / STORE
        if self.options.resume and not path.exists():
            raise ConfigError(f"--zebra-resume: {path} does not exist, there is no campaign to resume")
        if not self.options.resume and not self.options.incremental:
            self._replace(path)
        return Store(path)

    def _replace(self, path: Path) -> None:
        """Make room for a new campaign."""
        with suppress(ConfigError):
            if path.exists():
                old = Store(path)
                if old.identity is not None and not old.finished and (count := old.trials()):
                    self.lines.append(f"an unfinished campaign of {count} trials was replaced: to go on with one, "
                                      "give --zebra-resume")  # fmt: skip
                old.close()
        for name in (path.name, f"{path.name}-wal", f"{path.name}-shm"):
            path.with_name(name).unlink(missing_ok=True)

    def _identify(self) -> None:
        """See that the store is of this very campaign, or begin one there."""
        mine, stored = self._identity(), self.store.identity
        if self.options.resume:
            if stored is None:
                raise ConfigError(f"--zebra-resume: {self.store.path} holds no campaign")
            mine = msgspec.structs.replace(mine, incremental=stored.incremental, look_ahead=stored.look_ahead)
            self._compare(
                mine, stored, ("target", "substrate", "seed", "params", "reach", "tests", "code"), "--zebra-resume"
            )
        elif self.options.incremental and self.store.basis is not None and stored is not None:
            self._compare(mine, stored, ("target", "substrate", "seed", "params", "reach"), "--zebra-incremental")
        self.identity = mine
        self.resumed = self.options.resume
        if not self.resumed:
            self.store.begin(mine)

    def _identity(self) -> Identity:
        specs = [msgspec.msgpack.encode(spec) for spec in sorted(self.specs, key=lambda spec: spec.test)]
        return Identity(
            target=self.target.name, substrate=self.specs[0].substrate, seed=self.options.seed,
            params=self.options.params, tests=code.digest(*specs), reach=self._reach(),
            code=code.digest(*(f"{test} {own}" for test, own in sorted(self._codes.items()))),
            incremental=self.options.incremental, look_ahead=self.options.look_ahead,
        )  # fmt: skip

    def _reach(self) -> str:
        """What of the options, beside the parameters' names, decides which cases there are and what fails."""
        slow = "" if self.options.slow == RATIO else f"slow {self.options.slow:g}"
        rules = f"rules {code.digest(repr(self.options.rules))}" if self.options.rules else ""
        rolling = f"rolling {self.options.rolling}" if self.options.rolling else ""
        return ", ".join(filter(None, (rules, rolling, slow)))

    def _compare(self, mine: Identity, stored: Identity, fields: Sequence[str], option: str) -> None:
        for name in fields:
            ours, theirs = getattr(mine, name), getattr(stored, name)
            if ours == theirs:
                continue
            what = {
                "tests": "over other tests, or these with other markers",
                "code": "made by other code than what is here now",
            }.get(name, f"with {name} {theirs!r}, this one has {ours!r}")
            raise ConfigError(f"{option}: {self.store.path} holds a campaign {what}; leave out {option} to begin anew")

    # -- the campaign ----------------------------------------------------------------------------------------

    def run(self, executor: Executor, progress: Progress, describe: Callable[[RunSpec], str]) -> CampaignResult:
        """All verdicts that the budget allows. Raises ConfigError as `Campaign` does."""
        known = self.store.basis
        if self.resumed and self.store.finished and known is not None:
            self.lines.append("this campaign is finished: nothing was run")
            self._write(self.store.evidence())
            for parameter in known.result.parameters:
                parameter.accepted = parameter.name in self.options.accepted
            return known.result
        names = self.space.matching(self.options.params)
        change = None
        if self.identity.incremental:
            if known is None:
                self.lines.append("no finished campaign is stored: everything is decided anew")
            else:
                change = change_since(known, self.tests, self.space, names)
                self.lines += change.lines() or ["nothing has changed since the campaign that is stored"]
        specs = self.specs
        if change is not None and not change.parameters:
            specs = [spec for spec in specs if spec.test in change.tests]
        runner = Recorded(self.store, executor, self._codes, Budget(self.options.budget), progress.arrived)
        campaign = None
        if specs:
            (self.directory / TRIALS).mkdir(exist_ok=True)
            campaign = Campaign(
                self.target, specs, runner, seed=self.options.seed, params=self.options.params,
                accepted=self.options.accepted, progress=progress, keep=self._keep, describe=describe,
                only=change.wanted if change is not None else lambda *_: True, look_ahead=self.identity.look_ahead,
                rules=self.options.rules, rolling=self.options.rolling, slow=self.options.slow,
            )  # fmt: skip
            stored = self.store.trials(earlier=False)
            result = campaign.run()
            result.cut = str(campaign.cut or "")
            self._say_what_was_stored(runner, stored, campaign)
        else:
            result = self._nothing(names)
        result.trials = self._counted(result.trials, runner)
        if change is not None:
            result = self._joined(change, result)
        self._settle(campaign, result, change)
        return result

    def _nothing(self, names: Sequence[str]) -> CampaignResult:
        """The result of a campaign that has made no trial."""
        accepted = self.options.accepted
        return CampaignResult(
            target=self.target.name, substrate=self.identity.substrate, seed=self.options.seed, trials=Trials(),
            bound_bits=0.0, baselines=Baselines(), reads_unseen=self.target.external,
            parameters=[ParameterResult(name=name, verdict="untested", accepted=name in accepted) for name in names],
        )  # fmt: skip

    def _keep(self, number: int) -> str:
        return str(self.directory / TRIALS / f"{number:06d}.jsonl")

    def _say_what_was_stored(self, runner: Recorded, stored: int, campaign: Campaign) -> None:
        answered, executed = runner.answered.total() - runner.earlier.total(), runner.executed.total()
        if self.resumed:
            self.lines.append(f"resumed: {answered} trials were stored, {executed} were run")
            if stored > answered and campaign.cut is None:
                self.lines.append(f"{stored - answered} stored trials were not asked for again: the campaign has taken "
                                  "another course than before it was interrupted")  # fmt: skip
        if campaign.cut is not None:
            self.lines.append(f"{campaign.cut}: --zebra-resume goes on from here")

    def _counted(self, trials: Trials, runner: Recorded) -> Trials:
        """Every execution that this campaign made, before it was interrupted too and in a batch that the budget cut
        short; results of an earlier campaign count as cached."""
        counted = Trials(cached=trials.cached + runner.earlier.total())
        for purpose, count in (runner.executed + runner.answered - runner.earlier).items():
            setattr(counted, purpose, count)
            counted.total += count
        return counted

    def _joined(self, change: Change, now: CampaignResult) -> CampaignResult:
        """With what is carried over."""
        merged = change.merged(now)
        merged.never = sorted(set(merged.never) - self.store.kinds(sorted(set(self._codes.values()))))
        return merged

    # -- what it leaves --------------------------------------------------------------------------------------

    def _settle(self, campaign: Campaign | None, result: CampaignResult, change: Change | None) -> None:
        """Keep the evidence; once all verdicts are there, the store is finished and needs no other file."""
        files = {name: Path(file) for name, file in campaign.evidence.items()} if campaign is not None else {}
        evidence = {}
        if change is not None:
            decided = {p.name for p in result.parameters if p.name in files}
            carried = change.carried(decided)
            evidence = {name: history for name, history in self.store.evidence().items() if name in carried}
        evidence |= {name: file.read_bytes() for name, file in files.items() if file.exists()}
        self.output = {name: file.with_suffix("") for name, file in files.items() if file.with_suffix("").exists()}
        self._write(evidence)
        if campaign is None or campaign.cut is None:
            self.store.finish(basis(result, campaign, self.tests, self.space, change), evidence)
            self.store.forget(sorted(set(self._codes.values())))

    def _write(self, evidence: Mapping[str, bytes]) -> None:
        (self.directory / HISTORY).write_bytes(b"".join(evidence.values()))

    def tidy(self) -> None:
        """Remove what only an unfinished campaign needs."""
        if self.store.finished:
            shutil.rmtree(self.directory / TRIALS, ignore_errors=True)
