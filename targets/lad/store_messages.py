"""The vocabulary of LAD's store: what clients ask of a member, and what members say to each other.

A path has versions, numbered from 1. Each transaction takes the next zxid and changes one path or several: a version
is put or deleted, or the gate of a version is moved. Source: ../shared/targets/lad.md sections 1 and 2.
"""

from __future__ import annotations

import msgspec

from zebra.blob import Blob
from zebra.rpc import Message, Request, RpcError, Wire

PORT = 7500


class BadVersion(RpcError):
    """The path has not the version that was expected, or no such version to expose."""


class NoPath(RpcError):
    """The path, or this version of it, is not there."""


class TooLarge(RpcError):
    """The value is longer than the store, or one of its readers, takes."""


class NotLeader(RpcError):
    """The member does not lead; the message is the name of the one that does, as far as it knows."""


class NoQuorum(RpcError):
    """No majority of the members could be reached in time. The transaction may or may not have been carried out."""


class NoSession(RpcError):
    """The session has expired."""


class Gate(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """Which hosts may see a staged version: `hosts`, and `percent` of all by the hash of (`seed`, `change`, host).

    `seed` travels only with `safe.seed_in_gate`; without, each side hashes with its own `lad.selector.seed`.
    """

    percent: float = 0.0
    hosts: tuple[str, ...] = ()
    change: str = ""
    seed: int | None = None


class Version(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """One version of a path. `size` is what is stored and transferred, in the form of `codec`; `raw_size` the value's.

    `digest` is hexadecimal, by `alg`, of the value or of the stored form, as the writer's `lad.digest.over` says;
    `over` names which only with `safe.name_coverage`. `zxid` is the transaction that made it.
    """

    version: int
    zxid: int
    size: int = 0
    raw_size: int = 0
    digest: str = ""
    alg: str = ""
    codec: str = "none"
    deleted: bool = False
    over: str = ""


class Entry(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """A path's latest version, as of the transaction `zxid` that last touched it.

    `batch` is how many paths that transaction touched. With a `gate` only the hosts inside may see this version, the
    others see `base` (None: nothing). `before` is the version that all saw before they saw the latest one, or its base.
    The fields from `size` on are those of `Version`.
    """

    path: str
    version: int
    zxid: int
    size: int = 0
    raw_size: int = 0
    digest: str = ""
    alg: str = ""
    codec: str = "none"
    deleted: bool = False
    over: str = ""
    batch: int = 1
    gate: Gate | None = None
    base: Version | None = None
    before: int = 0

    @property
    def latest(self) -> Version:
        """The version alone."""
        return Version(version=self.version, zxid=self.zxid, size=self.size, raw_size=self.raw_size, digest=self.digest,
                       alg=self.alg, codec=self.codec, deleted=self.deleted, over=self.over)  # fmt: skip


# -- clients and members -------------------------------------------------------------------------------------------


class Put(msgspec.Struct, frozen=True, kw_only=True, tag="put"):
    """A new version of a path. `expected` is the version before it (0: none), -1 is any.

    With a `gate` it is staged. `session` makes the path ephemeral: it is deleted when that session ends.
    """

    path: str
    data: Blob
    expected: int = -1
    gate: Gate | None = None
    session: str = ""


class Expose(msgspec.Struct, frozen=True, kw_only=True, tag="expose"):
    """Move the gate of the staged version of a path; without a gate everybody may see it."""

    path: str
    version: int
    gate: Gate | None = None


class Delete(msgspec.Struct, frozen=True, kw_only=True, tag="delete"):
    """A new version of a path that says it is gone."""

    path: str
    expected: int = -1


Op = Put | Expose | Delete


class Written(Message, frozen=True, kw_only=True, tag="written"):
    """The transaction's zxid, and the version of each of its paths, in the order of the request."""

    zxid: int
    versions: tuple[int, ...]


class Write(Request[Written], frozen=True, kw_only=True, tag="write"):
    """One transaction, of the leader. The same `id` is carried out once, however often it is sent."""

    id: str
    ops: tuple[Op, ...]


class Changes(Message, frozen=True, kw_only=True, tag="changes"):
    """What changed after the zxid asked for up to `to_zxid`, each path once, by zxid."""

    entries: tuple[Entry, ...]
    to_zxid: int


class Poll(Request[Changes], frozen=True, kw_only=True, tag="poll"):
    """What changed below the roots (all paths when empty) after `since_zxid`? Of any member.

    `limit` is about how many entries are wanted; a page is longer rather than end inside a transaction. `max_bytes` is
    the longest value that the asker can pass on (0: it does not say).
    """

    since_zxid: int
    roots: tuple[str, ...] = ()
    limit: int = 10_000
    max_bytes: int = 0


class Latest(Request[Changes], frozen=True, kw_only=True, tag="latest"):
    """The entry of a path, or none; of any member, which first catches up with `at_least`."""

    path: str
    at_least: int = 0


class Piece(Message, frozen=True, kw_only=True, tag="piece"):
    """A range of a version's stored form; `size` is the length of all of it."""

    offset: int
    size: int
    codec: str
    content: Blob


class Read(Request[Piece], frozen=True, kw_only=True, tag="read"):
    """A stream of the ranges of a version from `offset` to `stop` (-1: its end), `block` bytes each; of any member."""

    path: str
    version: int
    offset: int = 0
    stop: int = -1
    block: int = 1 << 20


class Granted(Message, frozen=True, kw_only=True, tag="granted"):
    """A session and the timeout that holds for it."""

    session: str
    timeout_s: float


class OpenSession(Request[Granted], frozen=True, kw_only=True, tag="open_session"):
    """Open a session, of the leader. 0 leaves the timeout to the store."""

    id: str
    wanted_s: float


class Ok(Message, frozen=True, kw_only=True, tag="ok"):
    """Done."""


class PingSession(Request[Ok], frozen=True, kw_only=True, tag="ping_session"):
    """Keep a session alive, of the leader; or end it."""

    session: str
    close: bool = False


class Fired(Message, frozen=True, kw_only=True, tag="fired"):
    """A watched path was touched by the transaction `zxid`; the watch is gone."""

    path: str
    zxid: int


class Watch(Request[Fired], frozen=True, kw_only=True, tag="watch"):
    """A stream of one answer: that a path was touched after `since_zxid`; of any member."""

    path: str
    since_zxid: int


# -- the baseline's clients ------------------------------------------------------------------------------------------


class Events(Request[Fired], frozen=True, kw_only=True, tag="events"):
    """The stream of everything that fires for this client at an observer; when it ends, its watches are gone."""


class Content(Message, frozen=True, kw_only=True, tag="content"):
    """A path's value as it is now; version 0 when there is none."""

    path: str
    version: int = 0
    zxid: int = 0
    digest: str = ""
    codec: str = "none"
    content: Blob = Blob.of(b"")


class Fetch(Request[Content], frozen=True, kw_only=True, tag="fetch"):
    """The full value of a path, through the observer's one pipeline; with `watch` it sets one in the same step."""

    path: str
    watch: bool


class Arm(Request[Ok], frozen=True, kw_only=True, tag="arm"):
    """Set a one-shot watch on a path, through the observer's one pipeline."""

    path: str


class Forward(Request[Written], frozen=True, kw_only=True, tag="forward"):
    """A transaction for the leader, through the observer's one pipeline."""

    write: Write


class Follow(Request[Ok], frozen=True, kw_only=True, tag="follow"):
    """A client's wish to a watcher: have a path from now on."""

    path: str


# -- members among themselves -----------------------------------------------------------------------------------------


class Open(msgspec.Struct, frozen=True, kw_only=True, tag="open"):
    """A session begins."""

    session: str
    timeout_s: float


class Close(msgspec.Struct, frozen=True, kw_only=True, tag="close"):
    """A session is over, and its ephemeral paths with it."""

    session: str


class Stored(msgspec.Struct, frozen=True, kw_only=True, tag="stored"):
    """A Put as the leader prepared it: the value in its stored form."""

    path: str
    content: Blob
    raw_size: int
    digest: str
    alg: str
    codec: str
    over: str = ""
    expected: int = -1
    gate: Gate | None = None
    session: str = ""


class Record(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """One place in the log: its zxid, the term of the leader that wrote it, what asked for it, what it does.

    A leader begins its term with a record that does nothing.
    """

    zxid: int
    term: int
    id: str = ""
    ops: tuple[Stored | Expose | Delete | Open | Close, ...] = ()


class Voted(Message, frozen=True, kw_only=True, tag="voted"):
    term: int
    granted: bool


class Vote(Request[Voted], frozen=True, kw_only=True, tag="vote"):
    """A candidate asks for a vote; its log ends at (`last_term`, `last_zxid`)."""

    term: int
    last_term: int
    last_zxid: int


class Appended(Message, frozen=True, kw_only=True, tag="appended"):
    """`zxid` is the last one that agrees and is on disk; if not `ok`, one before which the logs may agree."""

    term: int
    ok: bool
    zxid: int
    max_bytes: int = 0


class Append(Request[Appended], frozen=True, kw_only=True, tag="append"):
    """Records that follow the one at (`prev_term`, `prev_zxid`), and up to where all is committed; or a heartbeat."""

    term: int
    prev_term: int
    prev_zxid: int
    records: tuple[Record, ...]
    committed: int


class Install(Request[Appended], frozen=True, kw_only=True, tag="install"):
    """Part of a snapshot for a member that is too far behind; the records are as in its file."""

    term: int
    zxid: int
    zxid_term: int
    part: int
    last: bool
    header: bytes
    blobs: tuple[Blob, ...]


WIRE = Wire(
    Write, Written, Poll, Changes, Latest, Read, Piece, OpenSession, Granted, PingSession, Ok, Watch, Fired, Events,
    Fetch, Content, Arm, Forward, Follow, Vote, Voted, Append, Appended, Install,
    port=PORT, errors=(BadVersion, NoPath, TooLarge, NotLeader, NoQuorum, NoSession),
)  # fmt: skip
