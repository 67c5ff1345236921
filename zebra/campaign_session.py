"""A campaign in a pytest session: what takes the place of running the tests."""

from __future__ import annotations

import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import TYPE_CHECKING

import msgspec
import pytest

from zebra.campaign import code
from zebra.campaign.conduct import Conduct, Options
from zebra.campaign.executor import ClusterExecutor, Setup
from zebra.campaign.progress import Progress
from zebra.campaign.result import CampaignResult
from zebra.campaign.server import TrialServer, send_frame, serve
from zebra.campaign.trial import Executor
from zebra.errors import ConfigError
from zebra.options import read_accepted, read_rules_of, rolling_how, slow_ratio
from zebra.report import CAMPAIGN, OUTPUT
from zebra.spec import RunSpec
from zebra.target import Target

if TYPE_CHECKING:
    from zebra.session import Session

TRIAL_WALL_S = 120.0
"""Wall time after which a campaign's trial is killed and counts as hang."""


class CampaignSession:
    """The campaign of one session; raises pytest.UsageError for bad input."""

    def __init__(self, session: Session) -> None:
        self.session = session

    def run(self, whole: pytest.Session) -> bool:
        """Run the campaign in place of the tests."""
        target = next(iter(self.session.targets.values()))
        try:
            directory, options = self.session.directory, self._campaign_options(target)
            if (serving := self.session.config.getoption("--zebra-serve")) is not None:
                return self._serve(socket.socket(fileno=serving))
            with self._executor(target) as executor:
                if isinstance(executor, ClusterExecutor):
                    options = replace(options, look_ahead=executor.threads)
                conduct = Conduct(target, self._in_order(), directory, self._codes(), options)
                try:
                    self.session.result = self._conducted(conduct, executor)
                except KeyboardInterrupt:
                    count = conduct.store.trials()
                    conduct.lines.append(f"interrupted, {count} trials are stored: --zebra-resume goes on from here")
                    raise
                finally:
                    self.session.texts += conduct.lines
                    conduct.close()
        except ConfigError as error:
            raise pytest.UsageError(f"zebra: {error}") from None
        whole.testscollected = len(self.session.tests)
        whole.testsfailed = len(self.session.result.problems())
        if (reporter := self.session.config.pluginmanager.get_plugin("terminalreporter")) is not None:
            decided = [SimpleNamespace(nodeid=parameter.name) for parameter in self.session.result.parameters]
            reporter.stats["parameters decided"] = decided  # for pytest's last line
        return True

    def _workers(self, target: Target) -> int:
        """Trials at a time: what was asked for, else what suits the target."""
        workers = int(self.session.option("workers"))
        return workers if self.session.config.getoption("--zebra-workers") is not None else max(workers, target.workers)

    def _conducted(self, conduct: Conduct, executor: Executor) -> CampaignResult:
        reporter = self.session.config.pluginmanager.get_plugin("terminalreporter")
        with Progress(conduct.target.name, quiet=reporter is None or reporter.verbosity < -1) as progress:
            result = conduct.run(executor, progress, self._describe)
        for name, output in conduct.output.items():
            self._keep_output(output, name)
        result.save(self.session.directory / CAMPAIGN)
        conduct.tidy()
        return result

    def _campaign_options(self, target: Target) -> Options:
        option = self.session.option
        rules = read_rules_of(option("rules"), target)
        return Options(
            seed=self.session.seed, params=option("params"), accepted=read_accepted(option("accept"), target, rules),
            budget=option("budget"), resume=self.session.resuming, incremental=self.session.incremental,
            rules=rules, rolling=rolling_how(option("rolling")), slow=slow_ratio(option("slow")),
        )  # fmt: skip

    def _describe(self, spec: RunSpec) -> str:
        return spec.command(self.session.directory).removeprefix("zebra replay ")

    def _in_order(self) -> list[RunSpec]:
        """The specs in the order of their files and lines, whatever other plugins have done to that of the items."""

        def place(name: str) -> tuple[str, int, str]:
            return str(self.session.tests[name].path), self.session.tests[name].location[1] or 0, name

        return [self.session.specs[name] for name in sorted(self.session.specs, key=place)]

    def _codes(self) -> dict[str, str]:
        """The digest of each test's code."""
        plugins = {
            str(getattr(plugin, "__file__", "")): plugin for plugin in self.session.config.pluginmanager.get_plugins()
        }
        codes = {}
        for name, item in self.session.tests.items():
            above = [plugins.get(str(folder / "conftest.py")) for folder in item.path.parents]
            modules = [item.module, *(plugin for plugin in above if isinstance(plugin, ModuleType))]
            codes[name] = code.of_test(modules, self.session.targets[name])
        return codes

    @contextmanager
    def _executor(self, target: Target) -> Iterator[Executor]:
        """Who carries out the trials."""
        if address := self.session.option("executor"):
            invoked = self.session.config.invocation_params
            with closing(ClusterExecutor(address, Setup(
                arguments=tuple(map(str, invoked.args)), directory=str(invoked.dir), codes=self._codes()
            ))) as cluster:  # fmt: skip
                yield cluster
            return
        self._prepare()
        with self._scratch() as scratch, closing(TrialServer(
            self.session.run_trial, workers=self._workers(target), scratch=scratch, trial_s=self._trial_s(),
            forked=self.session.close,
        )) as server:  # fmt: skip
            yield server

    def _serve(self, connection: socket.socket) -> bool:
        """Be the trial server of a cluster's worker until it closes the connection."""
        self._prepare()
        send_frame(connection, 0, msgspec.msgpack.encode(self._codes()))
        with self._scratch() as scratch:
            serve(connection, self.session.run_trial, 1 << 16, self._trial_s(), scratch)
        shutil.rmtree(self.session.directory.parent, ignore_errors=True)
        return True

    def _prepare(self) -> None:
        """Make what is costly once, for all trials, which are forks."""
        for each in self.session.targets.values():
            _ = each.prepared

    def _trial_s(self) -> float:
        return TRIAL_WALL_S if self.session.agent is None else self.session.agent.timeout_s

    @contextmanager
    def _scratch(self) -> Iterator[Path]:
        """A directory for those of the trials."""
        factory = getattr(self.session.config, "_tmp_path_factory", None)
        if factory is not None:
            yield factory.getbasetemp()
            return
        with tempfile.TemporaryDirectory(prefix="zebra-", ignore_cleanup_errors=True) as made:
            yield Path(made)

    def _keep_output(self, output: Path, name: str) -> None:
        """What nodes wrote in a run that is evidence on a parameter outlives the campaign."""
        kept = self.session.directory / OUTPUT / name
        shutil.rmtree(kept, ignore_errors=True)
        kept.parent.mkdir(exist_ok=True)
        output.rename(kept)
        self.session.texts.append(f"output of all nodes in the failing run of {name}: {kept}")
