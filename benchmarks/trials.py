"""Trials per second: our trial server, which forks, beside one fresh `pytest` process per trial, for the same test.

The test sleeps for 20 ms. Both ways run equally many trials at a time, load the same plugins and run pytest's whole
protocol. They take turns, round by round; the figures are medians of the rounds and of their ratios. The server's own
start is not in its time, as a campaign pays it once; it is shown.

With one trial per processor the test's sleep, in which the processor rests, bounds the server: at 20 ms and nothing
else it could do 50 trials a second per processor. So there are also rows with two trials per processor, for both ways;
to these the bars apply. The exit code is 1 when a ratio is below its bar (with `--bars`).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tabulate import tabulate

from zebra.campaign.server import TrialServer
from zebra.campaign.trial import Trial, TrialResult
from zebra.spec import RunSpec
from zebra.trial_protocol import run_protocol

TEST = """
import time

def test_twenty_milliseconds(tmp_path):
    time.sleep(0.02)
"""
NAME = "test_it.py::test_twenty_milliseconds"
OTHERS = ("randomly", "timeout", "asyncio", "anyio", "xdist", "xdist.looponfail")
"""Installed plugins that are off on both sides, so that the environment is what its name says."""

PROCESSORS = os.cpu_count() or 2
PER_PROCESSOR = (1, 2)
SERVER_TRIALS = 60
"""Trials per round of the server; the other way, much slower, does two for each that runs at a time."""

BARS = {"hypothesis": 30.0, "autoload off": 10.0}
"""Least ratio with the most trials per processor."""


# -- as a pytest plugin: the server's side -------------------------------------------------------------------------


def pytest_runtestloop(session: pytest.Session) -> bool:
    """Serve trials of the one test that was collected: for each number read the time in seconds that so many take."""
    (item,) = session.items

    def run_trial(trial: Trial, directory: Path) -> TrialResult:
        reports = run_protocol(item, trial.spec.seed, directory)
        passed = len(reports) == 3 and all(report.passed for report in reports)
        return TrialResult(result="pass" if passed else "fail", message=str(reports))

    scratch = session.config._tmp_path_factory.getbasetemp()  # type: ignore[attr-defined]
    workers = int(os.environ["TRIALS_WORKERS"])
    server = TrialServer(run_trial, workers=workers, trial_s=60.0, scratch=scratch)
    with open(os.environ["TRIALS_ASK"], encoding="ascii") as asked, open(os.environ["TRIALS_SAY"], "w") as said:
        for line in asked:
            trials = [Trial(spec=RunSpec(test=NAME, target="", seed=n), purpose="pooled") for n in range(int(line))]
            started = time.perf_counter()
            results = server.map(trials)
            wall_s = time.perf_counter() - started
            bad = [result for result in results if not result.passed]
            said.write(msgspec.json.encode({"wall_s": wall_s, "bad": [b.message + b.output for b in bad]}).decode())
            said.write("\n")
            said.flush()
    server.close()
    return True


# -- the two ways ------------------------------------------------------------------------------------------------


def command(folder: Path, *more: str) -> list[str]:
    """pytest on the test, with nothing that only one of the ways would do."""
    return [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--rootdir={folder}", *more, NAME]


def environment(folder: Path, autoload: bool) -> dict[str, str]:
    made = {**os.environ, "PYTEST_ADDOPTS": " ".join(f"-p no:{name}" for name in OTHERS)}
    made["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    if not autoload:
        made |= {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTEST_ADDOPTS": ""}
    return made


def fresh_s(folder: Path, trials: int, workers: int, autoload: bool) -> float:
    """Seconds for so many trials, each a pytest process of its own, `workers` at a time."""
    started, waiting, running = time.perf_counter(), trials, list[subprocess.Popen[bytes]]()
    while waiting or running:
        while waiting and len(running) < workers:
            running.append(subprocess.Popen(command(folder), cwd=folder, env=environment(folder, autoload),
                                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT))  # fmt: skip
            waiting -= 1
        done = running.pop(0)  # they are alike, so the first to start is the first to end
        output, _ = done.communicate()
        assert done.returncode == 0, output.decode()
    return time.perf_counter() - started


class Server:
    """A pytest process that is a trial server."""

    def __init__(self, folder: Path, workers: int, autoload: bool) -> None:
        ask, say = folder / "ask", folder / "say"
        for fifo in (ask, say):
            fifo.unlink(missing_ok=True)
            os.mkfifo(fifo)
        started = time.perf_counter()
        self._process = subprocess.Popen(
            command(folder, "-p", "trials"), cwd=folder, stdout=subprocess.DEVNULL,
            env={**environment(folder, autoload), "TRIALS_ASK": str(ask), "TRIALS_SAY": str(say),
                 "TRIALS_WORKERS": str(workers)},
        )  # fmt: skip
        self._ask, self._say = open(ask, "w"), open(say)  # noqa: SIM115
        self.start_s = time.perf_counter() - started

    def wall_s(self, trials: int) -> float:
        self._ask.write(f"{trials}\n")
        self._ask.flush()
        answer = json.loads(self._say.readline())
        assert not answer["bad"], answer["bad"][0]
        return float(answer["wall_s"])

    def close(self) -> None:
        self._ask.close()
        self._process.wait()
        self._say.close()


@contextmanager
def serving(folder: Path, workers: int, autoload: bool) -> Iterator[Server]:
    server = Server(folder, workers, autoload)
    try:
        yield server
    finally:
        server.close()


def plugins(folder: Path, autoload: bool) -> str:
    """What of third parties is loaded, as pytest says."""
    said = subprocess.run([sys.executable, "-m", "pytest", "--co", "-p", "no:cacheprovider", NAME], cwd=folder,
                          env=environment(folder, autoload), capture_output=True, text=True, check=True)  # fmt: skip
    return next((line.partition(": ")[2] for line in said.stdout.splitlines() if line.startswith("plugins")), "none")


def compare(folder: Path, name: str, per_processor: int, rounds: int) -> dict[str, Any]:
    served, fresh = [], []
    autoload, workers = name == "hypothesis", per_processor * PROCESSORS
    with serving(folder, workers, autoload) as server:
        server.wall_s(workers)
        for _ in range(rounds):
            fresh.append(2 * workers / fresh_s(folder, 2 * workers, workers, autoload))
            served.append(SERVER_TRIALS / server.wall_s(SERVER_TRIALS))
    ratios = [ours / theirs for ours, theirs in zip(served, fresh, strict=True)]
    return {
        "environment": name, "plugins": plugins(folder, autoload), "workers": workers, "rounds": rounds,
        "server_per_s": statistics.median(served), "fresh_per_s": statistics.median(fresh),
        "ratio": statistics.median(ratios), "ratio_least": min(ratios), "ratio_most": max(ratios),
        "bar": BARS[name] if per_processor == PER_PROCESSOR[-1] else None, "server_start_s": server.start_s,
    }  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, help="default %(default)s")
    parser.add_argument("--json", action="store_true", help="the same as JSON")
    parser.add_argument("--bars", action="store_true", help="exit with 1 when a bar is missed")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="zebra-trials-") as made:
        folder = Path(made)
        (folder / "test_it.py").write_text(TEST)
        rows = [compare(folder, name, each, options.rounds) for name in BARS for each in PER_PROCESSOR]
    if options.json:
        print(json.dumps(rows, indent=1))
    else:
        print(
            f"{PROCESSORS} processors, {rows[0]['rounds']} rounds; loaded: {rows[0]['plugins']}; {rows[-1]['plugins']}"
        )
        table = [
            [row["environment"], row["workers"], f"{row['server_per_s']:.1f}/s", f"{row['fresh_per_s']:.2f}/s",
             f"{row['ratio']:.1f} ({row['ratio_least']:.1f} to {row['ratio_most']:.1f})", row["bar"],
             f"{row['server_start_s']:.1f} s"]
            for row in rows
        ]  # fmt: skip
        headers = ["environment", "at a time", "trial server", "fresh pytest", "ratio", "bar", "server's start"]
        print(tabulate(table, headers=headers, tablefmt="simple"))
    return int(options.bars and any(row["bar"] is not None and row["ratio"] < row["bar"] for row in rows))


if __name__ == "__main__":
    sys.exit(main())
