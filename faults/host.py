"""Faults of hosts: each hits the selected nodes' hosts and all that runs on them."""

from __future__ import annotations

from random import Random

from zebra.errors import ConfigError
from zebra.injection.fault import fault
from zebra.injection.schedule import Inject, Schedule
from zebra.injection.selection import Selection
from zebra.substrate import Processes, Resources
from zebra.units import Bytes, Probability, Seconds, Spare

STALL_S_MAX = 5.0
"""A node that is up must be heard of now and then, or the run says nothing (`host.pause` is for longer times)."""


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


@fault("host.kill", level="host", needs=Processes)
class Kill:
    """End the host's processes as by SIGKILL; its kernel lives on and closes their connections; healing starts them."""

    async def inject(self, on: Selection, processes: Processes) -> None:
        await processes.add(on.hosts(), down="kill")


@fault("host.zombie", level="host")
class Zombie:
    """Pause the host for `pause_s`, which should be longer than any lease that it holds, and let it go on unawares."""

    pause_s: Seconds

    def validate(self) -> None:
        if not self.pause_s:
            raise ConfigError("host.zombie: pause_s is 0, expected a time beyond the leases of the target such as 20s")

    def expand(self, on: Selection, random: Random) -> Schedule:
        return Schedule((Inject(fault="host.pause", on=on.groups, for_s=self.pause_s),))


@fault("host.slow", level="host", needs=Resources)
class Slow:
    """Give each node a share `cpu` of one processor, in slices of 100 ms.

    A real quota where cgroups can be made; else, and in simulation, the node stands still for the rest of each slice.
    """

    cpu: Probability = 0.1

    def validate(self) -> None:
        if not 0.01 <= self.cpu < 1:
            raise ConfigError(f"host.slow: cpu is {self.cpu:g}, expected a share of one processor from 0.01 to below 1")

    async def inject(self, on: Selection, resources: Resources) -> None:
        await resources.add(on.hosts(), cpu=self.cpu)


@fault("host.unfair", level="host", needs=Resources)
class Unfair:
    """Let each node stand still once in each `every_s`, for a random time of up to `stall_s`, each by itself."""

    stall_s: Seconds = 0.2
    every_s: Seconds = 1.0

    def validate(self) -> None:
        if not 0 < self.stall_s <= min(self.every_s, STALL_S_MAX):
            limit = f"above 0 and at most every_s ({self.every_s:g} s) and {STALL_S_MAX:g} s"
            raise ConfigError(f"host.unfair: stall_s is {self.stall_s:g}, expected a time {limit}")

    async def inject(self, on: Selection, resources: Resources) -> None:
        await resources.add(on.hosts(), stall_s=self.stall_s, every_s=self.every_s)


@fault("host.memory", level="host", needs=Resources)
class Memory:
    """Let each node take `spare_bytes` more memory than it has: then comes pressure, and then the OOM killer.

    Healing starts again what was killed. In simulation a node takes only what `application.leak` makes it take; real
    nodes need control groups of `memory` that we may make.
    """

    spare_bytes: Bytes

    def validate(self) -> None:
        if not self.spare_bytes:
            raise ConfigError("host.memory: spare_bytes is 0, expected a size such as 64MiB")

    async def inject(self, on: Selection, resources: Resources) -> None:
        await resources.add(on.hosts(), memory_bytes=self.spare_bytes)


@fault("host.file_limit", level="host", needs=Resources)
class FileLimit:
    """Let each running process open `spare` more files and connections than it has, then refuse with EMFILE."""

    spare: Spare = 0

    async def inject(self, on: Selection, resources: Resources) -> None:
        await resources.add(on.hosts(), files=self.spare)


@fault("host.process_limit", level="host", needs=Resources)
class ProcessLimit:
    """Let each node start `spare` more processes and threads than it has, then refuse with EAGAIN.

    It needs control groups of `pids` that we may make: the kernel's own limit counts all processes of a user, and does
    not bind root.
    """

    spare: Spare = 0

    async def inject(self, on: Selection, resources: Resources) -> None:
        await resources.add(on.hosts(), processes=self.spare)
