"""A signal to a node reaches what its programs started, in whatever session that is."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import pytest

from zebra.injection.ledger import state_of
from zebra.substrate.process.family import descendants, signal_family

TREE = """
import subprocess, sys, time
if sys.argv[1] != "0":
    child = subprocess.Popen([sys.executable, "-c", sys.argv[2], str(int(sys.argv[1]) - 1), sys.argv[2]],
                             start_new_session=sys.argv[1] == "2")
print("up", flush=True)
time.sleep(600)
"""


def until(wanted: set[str], pids: set[int]) -> None:
    end = time.monotonic() + 10
    while {state_of(pid) for pid in pids} - wanted:
        assert time.monotonic() < end, [state_of(pid) for pid in pids]
        time.sleep(0.001)


def test_a_family_over_two_sessions_is_stopped_goes_on_and_is_killed() -> None:
    """A leader, a child in a session of its own, and a grandchild in that one."""
    command = [sys.executable, "-c", TREE, "2", TREE]
    leader = subprocess.Popen(command, start_new_session=True, stdout=subprocess.PIPE, text=True)
    try:
        assert leader.stdout is not None
        for _ in range(3):
            assert leader.stdout.readline() == "up\n"
        below = descendants(leader.pid)
        family = below | {leader.pid}
        assert len(family) == 3
        signal_family(leader.pid, signal.SIGSTOP)
        until({"T", "t"}, family)
        signal_family(leader.pid, signal.SIGCONT)
        until({"S", "R"}, family)
    finally:
        signal_family(leader.pid, signal.SIGKILL)
    assert leader.wait(10) == -signal.SIGKILL
    leader.stdout.close()
    until({"", "Z"}, below)


@pytest.mark.parametrize("number", [signal.SIGSTOP, signal.SIGCONT, signal.SIGKILL])
def test_a_family_that_is_gone_is_no_trouble(number: signal.Signals) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""], start_new_session=True)
    gone.wait()
    signal_family(gone.pid, number)


def test_descendants_that_come_and_go_are_no_trouble() -> None:
    leader = subprocess.Popen(["sh", "-c", "while :; do /bin/true; done"], start_new_session=True)
    try:
        seen = set[int]()
        while len(seen) < 50:
            seen |= descendants(leader.pid)
    finally:
        signal_family(leader.pid, signal.SIGKILL)
        leader.wait()
