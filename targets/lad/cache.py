"""What a proxy keeps on its disk: the metadata of its shards, and the content of what apps may read.

A content file is written whole and synced under a name of its own; only then does a record in the index say that it
is there. So the index plays the part of a rename: a file that no record names is no content. Records carry a checksum,
a torn one ends the index.
"""

from __future__ import annotations

import struct
import zlib
from urllib.parse import quote

import msgspec

from zebra.blob import Blob
from zebra.node import Node
from zebra.targets.lad.content import Holding
from zebra.targets.lad.store_messages import Entry, Version

_FRAME = struct.Struct(">II")
INDEX, CONTENT = "index-", "content-"
COMPACT_AFTER = 2_000
"""Records after which the index is written anew."""


class Meta(msgspec.Struct, frozen=True, kw_only=True, tag="meta"):
    """What a shard knows after an update."""

    shard: str
    seq: int
    zxid: int
    entries: tuple[Entry, ...]


class Kept(msgspec.Struct, frozen=True, kw_only=True, tag="kept"):
    """A version that apps may read, in the form of `codec`; the crc32 of its file."""

    path: str
    version: Version
    file: str
    codec: str
    crc: str


class Dropped(msgspec.Struct, frozen=True, kw_only=True, tag="dropped"):
    """The content of a path is no more: it was deleted."""

    path: str


class Whole(msgspec.Struct, frozen=True, kw_only=True, tag="whole"):
    """All that was known when this index was begun stands before this record."""


Record = Meta | Kept | Dropped | Whole
_decoder = msgspec.msgpack.Decoder(Record)


def pack(record: Record) -> bytes:
    """A record with its length and checksum."""
    data = msgspec.msgpack.encode(record)
    return _FRAME.pack(len(data), zlib.crc32(data)) + data


def unpack(data: bytes) -> list[Record]:
    """The records of an index, up to one that is torn."""
    records: list[Record] = []
    at = 0
    while at + _FRAME.size <= len(data):
        length, crc = _FRAME.unpack_from(data, at)
        body = data[at + _FRAME.size : at + _FRAME.size + length]
        if len(body) < length or zlib.crc32(body) != crc:
            break
        records.append(_decoder.decode(body))
        at += _FRAME.size + length
    return records


class Cache:
    """A proxy's disk. With a full disk it keeps nothing more, and says so by False; nothing else changes."""

    def __init__(self, node: Node[object]) -> None:
        self.node = node
        self.shards: dict[str, Meta] = {}
        self.kept: dict[str, Kept] = {}
        self._index, self._count, self._files = "", 0, 0

    async def restore(self) -> None:
        """Read what an earlier life left, and begin a new index with it."""
        names = self.node.disk.names()
        indexes = sorted((name for name in names if name.startswith(INDEX)), key=_number, reverse=True)
        for name in indexes:
            records = unpack(bytes(await self.node.disk.read(name)))
            if any(isinstance(record, Whole) for record in records):
                for record in records:
                    self._note(record)
                break
        self._files = max((_number(name) for name in names if name.startswith(CONTENT)), default=0)
        await self._begin(_number(indexes[0]) + 1 if indexes else 1)
        used = {kept.file for kept in self.kept.values()}
        for name in names:
            if name != self._index and name not in used and name.startswith((INDEX, CONTENT)):
                await self.node.disk.remove(name)

    def _note(self, record: Record) -> None:
        if isinstance(record, Meta):
            known = self.shards.get(record.shard)
            if known is not None:
                fresh = {entry.path for entry in record.entries}
                older = tuple(entry for entry in known.entries if entry.path not in fresh)
                record = msgspec.structs.replace(record, entries=older + record.entries)
            self.shards[record.shard] = record
        elif isinstance(record, Kept):
            self.kept[record.path] = record
        elif isinstance(record, Dropped):
            self.kept.pop(record.path, None)

    async def _begin(self, number: int) -> None:
        """Write all that is known to a new index."""
        name = f"{INDEX}{number}"
        records: list[Record] = [*self.shards.values(), *self.kept.values(), Whole()]
        data = b"".join(pack(record) for record in records)
        try:
            await self.node.disk.write(name, data)
            await self.node.disk.sync(name)
        except OSError:
            return
        self._index, self._count = name, 0

    async def _append(self, record: Record) -> bool:
        if not self._index:
            await self._begin(1)
        try:
            await self.node.disk.append(self._index, pack(record))
            await self.node.disk.sync(self._index)
        except OSError:
            return False
        self._count += 1
        if self._count > COMPACT_AFTER:
            old, self._count = self._index, 0
            await self._begin(_number(old) + 1)
            if self._index != old:
                await self.node.disk.remove(old)
        return True

    async def note_meta(self, shard: str, seq: int, zxid: int, entries: tuple[Entry, ...]) -> bool:
        """Keep an update of a shard before it is applied."""
        record = Meta(shard=shard, seq=seq, zxid=zxid, entries=entries)
        self._note(record)
        return await self._append(record)

    async def keep(self, holding: Holding) -> bool:
        """Keep a version that is ready, in place of what was kept of its path."""
        self._files += 1
        file = f"{CONTENT}{quote(holding.path, safe='')}-{self._files}"
        record = Kept(
            path=holding.path,
            version=holding.version,
            file=file,
            codec=holding.codec,
            crc=holding.content.checksum("crc32"),
        )
        torn = self.node.variant("bug.torn_cache")
        if torn and not await self._append(record):
            return False
        try:
            await self.node.disk.write(file, holding.content)
            if not torn:
                await self.node.disk.sync(file)
        except OSError:
            await self.node.disk.remove(file)
            return False
        if not torn and not await self._append(record):
            return False
        old = self.kept.get(holding.path)
        self._note(record)
        if old is not None:
            await self.node.disk.remove(old.file)
        return True

    async def drop(self, path: str) -> None:
        """A path was deleted."""
        old = self.kept.pop(path, None)
        if old is not None and await self._append(Dropped(path=path)):
            await self.node.disk.remove(old.file)

    async def content(self, kept: Kept) -> Blob | None:
        """The content of a record; None when its file is torn or lost."""
        try:
            content = await self.node.disk.read(kept.file)
        except OSError:
            return None
        if content.checksum("crc32") != kept.crc and not self.node.variant("bug.torn_cache"):
            return None
        return content


def _number(name: str) -> int:
    return int(name.rpartition("-")[2])
