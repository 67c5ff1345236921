"""Trials on a Dask cluster of real worker processes, one of which is killed in mid-campaign."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

pytest.importorskip("distributed", reason="needs the extra pytest-zebra[cluster]")

from tests.projects import COUNTED, campaign, environment, fill, runs, start
from zebra.campaign.executor import ClusterExecutor, Reply, Setup, carry_out, check_address
from zebra.campaign.trial import Trial, TrialResult
from zebra.errors import ConfigError
from zebra.spec import RunSpec

CLUSTER = """
import sys
from distributed import LocalCluster

if __name__ == "__main__":
    with LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None) as cluster:
        print(cluster.scheduler_address, *(worker.pid for worker in cluster.workers.values()), flush=True)
        sys.stdin.read()
"""
THREADS = 2


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    fill(tmp_path, COUNTED)
    (tmp_path / "tmp").mkdir()
    return tmp_path


def with_tmp(folder: Path, *first: Path) -> dict[str, str]:
    return environment(*first, folder, TMPDIR=str(folder / "tmp"))


@pytest.fixture
def cluster(folder: Path) -> Iterator[tuple[str, list[int]]]:
    """The address of a cluster, and the pids of its workers."""
    (folder / "cluster.py").write_text(CLUSTER)
    with subprocess.Popen([sys.executable, "cluster.py"], cwd=folder, env=with_tmp(folder), stdin=subprocess.PIPE,
                          stdout=subprocess.PIPE, text=True) as process:  # fmt: skip
        assert process.stdout is not None
        address, *pids = process.stdout.readline().split()
        yield address, [int(pid) for pid in pids]
        process.communicate()
    assert process.returncode == 0


def zebra(folder: Path, *more: str, first: tuple[Path, ...] = ()) -> subprocess.Popen[str]:
    return start(folder, "campaign", "test_it.py", "--params", "depot.l*", *more, env=with_tmp(folder, *first))


def test_a_worker_that_is_killed_costs_no_trial_and_counts_none_twice(
    folder: Path, cluster: tuple[str, list[int]]
) -> None:
    local = zebra(folder, "--report", "local")
    output, _ = local.communicate(timeout=300)
    assert local.returncode == 1, output
    total = runs(folder)
    (folder / "runs.log").unlink()
    address, pids = cluster
    process = zebra(folder, "--report", "remote", "--executor", address)
    deadline = time.monotonic() + 300
    while runs(folder) < 6 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.001)
    assert process.poll() is None, process.communicate()[0]
    os.kill(pids[0], signal.SIGKILL)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 1, output
    assert campaign(folder, "remote") == campaign(folder, "local")
    assert campaign(folder, "remote")["trials"]["total"] == total <= runs(folder) <= total + THREADS
    assert (folder / "remote" / "history.jsonl").read_bytes() == (folder / "local" / "history.jsonl").read_bytes()
    kept = folder / "remote" / "output" / "depot.limit" / "trial.txt"
    assert "said by a trial" in kept.read_text(), "its output came from the worker"


def test_nothing_stays_on_the_machine_of_a_worker_when_the_cluster_ends(folder: Path) -> None:
    made = Setup(
        arguments=("test_it.py", "--zebra-campaign", "-p", "no:cacheprovider"), directory=str(folder), codes={}
    )
    script = f"""
import msgspec
from tests.projects import COUNTED, campaign, environment, fill, runs, start
from zebra.campaign.executor import carry_out
reply = carry_out({msgspec.msgpack.encode(made)!r}, {msgspec.msgpack.encode(trial_of(folder))!r})
import os, sys
sys.stdout.buffer.write(reply)
sys.stdout.flush()
os.kill(os.getpid(), 9)
"""
    result = subprocess.run([sys.executable, "-c", script], cwd=folder, env=with_tmp(folder), capture_output=True,
                            check=False)  # fmt: skip
    reply = msgspec.msgpack.decode(result.stdout, type=Reply)
    assert reply.result is not None and reply.result.result == "pass", result.stderr.decode()
    assert set(reply.files) == {"000001.jsonl"}
    deadline = time.monotonic() + 30
    while list((folder / "tmp").glob("zebra-worker-*")) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not list((folder / "tmp").glob("zebra-worker-*"))


def trial_of(folder: Path) -> Trial:
    spec = RunSpec(test="test_it.py::test_store", target="depot")
    return Trial(spec=spec, purpose="confirm", history=str(folder / "000001.jsonl"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"directory": "/nowhere/at/all"}, "there is no directory /nowhere/at/all"),
        ({"codes": {"test_it.py::test_store": "0" * 16}}, "test_it.py::test_store is made of other code than here"),
        ({"codes": {"test_it.py::test_gone": "0" * 16}}, "test_it.py::test_gone is not there"),
        ({"arguments": ("test_gone.py", "--zebra-campaign")}, "test_gone.py"),
    ],
)
def test_a_worker_that_has_not_these_tests_says_so(
    change: dict[str, Any], message: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("PYTHONPATH", "TMPDIR"):
        monkeypatch.setenv(name, with_tmp(folder)[name])
    arguments = ("test_it.py", "--zebra-campaign", "-p", "no:cacheprovider")
    setup = Setup(**{"arguments": arguments, "directory": str(folder), "codes": {}, **change})
    packed = carry_out(msgspec.msgpack.encode(setup), msgspec.msgpack.encode(trial_of(folder)))
    reply = msgspec.msgpack.decode(packed, type=Reply)
    assert reply.result is None and message in reply.error and "\n" not in reply.error


@pytest.mark.parametrize(
    "text", ["", "localhost:8786", "http://h:1", "tcp://h", "tcp://h:0", "tcp://h:70000", "tcp://a b:1"]
)
def test_what_is_no_address_is_one_line(text: str) -> None:
    with pytest.raises(ConfigError, match="expected tcp://host:port"):
        check_address(text)


def test_a_scheduler_that_does_not_answer_is_one_line_and_code_2(folder: Path) -> None:
    for address, message in (("tcp://127.0.0.1:9", "no Dask scheduler answers at tcp://127.0.0.1:9"),
                             ("127.0.0.1:9", "expected tcp://host:port")):  # fmt: skip
        process = zebra(folder, "--executor", address)
        output, _ = process.communicate(timeout=120)
        assert process.returncode == 2 and message in output and "Traceback" not in output, output


def test_a_missing_extra_is_one_line_and_code_2(folder: Path) -> None:
    (folder / "without").mkdir()
    (folder / "without" / "distributed.py").write_text("raise ImportError('not installed')")
    process = zebra(folder, "--executor", "tcp://127.0.0.1:9", first=(folder / "without",))
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 2 and "pip install 'pytest-zebra[cluster]'" in output, output
    assert "Traceback" not in output


def test_a_file_outside_of_a_trials_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "trials").mkdir()
    trial = Trial(spec=RunSpec(test="t", target="t"), purpose="confirm", history=str(tmp_path / "trials" / "1.jsonl"))
    reply = Reply(result=TrialResult(result="fail"), files={"../x": b""})
    with pytest.raises(ConfigError, match="outside of its trial's folder"):
        ClusterExecutor._taken(ClusterExecutor.__new__(ClusterExecutor), trial, reply)
    assert not (tmp_path / "x").exists()
