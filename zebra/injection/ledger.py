"""The ledger: what a session has made and must undo, written down before it acts.

One JSON object per line: `{"id": "7.31", "kind": "process", …}` for what is made, `{"id": "7.31", "phase": "healing"}`
for how far a fault or an effect is, `{"done": "7.31"}` once it is undone. An entry is durable when `add` returns, and a
phase that announces an act when `phase` does. A torn last line was never acted upon, so it is ignored.

Kinds. *Objects* (process, cgroup, container, network, image, proxy …) are what the kernel or a server holds for us;
`zebra.injection.reaping` knows how to remove each kind. An *effect* is what a capability added: it lives in objects of
its session and is gone with them. A *fault* has a registered name, and where it acts outside of capabilities its state:
healing it is its own business. Source: ../shared/design.md section 10.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

Phase = Literal["planned", "injecting", "injected", "healing", "healed", "gone"]
"""How far a fault or an effect is; *healed* (it was undone) and *gone* (what it acted on has vanished) are the end."""

ANNOUNCED = ("planned", "injecting", "healing")
"""Phases in which something is about to happen: they are durable before it does."""

OVER = ("healed", "gone")


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

    def phase(self, entry: str, phase: Phase, **more: Any) -> None:
        """Write how far a fault or an effect is, and what else is known of it by now."""
        os.write(self._file, b"\n" + msgspec.json.encode({"id": entry, "phase": phase, **more}) + b"\n")
        if phase in ANNOUNCED:
            os.fdatasync(self._file)

    def close(self) -> None:
        os.close(self._file)


def outstanding(path: Path) -> list[dict[str, Any]]:
    """The entries that nobody has undone, in the order in which they were made."""
    return [entry for entry in entries(path) if not entry["over"]]


def entries(path: Path) -> list[dict[str, Any]]:
    """All entries in the order in which they were made, each with its last phase and whether it is `over`."""
    found: dict[str, dict[str, Any]] = {}
    try:
        lines = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return []
    for line in lines:
        if not line:
            continue
        try:
            entry = msgspec.json.decode(line, type=dict[str, Any])
        except (msgspec.DecodeError, ValueError, RecursionError):
            continue  # torn, or no line of ours
        name, kind, done = entry.get("id"), entry.get("kind", ""), entry.get("done")
        if isinstance(done, str) and done in found:
            found[done]["over"] = True
        elif isinstance(name, str) and isinstance(kind, str) and (kind or name in found):
            known = found.setdefault(name, {})
            known.update(entry, over=entry.get("phase") in OVER)
    return list(found.values())


class _Process(msgspec.Struct):
    pid: Annotated[int, msgspec.Meta(gt=1, le=1 << 22)]
    start: Annotated[int, msgspec.Meta(ge=0)]
    what: str
    id: str

    def __post_init__(self) -> None:
        if self.id != f"{self.pid}.{self.start}":
            raise ValueError("it says two things")


class _Session(msgspec.Struct):
    pid: Annotated[int, msgspec.Meta(gt=0, le=1 << 22)]
    start: Annotated[int, msgspec.Meta(ge=0)]
    boot: str


class _Effect(msgspec.Struct):
    capability: str
    fault: str
    phase: Phase


class _Fault(msgspec.Struct):
    name: str
    phase: Phase


FORMS: dict[str, type] = {"process": _Process, "session": _Session, "effect": _Effect, "fault": _Fault}
"""What entries say at least, by kind; those that a kind has a reaper of its own for are its business."""


def is_ours(entry: dict[str, Any]) -> bool:
    """Whether an entry has the form in which we write its kind; any other is never acted upon."""
    try:
        msgspec.convert(entry, FORMS.get(entry["kind"], Any))
    except (msgspec.ValidationError, RecursionError):
        return False
    return True


def process_entry(pid: int, what: str) -> dict[str, Any]:
    """The entry of a process that leads its own group; its start time guards against a pid that is used again."""
    start = start_time(pid)
    return {"id": f"{pid}.{start}", "kind": "process", "what": what, "pid": pid, "start": start}


def session_entry(pid: int) -> dict[str, Any]:
    """The first entry of a ledger: whose it is."""
    return {"id": "session", "kind": "session", "pid": pid, "start": start_time(pid), "boot": boot()}


def boot() -> str:
    """What tells this boot of the machine from any other: numbers of processes mean nothing across boots."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def owner() -> str:
    """Whose a thing is that outlives its ledger, as its label says it: user, process, and what tells that one apart."""
    pid = os.getpid()
    return f"{os.geteuid()}/{pid}/{start_time(pid)}/{_numbering()}/{boot()}"


def has_ended(owner: str) -> bool:
    """Whether a label names a process of this user that is gone for certain: one whose number means something here."""
    try:
        user, pid, start, numbering, booted = owner.split("/")
        if int(user) != os.geteuid():
            return False
        return booted != boot() or (numbering == _numbering() and start_time(int(pid)) != int(start) > 0)
    except ValueError:
        return False


def _numbering() -> str:
    """The namespace in which this process knows others by number."""
    return str(os.stat("/proc/self/ns/pid").st_ino)


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
