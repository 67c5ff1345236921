"""Whatever is in a ledger: nothing raises, what can be undone is undone, and what is not ours is left alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from zebra.injection import cleaning, reaping
from zebra.injection.ledger import (
    Ledger,
    Phase,
    entries,
    has_ended,
    outstanding,
    owner,
    process_entry,
    session_entry,
    start_time,
)
from zebra.substrate.process import SUBSTRATE

pytestmark = pytest.mark.skipif(bool(SUBSTRATE.unavailable()), reason=SUBSTRATE.unavailable())

KINDS = ("process", "session", "effect", "fault", "moon", *reaping.REAPERS)
FIELDS = (
    "id", "kind", "phase", "done", "pid", "start", "what", "boot", "path", "name", "settings", "groups", "places",
    "state", "labels", "engine", "image", "subnet", "url", "capability", "fault", "arguments", "over", "trouble",
)  # fmt: skip
"""What is in entries of any kind."""


@dataclass(frozen=True)
class Others:
    """What is not ours: a group of processes, one whose leader is gone, and a directory that is no control group."""

    leader: subprocess.Popen[bytes]
    orphan: int
    of: int
    directory: Path

    def unharmed(self) -> bool:
        return self.leader.poll() is None and start_time(self.orphan) > 0 and (self.directory / "cgroup.procs").exists()

    def values(self) -> list[Any]:
        pids = [self.leader.pid, self.orphan, self.of, os.getpid(), os.getpgrp(), os.getppid(), 0, 1, 2, -1]
        starts = [start_time(self.leader.pid) - 1, start_time(self.orphan) + 1, 0, 1, -1]
        return [*pids, *starts, str(self.directory), *(f"{pid}.1" for pid in pids)]


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Others]:
    program = "import subprocess as s; print(s.Popen(['sleep', '1000'], stdout=s.DEVNULL).pid, flush=True)"
    leader = subprocess.Popen(["sleep", "1000"], start_new_session=True)
    gone = subprocess.Popen([sys.executable, "-c", program], start_new_session=True, stdout=subprocess.PIPE)
    directory = tmp_path_factory.mktemp("others") / "zebra-theirs"
    directory.mkdir()
    (directory / "cgroup.procs").write_text(f"{leader.pid}\n")
    orphan = int(gone.communicate()[0])
    try:
        yield Others(leader, orphan, gone.pid, directory)
    finally:
        leader.kill()
        leader.wait()
        os.kill(orphan, 9)


@pytest.fixture(scope="module")
def real() -> bytes:
    """The ledger of a session that made processes and had faults on when it died: its numbers are nobody's by now."""
    from zebra.injection.notes import Notes
    from zebra.injection.selection import Selection
    from zebra.topology import Place

    with tempfile.TemporaryDirectory() as directory:
        ledger = Ledger(Path(directory) / "ledger")
        dead = []
        for what in ("zygote", "server-1", "server-2", "session"):
            process = subprocess.Popen(["sleep", "1000"], start_new_session=True)
            dead.append(session_entry(process.pid) if what == "session" else process_entry(process.pid, what))
            process.kill()
            process.wait()
        ledger.add([dead.pop(), *dead])
        notes = Notes(ledger)
        place = Place(node="server-1", role="server", host="h1", rack="k1", dc="d1", region="r1")
        for phase in get_args(Phase):
            entry = notes.fault("network.loss", {"probability": 0.5}, Selection((("server-1",),), (place,)), False)
            effect = notes.effect(entry, "links", ((),), {"loss": 0.5})
            notes.phase(effect, phase)
            notes.phase(entry, phase)
        ledger.done([dead[-1]["id"]])
        ledger.close()
        return ledger.path.read_bytes()


@contextmanager
def session_with(content: bytes) -> Iterator[Path]:
    """The directory of a session that has ended and has this ledger; the place where sessions are looked for."""
    before = tempfile.tempdir
    with tempfile.TemporaryDirectory() as base:
        directory = Path(base) / "zebra-4194304-00000000"
        directory.mkdir()
        (directory / "ledger").write_bytes(content)
        tempfile.tempdir = base
        try:
            yield directory
        finally:
            tempfile.tempdir = before


def undo_all(content: bytes, others: Others) -> list[dict[str, Any]]:
    """What `zebra clean` and the warden do with such a ledger; what is left. What is not ours is unharmed."""
    with session_with(content) as directory:
        (found,) = (session for session in cleaning.sessions() if session.directory == directory)
        assert all(cleaning.describe(entry) for entry in found.held)
        left = [] if found.lives else cleaning.clean(found)
        assert found.lives or directory.exists() == bool(left), "it stays as long as something does"
        assert all(isinstance(entry["trouble"], str) for entry in left)
        assert {entry["id"] for entry in left} <= {entry["id"] for entry in found.held}
        assert others.unharmed()
        return left


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)


@st.composite
def entry(draw: st.DrawFn, values: list[Any]) -> bytes:
    """A line with fields of ours and values of theirs, or any."""
    names = draw(st.lists(st.sampled_from(FIELDS), unique=True, max_size=8))
    line = {name: draw(st.sampled_from(values) | JSON) for name in names}
    if draw(st.booleans()):
        line |= {"id": draw(st.sampled_from(["a", "1.1", *map(str, values)])), "kind": draw(st.sampled_from(KINDS))}
    return json.dumps(line).encode()


@settings(deadline=None, max_examples=200)
@given(content=st.binary(max_size=200))
@example(content=b"[" * 100_000)
@example(content=b'{"id":' * 100_000)
@example(content=b'{"id":"session","kind":"session"}\n{"id":[],"kind":{}}\n{"done":[]}\n{"done":"session"}')
def test_arbitrary_bytes_do_no_harm(content: bytes, others: Others) -> None:
    undo_all(content, others)


@settings(deadline=None, max_examples=200)
@given(data=st.data())
def test_entries_with_arbitrary_fields_do_no_harm(data: st.DataObject, others: Others) -> None:
    lines = data.draw(st.lists(entry(others.values()), max_size=6))
    undo_all(b"\n".join(lines), others)


@settings(deadline=None, max_examples=200)
@given(data=st.data())
def test_a_real_ledger_cut_spliced_or_overwritten_is_harmless(data: st.DataObject, others: Others, real: bytes) -> None:
    content = bytearray()
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(real)))
        content += real[start : data.draw(st.integers(start, len(real)))]
    for place in data.draw(st.lists(st.integers(0, max(0, len(content) - 1)), max_size=5)):
        if content:
            content[place] = data.draw(st.integers(0, 255))
    undo_all(bytes(content), others)


def test_a_real_ledger_leaves_nothing(real: bytes, others: Others) -> None:
    assert len(real.splitlines()) > 20
    assert undo_all(real, others) == []
    assert undo_all(real + b'{"id":"e","kind":"effect"}\n{"id":"s","kind":"session"}', others) == [], "no things"


@pytest.mark.parametrize("line", [
    {"id": "0.1", "kind": "process", "pid": 0, "start": 1, "what": "zygote"},
    {"id": "1.1", "kind": "process", "pid": 1, "start": 1, "what": "zygote"},
    {"id": "-1.1", "kind": "process", "pid": -1, "start": 1, "what": "zygote"},
    {"id": "7.1", "kind": "process", "pid": 7, "start": "1", "what": "zygote"},
    {"id": "7.1", "kind": "process"},
    {"id": "f", "kind": "fault", "phase": "eaten", "name": "noop"},
    {"id": "g", "kind": "cgroup", "path": "/"},
    {"id": "h", "kind": "cgroup", "path": "theirs"},
    {"id": "c", "kind": "container", "name": "x", "engine": "/\\0", "labels": {}},
    {"id": "n", "kind": "network", "labels": []},
    {"id": "i", "kind": "image", "name": 7},
])  # fmt: skip
def test_a_damaged_entry_is_named_and_kept_and_does_not_keep_others(line: dict[str, Any], others: Others) -> None:
    line = {name: str(others.directory) if value == "theirs" else value for name, value in line.items()}
    ours = subprocess.Popen(["sleep", "1000"], start_new_session=True)
    good = process_entry(ours.pid, "server-1")
    left = undo_all(b"\n".join(json.dumps(each).encode() for each in (line, good)), others)
    assert [each["id"] for each in left] == [line["id"]]
    assert left[0]["trouble"]
    assert ours.wait(5) == -9


def test_a_group_of_somebody_else_is_left_alone_although_its_number_is_in_the_ledger(others: Others) -> None:
    """Number and start time are the mark, and an entry's name repeats them: one changed byte does not make another."""
    theirs = process_entry(others.leader.pid, "server-1")
    later = theirs | {"start": theirs["start"] + 1, "id": f"{theirs['pid']}.{theirs['start'] + 1}"}
    moved = {"id": "7.1", "kind": "process", "pid": others.of, "start": 1, "what": "zygote"}
    left = undo_all(b"\n".join(json.dumps(each).encode() for each in (later, moved)), others)
    assert [entry["trouble"] for entry in left] == ["its entry in the ledger is damaged"]


PARTS = st.sampled_from(["0", "1", "x", "", *owner().split("/")])


@settings(deadline=None)
@given(st.text(max_size=40) | st.lists(PARTS, max_size=6).map("/".join))
def test_an_owner_who_may_be_alive_has_not_ended(label: str) -> None:
    mine = owner().split("/")
    said = label.split("/")
    certain = len(said) == 5 and said[0] == mine[0] and (said[4] != mine[4] or said[3] == mine[3])
    assert not has_ended(label) or certain
    assert not has_ended(owner())


def test_an_owner_has_ended_when_its_process_or_its_boot_is_over() -> None:
    user, pid, start, numbering, boot = owner().split("/")
    assert has_ended("/".join((user, pid, str(int(start) + 1), numbering, boot))), "somebody has its number now"
    assert has_ended("/".join((user, pid, start, numbering, "another"))), "the machine was started again"
    assert not has_ended("/".join((user, pid, str(int(start) + 1), "1", boot))), "it counts otherwise"
    assert not has_ended("/".join((str(int(user) + 1), pid, str(int(start) + 1), numbering, boot))), "another user's"


def test_a_ledger_that_is_none_of_a_file_is_no_session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    for name in ("zebra-1x-a", "zebra-9-a", "zebra-0-"):
        (tmp_path / name).mkdir()
    (tmp_path / "zebra-1x-a" / "ledger").touch()
    (tmp_path / "zebra-9-a" / "ledger").mkdir()
    os.mkfifo(tmp_path / "zebra-0-" / "ledger")
    assert [found for found in cleaning.sessions() if found.directory and found.directory.parent == tmp_path] == []
    assert entries(tmp_path / "none") == outstanding(tmp_path / "none") == []
