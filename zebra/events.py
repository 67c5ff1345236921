"""Events, and the one ordered history that they make.

A history is self-contained: its first event `run` carries the RunSpec and the topology, each `node.start` the
node's whole configuration, `fault.*` what was hit. Everything that judges a run reads nothing else.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any

import msgspec

from zebra.errors import ConfigError

SCHEMA = 1
_encode = msgspec.json.Encoder(order="deterministic").encode


class Event:
    """One thing that happened: `seq` in the run's order, at `t` seconds of run time, on `node`, of a dotted `kind`.

    Its fields are read like a dictionary's: `event["task"]`, `event.get("why")`.
    """

    __slots__ = ("fields", "kind", "node", "seq", "t")

    def __init__(self, seq: int, t: float, node: str, kind: str, fields: dict[str, Any]) -> None:
        self.seq, self.t, self.node, self.kind, self.fields = seq, t, node, kind, fields

    def __getitem__(self, name: str) -> Any:
        return self.fields[name]

    def get(self, name: str, default: Any = None) -> Any:
        return self.fields.get(name, default)

    def to_json(self) -> bytes:
        """One line of `history.jsonl`, without its newline. Raises TypeError for a field that JSON cannot hold."""
        return _encode({"seq": self.seq, "t": round(self.t, 9), "node": self.node, "kind": self.kind, **self.fields})

    @classmethod
    def from_json(cls, line: bytes | str) -> Event:
        """The event of one line; raises ConfigError when the line is not one."""
        try:
            fields = msgspec.json.decode(line, type=dict[str, Any])
            return cls(
                int(fields.pop("seq")), float(fields.pop("t")), str(fields.pop("node")), str(fields.pop("kind")), fields
            )
        except (msgspec.DecodeError, KeyError, TypeError, ValueError, OverflowError, RecursionError) as error:
            raise ConfigError(f"history line {line[:60]!r}: not an event ({error})") from None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Event) and self.to_json() == other.to_json()

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        rest = " ".join(f"{name}={value}" for name, value in self.fields.items())
        return f"[{self.seq}] {self.t:.6f}s {self.node} {self.kind} {rest}".rstrip()


class History:
    """The events of one run, kept in memory or, when `path` is given, streamed to a file of JSON lines."""

    def __init__(self, path: Path | None = None) -> None:
        self.path, self._events, self._count = path, list[Event](), 0
        self._file: IO[bytes] | None = open(path, "ab") if path is not None else None  # noqa: SIM115
        self._offset = self._file.tell() if self._file is not None else 0
        self._end = self._offset

    def append(self, event: Event) -> None:
        self._count += 1
        if self._file is None:
            self._events.append(event)
        else:
            self._file.write(event.to_json() + b"\n")

    def close(self) -> None:
        """Flush the file, if there is one; the history can still be read."""
        if self._file is not None:
            self._end = self._file.tell()
            self._file.close()

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Event]:
        if self.path is None:
            yield from self._events
            return
        if self._file is not None and not self._file.closed:
            self._file.flush()
            self._end = self._file.tell()
        with open(self.path, "rb") as file:
            file.seek(self._offset)
            while file.tell() < self._end:
                yield Event.from_json(file.readline())

    def of(self, *kinds: str) -> list[Event]:
        """The events of these kinds, in order."""
        return [event for event in self if event.kind in kinds]

    def digest(self) -> str:
        """32 hex digits that two runs share exactly when their histories are the same to the byte."""
        digest = hashlib.blake2b(digest_size=16)
        for event in self:
            digest.update(event.to_json() + b"\n")
        return digest.hexdigest()


def read_runs(path: Path) -> Iterator[list[Event]]:
    """The runs stored in a `history.jsonl`, each a list of events that begins with a `run` event."""
    run: list[Event] = []
    with open(path, "rb") as file:
        for line in file:
            event = Event.from_json(line)
            if event.kind == "run" and run:
                yield run
                run = []
            run.append(event)
    if run:
        yield run


def first_difference(first: Iterable[Event], second: Iterable[Event]) -> tuple[Event | None, Event | None] | None:
    """The first pair of events in which two histories differ (None where one has ended), or None if they are equal."""
    a, b = iter(first), iter(second)
    while True:
        left, right = next(a, None), next(b, None)
        if left is None and right is None:
            return None
        if left is None or right is None or left != right:
            return left, right


Listener = Callable[[Event], None]


class EventLog:
    """Gives every event its number, keeps it in the history and hands it to listeners, in the order of `emit`."""

    def __init__(self, history: History, now: Callable[[], float]) -> None:
        self.history, self._now, self._seq = history, now, 0
        self.listeners: list[Listener] = []
        self.divert: Callable[[str, str, dict[str, Any]], Event] | None = None
        """Takes (node, kind, fields) in place of the log, while several processes emit: it will `record` in order."""

    def emit(self, node: str, kind: str, /, **fields: Any) -> Event:
        if self.divert is not None:
            return self.divert(node, kind, fields)
        return self.record(self._now(), node, kind, fields)

    def record(self, t: float, node: str, kind: str, fields: dict[str, Any]) -> Event:
        """Add an event of the time `t`, which is not before the last one's."""
        event = Event(self._seq, t, node, kind, fields)
        self._seq += 1
        self.history.append(event)
        for listener in self.listeners:
            listener(event)
        return event
