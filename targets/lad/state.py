"""What the records of the log come to: paths with their versions, gates, sessions. The same on every member."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator

import msgspec

from zebra.blob import Blob
from zebra.rpc import RpcError
from zebra.targets.lad.log import Framing
from zebra.targets.lad.store_messages import (
    BadVersion,
    Changes,
    Close,
    Delete,
    Entry,
    Expose,
    Gate,
    NoPath,
    NoSession,
    Open,
    Record,
    Stored,
    Version,
    Written,
)

VERSIONS_KEPT = 3
"""Versions of a path whose content stays readable, beside the one that all hosts see and the one they saw before."""

DONE_KEPT = 4096
"""Transactions whose result is remembered, so that one sent twice is carried out once."""

PART_PATHS = 200


class Held(msgspec.Struct, array_like=True):
    """One version with its content, in its stored form."""

    version: Version
    content: Blob


class Path(msgspec.Struct, kw_only=True, array_like=True):
    """One path: `latest` is its newest version, `full` the one that hosts outside of the gate see (0: none).

    `before` is the version that all hosts saw before that one.
    """

    name: str
    zxid: int
    latest: int
    full: int
    before: int = 0
    batch: int = 1
    gate: Gate | None = None
    session: str = ""
    held: list[Held]

    def of(self, version: int) -> Held | None:
        return next((h for h in self.held if h.version.version == version), None)

    def entry(self) -> Entry:
        newest, base = self.held[-1].version, self.of(self.full)
        return Entry(path=self.name, version=newest.version, zxid=self.zxid, size=newest.size, raw_size=newest.raw_size,
                     digest=newest.digest, alg=newest.alg, codec=newest.codec, deleted=newest.deleted, over=newest.over,
                     batch=self.batch, gate=self.gate, base=base.version if self.gate and base else None,
                     before=self.before)  # fmt: skip

    def add(self, held: Held, gate: Gate | None, session: str = "") -> None:
        self.held = [*self.held, held]
        self.latest, self.session = held.version.version, session
        self.open(gate)
        if len(self.held) > VERSIONS_KEPT:
            seen = (self.full, self.before)
            older = [h for h in self.held[:-VERSIONS_KEPT] if h.version.version in seen]
            self.held = older + self.held[-VERSIONS_KEPT:]

    def open(self, gate: Gate | None) -> None:
        """Let the hosts inside of a gate see the newest version, or everybody."""
        self.gate = gate
        if gate is None:
            self.full, self.before = self.latest, self.full


class Part(msgspec.Struct, kw_only=True, array_like=True):
    """A part of a snapshot; sessions and results are in the last one."""

    zxid: int
    term: int
    paths: list[Path]
    sessions: dict[str, float] = {}
    done: dict[str, Written | str] = {}
    last: bool = False


PARTS = Framing(Part)


class State:
    """All paths after the record `zxid`."""

    def __init__(self) -> None:
        self.zxid = self.term = 0
        self.paths: dict[str, Path] = {}
        self.sessions: dict[str, float] = {}
        self.done: dict[str, Written | str] = {}
        self.changed: list[tuple[int, str]] = []
        self.changed_after = 0  # the zxid after which `changed` is complete

    # -- changing --------------------------------------------------------------------------------------------

    def apply(self, record: Record) -> list[Path]:
        """Carry out the next record; the paths that it touched. Its result is in `done`: an error as `Name: text`."""
        self.zxid, self.term = record.zxid, record.term
        touched: list[Path] = []
        try:
            for op in record.ops:
                self._check(op)
            batch = sum(isinstance(op, (Stored, Expose, Delete)) for op in record.ops)
            for op in record.ops:
                touched += self._do(op, record.zxid, batch)
            self._remember(record.id, Written(zxid=record.zxid, versions=tuple(path.latest for path in touched)))
        except RpcError as error:
            self._remember(record.id, f"{type(error).__name__}: {error}")
        for path in touched:
            self.changed.append((record.zxid, path.name))
        return touched

    def _remember(self, name: str, result: Written | str) -> None:
        if name:
            self.done[name] = result
            if len(self.done) > DONE_KEPT:
                del self.done[next(iter(self.done))]

    def _check(self, op: object) -> None:
        """Raises what stands against an operation."""
        if isinstance(op, (Stored, Delete)):
            path = self.paths.get(op.path)
            gone = path is None or path.held[-1].version.deleted
            if isinstance(op, Delete) and gone:
                raise NoPath(op.path)
            if op.expected >= 0 and op.expected != (path.latest if path else 0) and not (op.expected == 0 and gone):
                raise BadVersion(f"{op.path} has version {path.latest if path else 0}, not {op.expected}")
            if isinstance(op, Stored) and op.session and op.session not in self.sessions:
                raise NoSession(op.session)
        elif isinstance(op, Expose):
            path = self.paths.get(op.path)
            if path is None:
                raise NoPath(op.path)
            if path.gate is None or path.latest != op.version:
                raise BadVersion(f"{op.path} has no staged version {op.version}")

    def _do(self, op: object, zxid: int, batch: int) -> Iterator[Path]:
        match op:
            case Stored():
                path = self._path(op.path, zxid, batch)
                version = Version(version=path.latest + 1, zxid=zxid, size=len(op.content), raw_size=op.raw_size,
                                  digest=op.digest, alg=op.alg, codec=op.codec, over=op.over)  # fmt: skip
                path.add(Held(version, op.content), op.gate, op.session)
                yield path
            case Delete():
                yield self._delete(op.path, zxid, batch)
            case Expose():
                path = self._path(op.path, zxid, batch)
                path.open(op.gate)
                yield path
            case Open():
                self.sessions[op.session] = op.timeout_s
            case Close():
                self.sessions.pop(op.session, None)
                mine = [path.name for path in self.paths.values() if path.session == op.session]
                for name in mine:
                    yield self._delete(name, zxid, len(mine))

    def _path(self, name: str, zxid: int, batch: int) -> Path:
        path = self.paths.get(name)
        if path is None:
            path = self.paths[name] = Path(name=name, zxid=0, latest=0, full=0, held=[])
        path.zxid, path.batch = zxid, batch
        return path

    def _delete(self, name: str, zxid: int, batch: int) -> Path:
        path = self._path(name, zxid, batch)
        version = Version(version=path.latest + 1, zxid=zxid, deleted=True)
        path.add(Held(version, Blob.of(b"")), None)
        return path

    # -- reading ---------------------------------------------------------------------------------------------

    def poll(self, since: int, roots: tuple[str, ...], limit: int) -> Changes:
        """What changed after `since`; ends at a zxid after which none of its paths was touched again.

        So a reader that applied a page has the map of paths as it was at `to_zxid`: no transaction is half there.
        """
        if since < self.changed_after:
            found = sorted((path for path in self.paths.values() if path.zxid > since), key=_by_zxid)
            return Changes(entries=tuple(p.entry() for p in found if is_below(p.name, roots)), to_zxid=self.zxid)
        start = bisect_right(self.changed, (since, "\U0010ffff"))
        names: dict[str, None] = {}
        clean_at, wanted = since, 0
        for index in range(start, len(self.changed)):
            zxid, name = self.changed[index]
            if wanted >= limit and zxid != self.changed[index - 1][0] and clean_at < zxid:
                break
            if name not in names:
                names[name] = None
                wanted += is_below(name, roots)
                clean_at = max(clean_at, self.paths[name].zxid)
        else:
            clean_at = self.zxid
        found = sorted((self.paths[name] for name in names if is_below(name, roots)), key=_by_zxid)
        return Changes(entries=tuple(path.entry() for path in found), to_zxid=max(clean_at, since))

    def content(self, name: str, version: int) -> Held:
        """A version and its content; raises NoPath when it is not (any more) there."""
        path = self.paths.get(name)
        held = None if path is None else path.of(version)
        if held is None or held.version.deleted:
            raise NoPath(f"{name} version {version}")
        return held

    def compact(self) -> None:
        """Drop what only very old polls would ask for: then they get everything."""
        if len(self.changed) > 4 * len(self.paths) + 4096:
            half = self.changed[len(self.changed) // 2][0]
            self.changed_after = half
            self.changed = [each for each in self.changed if each[0] > half]

    # -- snapshots -------------------------------------------------------------------------------------------

    def parts(self) -> list[Part]:
        """Everything, as it is now: the lists in it are not changed later."""
        copies = [msgspec.structs.replace(path) for path in self.paths.values()]
        groups = [copies[at : at + PART_PATHS] for at in range(0, len(copies), PART_PATHS)] or [[]]
        parts = [Part(zxid=self.zxid, term=self.term, paths=group) for group in groups]
        parts[-1].sessions, parts[-1].done, parts[-1].last = dict(self.sessions), dict(self.done), True
        return parts

    @classmethod
    def of(cls, parts: Iterable[Part]) -> State:
        """The state in a snapshot's parts."""
        state = cls()
        for part in parts:
            state.zxid, state.term = part.zxid, part.term
            state.paths.update((path.name, path) for path in part.paths)
            state.sessions, state.done = part.sessions, part.done
        state.changed = sorted((path.zxid, path.name) for path in state.paths.values())
        state.changed_after = state.zxid
        return state


def is_below(name: str, roots: tuple[str, ...]) -> bool:
    """Whether a path is one of the roots or below one; no roots: all paths."""
    return not roots or any(root in ("", "/") or name == root or name.startswith(root + "/") for root in roots)


def _by_zxid(path: Path) -> tuple[int, str]:
    return path.zxid, path.name
