"""Faults of disks: each hits the disks of the selected nodes' hosts."""

from __future__ import annotations

from typing import Literal

from zebra.injection.fault import fault
from zebra.injection.selection import Selection
from zebra.substrate import Disks
from zebra.units import Bytes, Probability, Rate


@fault("disk.lose_unsynced", level="host", needs=Disks)
class LoseUnsynced:
    """A crash meanwhile loses what was not synced; of a share `torn` of the files a part of the lost write stays.

    It shows only with a crash: inject `host.crash` or `host.restart` while it is on.
    """

    torn: Probability = 0.0

    async def inject(self, on: Selection, disks: Disks) -> None:
        await disks.add(on.hosts(), lose_unsynced=True, torn=self.torn)


@fault("disk.torn_write", level="host", needs=Disks)
class TornWrite:
    """A crash meanwhile leaves of every write that was not synced a part, cut off anywhere.

    It shows only with a crash: inject `host.crash` or `host.restart` while it is on.
    """

    async def inject(self, on: Selection, disks: Disks) -> None:
        await disks.add(on.hosts(), lose_unsynced=True, torn=1.0)


@fault("disk.slow", level="host", needs=Disks)
class Slow:
    """Read and write no faster than `rate`."""

    rate: Rate

    async def inject(self, on: Selection, disks: Disks) -> None:
        await disks.add(on.hosts(), rate=self.rate)


@fault("disk.full", level="host", needs=Disks)
class Full:
    """Refuse, with ENOSPC, a write that would make a node's files more than `capacity_bytes` together."""

    capacity_bytes: Bytes = 0

    async def inject(self, on: Selection, disks: Disks) -> None:
        await disks.add(on.hosts(), capacity_bytes=self.capacity_bytes)


@fault("disk.error", level="host", needs=Disks)
class Error:
    """Fail a share of the reads, or of the writes and syncs, or of all, with EIO: nothing is read or written."""

    probability: Probability = 1.0
    of: Literal["all", "reads", "writes"] = "all"

    async def inject(self, on: Selection, disks: Disks) -> None:
        if self.of == "all":
            await disks.add(on.hosts(), read_error=self.probability, write_error=self.probability)
        elif self.of == "reads":
            await disks.add(on.hosts(), read_error=self.probability)
        else:
            await disks.add(on.hosts(), write_error=self.probability)


@fault("disk.bit_flip", level="host", needs=Disks)
class BitFlip:
    """Give a share of the reads one bit that is wrong; the files stay as they are."""

    probability: Probability = 1.0

    async def inject(self, on: Selection, disks: Disks) -> None:
        await disks.add(on.hosts(), flip=self.probability)


@fault("disk.read_only", level="host", needs=Disks)
class ReadOnly:
    """Refuse every change of a file with EROFS, as after a remount; reads go well."""

    async def inject(self, on: Selection, disks: Disks) -> None:
        await disks.add(on.hosts(), read_only=True)
