"""Faults of clocks."""

from __future__ import annotations

from zebra.errors import ConfigError
from zebra.injection.fault import fault
from zebra.injection.selection import Selection
from zebra.substrate import Clocks
from zebra.units import Offset


@fault("clock.offset", level="host", needs=Clocks)
class ClockOffset:
    """Set the wall clock forward by `by`, or back if it is negative; monotonic clocks go on undisturbed."""

    by: Offset

    def validate(self) -> None:
        if not self.by:
            raise ConfigError("clock.offset: by is 0, expected a time such as 2s or -200ms")

    async def inject(self, on: Selection, clocks: Clocks) -> None:
        await clocks.add(on.hosts(), offset_s=self.by)
