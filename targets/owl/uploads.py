"""What a peer sends to its children: frames of a chunk that it keeps, or that is on its way (cut-through)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping

from zebra.blob import Blob
from zebra.node import Node
from zebra.rpc import Caller
from zebra.targets.owl.cache import Cache
from zebra.targets.owl.config import OwlConfig, common_version
from zebra.targets.owl.messages import Data, End, Fetch, Flip, NotFound, Ok, Served, VersionMismatch
from zebra.targets.owl.transfer import EMPTY, Transfer
from zebra.waiter import Waiter

KEY = "owl-psk"


class Uploads:
    """All uploads of one peer. `going` are those that are on, by edge; `transfers` and `cache` are the peer's."""

    def __init__(self, node: Node[OwlConfig], transfers: Mapping[str, Transfer], cache: Cache) -> None:
        self.node, self.transfers, self.cache = node, transfers, cache
        self.going: dict[str, Served] = {}
        self.leaving = self.flip_next = False
        self._idle = asyncio.Event()
        self._idle.set()

    async def leave(self) -> None:
        """Tell every child to go elsewhere, and wait until they have been told."""
        self.leaving = True
        for transfer in self.transfers.values():
            transfer.notify()
        await self._idle.wait()

    def flip(self, ask: Flip, caller: Caller) -> Ok:
        """Application fault: the next frame that is forwarded has a wrong bit."""
        self.flip_next = True
        return Ok()

    async def fetch(self, ask: Fetch, caller: Caller) -> AsyncIterator[Data | End]:
        """Send a child what we have of a chunk, and the rest as it comes."""
        if not common_version(self.node.config.proto.version, ask.versions):
            raise VersionMismatch(
                f"{caller.name} speaks {ask.versions}, {self.node.name} {self.node.config.proto.version}"
            )
        self.going[ask.edge] = Served(chunk=ask.chunk, parent=self.node.name, child=caller.name, edge=ask.edge)
        self._idle.clear()
        try:
            transfer = self.transfers.get(ask.chunk)
            kept = await self.cache.read(ask.chunk) if transfer is None else None
            if transfer is None and kept is None:
                self.cache.lost(ask.chunk)
                raise NotFound(f"{self.node.name} does not have {ask.chunk}")
            if transfer is not None:
                follower = transfer.follow()
                try:
                    async for frame in self.forward(transfer, ask, follower):
                        yield frame
                finally:
                    transfer.unfollow(follower)
            elif kept is not None:
                for frame in self.frames(kept, ask, ask.offset):
                    yield frame
                yield self.end(kept)
        finally:
            self.going.pop(ask.edge, None)
            if not self.going:
                self._idle.set()

    async def forward(self, transfer: Transfer, ask: Fetch, follower: Waiter) -> AsyncIterator[Data | End]:
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
                for frame in self.frames(transfer.content, ask, offset):
                    offset += frame.length
                    yield frame
            elif transfer.verified:
                yield self.end(transfer.content)
                return
            elif transfer.finished.done():
                yield End(why="upstream")
                return
            else:
                await follower.wait(keepalive_s)
                if transfer.held <= offset and transfer.round == round_ and not transfer.finished.done():
                    yield Data(offset=offset, length=0, content=EMPTY)

    def frames(self, content: Blob, ask: Fetch, offset: int) -> Iterator[Data]:
        """What we hold from an offset on, in frames."""
        config = self.node.config.transfer
        codec = config.codec if config.codec in ask.accept_codecs else "none"
        frame_max = min(config.frame_max, ask.frame_max or config.frame_max)
        encrypt = config.encryption == "psk" and ask.encryption != "off"
        cipher = ("psk" if encrypt else "off") if ask.encryption else ""
        if self.node.variant("bug.serve_ahead") and offset + frame_max >= len(content):
            content += self.node.blob(0, frame_max)
        end = len(content)
        while offset < end:
            if self.leaving:
                return
            stop = min(offset + frame_max, end)
            blob = content.slice(offset, stop)
            if self.flip_next:
                self.flip_next = False
                self.node.emit("owl.flip", peer=self.node.name, chunk=ask.chunk, edge=ask.edge)
                blob = blob.flip(0)
            blob = blob.compress(codec)
            self.node.emit(
                "owl.serve", peer=self.node.name, chunk=ask.chunk, off=offset, len=stop - offset, edge=ask.edge
            )
            yield Data(
                offset=offset,
                length=stop - offset,
                content=blob.encrypt(KEY) if encrypt else blob,
                codec=codec,
                cipher=cipher,
            )
            offset = stop

    def end(self, content: Blob) -> End:
        if self.leaving:
            return End(why="moved")
        algorithm = self.node.config.checksum.algorithm
        named = algorithm if self.node.variant("safe.name_algorithm") else ""
        return End(length=len(content), checksum=content.checksum(algorithm), algorithm=named)
