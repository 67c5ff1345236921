"""The chunks that a peer keeps on its disk. Each file's header names the algorithm of its checksum."""

from __future__ import annotations

import msgspec

from zebra.blob import Blob
from zebra.node import Node
from zebra.targets.owl.config import OwlConfig

HEADER, CONTENT = ".head", ".chunk"


class Header(msgspec.Struct, frozen=True, kw_only=True):
    """What lies beside a chunk's content, so that another configuration can still verify it."""

    chunk: str
    length: int
    algorithm: str
    checksum: str


class Cache:
    """Chunks by name, the least recently used first, and what was gained and lost since `changes` was last called."""

    def __init__(self, node: Node[OwlConfig], capacity: int) -> None:
        self.node, self.capacity = node, capacity
        self.entries: dict[str, Header] = {}
        self.fresh: dict[str, Blob] = {}
        self.added: dict[str, None] = {}
        self.removed: dict[str, None] = {}

    def __contains__(self, chunk: str) -> bool:
        return chunk in self.entries

    async def restore(self) -> None:
        """Find what an earlier incarnation left; what is damaged is thrown away."""
        for name in self.node.disk.names():
            if not name.endswith(HEADER):
                continue
            chunk = name.removesuffix(HEADER)
            try:
                header = msgspec.json.decode(bytes(await self.node.disk.read(name)), type=Header)
                blob = await self.node.disk.read(chunk + CONTENT)
                whole = blob.checksum(header.algorithm) == header.checksum
            except (FileNotFoundError, msgspec.DecodeError, ValueError):
                whole = False
            if whole:
                self.entries[chunk] = header
            else:
                await self._remove(chunk)

    async def keep(self, chunk: str, blob: Blob, algorithm: str) -> bool:
        """Write a chunk, after evicting what has to make room. False when it does not fit."""
        header = Header(chunk=chunk, length=len(blob), algorithm=algorithm, checksum=blob.checksum(algorithm))
        while self.entries and self.used() + len(blob) > self.capacity:
            await self.evict(next(iter(self.entries)))
        if len(blob) > self.capacity:
            return False
        self.entries[chunk], self.fresh[chunk] = header, blob
        try:
            await self.node.disk.write(chunk + CONTENT, blob)
            await self.node.disk.write(chunk + HEADER, msgspec.json.encode(header))
            await self.node.disk.sync(chunk + CONTENT)
            await self.node.disk.sync(chunk + HEADER)
        except OSError:
            self.entries.pop(chunk, None)
            await self._remove(chunk)
            return False
        finally:
            self.fresh.pop(chunk, None)
        if chunk not in self.entries:  # evicted while it was written
            await self._remove(chunk)
            return False
        self.removed.pop(chunk, None)
        self.added[chunk] = None
        self.node.emit("owl.keep", peer=self.node.name, chunk=chunk)
        return True

    async def read(self, chunk: str) -> Blob | None:
        """A chunk's content, None if it is not kept."""
        header = self.entries.pop(chunk, None)
        if header is None:
            return None
        self.entries[chunk] = header  # the most recently used is last
        if chunk in self.fresh:
            return self.fresh[chunk]
        try:
            return await self.node.disk.read(chunk + CONTENT)
        except FileNotFoundError:
            return None

    async def evict(self, chunk: str) -> None:
        if self.entries.pop(chunk, None) is None:
            return
        self.added.pop(chunk, None)
        self.removed[chunk] = None
        self.node.emit("owl.evict", peer=self.node.name, chunk=chunk)
        await self._remove(chunk)

    async def _remove(self, chunk: str) -> None:
        await self.node.disk.remove(chunk + HEADER)
        await self.node.disk.remove(chunk + CONTENT)

    def used(self) -> int:
        return sum(header.length for header in self.entries.values())

    def lost(self, chunk: str) -> None:
        """The tracker thinks that we keep a chunk which we do not: tell it."""
        self.removed[chunk] = None

    def changes(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """What was added and what was removed since the last call."""
        changes = tuple(self.added), tuple(self.removed)
        self.added, self.removed = {}, {}
        return changes
