"""The vocabulary of LAD's distribution: proxies, distributors and the apps of a host. The store's is `store_messages`.

Source: ../shared/targets/lad.md section 2. AddPeer is control, Attach and its Updates carry metadata, GetContent data.
"""

from __future__ import annotations

import msgspec

from zebra.blob import Blob
from zebra.rpc import Message, Request, RpcError, Wire
from zebra.targets.lad.store_messages import Entry, Version

PORT = 7520


class Full(RpcError):
    """A parent has as many children as it takes."""


class Stale(RpcError):
    """The command, or the claim, belongs to a smaller epoch, another tree or an older place in this one."""


class NoPlace(RpcError):
    """The distributor has no parent to offer now: it drains, has never polled, or its trees are full."""


class Gone(RpcError):
    """The version is not kept any more; the message is the latest one that is."""


class OtherDepth(RpcError):
    """Shards are named differently there; the message is the depth (`safe.depth_in_subscribe`)."""


class NoContent(RpcError):
    """The node neither has the content of the version nor gets it."""


class Tree(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """Whose tree it is: a distributor in one of its lives."""

    distributor: str
    epoch: int


class Position(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """Where an update stands in its shard: its number, the number before it, and up to which zxid it goes."""

    seq: int
    prev: int
    zxid: int


# -- control -------------------------------------------------------------------------------------------------------


class SubAck(Message, frozen=True, kw_only=True, tag="sub_ack"):
    """A place in the tree of a shard: under `parent`, which is under `above`. A later place has a larger `turn`.

    `mode`, `lease` and `depth` are filled in by the safe forms only.
    """

    shard: str
    tree: Tree
    turn: int
    parent: str
    above: str
    base_seq: int
    mode: str = ""
    lease: float = 0.0
    depth: int = 0


class Subscribe(Request[SubAck], frozen=True, kw_only=True, tag="subscribe"):
    """A proxy wants a place in the tree of a shard; `have` is the zxid up to which it knows the shard.

    `depth` and `max_bytes` are filled in by the safe forms only.
    """

    shard: str
    have: int
    depth: int = 0
    max_bytes: int = 0


class ParentLost(Request[SubAck], frozen=True, kw_only=True, tag="parent_lost"):
    """The parent of the place `turn` is of no use, for the reason `why`: give me another place."""

    shard: str
    tree: Tree
    turn: int
    parent: str
    why: str
    have: int


class Ok(Message, frozen=True, kw_only=True, tag="ok"):
    """Done."""


class AddPeer(Request[Ok], frozen=True, kw_only=True, tag="add_peer"):
    """A distributor gives a proxy a child, whose place is `turn`. Raises Full, or Stale if it is not in that tree."""

    shard: str
    tree: Tree
    child: str
    turn: int


class RemovePeer(Request[Ok], frozen=True, kw_only=True, tag="remove_peer"):
    """A distributor takes a child away from a proxy, unless it was given again at a later place."""

    shard: str
    tree: Tree
    child: str
    turn: int


class Reparent(Request[Ok], frozen=True, kw_only=True, tag="reparent"):
    """A distributor gives a proxy another place."""

    place: SubAck


class Leave(Request[Ok], frozen=True, kw_only=True, tag="leave"):
    """A proxy is about to stop: place its children elsewhere. Answered when they are."""


class Move(Request[Ok], frozen=True, kw_only=True, tag="move"):
    """A distributor drains: subscribe with `to`, and stay attached until that is done."""

    tree: Tree
    to: str


class Unsubscribe(Message, frozen=True, kw_only=True, tag="unsubscribe"):
    """Cast by a proxy that belongs to another distributor now. No `shards` are all of them."""

    shards: tuple[str, ...] = ()


class Ping(Message, frozen=True, kw_only=True, tag="ping"):
    """Cast by a distributor to each of its proxies, three times per lease."""

    epoch: int


class Pong(Message, frozen=True, kw_only=True, tag="pong"):
    """The answer to a ping: what the proxy has applied of each shard, and which parents were slow with content."""

    epoch: int
    applied: tuple[tuple[str, int], ...]
    slow: tuple[tuple[str, str], ...] = ()


# -- metadata ------------------------------------------------------------------------------------------------------


class MetaUpdate(Message, frozen=True, kw_only=True, tag="meta_update"):
    """What changed in a shard. The first one on a stream brings the child from its `have` to the parent's position."""

    tree: Tree
    at: Position
    entries: tuple[Entry, ...]
    first: bool = False


class Attach(Request[MetaUpdate], frozen=True, kw_only=True, tag="attach"):
    """A child asks its parent for the updates of a shard after the zxid `have`: a stream, until one of them ends it."""

    shard: str
    tree: Tree
    have: int


class Resync(Request[MetaUpdate], frozen=True, kw_only=True, tag="resync"):
    """A child has found a gap: all that changed after `have`."""

    shard: str
    tree: Tree
    have: int


# -- content -------------------------------------------------------------------------------------------------------


class Content(Message, frozen=True, kw_only=True, tag="content"):
    """A range of a version's stored form, which is `size` bytes long in all, under `codec`; empty: a sign of life."""

    offset: int
    size: int
    codec: str
    content: Blob


class GetContent(Request[Content], frozen=True, kw_only=True, tag="get_content"):
    """A stream of the ranges of a version from `offset` on, `length` bytes each; the asker holds it under `codec`."""

    path: str
    version: int
    offset: int
    length: int
    codec: str


# -- on the host ---------------------------------------------------------------------------------------------------


class Shown(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """What can be read of a path: its version, 0 if there is none, and the transaction that it was shown with.

    `confirmed`: a distributor has told what is latest since the proxy started, and this is it.
    """

    path: str
    version: int
    confirmed: bool
    batch: int = 0


class Notify(Message, frozen=True, kw_only=True, tag="notify"):
    """What can be read has changed: the paths that did, those of one transaction together."""

    paths: tuple[Shown, ...]


class Watch(Request[Notify], frozen=True, kw_only=True, tag="watch"):
    """An app wants to know what there is of some paths, now and after each change: a stream."""

    paths: tuple[str, ...]


class Value(msgspec.Struct, frozen=True, kw_only=True):
    """A version of a path, whole. `over` says what the digest in `meta` covers, as far as the proxy knows."""

    shown: Shown
    content: Blob = Blob.of(b"")
    meta: Version | None = None
    over: str = "raw"


class Values(Message, frozen=True, kw_only=True, tag="values"):
    values: tuple[Value, ...]


class Get(Request[Values], frozen=True, kw_only=True, tag="get"):
    """What is there of some paths now, all at the same time."""

    paths: tuple[str, ...]


class Want(Request[Ok], frozen=True, kw_only=True, tag="want"):
    """Keep a path on this host though no app watches it."""

    path: str


# -- for tests -----------------------------------------------------------------------------------------------------


class Use(Request[Ok], frozen=True, kw_only=True, tag="use"):
    """An app is to use a path from now on, also after restarts."""

    path: str


class Reading(Message, frozen=True, kw_only=True, tag="reading"):
    """What an app read from its proxy, and what it runs with: version, mode and protocol of its setting."""

    ok: bool
    version: int
    runs: int
    mode: str
    protocol: int
    why: str = ""


class ReadNow(Request[Reading], frozen=True, kw_only=True, tag="read_now"):
    """An app is to get a path from its proxy now."""

    path: str


class Hang(Request[Ok], frozen=True, kw_only=True, tag="hang"):
    """Application fault at a proxy: it answers pings and its apps, and neither relays nor takes updates; or again."""

    on: bool


class Spoil(Request[Ok], frozen=True, kw_only=True, tag="spoil"):
    """Application fault at a proxy: flip a bit of the next content that it forwards."""


WIRE = Wire(
    SubAck, Subscribe, ParentLost, Ok, AddPeer, RemovePeer, Reparent, Leave, Move, Unsubscribe, Ping, Pong,
    MetaUpdate, Attach, Resync, Content, GetContent, Notify, Watch, Values, Get, Want, Use, Reading, ReadNow, Hang,
    Spoil, port=PORT, errors=(Full, Stale, NoPlace, OtherDepth, Gone, NoContent),
)  # fmt: skip
