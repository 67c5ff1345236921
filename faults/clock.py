"""Faults of clocks: each hits the wall clocks of the selected nodes' hosts; monotonic clocks go on undisturbed."""

from __future__ import annotations

from zebra.errors import ConfigError
from zebra.injection.fault import fault
from zebra.injection.selection import Selection
from zebra.substrate import Clocks
from zebra.units import Drift, Offset, Seconds


@fault("clock.offset", level="host", needs=Clocks)
class ClockOffset:
    """Set the wall clock forward by `by`, or back if it is negative; monotonic clocks go on undisturbed."""

    by: Offset

    def validate(self) -> None:
        if not self.by:
            raise ConfigError("clock.offset: by is 0, expected a time such as 2s or -200ms")

    async def inject(self, on: Selection, clocks: Clocks) -> None:
        await clocks.add(on.hosts(), offset_s=self.by)


@fault("clock.drift", level="host", needs=Clocks)
class ClockDrift:
    """Let the wall clock run fast by a share `rate` of the time, or slow if it is negative; healing sets it right."""

    rate: Drift

    def validate(self) -> None:
        if not self.rate:
            raise ConfigError("clock.drift: rate is 0, expected a share such as 0.01 (fast) or -0.01 (slow)")

    async def inject(self, on: Selection, clocks: Clocks) -> None:
        await clocks.add(on.hosts(), drift=self.rate)


@fault("clock.jump", level="host", needs=Clocks)
class ClockJump:
    """Let the wall clock jump by `by`, back after `every_s`, and so on: it is wrong half of the time."""

    by: Offset
    every_s: Seconds = 0.2

    def validate(self) -> None:
        if not self.by or not self.every_s:
            raise ConfigError("clock.jump: by and every_s must not be 0, expected times such as 2s and 200ms")

    async def inject(self, on: Selection, clocks: Clocks) -> None:
        await clocks.add(on.hosts(), offset_s=self.by, every_s=self.every_s)


@fault("clock.freeze", level="host", needs=Clocks)
class ClockFreeze:
    """Let the wall clock stand still; healing sets it right."""

    async def inject(self, on: Selection, clocks: Clocks) -> None:
        await clocks.add(on.hosts(), freeze=True)
