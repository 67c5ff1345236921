"""Where control groups can be made, what is written into them, and what is never touched."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from zebra.injection.ledger import Ledger, outstanding
from zebra.substrate.process.cgroup import Group, Tree, find, reap
from zebra.substrate.process.resources import _number_limit


def machine(at: Path, mounts: list[tuple[str, str, str]], own: list[str]) -> tuple[str, str]:
    """A pretended /proc/self: mounts as (kind, directory, options), and the groups that we are in."""
    lines = [f"30 20 0:2 / {at}/{where} rw - {kind} none rw,{options}" for kind, where, options in mounts]
    (at / "mountinfo").write_text("\n".join(["22 1 0:1 / / rw - ext4 /dev/root rw", *lines]))
    (at / "cgroup").write_text("\n".join(own))
    for _, where, _ in mounts:
        (at / where).mkdir()
    return str(at / "mountinfo"), str(at / "cgroup")


def test_version_1_has_a_tree_for_each_controller(tmp_path: Path) -> None:
    files = machine(tmp_path, [("cgroup", "cpu", "cpu,cpuacct"), ("cgroup", "memory", "memory")],
                    ["4:memory:/jobs/7", "2:cpu,cpuacct:/"])  # fmt: skip
    (tmp_path / "memory/jobs/7").mkdir(parents=True)
    assert find("cpu", *files) == Tree(1, tmp_path / "cpu", tmp_path / "cpu")
    assert find("memory", *files) == Tree(1, tmp_path / "memory/jobs/7", tmp_path / "memory/jobs/7")
    assert find("pids", *files) == "no control groups of pids are mounted here"


def test_version_2_makes_groups_beside_ours_where_the_controller_is_delegated(tmp_path: Path) -> None:
    files = machine(tmp_path, [("cgroup2", "all", "")], ["0::/user/me"])
    mine = tmp_path / "all/user/me"
    mine.mkdir(parents=True)
    for group, controllers, delegated in (("", "cpu memory pids", "cpu memory pids"), ("user", "cpu memory", "cpu"),
                                          ("user/me", "cpu", "")):  # fmt: skip
        (tmp_path / "all" / group / "cgroup.controllers").write_text(controllers)
        (tmp_path / "all" / group / "cgroup.subtree_control").write_text(delegated)
    assert find("cpu", *files) == Tree(2, mine.parent, mine)
    assert find("memory", *files) == f"{mine.parent} does not delegate memory to groups that we could make"
    assert find("pids", *files) == "no control groups of pids are mounted here"


def test_without_any_there_is_a_reason(tmp_path: Path) -> None:
    assert "there are no control groups here" in str(find("cpu", "/nowhere", "/nowhere"))
    files = machine(tmp_path, [("cgroup", "cpu", "cpu")], ["2:cpu:/"])
    (tmp_path / "cpu").rmdir()
    assert find("cpu", *files) == f"{tmp_path / 'cpu'} is not writable"


@pytest.mark.parametrize(
    ("version", "controller", "value", "files"),
    [
        (1, "cpu", 0.25, {"cpu.cfs_period_us": "100000", "cpu.cfs_quota_us": "25000"}),
        (1, "memory", 1 << 20, {"memory.limit_in_bytes": "1048576"}),
        (1, "pids", 3, {"pids.max": "3"}),
        (2, "cpu", 0.25, {"cpu.max": "25000 100000"}),
        (2, "memory", 1 << 20, {"memory.max": "1048576"}),
        (2, "pids", 3, {"pids.max": "3"}),
    ],
)
def test_what_is_written_and_that_the_ledger_knows_before(
    version: int, controller: Any, value: float, files: dict[str, str], tmp_path: Path
) -> None:
    ledger = Ledger(tmp_path / "ledger")
    group = Group(ledger, Tree(version, tmp_path, tmp_path), controller, "1-run-1-node-1")
    assert group.path == tmp_path / f"zebra-1-run-1-node-1-{controller}"
    [entry] = outstanding(tmp_path / "ledger")
    assert (entry["kind"], entry["path"]) == ("cgroup", str(group.path))
    group.limit(value)
    assert {path.name: path.read_text() for path in group.path.iterdir()} == files
    ledger.close()


@pytest.mark.parametrize("version", [1, 2])
def test_the_kernels_counters_are_read(version: int, tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger")
    texts = {
        "cpu.stat": "nr_periods 9\nnr_throttled 4\n",
        "pids.events": "max 2\n",
        "memory.failcnt": "7\n",
        "memory.events": "low 0\nmax 7\noom_kill 1\n",
        "memory.oom_control": "under_oom 0\noom_kill 1\n",
    }
    for controller, met in (("cpu", 4), ("memory", 7), ("pids", 2)):
        group = Group(ledger, Tree(version, tmp_path, tmp_path), controller, "x")  # type: ignore[arg-type]
        for name, text in texts.items():
            (group.path / name).write_text(text)
        assert group.met() == met
        if controller == "memory":
            assert group.kills() == 1
    ledger.close()


def test_what_bears_no_mark_or_is_no_group_is_refused_and_what_is_gone_is_gone(tmp_path: Path) -> None:
    other, marked = tmp_path / "system", tmp_path / "zebra-x-cpu"
    for path in (other, marked):
        path.mkdir()
    (other / "cgroup.procs").write_text("")
    assert not reap([{"kind": "cgroup", "path": str(other)}])
    assert not reap([{"kind": "cgroup", "path": str(marked)}])
    assert not reap([json.loads('{"kind": "cgroup"}')])
    assert other.exists() and marked.exists()
    assert reap([{"kind": "cgroup", "path": str(tmp_path / "zebra-gone-cpu")}])
    assert reap([])


@pytest.mark.parametrize(
    ("used", "spare", "bound"),
    [({0, 1, 2}, 0, 3), ({0, 1, 2}, 2, 5), ({0, 1, 2, 9}, 0, 3), ({0, 1, 2, 4}, 1, 5), (set(), 0, 0), ({1}, 0, 0)],
)
def test_just_so_many_file_numbers_are_left_free(used: set[int], spare: int, bound: int) -> None:
    assert _number_limit(used, spare) == bound
    assert len(set(range(bound)) - used) == spare
