"""Dask distributed under the agent: who reads what, which values reach whom, and what a campaign finds."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("distributed", reason="distributed is not installed")

import dask.config

from tests.projects import decide
from zebra.agent.adapters.dask import ADAPTER
from zebra.agent.agent import Agent
from zebra.campaign.result import ParameterResult
from zebra.errors import ConfigError
from zebra.params import Assignment
from zebra.spec import RunSpec
from zebra.target import find_target

TARGET = find_target("dask")
LEASE = "distributed.scheduler.locks.lease-timeout"


def read_in(assignment: Assignment) -> Agent:
    """An agent after a run of a scheduler, two workers and a client."""
    found = Agent(ADAPTER, TARGET.space)
    found.start()
    try:
        from distributed import get_worker

        from zebra.targets.dask.cluster import cluster

        def in_task() -> Any:
            return get_worker().name, dask.config.get(LEASE)

        async def main() -> None:
            async with cluster(workers=2) as made:
                tasks = [made.client.submit(in_task, workers=name, pure=False) for name in ("w1", "w2")]
                seen.extend(await made.client.gather(tasks))
                seen.append(("client", dask.config.get(LEASE)))

        seen: list[Any] = []
        with found.run(RunSpec(target="dask", assignment=assignment), record=True):
            asyncio.run(main())
        found.seen = seen  # type: ignore[attr-defined]
    finally:
        found.stop()
    return found


@pytest.fixture(scope="module")
def mixed() -> Agent:
    return read_in({f"dask.{LEASE}": {"*": 30.0, "worker-2": 1.5, "client": 2.0}})


def test_tasks_and_the_test_read_what_their_node_has(mixed: Agent) -> None:
    assert mixed.seen == [("w1", "30000ms"), ("w2", "1500ms"), ("client", "2000ms")]  # type: ignore[attr-defined]


def test_every_role_is_seen_and_numbered(mixed: Agent) -> None:
    assert list(mixed.nodes) == ["scheduler-1", "worker-1", "worker-2", "client-1"]
    read = {name: {r.parameter for r in mixed.reads if r.node == name} for name in mixed.nodes}
    assert all(len(parameters) > 20 for parameters in read.values()), {n: len(p) for n, p in read.items()}
    assert read["worker-1"] == read["worker-2"]
    for role, own in (("scheduler", "worker-ttl"), ("worker", "memory.pause"), ("client", "heartbeat")):
        name = f"dask.distributed.{role}.{own}"
        assert {r.role for r in mixed.reads if r.parameter == name} == {role}


def test_read_sites_are_in_distributed(mixed: Agent) -> None:
    sites = {r.site for r in mixed.reads if r.parameter == "dask.distributed.worker.memory.pause"}
    assert len(sites) == 1 and next(iter(sites)).startswith("distributed/worker_memory.py:")


def test_what_is_read_at_import_is_uncertain_though_distributed_was_imported_before(mixed: Agent) -> None:
    assert {"dask.distributed.comm.shard", "dask.distributed.comm.offload", "dask.distributed.admin.tick.limit"} <= set(
        mixed.uncertain_at
    )
    assert mixed.uncertain_at["dask.distributed.comm.shard"].startswith("distributed/protocol/utils.py:")


def test_nothing_is_patched_afterwards(mixed: Agent) -> None:
    from distributed import Client, Scheduler, Worker

    assert dask.config.get.__module__ == "dask.config"
    for kind in (Scheduler, Worker, Client):
        assert kind.__init__.__module__.startswith("distributed.") and not hasattr(kind.__init__, "__wrapped__")


def test_a_branch_is_read_with_the_values_of_its_leaves() -> None:
    found = Agent(ADAPTER, TARGET.space)
    found.start()
    try:
        spec = RunSpec(target="dask", assignment={"dask.distributed.comm.retry.count": {"*": 7}})
        with found.run(spec, record=True):
            assert dask.config.get("distributed.comm.retry")["count"] == 7
            assert dask.config.get("distributed.comm")["retry"]["count"] == 7
            assert dask.config.get("distributed.comm.retry.count") == 7
            assert dask.config.get("distributed.comm.retry.count", override_with=3) == 3
    finally:
        found.stop()
    assert dask.config.get("distributed.comm.retry")["count"] == 0


def test_every_default_and_candidate_is_read_back_as_it_was_given() -> None:
    for parameter in TARGET.space.values():
        for value in (parameter.default, *parameter.alternatives()):
            if value == float("inf"):  # no unit takes it: the parameter is left out of tests that read it
                continue
            native = ADAPTER.native(parameter, value)
            assert ADAPTER.value(parameter, native) == value, (parameter.name, value, native)


def test_processes_get_their_nodes_values_in_dasks_own_way() -> None:
    script = f"import dask.config; print(dask.config.get({LEASE!r}))"
    values = {LEASE: ADAPTER.native(TARGET.space[f"dask.{LEASE}"], 1.5), "distributed.comm.compression": "zlib"}
    environment = ADAPTER.environment(values)
    assert environment["DASK_DISTRIBUTED__COMM__COMPRESSION"] == "zlib"
    said = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "1500ms"


def test_a_marked_test_of_dask_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text("import pytest\n@pytest.mark.zebra('dask')\nasync def test_x(cluster): pass\n")
    done = subprocess.run([sys.executable, "-m", "pytest", "-p", "zebra", "test_it.py"], cwd=tmp_path,
                          capture_output=True, text=True, check=False)  # fmt: skip
    assert done.returncode == 4 and "tests of dask are not marked, run them with --zebra-agent=dask" in done.stderr


def decided(folder: Path, params: str, test: str) -> tuple[dict[str, ParameterResult], str]:
    """The verdicts of a campaign over a few parameters with one of the target's tests."""
    result, done = decide(folder, "--import-mode=importlib", "--rootdir", str(folder), "--zebra-agent=dask",
                          f"--zebra-params={params}", "--zebra-accept=/dev/null", "--pyargs", "zebra.targets.dask",
                          "-k", test)  # fmt: skip
    return {p.name: p for p in result.parameters}, done.stdout


def test_a_campaign_finds_that_leases_are_held_by_one_nodes_time_and_renewed_by_anothers(tmp_path: Path) -> None:
    found, said = decided(tmp_path, "*.lease-timeout", "locks")
    assert found[f"dask.{LEASE}"].verdict == "unsafe", said
    assert all("semaphore.py" in site for sites in found[f"dask.{LEASE}"].sites.values() for site in sites)


def test_a_campaign_calls_nothing_safe_that_is_read_at_import(tmp_path: Path) -> None:
    found, said = decided(tmp_path, "*.comm.[cos][ofh][mfa]*", "dependencies")
    assert {name.rpartition(".")[2]: result.verdict for name, result in found.items()} == {
        "compression": "safe", "shard": "untested", "offload": "untested"}, said  # fmt: skip
    assert "uncertain, distributed/protocol/utils.py" in found["dask.distributed.comm.shard"].note


def test_unknown_values_are_refused() -> None:
    with pytest.raises(ConfigError, match="is not one of"):
        TARGET.space["dask.distributed.comm.compression"].parse("lzma")
