"""How the nodes of a run are joined, where it is not by the proxy between loopback addresses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from zebra.substrate.process.loop import NodeLoop

Brought = tuple[str, list[int], Any]
"""What the zygote brings the session: its kind, descriptors, and a word on them that pickles."""


class Network(Protocol):
    """Made in the session, before the zygote is forked; acts in the zygote and its children."""

    def make(self) -> list[Brought]:
        """Make what all nodes share. Raises OSError."""

    def prepare(self, node: int) -> list[Brought]:
        """Make what a node needs that is about to start."""

    def enter(self, node: int) -> None:
        """Move this process, a new one, to where a node lives."""

    def loop(self, node: int, nodes: Mapping[str, int]) -> NodeLoop:
        """The event loop of a node."""
