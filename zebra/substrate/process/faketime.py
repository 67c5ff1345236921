"""The wall clocks of programs that are not ours, by libfaketime: https://github.com/wolfcw/libfaketime (tried: 0.9.10).

A program must have loaded the library when it starts, and then each time it asks for the time of day takes some
microseconds: the library reads a file. So it is loaded only if ZEBRA_FAKETIME says so. What each node is to believe
stands in a file of its own, which effects change while the program runs: as an offset, or for a frozen clock as a time.
Rates stay out of it, since the library makes sleeps shorter too by them: a drifting clock moves in steps of `STEP_S`.
Monotonic clocks and the times of files stay true. A hit is a read of the file, which the kernel reports, while it was
wrong.
"""

from __future__ import annotations

import asyncio
import ctypes
import json
import os
import platform
import re
import secrets
import struct
import time
from _multiprocessing import SemLock  # type: ignore[import-not-found, unused-ignore]
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zebra.errors import ConfigError, Infrastructure
from zebra.substrate import Effect
from zebra.substrate.inside import shown
from zebra.substrate.process.family import descendants

if TYPE_CHECKING:
    from zebra.substrate.process.running import ProcessRunning

VARIABLE = "ZEBRA_FAKETIME"
"""Says whether programs are started with the library: a path of it, or 1 for where packages put it."""

LIBRARY = "libfaketime.so.1"
PLACES = (f"/usr/lib/{platform.machine()}-linux-gnu/faketime", "/usr/lib64/faketime", "/usr/lib/faketime",
          "/usr/local/lib/faketime")  # fmt: skip

STEP_S = 0.01
"""How long a moving clock keeps one offset."""

TRUE = "+0\n"
_MEMORY, _MARK, _SHARED_BYTES = Path("/dev/shm"), "zebra-clock-", 4096
_INTERPRETER = 3
_IN_ACCESS, _IN_NONBLOCK, _IN_CLOEXEC = 0x1, 0o4000, 0o2000000
_EVENT = struct.Struct("iIII")


def library() -> Path | None:
    """The library that programs are to load; None if they are to load none, or there is none."""
    given = os.environ.get(VARIABLE, "")
    if given in ("", "0"):
        return None
    paths = [Path(place) / LIBRARY for place in PLACES] if given == "1" else [Path(given).absolute()]
    return next((path for path in paths if path.is_file()), None)


def environment(directory: Path, node: str) -> dict[str, str]:
    """What the programs of a node must have in their environment, by the files of the run; {} if nothing."""
    try:
        found: dict[str, str] = json.loads((directory / "clocks" / node / "environment").read_text())
    except FileNotFoundError:
        return {}
    if loaded := os.environ.get("LD_PRELOAD"):
        found["LD_PRELOAD"] += f":{loaded}"
    return found


class ProgramClocks:
    """What the nodes in `plan.external` let their programs believe of the time of day. Nothing without the library."""

    def __init__(self, running: ProcessRunning) -> None:
        self._running, self._library = running, library()
        self._home = running.ground.directory / "clocks"
        self._effects: dict[str, list[Effect]] = {}
        self._wrong: dict[str, list[Effect]] = {}
        self._objects: dict[str, str] = {}
        self._timer: asyncio.TimerHandle | None = None
        nodes = [node for node in running.ground.nodes if self.holds(node)] if self._library is not None else []
        if nodes:
            self._reads = Reads()
            name = f"{_MARK}{os.getpid()}-{secrets.token_hex(4)}"
            self._objects = {node: f"{name}-{number}" for number, node in enumerate(nodes)}
            running.ledger.add(_entry(each) for each in self._objects.values())
        for node in nodes:
            self._prepare(node)

    def holds(self, node: str) -> bool:
        """Whether the programs of a node are not ours."""
        return node.rpartition("-")[0] in self._running.plan.external

    def _prepare(self, node: str) -> None:
        """The node's files, which programs of any user can read."""
        directory = self._home / node
        directory.mkdir(parents=True)
        for each in (self._home, directory):
            each.chmod(0o755)
        name = self._objects[node]
        settings = {
            "LD_PRELOAD": str(self._library), "FAKETIME_TIMESTAMP_FILE": str(directory / "now"),
            "FAKETIME_NO_CACHE": "1", "FAKETIME_DONT_FAKE_MONOTONIC": "1", "NO_FAKE_STAT": "1", "FAKETIME_FMT": "%s",
            "FAKETIME_SHARED": f"/{name} /{name}",
        }  # fmt: skip
        (directory / "environment").write_text(json.dumps(settings))
        self._write(node, TRUE)
        self._reads.watch(directory, node)

    def boot(self, node: str) -> None:
        """A node is about to start: its programs get a new semaphore, in case one was killed that held the last."""
        if node in self._objects:
            _make_shared(self._objects[node])

    def check(self, nodes: Iterable[str]) -> None:
        """Raises ConfigError when a program runs that has not loaded the library."""
        for node in nodes:
            if trouble := self._unreached(node):
                raise ConfigError(
                    f"{node} is a server that is not ours: it asks the kernel for the time, and {trouble}"
                )

    def _unreached(self, node: str) -> str:
        leader = self._running.pid_of(node)
        programs = sorted(descendants(leader)) if leader else []
        if self._library is not None and any(_has_loaded(pid, self._library) for pid in programs):
            return ""
        for pid in programs:
            if _is_static(pid):
                return f"{_program(pid)} is linked statically, so that libfaketime cannot be loaded into it"
        given = os.environ.get(VARIABLE, "")
        if given in ("", "0"):
            return f"libfaketime is loaded only if {VARIABLE}=1 says so (Debian's package libfaketime must be there)"
        if self._library is None:
            return f"{VARIABLE}={given} finds no libfaketime: install it (Debian: libfaketime), or set it to its path"
        if not leader:
            return ""  # it will have loaded the library once it is up again
        return f"no program that it started has loaded {self._library}"

    def impose(self, node: str, effect: Effect) -> None:
        """Let an effect act on the clock of a node's programs."""
        self._count(node)
        self._effects.setdefault(node, []).append(effect)
        self._show(node)
        if self._timer is None:
            self._step()

    def lift(self, node: str, effect: Effect) -> None:
        """Let it act no more; one that does not act is left alone."""
        effects = self._effects.get(node, [])
        if effect in effects:
            self._count(node)
            effects.remove(effect)
            self._show(node)

    def _step(self) -> None:
        """Set the clocks that move, as long as there are any."""
        self._timer = None
        moving = [node for node, effects in self._effects.items() if any(_moves(effect) for effect in effects)]
        for node in moving:
            self._count(node)
            self._show(node)
        if moving:
            self._timer = asyncio.get_running_loop().call_later(STEP_S, self._step)

    def _show(self, node: str) -> None:
        """Write what a node's programs are told from now on."""
        effects, true_s = self._effects[node], time.time()
        shown_s, self._wrong[node] = shown(effects, true_s, time.monotonic())
        frozen = any(effect.arguments["freeze"] for effect in effects)
        self._write(node, f"{max(0.0, shown_s):.6f}\n" if frozen else f"{shown_s - true_s:+.6f}\n" if effects else TRUE)

    def _write(self, node: str, text: str) -> None:
        file, new = self._home / node / "now", self._home / node / "next"
        new.write_text(text)
        new.chmod(0o644)
        new.replace(file)

    def _count(self, node: str) -> None:
        """Count for the effects that made a node's clock wrong whether a program has looked since the last time."""
        if self._reads.seen(node):
            for effect in self._wrong.get(node, []):
                effect.hits += 1

    def end(self) -> None:
        """Set no clock any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def close(self) -> None:
        """Remove what was made outside the run's directory."""
        self.end()
        if self._objects:
            self._reads.close()
            entries = [_entry(name) for name in self._objects.values()]
            reap(entries)
            self._running.ledger.done(entry["id"] for entry in entries)
            self._objects = {}


class Reads:
    """Who has read the file `now` of a directory, as the kernel says (inotify)."""

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._file = self._libc.inotify_init1(_IN_NONBLOCK | _IN_CLOEXEC)
        if self._file < 0:
            raise Infrastructure(f"inotify does not work here ({os.strerror(ctypes.get_errno())})")
        self._names: dict[int, str] = {}
        self._seen = set[str]()

    def watch(self, directory: Path, name: str) -> None:
        """Report from now on under `name` when a file of the directory is read."""
        number = self._libc.inotify_add_watch(self._file, os.fsencode(directory), _IN_ACCESS)
        if number < 0:
            raise Infrastructure(f"{directory} cannot be watched ({os.strerror(ctypes.get_errno())})")
        self._names[number] = name

    def seen(self, name: str) -> bool:
        """Whether that was read since the last question."""
        try:
            while data := os.read(self._file, 1 << 16):
                at = 0
                while at < len(data):
                    number, _, _, length = _EVENT.unpack_from(data, at)
                    text = data[at + _EVENT.size : at + _EVENT.size + length].rstrip(b"\0")
                    at += _EVENT.size + length
                    if text == b"now":
                        self._seen.add(self._names[number])
        except BlockingIOError:
            pass
        seen = name in self._seen
        self._seen.discard(name)
        return seen

    def close(self) -> None:
        os.close(self._file)


def reap(entries: list[dict[str, Any]]) -> bool:
    """Remove the memory and semaphores that entries of a ledger name; whether none is left.

    A name without our mark is refused.
    """
    left = False
    for entry in entries:
        name = str(entry.get("name", ""))
        if re.fullmatch(rf"{_MARK}\d+-[0-9a-f]+-\d+", name) is None:
            left = True
            continue
        for path in (_MEMORY / name, _MEMORY / f"sem.{name}"):
            path.unlink(missing_ok=True)
    return not left


def _entry(name: str) -> dict[str, Any]:
    return {"id": f"clock {name}", "kind": "clock", "name": name}


def _make_shared(name: str) -> None:
    """What a program and its children share of the library. It makes such things itself if it finds none, under the
    program's number, and leaves them behind when the program is killed. All zero it means to it that it began in 1970,
    which matters to nothing but rates."""
    reap([_entry(name)])
    (_MEMORY / name).write_bytes(bytes(_SHARED_BYTES))
    SemLock(1, 1, 1, f"/{name}", False)
    for path in (_MEMORY / name, _MEMORY / f"sem.{name}"):
        path.chmod(0o666)


def _moves(effect: Effect) -> bool:
    return bool(effect.arguments["drift"] or effect.arguments["every_s"])


def _has_loaded(pid: int, path: Path) -> bool:
    try:
        return f"/{path.resolve().name}\n" in Path(f"/proc/{pid}/maps").read_text()
    except OSError:
        return False


def _program(pid: int) -> str:
    try:
        return Path(os.readlink(f"/proc/{pid}/exe")).name
    except OSError:
        return f"process {pid}"


def _is_static(pid: int) -> bool:
    """Whether a process runs an ELF program that names no interpreter: the dynamic linker, which preloads."""
    try:
        with open(f"/proc/{pid}/exe", "rb") as file:
            head = file.read(64)
            if len(head) < 64 or head[:5] != b"\x7fELF\x02":
                return False
            start, size, count = struct.unpack_from("Q", head, 32)[0], *struct.unpack_from("HH", head, 54)
            file.seek(start)
            table = file.read(size * count)
    except OSError:
        return False
    return all(struct.unpack_from("I", table, at)[0] != _INTERPRETER for at in range(0, len(table), size))
