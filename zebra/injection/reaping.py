"""Undoing what a ledger still holds: by the warden when a session has ended, by `zebra clean` at any later time.

Per kind of object a function `reap(entries) -> bool`: it removes what the entries name, refuses what lacks our mark,
takes what is not there for gone, may be called again and again, and says whether nothing is left. First all processes
go, as they might make more; then what processes were in; then faults that act outside of capabilities are healed.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable, Iterable
from importlib import import_module
from pathlib import Path
from typing import Any

import msgspec

from zebra.injection.ledger import Ledger, boot, is_ours, members, outstanding, start_time
from zebra.topology import Place

Entry = dict[str, Any]
Reap = Callable[[list[Entry]], bool]

TRIES, EVERY_S = 200, 0.01
"""How often a process group is looked at whether it is gone, and killed if it is not."""

HEAL_S = 10.0
"""How long the own `heal` of a fault may take."""

NOT_OBJECTS = frozenset({"session", "effect", "fault"})
"""Kinds of entries that are not things which the kernel or a server holds."""


def processes(entries: list[Entry]) -> bool:
    """End process groups: zygotes first, after which no more are added."""
    groups = {entry["pid"]: entry["start"] for entry in entries if entry["start"]}  # one without was gone already
    zygotes = {entry["pid"] for entry in entries if entry["what"] == "zygote"}
    left = members(groups)
    first = zygotes & left.keys()
    for group in first or left:
        kill_group(group, groups[group])
    return not left


def kill_group(leader: int, start: int) -> None:
    """Kill a process group that we marked; one that is gone, or is somebody else's by now, is left alone."""
    if start_time(leader) in (0, start):
        try:
            os.killpg(leader, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            pass


def faults(entries: list[Entry]) -> bool:
    """Call the own `heal` of faults that act outside of capabilities, the latest first.

    Raises, once all were tried, what the first failed with: ConfigError for one that is not installed where this runs,
    as it was written in a test.
    """
    from zebra.injection.fault import make
    from zebra.injection.selection import Selection

    trouble: Exception | None = None
    for entry in reversed(entries):
        if "places" not in entry or entry["phase"] == "planned":
            continue
        try:
            made = make(entry["name"], entry["settings"])
            groups = tuple(tuple(group) for group in entry["groups"])
            on = Selection(groups, msgspec.convert(entry["places"], tuple[Place, ...]))
            asyncio.run(asyncio.wait_for(made.heal(on, entry.get("state")), HEAL_S))
        except Exception as error:
            trouble = trouble or error
    if trouble is not None:
        raise trouble
    return True


REAPERS: dict[str, str | Reap] = {
    "cgroup": "zebra.substrate.process.cgroup",
    "clock": "zebra.substrate.process.faketime",
    "proxy": "zebra.substrate.process.toxiproxy",
    "container": "zebra.substrate.docker.reap",
    "network": "zebra.substrate.docker.reap",
    "image": "zebra.substrate.docker.reap",
    "fault": faults,
}
"""By kind, in the order in which they are undone once no process is left; a name is a module with a function `reap`."""


def reap(ledger: Path) -> list[Entry]:
    """Undo all that a ledger holds; what is left, and why (`trouble`). What is undone is written into the ledger."""
    book = Ledger(ledger)
    try:
        first = next(iter(_held(ledger, "session")), None)
        if first is not None and first["boot"] != boot():  # numbers of processes now mean others
            book.done(entry["id"] for kind in ("process", "cgroup") for entry in _held(ledger, kind))
        left = _end_processes(ledger, book)
        for kind, how in REAPERS.items():
            held = _held(ledger, kind)
            gone, trouble = _undo(how, held)
            if not gone:
                left += [entry | {"trouble": trouble} for entry in held]
            elif kind == "fault":
                for entry in held:
                    book.phase(entry["id"], "healed")
            else:
                book.done(entry["id"] for entry in held)
        known = {"process", *REAPERS, *NOT_OBJECTS}
        for entry in outstanding(ledger):
            if entry["kind"] not in known:
                left.append(entry | {"trouble": f"this zebra does not know {entry['kind']}"})
            elif entry["kind"] not in ("session", "effect") and not is_ours(entry):
                left.append(entry | {"trouble": "its entry in the ledger is damaged"})
        for entry in [] if left else _held(ledger, "effect"):
            book.phase(entry["id"], "gone")
        return left
    finally:
        book.close()


def undo(held: Iterable[Entry]) -> list[Entry]:
    """Undo entries that are in no ledger any more; what is left, and why (`trouble`)."""
    left = []
    for kind, how in REAPERS.items():
        of_kind = [entry for entry in held if entry["kind"] == kind]
        gone, trouble = _undo(how, of_kind)
        left += [] if gone else [entry | {"trouble": trouble} for entry in of_kind]
    return left


def _held(ledger: Path, kind: str) -> list[Entry]:
    return [entry for entry in outstanding(ledger) if entry["kind"] == kind and is_ours(entry)]


def _end_processes(ledger: Path, book: Ledger) -> list[Entry]:
    """End all processes; those that do not die. While a zygote lives, more may come."""
    for _ in range(TRIES):
        held = _held(ledger, "process")
        if processes(held):
            book.done(entry["id"] for entry in held)
            if not _held(ledger, "process"):
                return []
        time.sleep(EVERY_S)
    return [entry | {"trouble": "it does not die"} for entry in held]


def _undo(how: str | Reap, held: list[Entry]) -> tuple[bool, str]:
    """Reap the entries of one kind: whether nothing is left, and what went wrong."""
    if not held:
        return True, ""
    try:
        undo: Reap = import_module(how).reap if isinstance(how, str) else how
        return undo(held), "it could not be removed"
    except Exception as error:
        return False, f"{type(error).__name__}: {error}"
