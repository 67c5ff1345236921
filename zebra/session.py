"""What a pytest session does once it has a test marked `zebra`: the other half of `zebra.plugin`."""

from __future__ import annotations

import fcntl
import hashlib
import inspect
import os
import re
import secrets
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import msgspec
import pytest

from zebra.campaign.conduct import TRIALS
from zebra.campaign.result import CampaignResult
from zebra.campaign.trial import Trial, TrialResult
from zebra.errorlog import compiled
from zebra.errors import ConfigError, ZebraError
from zebra.events import History
from zebra.injection.limits import Limits
from zebra.injection.schedule import Schedule
from zebra.invariant import find
from zebra.options import read_token
from zebra.outcome import Outcome
from zebra.params import validate
from zebra.params.assignment import parse as parse_assignment
from zebra.registry import load, members
from zebra.report import CAMPAIGN, HISTORY, OUTPUT, Report
from zebra.run import find_substrate, run
from zebra.spec import INPROCESS, RunSpec, decode_token
from zebra.target import Target, find_target
from zebra.topology import Topology
from zebra.trial_protocol import first_line_of, run_protocol
from zebra.units import seconds

if TYPE_CHECKING:
    from zebra.agent_session import AgentSession

MARKER_WORDS = (
    "topology", "assignment", "schedule", "invariants", "substrates", "variant", "timeout", "errors", "leaks",
)  # fmt: skip


def test_id(item: pytest.Item) -> str:
    """The name of a test in seeds and tokens; one that a package ships goes by its module, so from any directory."""
    module = getattr(getattr(item, "module", None), "__name__", "")
    return f"{module}::{item.nodeid.partition('::')[2]}" if module.startswith("zebra.") else item.nodeid


class Session:
    """The zebra side of one pytest session; raises pytest.UsageError for bad input."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.tests: dict[str, pytest.Function] = {}
        self.specs: dict[str, RunSpec] = {}
        self.targets: dict[str, Target] = {}
        self.asked: dict[str, list[Any]] = {}
        self.oracles: dict[str, dict[str, Any]] = {}
        self.outcomes: dict[str, Outcome] = {}
        self.result: CampaignResult | None = None
        self.agent: AgentSession | None = None
        self._order: dict[str, int] = {}
        self._trial: Trial | None = None
        self._directory: Path | None = None
        self._lock: IO[str] | None = None
        self.texts: list[str] = []
        warden = sys.modules.get("zebra.injection.warden")  # there if an earlier session of this process used it
        self._objects_before = warden.objects()[0] if warden else 0
        try:
            self.seed = self._seed(self.option("seed"))
            self.replay = self._replay(config.getoption("--zebra-replay"))
            self.substrate = self.option("substrate")
            if self.option("docker-image"):
                os.environ["ZEBRA_DOCKER_IMAGE"] = self.option("docker-image")  # for trials, wherever they run
            find_substrate(self.substrate)
            if self.option("toxiproxy"):
                from zebra.substrate.process.toxiproxy import use

                use(self.option("toxiproxy"), self.substrate, "--zebra-toxiproxy")
        except ConfigError as error:
            raise pytest.UsageError(f"zebra: {error}") from None

    def option(self, name: str) -> str:
        """An option from the command line, or its ini twin."""
        given = self.config.getoption(f"--zebra-{name}")
        return str(self.config.getini(f"zebra_{name.replace('-', '_')}") if given is None else given)

    @property
    def campaigning(self) -> bool:
        return bool(self.config.getoption("--zebra-campaign"))

    @property
    def resuming(self) -> bool:
        return bool(self.config.getoption("--zebra-resume"))

    @property
    def incremental(self) -> bool:
        return bool(self.config.getoption("--zebra-incremental"))

    @property
    def worker(self) -> str:
        """The name of the xdist worker that this is, or ""."""
        return os.environ.get("PYTEST_XDIST_WORKER", "")

    @property
    def has_workers(self) -> bool:
        """Whether xdist's workers run the tests of this session."""
        return bool(getattr(self.config.option, "numprocesses", None))

    def _seed(self, text: str) -> int:
        if text == "random":
            seed = secrets.randbits(32)
            self.texts.append(f"zebra seed: {seed} (drawn, since --zebra-seed=random)")
            return seed
        if not text.removeprefix("-").isdecimal():
            raise ConfigError(f"--zebra-seed: {text!r} is not a whole number or `random`")
        return int(text)

    def _replay(self, text: str | None) -> RunSpec | None:
        if text is None:
            return None
        spec, same_code = decode_token(read_token(text))
        if not same_code:
            self.texts.append("zebra: this token was made by other code, so the run may differ")
        return spec

    # -- agent -----------------------------------------------------------------------------------------------

    def begin_agent(self) -> None:
        """Turn on the agent that was asked for, by name or by the token of a run that had one."""
        name = self.option("agent")
        if not name and self.replay is not None and self.replay.substrate == INPROCESS:
            name = self.replay.target
        if not name:
            return
        if self.has_workers or self.worker:
            raise pytest.UsageError("zebra: --zebra-agent and xdist's -n do not mix")
        if self.campaigning and self.option("executor"):
            raise pytest.UsageError("zebra: --zebra-agent and --zebra-executor do not mix")
        from zebra.agent_session import AgentSession

        try:
            self.agent = AgentSession(name, self.option("timeout"))
        except ZebraError as error:
            raise pytest.UsageError(f"zebra: --zebra-agent: {error}") from None

    def end_agent(self) -> None:
        if self.agent is not None:
            self.agent.close()

    def under_agent(self, item: pytest.Item) -> AbstractContextManager[None]:
        """What is on around a test's whole protocol: the agent, if there is one."""
        spec = self.specs.get(test_id(item))
        if self.agent is None or spec is None:
            return nullcontext()
        if self._trial is None:
            return self.agent.around(spec, True, None)
        return self.agent.around(self._trial.spec, self._trial.record_reads, self._directory)

    def _take_unmarked(self, items: Sequence[pytest.Item], agent: AgentSession) -> None:
        for item in items:
            if isinstance(item, pytest.Function):
                name = test_id(item)
                own = agent.spec(name, own_seed(self.seed, name))
                self.tests[name], self.targets[name] = item, agent.target
                self.specs[name] = own if self.replay is None or self.replay.test != name else self.replay

    # -- collection ------------------------------------------------------------------------------------------

    def collected(self, items: list[pytest.Item], marked: Sequence[pytest.Item]) -> None:
        """Check every marked test and, for a campaign or a replay, leave only what takes part."""
        try:
            if self.agent is not None:
                self.agent.check(marked)
                self._take_unmarked(items, self.agent)
            for number, item in enumerate(marked):
                self._take(item, number)
            if self.replay is not None:
                self._keep_only(items, [self._replayed(self.replay)])
            elif self.campaigning:
                self._check_campaign()
                self._keep_only(items, list(self.tests.values()))
        except (ZebraError, ValueError) as error:
            raise pytest.UsageError(f"zebra: {error}") from None

    def _keep_only(self, items: list[pytest.Item], kept: Sequence[pytest.Item]) -> None:
        others = [item for item in items if item not in kept]
        if others:
            self.config.hook.pytest_deselected(items=others)
        items[:] = kept

    def _replayed(self, spec: RunSpec) -> pytest.Item:
        if spec.test not in self.tests:
            raise ConfigError(f"--zebra-replay: the token is of {spec.test!r}, which was not collected here")
        return self.tests[spec.test]

    def _take(self, item: pytest.Item, number: int) -> None:
        name = test_id(item)
        if hasattr(getattr(item, "obj", None), "hypothesis"):
            raise ConfigError(
                f"{name}: @given and the marker zebra do not mix, write a plain test that calls zebra.run"
            )
        if not isinstance(item, pytest.Function) or not inspect.iscoroutinefunction(item.obj):
            raise ConfigError(f"{name}: a test marked zebra is an `async def` function with a parameter `cluster`")
        self.tests[name], self._order[name] = item, number
        self.specs[name] = self._spec(name, item)

    def _spec(self, name: str, item: pytest.Item) -> RunSpec:
        marker = item.get_closest_marker("zebra")
        assert marker is not None
        if len(marker.args) != 1:
            raise ConfigError(f"{name}: the marker zebra takes one target, as in @pytest.mark.zebra('owl', peer=4)")
        found = marker.args[0]
        target = found if isinstance(found, Target) else find_target(str(found))
        try:
            if target.agent:
                raise ConfigError(f"tests of {target.name} are not marked, run them with --zebra-agent={target.agent}")
            words = {word: value for word, value in marker.kwargs.items() if word in MARKER_WORDS}
            counts = {word: value for word, value in marker.kwargs.items() if word not in MARKER_WORDS}
            if target.unavailable:  # its parameters are unknown here, and the test is skipped
                words.pop("assignment", None)
            for role, count in counts.items():
                target.check_role(role)
                if not isinstance(count, int) or isinstance(count, bool):
                    raise ConfigError(f"{role}={count!r} is not a number of nodes")
            substrate = self._substrate_for(target)
            spec = spec_from_words(
                name, target, words, counts, substrate, own_seed(self.seed, name), self.option("timeout"),
                Limits.parse(self.option("spare"), self.option("at-once")),
            )  # fmt: skip
            self.asked[name] = [find(i) if isinstance(i, str) else i for i in words.get("invariants", ())]
            self.asked[name] += [find(i) for i in self.config.getini("zebra_invariants")]
            self.oracles[name] = {"errors": words.get("errors", ()), "leaks": bool(words.get("leaks", False))}
            compiled(self.oracles[name]["errors"])
        except ConfigError as error:
            raise ConfigError(f"{name}: {error}") from None
        only = words.get("substrates", target.substrates or (substrate,))
        if substrate not in only:
            item.add_marker(pytest.mark.skip(reason=f"only on {', '.join(only)}, this is {substrate}"))
        if target.unavailable:
            item.add_marker(pytest.mark.skip(reason=f"{target.name}: {target.unavailable}"))
        self.targets[name] = target
        return spec if self.replay is None or self.replay.test != name else self.replay

    def _substrate_for(self, target: Target) -> str:
        """The session's substrate; an external system's own first choice where nobody named one that suits it."""
        named = self.config.getoption("--zebra-substrate") is not None
        if named or not target.substrates or self.substrate in target.substrates:
            return self.substrate
        find_substrate(target.substrates[0])
        return target.substrates[0]

    # -- one test --------------------------------------------------------------------------------------------

    def call(self, item: pytest.Function) -> None:
        """Run a marked test: the whole run, liveness and final checks included, is pytest's call phase."""
        name = test_id(item)
        names = item._fixtureinfo.argnames
        arguments = {argument: item.funcargs[argument] for argument in names}
        if "cluster" not in names:
            raise pytest.UsageError(f"zebra: {name}: a test marked zebra has a parameter `cluster`")
        # pytest-asyncio's mode auto has put a plain function around it by now
        function: Callable[..., Any] = inspect.unwrap(item.obj, stop=inspect.iscoroutinefunction)

        async def scenario(cluster: Any) -> None:
            await function(**{**arguments, "cluster": cluster})

        trial = self._trial
        spec = self.specs[name] if trial is None else trial.spec
        outcome = run(
            scenario, spec, target=self.targets[name], invariants=self.asked[name], history=self._history(name),
            record_reads=trial is not None and trial.record_reads, report=None if trial else self.directory,
            output=self._output(name), **self.oracles[name],
        )  # fmt: skip
        self.outcomes[name] = outcome
        outcome.raise_failure()

    @cached_property
    def directory(self) -> Path:
        """The report directory, empty of former results, locked while this session lasts."""
        directory = Path(self.option("report"))
        directory.mkdir(parents=True, exist_ok=True)
        if not self.worker:
            self._lock = open(directory / ".lock", "w")  # noqa: SIM115
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise pytest.UsageError(
                    f"zebra: {directory} is in use by another session, give --zebra-report"
                ) from None
            self._clear(directory)
        return directory

    def _clear(self, directory: Path) -> None:
        """Remove what former sessions left; a campaign's store, and what it needs, only where another replaces it."""
        if self.resuming or self.incremental:
            return
        for old in (HISTORY, CAMPAIGN, "junit.xml", "index.html"):
            (directory / old).unlink(missing_ok=True)
        for folder in () if self.has_workers else ("replays", OUTPUT):
            shutil.rmtree(directory / folder, ignore_errors=True)
        if self.campaigning:
            shutil.rmtree(directory / TRIALS, ignore_errors=True)

    def _history(self, name: str) -> History:
        if self._trial is not None:
            return History(Path(self._trial.history)) if self._trial.history else History()
        if self.worker:
            parts = self.directory / "parts"
            parts.mkdir(exist_ok=True)
            return History(parts / f"{self._order[name]:06d}.jsonl")
        return History(self.directory / HISTORY)

    def _output(self, name: str) -> Path | None:
        """Where what nodes wrote is kept if a test fails; of a campaign's trials only if one may become evidence."""
        if self._trial is None:
            return self.directory / OUTPUT / re.sub(r"[^\w.-]+", "_", name)
        return Path(self._trial.history).with_suffix("") if self._trial.history else None

    def annotate(self, item: pytest.Item, report: pytest.TestReport) -> None:
        """Say in a failed test's report what broke, what was on at the time, and how to run it again."""
        outcome = self.outcomes.get(test_id(item))
        if outcome is None or outcome.result == "pass" or not report.failed:
            return
        report.zebra_result = outcome.result  # type: ignore[attr-defined]
        text = outcome.explain()
        if outcome.violation is not None or outcome.result in ("hang", "inconclusive", "infrastructure"):
            report.longrepr = text
        else:
            report.sections.append(("zebra", text))

    # -- campaign --------------------------------------------------------------------------------------------

    def _check_campaign(self) -> None:
        names = sorted({target.name for target in self.targets.values()})
        if len(names) > 1:
            raise ConfigError(
                f"a campaign decides one target, these tests use {', '.join(names)}: name the tests of one"
            )
        if not names:
            raise ConfigError("--zebra-campaign: no test marked zebra was collected, and there is no --zebra-agent")
        for target in self.targets.values():
            if target.unavailable:
                raise ConfigError(f"target {target.name} is not available here: {target.unavailable}")
        if not self.option("workers").isdecimal() or not 1 <= int(self.option("workers")) <= 512:
            raise ConfigError(f"--zebra-workers: {self.option('workers')!r} is not a number from 1 to 512")

    def campaign(self, session: pytest.Session) -> bool:
        """Run the campaign in place of the tests."""
        from zebra.campaign_session import CampaignSession

        return CampaignSession(self).run(session)

    def run_trial(self, trial: Trial, directory: Path) -> TrialResult:
        """In a forked process: pytest's whole protocol for one test under the trial's spec."""
        self._trial, self._directory = trial, directory / "nodes"
        reports = run_protocol(self.tests[trial.spec.test], trial.spec.seed, directory)
        if self.agent is not None:
            return self.agent.result(trial, reports)
        outcome = self.outcomes.get(trial.spec.test)
        if outcome is None:
            failed = next((report for report in reports if report.failed), None)
            why = first_line_of(failed) if failed is not None else "the test did not run"
            return TrialResult(result="hang" if "from pytest-timeout" in why else "infrastructure", message=why)
        return TrialResult(
            result=outcome.result, message=outcome.message, kinds=tuple(sorted(outcome.kinds)), wall_s=outcome.wall_s,
            duration_s=outcome.duration_s,
            violation="" if outcome.violation is None else outcome.violation.invariant, faults=outcome.faults,
            reads=tuple(sorted(outcome.reads)), unapplied=tuple(sorted(outcome.unapplied)),
        )  # fmt: skip

    # -- the end ---------------------------------------------------------------------------------------------

    def summary(self, terminal: Any) -> None:
        """Join what workers wrote, write the reports, and show what a person should know."""
        if self.worker:
            return
        from zebra.injection.cleaning import describe
        from zebra.injection.warden import objects

        self._join_parts()
        if self.agent is not None and self.result is None:
            self.texts += self.agent.texts()
        for text in self.texts:
            terminal.write_line(text)
        made, left = objects(self._objects_before)
        if made:
            held = f"{len(left)} left, for its warden: {', '.join(map(describe, left))}" if left else "none left"
            terminal.write_line(f"zebra: {made} objects made, {held}")
        for result in ("inconclusive", "infrastructure"):
            for report in terminal.stats.get(result, []):
                terminal.write_sep("_", report.nodeid)
                terminal.write_line(str(report.longrepr))
        unknown = {name for outcome in self.outcomes.values() for name in outcome.unknown}
        unknown -= {name for outcome in self.outcomes.values() for name in outcome.exercised}
        if unknown:
            terminal.write_line(f"zebra: no run exercised {', '.join(sorted(unknown))}")
        if "directory" not in self.__dict__ or not any(
            (self.directory / name).exists() for name in (HISTORY, CAMPAIGN)
        ):
            return
        terminal.write_sep("=", "zebra")
        for text in write_reports(Report.load(self.directory), verbose=self.result is not None):
            terminal.write_line(text)
        if self.result is not None:
            for problem in self.result.problems():
                terminal.write_line(problem)
        terminal.write_line(f"report: {self.directory}/index.html")

    def _join_parts(self) -> None:
        if not self.has_workers or self.campaigning:
            return
        parts = Path(self.option("report")) / "parts"
        if parts.exists():
            with open(self.directory / HISTORY, "wb") as joined:
                for part in sorted(parts.iterdir()):
                    joined.write(part.read_bytes())
            shutil.rmtree(parts)

    def close(self) -> None:
        """Let go of the report directory."""
        if self._lock is not None:
            self._lock.close()


def own_seed(seed: int, test: str) -> int:
    """A test's own seed: from the session's seed and the test's name, never from `hash()`."""
    return int.from_bytes(hashlib.blake2b(f"{seed}/{test}".encode(), digest_size=8).digest(), "big") >> 1


def spec_from_words(test: str, target: Target, words: Mapping[str, Any], counts: Mapping[str, int],
                    substrate: str, seed: int, timeout: str, limits: Limits) -> RunSpec:  # fmt: skip
    """The RunSpec that a marker describes; raises ConfigError."""
    given = words.get("topology", target.topology)
    topology = given if isinstance(given, Topology) else Topology.parse(given, "topology")
    topology = target.full_topology(topology.with_counts(counts))
    Topology.parse(msgspec.to_builtins(topology), "topology")
    assignment = parse_assignment(words.get("assignment", {}))
    validate(assignment, target.space, topology.places())
    return RunSpec(
        test=test, target=target.name, substrate=substrate, topology=topology, assignment=assignment,
        schedule=Schedule.parse(words.get("schedule", ())), seed=seed,
        variant=target.check_variant(words.get("variant", "")),
        timeout_s=seconds(timeout or words.get("timeout", 600.0), "timeout"),
        limits=limits & Limits.parse(words.get("spare", ()), words.get("at_once", 0)),
    )  # fmt: skip


def write_reports(report: Report, verbose: bool) -> list[str]:
    """Let every reporter present a report; their texts for the terminal (the files only, unless `verbose`)."""
    texts = []
    for name in members("reporters"):
        text = getattr(load("reporters", name), name)(report)
        if text and verbose:
            texts.append(text)
    return texts
