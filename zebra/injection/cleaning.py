"""`zebra clean`: undoing what ended sessions have left, from any later shell. Nothing of a living session is touched.

A session's directory has its ledger, which says what there is to undo. A directory that is not ours (another user's, no
ledger in it) is left alone. Where the directory is lost, what a container engine holds is known by its labels.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from zebra.injection.ledger import boot, entries, is_ours, outstanding, start_time
from zebra.injection.reaping import reap, undo

HOLDERS = ("zebra.substrate.docker.reap",)
"""Modules with a function `lost`: what is held elsewhere and bears our labels, by session."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """A session. `held` are its entries that are not undone, `lives` if it still runs, no `directory` if it is lost."""

    directory: Path | None
    pid: int
    lives: bool
    held: tuple[dict[str, Any], ...]


def sessions() -> Iterator[Session]:
    """All sessions of this user that have left a directory, whether they have ended or not."""
    for base in dict.fromkeys((Path("/dev/shm"), Path(tempfile.gettempdir()))):
        for directory in sorted(base.glob("zebra-[0-9]*-*")) if base.is_dir() else ():
            ledger = directory / "ledger"
            try:
                if directory.is_symlink() or directory.stat().st_uid != os.geteuid() or not ledger.is_file():
                    continue
                yield _session(directory, ledger)
            except (OSError, ValueError):  # it vanishes, cannot be read, or is called otherwise than we do
                continue


def lost(known: Iterable[Session]) -> Iterator[Session]:
    """Sessions of this user, beside those that are known, that have ended and whose things bear labels.

    Raises OSError, or http.client.HTTPException, where who holds such things does not answer.
    """
    names = {session.directory.name for session in known if session.directory is not None}
    for holder in HOLDERS:
        for name, held in import_module(holder).lost(names).items():
            yield Session(directory=None, pid=int(name.split("-")[1]), lives=False, held=tuple(held))


def _session(directory: Path, ledger: Path) -> Session:
    first = next((entry for entry in entries(ledger) if entry["kind"] == "session" and is_ours(entry)), None)
    if first is None:  # it died, or is, between making its directory and writing who it is
        pid = int(directory.name.split("-")[1])
        lives = start_time(pid) != 0
    else:
        pid = first["pid"]
        lives = first["boot"] == boot() and start_time(pid) == first["start"] != 0
    held = () if lives else tuple(e for e in outstanding(ledger) if e["kind"] != "session")
    return Session(directory=directory, pid=pid, lives=lives, held=held)


def clean(session: Session) -> list[dict[str, Any]]:
    """Undo what an ended session has left, and remove its directory if all could be undone; what is still there."""
    if session.directory is None:
        return undo(session.held)
    left = reap(session.directory / "ledger")
    if not left:
        shutil.rmtree(session.directory, ignore_errors=True)
    return left


def describe(entry: dict[str, Any]) -> str:
    """An entry in a few words, as a person would call the thing."""
    names = {
        "process": lambda: f"process group {entry['pid']} of {entry['what']}",
        "effect": lambda: f"effect on {entry['capability']} of {entry['fault']}: {entry['phase']}",
        "fault": lambda: f"fault {entry['name']}: {entry['phase']}",
        "cgroup": lambda: f"control group {entry.get('path')}",
    }
    known = names.get(entry["kind"]) if is_ours(entry) else None
    return known() if known is not None else f"{entry['kind']} {entry.get('name', entry['id'])}"
