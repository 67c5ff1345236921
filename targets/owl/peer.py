"""The peer: gets objects for its process, chunk by chunk, and forwards what it has as it arrives (cut-through).

Per chunk: ASKING -> FETCHING -> VERIFYING -> CACHED or delivered and not kept; a stall, a reset or NOT_FOUND leads back
to ASKING with what is held, a bad checksum back to ASKING with nothing. Source: ../shared/targets/owl.md section 2.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from zebra.blob import Blob
from zebra.node import Node
from zebra.rpc import Caller, Rpc, RpcError, RpcTimeout, Unreachable
from zebra.targets.owl.cache import Cache
from zebra.targets.owl.chunks import cut
from zebra.targets.owl.config import (
    BACKOFF_MAX_S,
    BACKOFF_S,
    CODECS,
    WAIT_S,
    OwlConfig,
    deadline_s,
)
from zebra.targets.owl.messages import (
    WIRE,
    Abandon,
    Data,
    Done,
    End,
    Fetch,
    Flip,
    Get,
    GetSource,
    Got,
    Heartbeat,
    Manifest,
    Move,
    NotFound,
    Ok,
    OpenTransfer,
    Piece,
    Read,
    Register,
    Source,
    StoreError,
)
from zebra.targets.owl.session import Session
from zebra.targets.owl.transfer import Transfer
from zebra.targets.owl.uploads import KEY, Uploads

GARBAGE = ("checksum", "length", "tainted")
"""Reasons to start a chunk again at 0: what is held is not to be trusted."""


class GetFailed(Exception):
    """A chunk cannot be had."""


class Peer:
    """Gets chunks for the processes of its host, serves them to other peers, and keeps what its tracker tells it to."""

    cache_factor = 1

    def __init__(self, node: Node[OwlConfig]) -> None:
        self.node, self.loop = node, asyncio.get_running_loop()
        self.transfers: dict[str, Transfer] = {}
        self.cache = Cache(node, node.config.cache.capacity * self.cache_factor)
        self.tasks: dict[asyncio.Task[Any], None] = {}
        self.uploads = Uploads(node, self.transfers, self.cache)

    async def run(self) -> None:
        await self.cache.restore()
        self.rpc = Rpc(self.node, WIRE)
        self.session = Session(self.node, self.rpc, self.describe)
        await self.rpc.serve(*self.handlers())
        await self.session.join()
        await self.node.ready()
        try:
            while True:
                await asyncio.sleep(self.session.ttl / 3)
                await self.heartbeat()
        except asyncio.CancelledError:
            await self.leave()

    def handlers(self) -> tuple[dict[type, Any], dict[type, Any]]:
        return {Get: self.get, Fetch: self.uploads.fetch, Flip: self.uploads.flip, Abandon: self.abandon}, {
            Move: self.move
        }

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run a task of our own that is cancelled when we leave."""
        task = self.loop.create_task(work)
        self.tasks[task] = None
        task.add_done_callback(lambda _: self.tasks.pop(task))

    # -- with the tracker ------------------------------------------------------------------------------------

    def describe(self, before: tuple[str, ...]) -> Register:
        """All that a tracker must know of us."""
        going = [
            OpenTransfer(
                chunk=t.piece.chunk, bucket=t.manifest.bucket, edge=s.edge, parent=s.parent, source=s.src, have=t.held
            )
            for t in self.transfers.values()
            if (s := t.source) is not None
        ]
        config = self.node.config
        return Register(
            versions=config.proto.version,
            codecs=accepted(config.transfer.codec),
            before=before,
            cached=tuple((chunk, header.length) for chunk, header in self.cache.entries.items()),
            open=tuple(going),
            serving=tuple(self.uploads.going.values()),
        )

    async def heartbeat(self, leaving: bool = False) -> None:
        """Renew the lease, tell what the cache gained and lost, evict what we are told to."""
        await self.session.join()
        whole = self.session.version < 3
        added, removed = self.cache.changes()
        if whole:
            added = tuple(self.cache.entries)
        ask = Heartbeat(
            uploads=len(self.uploads.going), whole=whole, cached_add=added, cached_del=removed, leaving=leaving
        )
        for chunk in (await self.session.call(ask)).evict:
            if chunk not in self.cache.entries:
                self.cache.lost(chunk)
            elif not self.node.variant("bug.ignore_evict"):
                await self.cache.evict(chunk)

    def move(self, cast: Move, caller: Caller) -> None:
        """Our tracker drains: go to another one."""
        if self.session.tracker == caller.name:
            self.session.lose(caller.name)
            self.spawn(self.heartbeat())

    async def leave(self) -> None:
        """Stop as planned: nobody is sent to us any more, and who reads from us is told to go elsewhere."""
        self.spawn(self.heartbeat(leaving=True))
        await self.uploads.leave()
        if self.tasks:
            await asyncio.wait(list(self.tasks), timeout=self.node.config.rpc.timeout)

    # -- getting ---------------------------------------------------------------------------------------------

    async def get(self, ask: Get, caller: Caller) -> Got:
        """Get an object for the consumer in this process."""
        manifest, got = ask.manifest, Got(ok=False, why="cancelled")
        self.node.emit(
            "get.start", peer=self.node.name, object=manifest.object, bucket=manifest.bucket, length=manifest.length
        )
        try:
            async with asyncio.timeout(self.limit_s(manifest)):
                blob = await self.assemble(manifest)
            got = Got(ok=True, digest=blob.checksum("sha256"))
        except TimeoutError:
            got = Got(ok=False, why=f"not done in {self.limit_s(manifest):g} s")
        except GetFailed as error:
            got = Got(ok=False, why=str(error))
        finally:
            self.node.emit(
                "get.end", peer=self.node.name, object=manifest.object, ok=got.ok, digest=got.digest, why=got.why
            )
        return got

    def limit_s(self, manifest: Manifest) -> float:
        """How long a get may take before it ends in an error."""
        config = self.node.config
        return deadline_s(manifest.length, config.retry.attempts, config.transfer.idle_timeout, config.rpc.timeout)

    async def assemble(self, manifest: Manifest) -> Blob:
        """The object's chunks, `fetch.parallel` at a time, in order."""
        slots = asyncio.Semaphore(self.node.config.fetch.parallel)

        async def one(piece: Piece) -> Blob:
            async with slots:
                return await self.chunk(piece, manifest)

        parts = await asyncio.gather(
            *(one(piece) for piece in cut(manifest, self.node.config.chunk)), return_exceptions=True
        )
        for part in parts:
            if isinstance(part, BaseException):
                raise part
        return Blob.join(part for part in parts if isinstance(part, Blob))

    async def chunk(self, piece: Piece, manifest: Manifest) -> Blob:
        """One chunk, from our cache or by a transfer that may be on already."""
        kept = await self.cache.read(piece.chunk)
        if kept is not None:
            return kept
        return await asyncio.shield(self.begin(piece, manifest).finished)

    def begin(self, piece: Piece, manifest: Manifest) -> Transfer:
        transfer = self.transfers.get(piece.chunk)
        if transfer is None:
            transfer = self.transfers[piece.chunk] = Transfer(piece, manifest, self.loop)
            self.spawn(self.transfer(transfer))
        return transfer

    async def transfer(self, transfer: Transfer) -> None:
        """A transfer's whole life."""
        ok = False
        try:
            async with asyncio.timeout(self.limit_s(transfer.manifest)):
                await self.attempts(transfer)
            ok = True
        except TimeoutError:
            transfer.fail(GetFailed(f"{transfer.piece.chunk}: not done in {self.limit_s(transfer.manifest):g} s"))
        except GetFailed as error:
            transfer.fail(error)
        transfer.source = None
        ack = await self.session.call(
            Done(chunk=transfer.piece.chunk, manifest=transfer.manifest, ok=ok, bytes=transfer.held)
        )
        if ok and ack.keep:
            await self.keep(transfer)
        if not ok:
            self.node.emit("owl.drop", peer=self.node.name, chunk=transfer.piece.chunk)
        del self.transfers[transfer.piece.chunk]

    async def keep(self, transfer: Transfer) -> None:
        if not await self.cache.keep(transfer.piece.chunk, transfer.content, self.node.config.checksum.algorithm):
            self.cache.lost(transfer.piece.chunk)

    async def attempts(self, transfer: Transfer) -> None:
        """Ask for a source and fetch from it, until the chunk is there and verified."""
        failures, failed, why = 0, "", ""
        if self.node.variant("bug.lazy"):
            await asyncio.sleep(3 * self.node.config.transfer.idle_timeout)
        while failures < self.node.config.retry.attempts:
            ask = GetSource(
                chunk=transfer.piece.chunk,
                manifest=transfer.manifest,
                have=transfer.held,
                failed=failed,
                why=why,
                failures=failures,
            )
            source = await self.session.call(ask)
            failed, why = "", ""
            if source.kind == "wait":
                await asyncio.sleep(WAIT_S)
                continue
            transfer.source = source
            why = await self.fetch_from(source, transfer)
            if not why:
                return
            transfer.source, failed = None, source.src
            await self.repair(transfer, why)
            if why not in ("moved", "upstream", "tainted"):
                failures += 1
            if failures > 1:
                await asyncio.sleep(min(BACKOFF_S * 2 ** (failures - 2), BACKOFF_MAX_S))
        raise GetFailed(
            f"{transfer.piece.chunk}: {failures} sources failed, the last {failed or 'none'} ({why or 'no attempt'})"
        )

    async def repair(self, transfer: Transfer, why: str) -> None:
        """What is held after a failed source: nothing if it cannot be trusted, all of it otherwise."""
        if why in GARBAGE:
            self.node.emit("owl.restart", peer=self.node.name, chunk=transfer.piece.chunk, why=why)
            transfer.restart()
        if self.node.variant("bug.resume_from_zero"):
            transfer.restart()
        if self.node.variant("bug.slow_repair"):
            await asyncio.sleep(2 * self.node.config.transfer.idle_timeout)
        if self.node.variant("bug.get_hangs"):
            await self.loop.create_future()

    async def fetch_from(self, source: Source, transfer: Transfer) -> str:
        """Fetch what is missing of a chunk; "" once it is complete and verified, else why that source is of no use."""
        try:
            answer_s = self.node.config.rpc.timeout
            async with await self.rpc.stream(source.src, self.request(source, transfer), answer_s) as stream:
                transfer.stream = stream
                while True:
                    idle_s = self.node.config.transfer.idle_timeout
                    frame = await stream.receive(idle_s / 4 if self.node.variant("bug.hasty") else idle_s)
                    if isinstance(frame, Data):
                        why = self.take(frame, transfer, source)
                        if why:
                            return why
                    elif isinstance(frame, End):
                        if self.node.variant("bug.cache_before_verify"):
                            await self.keep(transfer)
                        return frame.why or self.verify(frame, transfer)
                    else:
                        return "reset"
        except RpcTimeout:
            return "stall"
        except NotFound:
            return "not_found"
        except StoreError:
            return "busy"
        except Unreachable:
            return "lost"
        except RpcError:
            return "reset"

    def request(self, source: Source, transfer: Transfer) -> Fetch | Read:
        """What to ask a source for: a peer for the rest of the chunk, a store for bytes of the object."""
        config, piece = self.node.config, transfer.piece
        keepalive_s = config.transfer.idle_timeout / 2
        if source.kind == "external":
            return Read(
                object=transfer.manifest.object,
                start=piece.start,
                stop=piece.start + piece.length,
                offset=piece.start + transfer.held,
                block=config.transfer.frame_max,
                keepalive_s=keepalive_s,
                versions=config.proto.version,
            )
        return Fetch(
            chunk=piece.chunk,
            offset=transfer.held,
            edge=source.edge,
            versions=config.proto.version,
            accept_codecs=accepted(config.transfer.codec),
            frame_max=config.transfer.frame_max if self.node.variant("safe.limit_in_fetch") else 0,
            keepalive_s=keepalive_s if self.node.variant("safe.keepalive_in_fetch") else 0.0,
            encryption=config.transfer.encryption if self.node.variant("safe.offer_encryption") else "",
        )

    def take(self, frame: Data, transfer: Transfer, source: Source) -> str:
        """Add a frame to what we hold; why not, if it is not acceptable."""
        config, piece = self.node.config.transfer, transfer.piece
        if not frame.length:
            return ""
        if frame.length > config.frame_max:
            return "reset"
        blob = frame.content
        if source.kind == "peer" and (frame.cipher or config.encryption) == "psk":
            blob = blob.decrypt(KEY)
        try:
            blob = blob.decompress(frame.codec)
        except ValueError:
            return "checksum"
        size = len(blob)
        if transfer.held + size > piece.length and not self.node.variant("bug.no_length_check"):
            return "length"
        self.node.emit(
            "owl.recv", peer=self.node.name, chunk=piece.chunk, off=transfer.held, len=size, edge=source.edge
        )
        transfer.add(blob)
        return ""

    def verify(self, end: End, transfer: Transfer) -> str:
        """Whether the chunk is what its source says it is; each peer verifies for itself."""
        piece, algorithm = transfer.piece, end.algorithm or self.node.config.checksum.algorithm
        why = ""
        if not self.node.variant("bug.no_length_check") and not transfer.held == piece.length == (
            end.length or piece.length
        ):
            why = "length"
        elif transfer.content.checksum(algorithm) != end.checksum or (
            piece.digest and transfer.content.checksum("sha256") != piece.digest
        ):
            why = "checksum"
        self.node.emit("owl.verify", peer=self.node.name, chunk=piece.chunk, ok=not why, why=why)
        if not why:
            transfer.verified = True
            transfer.finished.set_result(transfer.content)
            transfer.notify()
        return why

    # -- application faults ----------------------------------------------------------------------------------

    def abandon(self, ask: Abandon, caller: Caller) -> Ok:
        self.node.emit("owl.abandon", peer=self.node.name)
        for transfer in self.transfers.values():
            if transfer.source is not None and transfer.stream is not None:
                transfer.stream.fail(Unreachable("abandoned"))
        return Ok()


def accepted(codec: str) -> tuple[str, ...]:
    """The codecs that a peer of this configuration can read."""
    return tuple(name for name in CODECS if name in ("none", codec))
