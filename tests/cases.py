"""Scenarios that the tests of several substrates run, and how they reach into a node."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from zebra import Cluster

SOON_S, PATIENCE_S = 0.3, 10.0
"""How long to wait for what must not come, and for what must: a busy machine is slow."""

Case = Callable[[Cluster], Awaitable[None]]


class Cases(list[Case]):
    def add(self, scenario: Case) -> Case:
        """A decorator."""
        self.append(scenario)
        return scenario


def at(cluster: Cluster, node: str, method: str, *args: Any) -> Any:
    """What a method of a node's role returns."""
    return cluster._running.call(node, method, *args)
