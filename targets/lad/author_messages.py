"""What is said to the author and by it. Source: ../shared/targets/other.md section 1.

Clients commit; the author asks apps how they are. An app serves `Probe` on this wire, at its own node.
"""

from __future__ import annotations

import msgspec

from zebra.blob import Blob
from zebra.rpc import Message, Request, RpcError, Wire
from zebra.targets.lad.store_messages import Ok

PORT = 7510


class Refused(RpcError):
    """The author cannot take the change at all: not a legal request."""


class Undecided(RpcError):
    """The store did not say whether it took the change; the author will find out, and undo what is half exposed."""


class Source(msgspec.Struct, frozen=True, kw_only=True):
    """The source of one path: a setting as a JSON object (see `artefact.Setting`), and any payload.

    `base_rev` is the revision that it was written against, -1 any.
    """

    path: str
    text: bytes = b"{}"
    payload: Blob = Blob.of(b"")
    base_rev: int = -1


class Committed(Message, frozen=True, kw_only=True, tag="committed"):
    """What became of a change: `state` is FULL, REJECTED or ROLLED_BACK, and `why`.

    `revs` are the versions of its paths, in order: of its content if FULL, of the old content if ROLLED_BACK. What
    answers a RollBack that was carried out is FULL.
    """

    change: str
    state: str
    revs: tuple[int, ...] = ()
    zxid: int = 0
    why: str = ""


class Commit(Request[Committed], frozen=True, kw_only=True, tag="commit"):
    """A change of one path, or of several that belong together; answered when it has come to its end.

    `staged`: canary and stages first; else it is exposed to all once it is validated. The same `id` is one change.
    """

    id: str
    sources: tuple[Source, ...]
    staged: bool = True


class RollBack(Request[Committed], frozen=True, kw_only=True, tag="roll_back"):
    """Make the content that everybody saw before the path's latest version its newest version, for everybody."""

    id: str
    path: str


class Health(Message, frozen=True, kw_only=True, tag="health"):
    """How an app is: whether it `uses` the path, the version that it runs with (0: none), why it refused a newer one.

    `waits`: it has seen a newer one, and takes it at its next restart. `ok` and `bad` count its own work since it took
    the version. `schema` is its `lad.schema.rev`.
    """

    rev: int
    uses: bool = False
    waits: bool = False
    refused: str = ""
    ok: int = 0
    bad: int = 0
    schema: int = 0


class Probe(Request[Health], frozen=True, kw_only=True, tag="probe"):
    """The author asks an app how it is, as far as a path goes.

    `take`: the app is a canary, restarted for it; what it would take at its next restart it takes now.
    """

    path: str
    take: bool = False


class SetValidator(Request[Ok], frozen=True, kw_only=True, tag="set_validator"):
    """Application fault: take the validator down, or up again."""

    up: bool


WIRE = Wire(Commit, Committed, RollBack, Probe, Health, SetValidator, Ok, port=PORT, errors=(Refused, Undecided))
