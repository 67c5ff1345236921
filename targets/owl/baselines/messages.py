"""What the baselines say to each other. Client and store speak Owl's own vocabulary, of which this holds a part."""

from __future__ import annotations

from zebra.blob import Blob
from zebra.rpc import Message, Request, RpcError, Wire
from zebra.targets.owl.messages import (
    PORT,
    Data,
    End,
    Fetch,
    Get,
    Got,
    Manifest,
    NotFound,
    Ok,
    Put,
    Read,
    StoreError,
    Throttle,
    VersionMismatch,
)


class Choked(RpcError):
    """The neighbour does not let us download at present."""


class Pull(Request[Data | End], frozen=True, kw_only=True, tag="pull"):
    """Owl's Fetch to a parent that may not have the chunk yet: with the manifest it can fetch it for us."""

    fetch: Fetch
    manifest: Manifest


class Swarm(Message, frozen=True, kw_only=True, tag="swarm"):
    peers: tuple[str, ...]


class Announce(Request[Swarm], frozen=True, kw_only=True, tag="announce"):
    """I have joined the swarm of an object: tell me of others."""

    object: str


class State(Message, frozen=True, kw_only=True, tag="state"):
    """Cast to a neighbour: the pieces that I have (bit i is piece i), whether I want some of yours, whether you may."""

    object: str
    have: bytes
    interested: bool
    unchoked: bool


class Have(Message, frozen=True, kw_only=True, tag="have"):
    """Cast to the neighbours that lack a piece: I have it now."""

    object: str
    index: int


class Whole(Message, frozen=True, kw_only=True, tag="whole"):
    content: Blob
    checksum: str


class Want(Request[Whole], frozen=True, kw_only=True, tag="want"):
    """Send me a whole piece."""

    object: str
    index: int


WIRE = Wire(
    Get, Got, Put, Ok, Read, Data, End, Throttle, Fetch, Pull, Announce, Swarm, State, Have, Want, Whole,
    port=PORT, errors=(NotFound, StoreError, VersionMismatch, Choked),
)  # fmt: skip
