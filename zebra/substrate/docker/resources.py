"""Limits of containers: the engine sets them, the kernel keeps them, and counts in the container's control groups."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zebra.errors import ConfigError
from zebra.substrate import Effect
from zebra.substrate.docker.engine import Engine
from zebra.substrate.process.cgroup import PERIOD_US, Controller, Group, Tree, of_process
from zebra.substrate.process.resources import ProcessResources

if TYPE_CHECKING:
    from zebra.substrate.docker.running import DockerRunning

ENGINE = Tree(0, Path(), Path())
"""Stands for limits that the engine sets, where this process could make no groups itself."""

UNLIMITED_BYTES = 1 << 50
FIRST = 1
"""The number that a container's first process has for itself."""


class ContainerGroup(Group):
    """A container under one controller. `spare` limits of memory count from what it had when the first one came."""

    def __init__(self, engine: Engine, container: str, controller: Controller, pid: Callable[[], int]) -> None:
        self._engine, self._container, self._controller, self._pid = engine, container, controller, pid
        self._base_bytes = self._used_bytes() if controller == "memory" else 0

    def take(self, pids: Iterable[int]) -> None:
        """All processes of a container are in its groups."""

    def limit(self, value: float) -> None:
        if self._controller == "cpu":
            self._engine.limit(self._container, CpuPeriod=PERIOD_US, CpuQuota=max(1000, round(PERIOD_US * value)))
        elif self._controller == "memory":
            size = self._base_bytes + int(value)
            self._engine.limit(self._container, Memory=size, MemorySwap=size)
        else:
            self._engine.limit(self._container, PidsLimit=max(1, int(value)))

    def remove(self) -> None:
        """Let it have all again."""
        if self._controller == "cpu":
            self._engine.limit(self._container, CpuQuota=-1)
        elif self._controller == "memory":
            # an engine before 23 does not pass the -1 that stands for no limit of swap on to the kernel
            self._engine.limit(self._container, Memory=UNLIMITED_BYTES, MemorySwap=2 * UNLIMITED_BYTES)
        else:
            self._engine.limit(self._container, PidsLimit=-1)

    def met(self) -> int:
        return self._ask(super().met)

    def kills(self) -> int:
        return self._ask(super().kills)

    def size(self) -> int:
        return self._ask(super().size)

    def _used_bytes(self) -> int:
        one = "memory.usage_in_bytes"
        return self._ask(lambda: int((self.path / (one if self._tree.version == 1 else "memory.current")).read_text()))

    def _ask(self, counter: Callable[[], int]) -> int:
        """What one of its files says; 0 while the container is down."""
        tree = of_process(self._controller, self._pid())
        if tree is None:
            return 0
        self._tree, self.path = tree, tree.home
        try:
            return counter()
        except OSError:
            return 0


class DockerResources(ProcessResources):
    """`zebra.substrate.Resources` on containers; a client, which is in none, is limited as a process is."""

    _running: DockerRunning

    def _tree(self, controller: Controller) -> Tree | str:
        found = super()._tree(controller)
        return found if isinstance(found, Tree) else ENGINE

    def _make_group(self, node: str, controller: Controller, tree: Tree) -> Group:
        container = self._running.container_of(node)
        if container:
            return ContainerGroup(self._running.engine, container, controller, lambda: self._running.pid_of(node))
        if tree is ENGINE:
            raise ConfigError(
                f"no limit of {controller} for {node}, which is in no container: {super()._tree(controller)}"
            )
        return super()._make_group(node, controller, tree)

    def out_of_memory(self, node: str) -> bool:
        """Whether a node that has just ended had more memory than it was allowed; if so, healing starts it again."""
        limits = self._of(node, "memory")
        if not self._running.container_of(node):
            return super().out_of_memory(node)
        if not limits or not self._running.starved(node):
            return False
        tightest = min(limits, key=lambda effect: int(effect.arguments["memory_bytes"]))
        tightest.hits += 1  # its counters went with it
        self._killed[node] = tightest
        return True

    def close(self) -> None:
        """After the end of all nodes; a container's limits go with it."""
        self._groups = {key: group for key, group in self._groups.items() if not isinstance(group, ContainerGroup)}
        super().close()

    def _pids(self, node: str) -> list[int]:
        """All processes of a container."""
        if not self._running.container_of(node):
            return super()._pids(node)
        tree = of_process("pids", self._running.pid_of(node))
        try:
            return [int(pid) for pid in (tree.home / "cgroup.procs").read_text().split()] if tree else []
        except OSError:
            return []

    def _limit_files(self, effect: Effect, node: str, spare: int) -> None:
        bounds: dict[int, Any] = effect.arguments["bounds"]
        super()._limit_files(effect, node, spare)
        pid = self._running.pid_of(node)
        if self._running.container_of(node) and pid in bounds:
            self._running.inside.lift(node, effect)
            effect.arguments["bounds"] = {**bounds, FIRST: bounds[pid]}
            self._running.inside.impose(node, effect)
