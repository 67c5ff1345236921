"""A simulated disk: files of blobs, a write cache, and what a crash leaves of it.

Writes are in the cache until `sync`. A crashed process keeps the cache, as SIGKILL does on a real host; while a
`disk.lose_unsynced` effect is on, a crash loses it, and the last unsynced write of a file may be torn.
"""

from __future__ import annotations

import asyncio
import errno
from random import Random
from typing import TYPE_CHECKING

from zebra.blob import Blob
from zebra.errors import NodeDown
from zebra.substrate.inside import DiskEffects

if TYPE_CHECKING:
    from zebra.substrate import Effect
    from zebra.substrate.sim.machine import Machine

SEEK_S = 50e-6
"""Seconds that each operation costs beside its bytes."""


class SimDisk:
    """One node's files. `rate` is in bytes per second, `capacity_bytes` bounds the sum of all files."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self.rate, self.capacity_bytes = 2e9, 1 << 50
        self.effects: list[Effect] = []
        self._imposed = DiskEffects(self._effects, self._random)
        self._files: dict[str, Blob] = {}
        self._durable: dict[str, Blob] = {}
        self._free_s = 0.0

    def _effects(self) -> list[Effect]:
        return self.effects

    def _random(self) -> Random:
        return self._machine.random

    async def write(self, name: str, data: Blob | bytes) -> None:
        """Replace a file's content. Raises OSError: ENOSPC when the disk is full, EROFS, EIO."""
        data = data if isinstance(data, Blob) else Blob.of(data)
        await self._spend(len(data))
        self._store(name, data)

    async def append(self, name: str, data: Blob | bytes) -> None:
        """Add to the end of a file, made if it is not there. Raises OSError as `write` does."""
        data = data if isinstance(data, Blob) else Blob.of(data)
        await self._spend(len(data))
        self._store(name, self._files.get(name, Blob.of(b"")) + data)

    async def read(self, name: str) -> Blob:
        """A file's content. Raises FileNotFoundError, or OSError(EIO)."""
        if name not in self._files:
            raise FileNotFoundError(errno.ENOENT, "no such file", name)
        await self._spend(len(self._files[name]))
        if not self.effects:
            return self._files[name]
        self._imposed.check("read_error", name)
        return self._imposed.read(self._files[name])

    async def sync(self, name: str) -> None:
        """Make a file's content survive the loss of the cache. Raises FileNotFoundError, or OSError(EIO)."""
        if name not in self._files:
            raise FileNotFoundError(errno.ENOENT, "no such file", name)
        content = self._files[name]
        await self._spend(0)
        self._imposed.check("write_error", name)
        if name in self._files:
            self._durable[name] = content

    async def remove(self, name: str) -> None:
        """Delete a file, for good at once; one that is not there is no error. Raises OSError: EROFS, EIO."""
        await self._spend(0)
        self._imposed.check_change(name)
        self._files.pop(name, None)
        self._durable.pop(name, None)

    def names(self) -> list[str]:
        """The files there are, sorted."""
        return sorted(self._files)

    def used_bytes(self) -> int:
        return sum(map(len, self._files.values()))

    def crash(self) -> None:
        """What the process's end leaves: everything, or what was synced if an effect says that the cache is lost."""
        lossy = [effect for effect in self.effects if effect.arguments["lose_unsynced"]]
        lost = {name: blob for name, blob in self._files.items() if self._durable.get(name) != blob}
        if not lossy or not lost:
            return
        torn = max(float(effect.arguments["torn"]) for effect in lossy)
        for effect in lossy:
            effect.hits += len(lost)
        random = self._machine.random
        self._files = dict(self._durable)
        for name, blob in lost.items():
            if random.random() < torn:
                self._files[name] = blob.slice(0, random.randrange(self._safe_bytes(name, blob), len(blob) + 1))
        self._durable = dict(self._files)

    def _safe_bytes(self, name: str, blob: Blob) -> int:
        """How much of a file no torn write can take: what was synced, if the file only grew since."""
        synced = self._durable.get(name, Blob.of(b""))
        return len(synced) if len(synced) <= len(blob) and blob.slice(0, len(synced)) == synced else 0

    def _store(self, name: str, content: Blob) -> None:
        size = self.used_bytes() - len(self._files.get(name, b"")) + len(content)
        self._imposed.check_change(name)
        self._imposed.check_room(name, lambda: size)
        if size > self.capacity_bytes:
            raise OSError(errno.ENOSPC, "no space left on device", name)
        self._files[name] = content

    async def _spend(self, size: int) -> None:
        process, loop = self._machine.process, self._machine.loop
        rate = self._imposed.rate(self.rate) if self.effects else self.rate
        self._free_s = max(self._free_s, loop.now) + SEEK_S + size / rate
        await asyncio.sleep(self._free_s - loop.now)
        if self._machine.process is not process:
            raise NodeDown(f"{self._machine.name} is not running")
