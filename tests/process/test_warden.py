"""What a ledger says of processes, and which of them are ended; `tests/leftovers/` ends whole sessions."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from zebra.injection.ledger import Ledger, members, outstanding, process_entry, start_time, state_of
from zebra.injection.reaping import kill_group, reap
from zebra.substrate.process import SUBSTRATE

pytestmark = pytest.mark.skipif(bool(SUBSTRATE.unavailable()), reason=SUBSTRATE.unavailable())


def test_the_ledger_tells_what_is_outstanding_and_bears_a_torn_last_line(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger")
    ledger.add([{"id": "1", "kind": "process"}, {"id": "2", "kind": "process"}])
    ledger.done(["1"])
    with open(ledger.path, "ab") as file:
        file.write(b'\n{"id": "3", "ki')
    assert [entry["id"] for entry in outstanding(ledger.path)] == ["2"]
    ledger.add([{"id": "4", "kind": "process"}])
    assert [entry["id"] for entry in outstanding(ledger.path)] == ["2", "4"]
    assert outstanding(tmp_path / "none") == []
    ledger.close()


def test_only_groups_that_we_marked_are_killed(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger")
    ours, other = (subprocess.Popen(["sleep", "1000"], start_new_session=True) for _ in range(2))
    try:
        mine, theirs = process_entry(ours.pid, "node"), process_entry(other.pid, "node")
        theirs["start"] -= 1  # as if its number had been given out again
        theirs["id"] = f"{other.pid}.{theirs['start']}"
        ledger.add([mine, theirs])
        assert set(members({ours.pid: mine["start"], other.pid: theirs["start"]})) == {ours.pid}
        kill_group(other.pid, theirs["start"])
        assert reap(ledger.path) == []
        assert ours.wait(timeout=5) == -9
        other.send_signal(signal.SIGSTOP)
        assert os.WIFSTOPPED(os.waitpid(other.pid, os.WUNTRACED)[1]), "which no signal from before has killed"
    finally:
        for process in (ours, other):
            process.kill()
            process.wait()
        ledger.close()


def test_a_group_is_killed_although_its_leader_is_gone(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger")
    program = "import subprocess as s; print(s.Popen(['sleep', '1000'], stdout=s.DEVNULL).pid, flush=True); input()"
    command = [sys.executable, "-c", program]
    leader = subprocess.Popen(command, start_new_session=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert leader.stdout is not None
    child = int(leader.stdout.readline())
    ledger.add([process_entry(leader.pid, "node")])
    leader.kill()
    leader.wait()
    leader.communicate()
    assert start_time(child)
    assert reap(ledger.path) == []
    assert state_of(child) in ("", "Z", "X")
    ledger.close()
