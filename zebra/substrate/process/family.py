"""All processes of a node: its process group, and those below it that moved to a group or session of their own.

PostgreSQL's, for one, call setsid(2): a signal to the group would leave them at work.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path


def signal_family(leader: int, number: signal.Signals) -> None:
    """Signal the group that a process leads, and all below it, as far as they are there."""
    below = descendants(leader)
    _send(os.killpg, leader, number)
    for pid in below:
        _send(os.kill, pid, number)
    while number == signal.SIGSTOP and (new := descendants(leader) - below):  # started before their parents stood
        for pid in new:
            _send(os.kill, pid, number)
        below |= new


def descendants(pid: int) -> set[int]:
    """The processes below a process; none where the kernel does not list them (CONFIG_PROC_CHILDREN)."""
    found, pending = set[int](), [pid]
    while pending:
        try:  # not by glob: it raises from within when the directory goes away under it
            threads = list(Path(f"/proc/{pending.pop()}/task").iterdir())
        except (FileNotFoundError, ProcessLookupError):  # it has just ended
            continue
        for thread in threads:
            try:
                new = {int(child) for child in (thread / "children").read_text().split()} - found
            except (FileNotFoundError, ProcessLookupError):
                continue
            found |= new
            pending += new
    return found


def _send(send: Callable[[int, int], None], pid: int, number: signal.Signals) -> None:
    try:
        send(pid, number)
    except ProcessLookupError:
        pass
