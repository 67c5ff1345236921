"""Faults of disks: each hits the disks of the selected nodes' hosts."""

from __future__ import annotations

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
