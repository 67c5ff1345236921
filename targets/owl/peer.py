"""The peer: gets objects for its process, chunk by chunk, and forwards what it has as it arrives (cut-through).

Per chunk: ASKING -> FETCHING -> VERIFYING -> CACHED or delivered and not kept; a stall, a reset or NOT_FOUND leads back
to ASKING with what is held, a bad checksum back to ASKING with nothing. Source: ../shared/targets/owl.md section 2.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from typing import Any

from zebra.blob import Blob
from zebra.node import Node
from zebra.rpc import Caller, Rpc, RpcError, RpcTimeout, Stream, Unreachable
from zebra.targets.owl.cache import Cache
from zebra.targets.owl.chunks import cut
from zebra.targets.owl.config import BACKOFF_MAX_S, BACKOFF_S, CODECS, RPC_S, WAIT_S, OwlConfig, common_version, deadline_s
from zebra.targets.owl.messages import (
    WIRE, Abandon, Data, Done, End, Fetch, Flip, Get, GetSource, Got, Heartbeat, Manifest, Move, NotFound, Ok, OpenTransfer, Piece, Read,
    Register, Served, Source, StoreError, VersionMismatch,
)  # fmt: skip
from zebra.targets.owl.session import Session

KEY = "owl-psk"
EMPTY = Blob.of(b"")
GARBAGE = ("checksum", "length", "tainted")
"""Reasons to start a chunk again at 0: what is held is not to be trusted."""


class GetFailed(Exception):
    """A chunk cannot be had."""


class Transfer:
    """One chunk on its way to us. `round` counts the times that it was begun at 0."""

    def __init__(self, piece: Piece, manifest: Manifest, loop: asyncio.AbstractEventLoop) -> None:
        self.piece, self.manifest = piece, manifest
        self.content, self.round = EMPTY, 0
        self.source: Source | None = None
        self.stream: Stream[Any] | None = None
        self.verified = False
        self.finished: asyncio.Future[Blob] = loop.create_future()
        self._loop = loop
        self._waiters: dict[asyncio.Future[None], None] = {}

    @property
    def held(self) -> int:
        return len(self.content)

    def restart(self) -> None:
        """Forget what is held: whoever we forwarded it to has to begin again too."""
        self.content, self.round = EMPTY, self.round + 1
        self.notify()

    def fail(self, error: Exception) -> None:
        self.finished.set_exception(error)
        self.finished.exception()
        self.notify()

    def notify(self) -> None:
        for waiter in self._waiters:
            _wake(waiter)

    async def changed(self, timeout_s: float) -> None:
        """Wait until there is something new to forward, or for so long."""
        waiter: asyncio.Future[None] = self._loop.create_future()
        self._waiters[waiter] = None
        timer = self._loop.call_later(timeout_s, _wake, waiter)
        try:
            await waiter
        finally:
            timer.cancel()
            del self._waiters[waiter]


class Peer:
    cache_factor = 1

    def __init__(self, node: Node[OwlConfig]) -> None:
        self.node, self.loop = node, asyncio.get_running_loop()
        self.transfers: dict[str, Transfer] = {}
        self.uploads: dict[str, Served] = {}
        self.cache = Cache(node, node.config.cache.capacity * self.cache_factor)
        self.tasks: dict[asyncio.Task[Any], None] = {}
        self.leaving = self.flip_next = False

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
        return {Get: self.get, Fetch: self.fetch, Flip: self.flip, Abandon: self.abandon}, {Move: self.move}

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run a task of our own that is cancelled when we leave."""
        task = self.loop.create_task(work)
        self.tasks[task] = None
        task.add_done_callback(lambda _: self.tasks.pop(task))

    # -- with the tracker ------------------------------------------------------------------------------------

    def describe(self, before: str) -> Register:
        """All that a tracker must know of us."""
        going = [(t, t.source) for t in self.transfers.values() if t.source is not None]
        config = self.node.config
        return Register(
            versions=config.proto.version, codecs=accepted(config.transfer.codec), before=before,
            cached=tuple((chunk, header.length) for chunk, header in self.cache.entries.items()),
            open=tuple(OpenTransfer(chunk=t.piece.chunk, bucket=t.manifest.bucket, edge=s.edge, parent=s.parent, source=s.src, have=t.held)
                       for t, s in going),
            serving=tuple(self.uploads.values()),
        )  # fmt: skip

    async def heartbeat(self, leaving: bool = False) -> None:
        """Renew the lease, tell what the cache gained and lost, evict what we are told to."""
        await self.session.join()
        whole = self.session.version < 3
        added, removed = self.cache.changes()
        if whole:
            added = tuple(self.cache.entries)
        ask = Heartbeat(uploads=len(self.uploads), whole=whole, cached_add=added, cached_del=removed, leaving=leaving)
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
        self.leaving = True
        for transfer in self.transfers.values():
            transfer.notify()
        self.spawn(self.heartbeat(leaving=True))
        while self.uploads:
            await asyncio.sleep(WAIT_S / 10)
        await asyncio.wait(list(self.tasks), timeout=RPC_S) if self.tasks else None

    # -- getting ---------------------------------------------------------------------------------------------

    async def get(self, ask: Get, caller: Caller) -> Got:
        """Get an object for the consumer in this process."""
        manifest, got = ask.manifest, Got(ok=False, why="cancelled")
        self.node.emit("get.start", peer=self.node.name, object=manifest.object, bucket=manifest.bucket, length=manifest.length)
        try:
            async with asyncio.timeout(self.limit_s(manifest)):
                blob = await self.assemble(manifest)
            got = Got(ok=True, digest=blob.checksum("sha256"))
        except TimeoutError:
            got = Got(ok=False, why=f"not done in {self.limit_s(manifest):g} s")
        except GetFailed as error:
            got = Got(ok=False, why=str(error))
        finally:
            self.node.emit("get.end", peer=self.node.name, object=manifest.object, ok=got.ok, digest=got.digest, why=got.why)
        return got

    def limit_s(self, manifest: Manifest) -> float:
        """How long a get may take before it ends in an error."""
        return deadline_s(manifest.length, self.node.config.retry.attempts, self.node.config.transfer.idle_timeout)

    async def assemble(self, manifest: Manifest) -> Blob:
        """The object's chunks, `fetch.parallel` at a time, in order."""
        slots = asyncio.Semaphore(self.node.config.fetch.parallel)

        async def one(piece: Piece) -> Blob:
            async with slots:
                return await self.chunk(piece, manifest)

        parts = await asyncio.gather(*(one(piece) for piece in cut(manifest, self.node.config.chunk)), return_exceptions=True)
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
        ack = await self.session.call(Done(chunk=transfer.piece.chunk, manifest=transfer.manifest, ok=ok, bytes=transfer.held))
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
            ask = GetSource(chunk=transfer.piece.chunk, manifest=transfer.manifest, have=transfer.held, failed=failed, why=why, failures=failures)
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
        raise GetFailed(f"{transfer.piece.chunk}: {failures} sources failed, the last {failed or 'none'} ({why or 'no attempt'})")

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
            async with await self.rpc.stream(source.src, self.request(source, transfer), RPC_S) as stream:
                transfer.stream = stream
                while True:
                    frame = await stream.receive(self.node.config.transfer.idle_timeout)
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
            return Read(object=transfer.manifest.object, start=piece.start, stop=piece.start + piece.length,
                        offset=piece.start + transfer.held, block=config.transfer.frame_max, keepalive_s=keepalive_s, versions=config.proto.version)  # fmt: skip
        return Fetch(
            chunk=piece.chunk, offset=transfer.held, edge=source.edge, versions=config.proto.version,
            accept_codecs=accepted(config.transfer.codec),
            frame_max=config.transfer.frame_max if self.node.variant("safe.limit_in_fetch") else 0,
            keepalive_s=keepalive_s if self.node.variant("safe.keepalive_in_fetch") else 0.0,
            encryption=config.transfer.encryption if self.node.variant("safe.offer_encryption") else "",
        )  # fmt: skip

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
        if transfer.held + len(blob) > piece.length and not self.node.variant("bug.no_length_check"):
            return "length"
        self.node.emit("owl.recv", peer=self.node.name, chunk=piece.chunk, off=transfer.held, len=len(blob), edge=source.edge)
        transfer.content += blob
        transfer.notify()
        return ""

    def verify(self, end: End, transfer: Transfer) -> str:
        """Whether the chunk is what its source says it is; each peer verifies for itself."""
        piece, algorithm = transfer.piece, end.algorithm or self.node.config.checksum.algorithm
        why = ""
        if not self.node.variant("bug.no_length_check") and not transfer.held == piece.length == (end.length or piece.length):
            why = "length"
        elif transfer.content.checksum(algorithm) != end.checksum:
            why = "checksum"
        elif piece.digest and transfer.content.checksum("sha256") != piece.digest:
            why = "checksum"
        self.node.emit("owl.verify", peer=self.node.name, chunk=piece.chunk, ok=not why, why=why)
        if not why:
            transfer.verified = True
            transfer.finished.set_result(transfer.content)
            transfer.notify()
        return why

    # -- serving ---------------------------------------------------------------------------------------------

    async def fetch(self, ask: Fetch, caller: Caller) -> AsyncIterator[Data | End]:
        """Send a child what we have of a chunk, and the rest as it comes."""
        if not common_version(self.node.config.proto.version, ask.versions):
            raise VersionMismatch(f"{caller.name} speaks {ask.versions}, {self.node.name} {self.node.config.proto.version}")
        self.uploads[ask.edge] = Served(chunk=ask.chunk, parent=self.node.name, child=caller.name, edge=ask.edge)
        try:
            transfer = self.transfers.get(ask.chunk)
            kept = await self.cache.read(ask.chunk) if transfer is None else None
            if transfer is None and kept is None:
                self.cache.lost(ask.chunk)
                raise NotFound(f"{self.node.name} does not have {ask.chunk}")
            async for frame in self.forward(transfer, ask) if transfer is not None else self.send(kept or EMPTY, ask, ask.offset):
                yield frame
            if kept is not None:
                yield self.end(kept)
        finally:
            self.uploads.pop(ask.edge, None)

    async def forward(self, transfer: Transfer, ask: Fetch) -> AsyncIterator[Data | End]:
        """Frames of a chunk that we are fetching ourselves: keepalives while there is nothing new."""
        offset, round_ = ask.offset, transfer.round
        keepalive_s = ask.keepalive_s or self.node.config.transfer.idle_timeout / 2
        while True:
            if self.leaving:
                yield End(why="moved")
                return
            if transfer.round != round_:
                yield End(why="tainted")
                return
            if transfer.held > offset:
                async for frame in self.send(transfer.content, ask, offset):
                    offset += frame.length
                    yield frame
            elif transfer.verified:
                yield self.end(transfer.content)
                return
            elif transfer.finished.done():
                yield End(why="upstream")
                return
            else:
                await transfer.changed(keepalive_s)
                if transfer.held <= offset and transfer.round == round_ and not transfer.finished.done():
                    yield Data(offset=offset, length=0, content=EMPTY)

    async def send(self, content: Blob, ask: Fetch, offset: int) -> AsyncIterator[Data]:
        """What we hold from an offset on, in frames."""
        config = self.node.config.transfer
        codec = config.codec if config.codec in ask.accept_codecs else "none"
        frame_max = min(config.frame_max, ask.frame_max or config.frame_max)
        encrypt = config.encryption == "psk" and ask.encryption != "off"
        cipher = ("psk" if encrypt else "off") if ask.encryption else ""
        if self.node.variant("bug.serve_ahead") and offset + frame_max > len(content):
            content += Blob.random(0, frame_max, materialise=False)
        while offset < len(content):
            if self.leaving:
                return
            stop = min(offset + frame_max, len(content))
            blob = content.slice(offset, stop)
            if self.flip_next:
                self.flip_next = False
                self.node.emit("owl.flip", peer=self.node.name, chunk=ask.chunk, edge=ask.edge)
                blob = blob.flip(0)
            blob = blob.compress(codec)
            self.node.emit("owl.serve", peer=self.node.name, chunk=ask.chunk, off=offset, len=stop - offset, edge=ask.edge)
            yield Data(offset=offset, length=stop - offset, content=blob.encrypt(KEY) if encrypt else blob, codec=codec, cipher=cipher)
            offset = stop

    def end(self, content: Blob) -> End:
        if self.leaving:
            return End(why="moved")
        algorithm = self.node.config.checksum.algorithm
        named = algorithm if self.node.variant("safe.name_algorithm") else ""
        return End(length=len(content), checksum=content.checksum(algorithm), algorithm=named)

    # -- application faults ----------------------------------------------------------------------------------

    def flip(self, ask: Flip, caller: Caller) -> Ok:
        self.flip_next = True
        return Ok()

    def abandon(self, ask: Abandon, caller: Caller) -> Ok:
        self.node.emit("owl.abandon", peer=self.node.name)
        for transfer in self.transfers.values():
            if transfer.source is not None and transfer.stream is not None:
                transfer.stream.fail(Unreachable("abandoned"))
        return Ok()


def _wake(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)


def accepted(codec: str) -> tuple[str, ...]:
    """The codecs that a peer of this configuration can read."""
    return tuple(name for name in CODECS if name in ("none", codec))
