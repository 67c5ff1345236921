"""Control groups for nodes: real limits of processor, memory and processes, where this machine lets us make them.

Linux has two forms, of which a machine may use both: version 1 has one tree per controller, version 2 one for all.
Each group is in the ledger before it is made, and its name begins with `zebra-`. Nothing else is ever touched.
Source: the kernel's documentation, admin-guide/cgroup-v1 and admin-guide/cgroup-v2.
"""

from __future__ import annotations

import errno
import os
import signal
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, NamedTuple

from zebra.injection.ledger import Ledger

Controller = Literal["cpu", "memory", "pids"]
MARK = "zebra-"
PERIOD_US = 100_000
TRIES, EVERY_S = 200, 0.01
"""How often one looks whether a group's last process is gone."""


class Tree(NamedTuple):
    """Where groups of a controller are made. `home` is the group that this process is in."""

    version: int
    parent: Path
    home: Path


def find(controller: Controller, mounts: str = "/proc/self/mountinfo", groups: str = "/proc/self/cgroup") -> Tree | str:
    """Where to make groups of a controller, or why that cannot be."""
    own: dict[str, str] = {}
    try:
        for line in Path(groups).read_text().splitlines():
            _, names, path = line.split(":", 2)
            own |= dict.fromkeys(names.split(","), path)
        lines = Path(mounts).read_text().splitlines()
    except OSError as error:
        return f"there are no control groups here ({error})"
    why = f"no control groups of {controller} are mounted here"
    for line in lines:
        fields, (kind, _, options) = _mount(line)
        if kind == "cgroup" and controller in options.split(","):
            home = _inside(Path(fields[4]), fields[3], own.get(controller, "/"))
            if _writable(home):
                return Tree(1, home, home)
            why = f"{home} is not writable"
        elif kind == "cgroup2":
            home = _inside(Path(fields[4]), fields[3], own.get("", "/"))
            for parent in (home, home.parent):
                if controller in _words(parent / "cgroup.subtree_control") and _writable(parent):
                    return Tree(2, parent, home)
                if controller in _words(parent / "cgroup.controllers"):
                    why = f"{parent} does not delegate {controller} to groups that we could make"
    return why


def of_process(controller: Controller, pid: int) -> Tree | None:
    """The group of a controller that a process is in, as seen from here; None if it is not, or is gone."""
    try:
        own = [line.split(":", 2) for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines()]
        lines = Path("/proc/self/mountinfo").read_text().splitlines()
    except OSError:
        return None
    path = {name: path for _, names, path in own for name in names.split(",")}
    for line in lines:
        fields, (kind, _, options) = _mount(line)
        one = kind == "cgroup" and controller in options.split(",")
        if one or (kind == "cgroup2" and controller not in path):
            home = _inside(Path(fields[4]), fields[3], path.get(controller if one else "", "/"))
            return Tree(1 if one else 2, home.parent, home)
    return None


def _mount(line: str) -> tuple[list[str], list[str]]:
    """A line of mountinfo: its fields, and the kind, source and options of the file system."""
    before, _, after = line.partition(" - ")
    return before.split(), [*after.split(), "", "", ""][:3]


def _inside(mount: Path, root: str, path: str) -> Path:
    """The directory of a group, seen through a mount that shows the tree from `root` on."""
    return mount / os.path.relpath(path, root) if path.startswith(root) else mount


def _words(path: Path) -> list[str]:
    try:
        return path.read_text().split()
    except OSError:
        return []


def _writable(parent: Path) -> bool:
    """Whether a group can be made: access rights do not say it for a mount that is read-only."""
    probe = parent / f"{MARK}probe-{os.getpid()}"
    try:
        probe.mkdir()
        probe.rmdir()
    except OSError:
        return False
    return True


class Group:
    """One group of one controller, and the processes of one node in it."""

    def __init__(self, ledger: Ledger, tree: Tree, controller: Controller, name: str) -> None:
        self._ledger, self._tree, self._controller = ledger, tree, controller
        self.path = tree.parent / f"{MARK}{name}-{controller}"
        self._entry = {"id": f"cgroup {self.path}", "kind": "cgroup", "path": str(self.path)}
        ledger.add([self._entry])
        self.path.mkdir()

    def take(self, pids: Iterable[int]) -> None:
        """Move processes in; those that are gone do not matter."""
        _move(pids, self.path)

    def limit(self, value: float) -> None:
        """Set the limit: a share of one processor, bytes, or a number of processes and threads."""
        for name, text in self._settings(value):
            (self.path / name).write_text(text)

    def _settings(self, value: float) -> list[tuple[str, str]]:
        one = self._tree.version == 1
        if self._controller == "cpu":
            quota = max(1000, round(PERIOD_US * value))
            if one:
                return [("cpu.cfs_period_us", str(PERIOD_US)), ("cpu.cfs_quota_us", str(quota))]
            return [("cpu.max", f"{quota} {PERIOD_US}")]
        if self._controller == "memory":
            return [("memory.limit_in_bytes" if one else "memory.max", str(int(value)))]
        return [("pids.max", str(int(value)))]

    def met(self) -> int:
        """How often the limit was met so far."""
        if self._controller == "cpu":
            return self._number("cpu.stat", "nr_throttled")
        if self._controller == "memory" and self._tree.version == 1:
            return int((self.path / "memory.failcnt").read_text())
        return self._number(f"{self._controller}.events", "max")

    def kills(self) -> int:
        """How many of its processes the kernel has killed for want of memory."""
        return self._number("memory.oom_control" if self._tree.version == 1 else "memory.events", "oom_kill")

    def size(self) -> int:
        """How many processes and threads are in it."""
        return int((self.path / "pids.current").read_text())

    def _number(self, file: str, name: str) -> int:
        lines = (line.split() for line in (self.path / file).read_text().splitlines())
        return next((int(words[1]) for words in lines if words[0] == name), 0)

    def remove(self) -> None:
        """Give its processes back to the group they came from, and remove it."""
        while pids := [int(pid) for pid in _words(self.path / "cgroup.procs")]:
            _move(pids, self._tree.home)
        if _gone(self.path):
            self._ledger.done([self._entry["id"]])


def _move(pids: Iterable[int], group: Path) -> None:
    for pid in pids:
        try:
            (group / "cgroup.procs").write_text(str(pid))
        except ProcessLookupError:
            pass


def _gone(path: Path) -> bool:
    """Remove a group without processes; whether it is gone. One whose last process is just dying is waited for."""
    for _ in range(TRIES):
        try:
            path.rmdir()
        except FileNotFoundError:
            return True
        except OSError as error:
            if error.errno != errno.EBUSY:
                return False
            time.sleep(EVERY_S)
        else:
            return True
    return False


def _is_group(path: Path) -> bool:
    """Whether a directory is a control group: the kernel's files have no size, whatever is in them."""
    members = path / "cgroup.procs"
    return members.exists() and not members.stat().st_size


def reap(entries: list[dict[str, Any]]) -> bool:
    """Remove the groups that entries of a ledger name, and end what still runs in them; whether none is left.

    What does not bear our mark, or is no control group, is refused; what is not there is gone.
    """
    left = False
    for entry in entries:
        path = Path(str(entry.get("path", "")))
        if not path.exists():
            continue
        if not path.name.startswith(MARK) or not _is_group(path):
            left = True
            continue
        for pid in _words(path / "cgroup.procs"):
            try:
                os.kill(int(pid), signal.SIGKILL)
            except ProcessLookupError:
                pass
        left |= not _gone(path)
    return not left
