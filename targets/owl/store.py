"""The store: the external source of truth, one in each region. It limits readers and can be throttled or closed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from zebra.blob import Blob
from zebra.node import Node
from zebra.rpc import Caller, Rpc
from zebra.targets.owl.config import OwlConfig, common_version
from zebra.targets.owl.messages import WIRE, Data, End, Ok, Put, Read, StoreError, Throttle, VersionMismatch

READERS_MAX = 64
ALGORITHM = "sha256"
"""The store's own; its End names it."""


class Store:
    """The objects of a region, whole: few may read at a time, and reading can be throttled or closed."""

    def __init__(self, node: Node[OwlConfig]) -> None:
        self.node, self.loop = node, asyncio.get_running_loop()
        self.objects: dict[str, Blob] = {}
        self.readers = self.cuts = 0
        self.throttle_now = Throttle()
        self.changed = asyncio.Event()

    async def run(self) -> None:
        for name in self.node.disk.names():
            self.objects[name] = await self.node.disk.read(name)
        self.rpc = Rpc(self.node, WIRE)
        await self.rpc.serve({Put: self.put, Read: self.read, Throttle: self.throttle})
        await self.node.ready()
        await self.loop.create_future()

    async def put(self, ask: Put, caller: Caller) -> Ok:
        name = ask.manifest.object
        self.objects[name] = ask.content
        await self.node.disk.write(name, ask.content)
        await self.node.disk.sync(name)
        return Ok()

    async def read(self, ask: Read, caller: Caller) -> AsyncIterator[Data | End]:
        """Bytes of an object, block by block; an empty block when there is nothing else to send for `keepalive_s`."""
        if not common_version(self.node.config.proto.version, ask.versions):
            raise VersionMismatch(
                f"{caller.name} speaks {ask.versions}, {self.node.name} {self.node.config.proto.version}"
            )
        content = self.objects.get(ask.object)
        if content is None or self.throttle_now.closed or self.readers >= READERS_MAX:
            raise StoreError(f"{self.node.name} does not let {ask.object} be read now")
        self.readers += 1
        cuts, offset = self.cuts, ask.offset
        try:
            while offset < ask.stop:
                began = self.loop.time()
                while self.loop.time() < began + self.throttle_now.pause_s:
                    await self.pause(min(began + self.throttle_now.pause_s - self.loop.time(), ask.keepalive_s))
                    if self.cuts != cuts:
                        raise StoreError(f"{self.node.name} cut the read of {ask.object} short")
                    if self.loop.time() < began + self.throttle_now.pause_s:
                        yield Data(offset=offset, length=0, content=Blob.of(b""))
                stop = min(offset + ask.block, ask.stop)
                yield Data(offset=offset, length=stop - offset, content=content.slice(offset, stop))
                offset = stop
        finally:
            self.readers -= 1
        yield End(
            length=ask.stop - ask.start,
            checksum=content.slice(ask.start, ask.stop).checksum(ALGORITHM),
            algorithm=ALGORITHM,
        )

    async def pause(self, time_s: float) -> None:
        """Wait, until a change of the throttling at the latest."""
        try:
            async with asyncio.timeout(max(time_s, 1e-6)):
                await self.changed.wait()
        except TimeoutError:
            pass

    def throttle(self, ask: Throttle, caller: Caller) -> Ok:
        self.throttle_now = ask
        self.cuts += ask.cut
        self.changed.set()
        self.changed = asyncio.Event()
        self.node.emit("owl.throttle", pause_s=ask.pause_s, closed=ask.closed, cut=ask.cut)
        return Ok()
