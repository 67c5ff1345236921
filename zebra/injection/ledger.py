"""The ledger: what a session has made and must undo, written down before it acts.

One JSON object per line, `{"id": 3, "kind": "process", …}` for what is made and `{"done": 3}` once it is undone. An
entry is durable when `add` returns. A torn last line was never acted upon, so it is ignored.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec


class Ledger:
    """The file of one session, appended to by several of its processes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def add(self, entries: Iterable[dict[str, Any]]) -> None:
        """Write entries, each with its own `id`; they are durable afterwards."""
        os.write(self._file, b"".join(b"\n" + msgspec.json.encode(entry) + b"\n" for entry in entries))
        os.fdatasync(self._file)

    def done(self, ids: Iterable[str]) -> None:
        """Write that entries are undone. Losing this does no harm, so it need not be durable."""
        os.write(self._file, b"".join(b"\n" + msgspec.json.encode({"done": each}) + b"\n" for each in ids))

    def close(self) -> None:
        os.close(self._file)


def outstanding(path: Path) -> list[dict[str, Any]]:
    """The entries that nobody has undone, in the order in which they were made."""
    entries: dict[str, dict[str, Any]] = {}
    try:
        lines = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return []
    for line in lines:
        if not line:
            continue
        try:
            entry = msgspec.json.decode(line, type=dict[str, Any])
        except msgspec.DecodeError:
            continue  # torn
        if "done" in entry:
            entries.pop(entry["done"], None)
        elif "id" in entry:
            entries[entry["id"]] = entry
    return list(entries.values())


def process_entry(pid: int, what: str) -> dict[str, Any]:
    """The entry of a process that leads its own group; its start time guards against a pid that is used again."""
    start = start_time(pid)
    return {"id": f"{pid}.{start}", "kind": "process", "what": what, "pid": pid, "start": start}


def start_time(pid: int) -> int:
    """When a process started, in clock ticks since boot; 0 if it is gone."""
    return _stat(pid)[2]


def _stat(pid: int) -> tuple[str, int, int]:
    """State, process group and start time of a process."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return "", 0, 0
    return fields[0].decode(), int(fields[2]), int(fields[19])


def state_of(pid: int) -> str:
    """A process's state as one letter (R, S, T stopped, Z zombie), "" if it is gone."""
    return _stat(pid)[0]


def members(groups: dict[int, int]) -> dict[int, list[int]]:
    """The living processes of groups, given as {pid of the leader: its start time}.

    A group whose leader has another start time now is somebody else's. One whose leader is gone is still ours: the
    kernel gives a number out again only when the group is empty.
    """
    found: dict[int, list[int]] = {}
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            state, group, start = _stat(int(entry.name))
            if group in groups and state not in ("", "Z", "X") and start >= groups[group]:
                found.setdefault(group, []).append(int(entry.name))
    return {group: pids for group, pids in found.items() if start_time(group) in (0, groups[group])}
