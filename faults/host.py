"""Faults of hosts: each hits the selected nodes' hosts and all that runs on them."""

from __future__ import annotations

from zebra.injection.fault import fault
from zebra.injection.selection import Selection
from zebra.substrate import Processes
from zebra.units import Seconds


@fault("host.crash", level="host", needs=Processes)
class Crash:
    """Cut the power: nothing of the host runs or answers; healing starts it again."""

    async def inject(self, on: Selection, processes: Processes) -> None:
        await processes.add(on.hosts(), down="crash")


@fault("host.stop", level="host", needs=Processes)
class Stop:
    """Stop the host as planned: its roles are told and have `grace_s` to finish; healing starts it again."""

    grace_s: Seconds = 5.0

    async def inject(self, on: Selection, processes: Processes) -> None:
        await processes.add(on.hosts(), down="stop", grace_s=self.grace_s)


@fault("host.restart", level="host", needs=Processes)
class Restart:
    """Take the host down and start it again `down_s` later, planned (with `grace_s` of notice) or not."""

    down_s: Seconds = 0.5
    planned: bool = False
    grace_s: Seconds = 5.0

    async def inject(self, on: Selection, processes: Processes) -> None:
        down = "stop" if self.planned else "crash"
        await processes.add(on.hosts(), down=down, grace_s=self.grace_s, back_after_s=self.down_s)  # type: ignore[arg-type]


@fault("host.pause", level="host", needs=Processes)
class Pause:
    """Stop the host's processes as by SIGSTOP: connections stay, nothing answers; healing lets them go on."""

    async def inject(self, on: Selection, processes: Processes) -> None:
        await processes.add(on.hosts(), down="pause")
