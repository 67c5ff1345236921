"""What a member of the store keeps on disk: its term and vote, the log of records, snapshots.

Records are framed and checksummed, in segments named by number; a record replaces those that an earlier one of the
same or a higher zxid began. A file is only ever added to, so that a torn write costs nothing that was synced: reading
stops at the first frame that is not whole.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable, Iterator
from struct import Struct as Packing
from typing import Any, TypeVar

import msgspec

from zebra.blob import Blob
from zebra.node import Node
from zebra.rpc.wire import BLOBS_MAX
from zebra.targets.lad.store_messages import Record, Stored

T = TypeVar("T")
_PREFIX = Packing(">II")
SEGMENT_RECORDS, SEGMENT_BYTES = 256, 1 << 28
_TERM = "term"


class Framing:
    """Structs with blobs in them as frames: length and checksum of the head, the head, the blobs."""

    def __init__(self, kind: type[Any]) -> None:
        self._out: list[Blob] = []
        self._in: deque[Blob] = deque()
        self._encoder = msgspec.msgpack.Encoder(enc_hook=self._take)
        self._decoder: Any = msgspec.msgpack.Decoder(kind, dec_hook=lambda _, length: self._in.popleft())

    def _take(self, blob: Any) -> int:
        self._out.append(blob)
        return len(blob)

    def split(self, value: Any) -> tuple[bytes, list[Blob]]:
        """The head, in which each blob is its length, and the blobs."""
        self._out = []
        return self._encoder.encode(value), self._out

    def join(self, head: bytes, blobs: Iterable[Blob]) -> Any:
        """What was split; raises msgspec.DecodeError or IndexError."""
        self._in = deque(blobs)
        return self._decoder.decode(head)

    def frame(self, value: Any) -> Blob:
        head, blobs = self.split(value)
        sums = msgspec.msgpack.encode([(len(blob), blob.checksum("crc32")) for blob in blobs])
        body = _PREFIX.pack(len(head), len(sums)) + head + sums
        check = Blob.of(body).checksum("crc32").encode()
        return Blob.join([Blob.of(check + body), *blobs])

    def frames(self, file: Blob) -> Iterator[Any]:
        """The values of all whole frames at the beginning of a file."""
        at = 0
        while at + 16 <= len(file):
            check, prefix = bytes(file.slice(at, at + 8)), bytes(file.slice(at + 8, at + 16))
            size = sum(_PREFIX.unpack(prefix))
            if at + 16 + size > len(file):
                return
            body = bytes(file.slice(at + 16, at + 16 + size))
            if Blob.of(prefix + body).checksum("crc32").encode() != check:
                return
            length = _PREFIX.unpack(prefix)[0]
            at += 16 + size
            blobs = []
            for size, checksum in msgspec.msgpack.decode(body[length:], type=list[tuple[int, str]]):
                if at + size > len(file):
                    return
                blobs.append(file.slice(at, at + size))
                if blobs[-1].checksum("crc32") != checksum:
                    return
                at += size
            yield self.join(body[:length], blobs)


RECORDS = Framing(Record)
_VOTES = Framing(tuple[int, str])


def content_bytes(record: Record) -> int:
    """The bytes of the values in a record."""
    return sum(len(op.content) for op in record.ops if isinstance(op, Stored))


class Log:
    """The records after `base`, in memory and, up to `durable`, on disk; the term, and who got the vote in it."""

    def __init__(self, node: Node[Any]) -> None:
        self.node, self.disk = node, node.disk
        self.term, self.voted = 0, ""
        self.base, self.base_term = 0, 0
        self.records: list[Record] = []
        self.durable = 0
        self._saved = (0, "")
        self._segments: deque[tuple[str, int]] = deque()  # of each older segment its name and highest zxid
        self._segment, self._count, self._bytes, self._high = "", 0, 0, 0
        self._number = 0
        self._writing, self._voting = asyncio.Lock(), asyncio.Lock()

    # -- memory ----------------------------------------------------------------------------------------------

    @property
    def last(self) -> int:
        return self.base + len(self.records)

    @property
    def last_term(self) -> int:
        return self.records[-1].term if self.records else self.base_term

    def term_at(self, zxid: int) -> int | None:
        """The term of a record, None where there is none (any more)."""
        if zxid == self.base:
            return self.base_term
        return self.records[zxid - self.base - 1].term if self.base < zxid <= self.last else None

    def at(self, zxid: int) -> Record:
        return self.records[zxid - self.base - 1]

    def after(self, zxid: int, count: int, size_max: int) -> tuple[Record, ...]:
        """Up to `count` records after a zxid, not many more bytes than `size_max`, no more values than fit a frame."""
        found: list[Record] = []
        size = values = 0
        for record in self.records[zxid - self.base : zxid - self.base + count]:
            values += len(record.ops)
            if found and (size >= size_max or values > BLOBS_MAX):
                break
            found.append(record)
            size += content_bytes(record)
        return tuple(found)

    def add(self, record: Record) -> None:
        """One record at the end."""
        self.records.append(record)

    def cut(self, zxid: int) -> None:
        """Forget the record `zxid` and all that follow it."""
        del self.records[zxid - self.base - 1 :]
        self.durable = min(self.durable, zxid - 1)

    # -- disk ------------------------------------------------------------------------------------------------

    async def load(self, base: int, base_term: int) -> None:
        """Read what is on disk, of the log what follows a snapshot."""
        self.base, self.base_term = base, base_term
        for name in self.disk.names():
            if name == _TERM:
                for saved in _VOTES.frames(await self.disk.read(name)):
                    self._saved = self.term, self.voted = saved
            elif name.startswith("log-"):
                high = 0
                for record in RECORDS.frames(await self.disk.read(name)):
                    high = max(high, record.zxid)
                    del self.records[max(record.zxid - base - 1, 0) :]
                    if record.zxid == self.last + 1 and record.term >= self.last_term:  # older: from before a snapshot
                        self.records.append(record)
                self._segments.append((name, high))
                self._number = int(name[4:])
        self.durable = self.last

    async def save_term(self) -> None:
        """Make term and vote durable."""
        async with self._voting:
            now = (self.term, self.voted)
            if now != self._saved:
                await self.disk.append(_TERM, _VOTES.frame(now))
                await self._sync(_TERM)
                self._saved = now

    async def persist(self) -> None:
        """Make all records that are there now durable. Raises OSError when the disk does not take them."""
        async with self._writing:
            while self.durable < self.last:
                records = self.records[self.durable - self.base :]
                await self._write(records)
                last = records[-1]
                if self.term_at(last.zxid) == last.term:  # or else it was cut off meanwhile
                    self.durable = max(self.durable, last.zxid)

    async def _write(self, records: list[Record]) -> None:
        if not self._segment or self._count >= SEGMENT_RECORDS or self._bytes >= SEGMENT_BYTES:
            self._next_segment()
        data = Blob.join([RECORDS.frame(record) for record in records])
        self._high = max(self._high, records[-1].zxid)
        self._count += len(records)
        self._bytes += len(data)
        try:
            await self.disk.append(self._segment, data)
            await self._sync(self._segment)
        except OSError:
            self._next_segment()  # what was written of it would hide what follows
            raise

    def _next_segment(self) -> None:
        if self._segment:
            self._segments.append((self._segment, self._high))
        self._number += 1
        self._segment, self._count, self._bytes, self._high = f"log-{self._number:08d}", 0, 0, 0

    async def _sync(self, name: str) -> None:
        if not self.node.variant("bug.no_sync"):
            await self.disk.sync(name)

    async def restart_at(self, zxid: int, term: int) -> None:
        """Forget everything, on disk too: a durable snapshot that ends at `zxid` takes its place."""
        async with self._writing:
            self.records.clear()
            self.base, self.base_term, self.durable = zxid, term, zxid
            self._next_segment()
            while self._segments:
                name, _ = self._segments.popleft()
                await self.disk.remove(name)

    async def forget(self, zxid: int, keep: int) -> None:
        """Drop what a snapshot that ends at `zxid` holds: segments on disk, and all but `keep` records in memory."""
        base = max(self.base, min(zxid, self.durable) - keep)
        if base > self.base:
            self.base_term, dropped = self.term_at(base) or 0, base - self.base
            del self.records[:dropped]
            self.base = base
        while self._segments and self._segments[0][1] <= zxid:
            name, _ = self._segments.popleft()
            await self.disk.remove(name)


async def read_snapshot(node: Node[Any], framing: Framing) -> list[Any]:
    """The parts of the newest whole snapshot, [] if there is none. The last part of a whole one says so."""
    for name in sorted((n for n in node.disk.names() if n.startswith("snapshot-")), reverse=True):
        parts = list(framing.frames(await node.disk.read(name)))
        if parts and parts[-1].last:
            return parts
    return []


async def write_snapshot(node: Node[Any], framing: Framing, zxid: int, parts: Iterable[Any]) -> None:
    """Write a snapshot that ends at `zxid`, make it durable, drop those before it."""
    name = f"snapshot-{zxid:012d}"
    await node.disk.write(name, Blob.join([framing.frame(part) for part in parts]))
    await node.disk.sync(name)
    for old in [n for n in node.disk.names() if n.startswith("snapshot-") and n < name]:
        await node.disk.remove(old)
