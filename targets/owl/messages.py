"""The whole vocabulary of Owl. Sender, incarnation, attempt and deadline of a message travel in `zebra.rpc`'s envelope.

Source: ../shared/targets/owl.md section 2.
"""

from __future__ import annotations

import msgspec

from zebra.blob import Blob
from zebra.rpc import Message, Request, RpcError, Wire

PORT = 7400


class NotRegistered(RpcError):
    """The tracker does not know the caller: register first."""


class Draining(RpcError):
    """The tracker is about to stop and takes no new peers."""


class VersionMismatch(RpcError):
    """The two sides have no version of the protocol in common."""


class NotFound(RpcError):
    """The peer neither has the chunk nor is fetching it."""


class StoreError(RpcError):
    """The store refuses to read: closed, overloaded, or it does not have the object."""


class Piece(msgspec.Struct, frozen=True, kw_only=True):
    """One chunk of an object: which bytes it is. `digest` only where a manifest lists it."""

    chunk: str
    start: int
    length: int
    digest: str = ""


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of an object once it is published. `pieces` is empty unless `safe.digest_in_manifest`."""

    object: str
    length: int
    digest: str
    bucket: str = "default"
    pieces: tuple[Piece, ...] = ()


class OpenTransfer(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """A download that goes on while its peer changes trackers."""

    chunk: str
    bucket: str
    edge: str
    parent: str
    source: str
    have: int


class Served(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """An upload that goes on: `child` reads `chunk` from `parent` over `edge`."""

    chunk: str
    parent: str
    child: str
    edge: str


class Registered(Message, frozen=True, kw_only=True, tag="registered"):
    """RegisterAck: the lease that holds, and the version to speak."""

    epoch: int
    version: int
    lease_ttl: float


class Register(Request[Registered], frozen=True, kw_only=True, tag="register"):
    """A peer places itself under a tracker, and says all that the tracker must know of it."""

    versions: str
    codecs: tuple[str, ...]
    cached: tuple[tuple[str, int], ...]
    open: tuple[OpenTransfer, ...]
    serving: tuple[Served, ...]
    before: tuple[str, ...] = ()


class Moved(Message, frozen=True, kw_only=True, tag="moved"):
    """Cast to a tracker that a peer had before, or may have had: it is mine now."""

    peer: str


class HeartbeatAck(Message, frozen=True, kw_only=True, tag="heartbeat_ack"):
    evict: tuple[str, ...] = ()


class Heartbeat(Request[HeartbeatAck], frozen=True, kw_only=True, tag="heartbeat"):
    """A peer is alive; what its cache gained and lost. From version 3 on only what changed, before that all of it."""

    uploads: int
    whole: bool
    cached_add: tuple[str, ...]
    cached_del: tuple[str, ...]
    leaving: bool = False


class Source(Message, frozen=True, kw_only=True, tag="source"):
    """`kind` is peer, external, wait or fail."""

    kind: str
    src: str = ""
    parent: str = ""
    edge: str = ""


class GetSource(Request[Source], frozen=True, kw_only=True, tag="get_source"):
    """Where do I get this chunk? Closes the edge that the peer had for it, for the reason `why`."""

    chunk: str
    manifest: Manifest
    have: int
    failed: str = ""
    why: str = ""
    failures: int = 0


class DoneAck(Message, frozen=True, kw_only=True, tag="done_ack"):
    keep: bool


class Done(Request[DoneAck], frozen=True, kw_only=True, tag="done"):
    """The peer has the whole chunk, verified, or has given it up."""

    chunk: str
    manifest: Manifest
    ok: bool
    bytes: int


class Prefetch(Message, frozen=True, kw_only=True, tag="prefetch"):
    """Cast by a tracker to one of its superpeers: fetch this chunk as well."""

    chunk: str
    manifest: Manifest


class Move(Message, frozen=True, kw_only=True, tag="move"):
    """Cast by a tracker that drains to its peers: register elsewhere."""


class Data(Message, frozen=True, kw_only=True, tag="data"):
    """A frame: `length` bytes of the chunk from `offset` on, as `codec` and encryption made them; empty: a keepalive.

    Whether it is encrypted is told by `cipher` in the safe form only.
    """

    offset: int
    length: int
    content: Blob
    codec: str = "none"
    cipher: str = ""


class End(Message, frozen=True, kw_only=True, tag="end"):
    """The chunk's length and checksum, a bare value, or `why` the source stops. The store names its `algorithm`."""

    length: int = 0
    checksum: str = ""
    algorithm: str = ""
    why: str = ""


class Fetch(Request[Data | End], frozen=True, kw_only=True, tag="fetch"):
    """Send me a chunk from an offset on. The last four fields are used by the safe forms only."""

    chunk: str
    offset: int
    edge: str
    versions: str
    accept_codecs: tuple[str, ...]
    frame_max: int = 0
    keepalive_s: float = 0.0
    encryption: str = ""


class Read(Request[Data | End], frozen=True, kw_only=True, tag="read"):
    """Send me a part of an object from `offset` on, in blocks of so many bytes; a sign of life every `keepalive_s`."""

    object: str
    start: int
    stop: int
    offset: int
    block: int
    keepalive_s: float
    versions: str


class Advertise(Message, frozen=True, kw_only=True, tag="advertise"):
    """Cast between trackers each second: chunks that I can lend, no longer can, and what I have borrowed."""

    epoch: int
    seq: int
    add: tuple[str, ...]
    drop: tuple[str, ...]
    borrowed: tuple[Served, ...]
    ttl: float


class Lent(Message, frozen=True, kw_only=True, tag="lent"):
    """DelegateReply: a source or none, and the path from it to its root as far as the lender can tell."""

    src: str = ""
    path: tuple[str, ...] = ()
    rooted: bool = True


class Delegate(Request[Lent], frozen=True, kw_only=True, tag="delegate"):
    """Lend me a source of this chunk for one of my peers."""

    chunk: str
    for_peer: str
    edge: str
    avoid: tuple[str, ...]


class Traced(Message, frozen=True, kw_only=True, tag="traced"):
    path: tuple[str, ...]
    rooted: bool


class Trace(Request[Traced], frozen=True, kw_only=True, tag="trace"):
    """Who is above this peer of yours, up to the root?"""

    chunk: str
    peer: str
    hops: int


class EdgeClosed(Message, frozen=True, kw_only=True, tag="edge_closed"):
    """Cast to the lender: an edge that you lent is closed."""

    chunk: str
    edge: str
    why: str


class Got(Message, frozen=True, kw_only=True, tag="got"):
    ok: bool
    digest: str = ""
    why: str = ""


class Get(Request[Got], frozen=True, kw_only=True, tag="get"):
    """A consumer in the peer's process wants an object."""

    manifest: Manifest


class Ok(Message, frozen=True, kw_only=True, tag="ok"):
    pass


class Put(Request[Ok], frozen=True, kw_only=True, tag="put"):
    """Publish an object at a store."""

    manifest: Manifest
    content: Blob


class Throttle(Request[Ok], frozen=True, kw_only=True, tag="throttle"):
    """Fault at a store: pause before each block; `closed` refuses all reads, `cut` ends those that are on."""

    pause_s: float = 0.0
    closed: bool = False
    cut: bool = False


class Flip(Request[Ok], frozen=True, kw_only=True, tag="flip"):
    """Application fault at a peer: flip a bit of the next frame that it forwards."""


class Abandon(Request[Ok], frozen=True, kw_only=True, tag="abandon"):
    """Application fault at a peer: lose the source of each chunk that it is fetching."""


class PushPolicy(Request[Ok], frozen=True, kw_only=True, tag="push_policy"):
    """Give a tracker another external limit and number of uploads for a bucket, right or wrong."""

    bucket: str
    external_limit: int
    uploads: int


WIRE = Wire(
    Register,
    Registered,
    Moved,
    Heartbeat,
    HeartbeatAck,
    GetSource,
    Source,
    Done,
    DoneAck,
    Prefetch,
    Move,
    Fetch,
    Read,
    Data,
    End,
    Advertise,
    Delegate,
    Lent,
    Trace,
    Traced,
    EdgeClosed,
    Get,
    Got,
    Put,
    Ok,
    Throttle,
    Flip,
    Abandon,
    PushPolicy,
    port=PORT,
    errors=(NotRegistered, Draining, VersionMismatch, NotFound, StoreError),
)
