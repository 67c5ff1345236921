"""A page of memory that the session and its nodes share: what each needs to know of the other at any moment, at once.

The session writes who is up, clock offsets and limits of disks; a node counts how often it met them. So an effect needs
no message, and a paused node has it when it goes on.
"""

from __future__ import annotations

import mmap

_WIDTH = 8
_UP, _OFFSET, _READS, _RATE, _CAPACITY, _RATE_HITS, _CAPACITY_HITS = range(7)


class Board:
    """One row of numbers per node, by its number; made before the nodes are forked."""

    def __init__(self, nodes: int) -> None:
        memory = memoryview(mmap.mmap(-1, (nodes + 1) * _WIDTH * 8))
        self._whole, self._real = memory.cast("q"), memory.cast("d")
        for node in range(nodes + 1):
            self.limit_disk(node, 0.0, None)

    def is_up(self, node: int) -> bool:
        return bool(self._whole[node * _WIDTH + _UP])

    def set_up(self, node: int, up: bool) -> None:
        self._whole[node * _WIDTH + _UP] = up

    def offset_s(self, node: int) -> float:
        return self._real[node * _WIDTH + _OFFSET]

    def set_offset(self, node: int, offset_s: float) -> None:
        self._real[node * _WIDTH + _OFFSET] = offset_s

    def reads(self, node: int) -> int:
        """How often the node looked at its wall clock."""
        return self._whole[node * _WIDTH + _READS]

    def count_read(self, node: int) -> None:
        self._whole[node * _WIDTH + _READS] += 1

    def disk(self, node: int) -> tuple[float, int | None]:
        """The node's disk: bytes per second (0: any), and capacity in bytes (None: any)."""
        capacity = self._whole[node * _WIDTH + _CAPACITY]
        return self._real[node * _WIDTH + _RATE], None if capacity < 0 else capacity

    def limit_disk(self, node: int, rate: float, capacity_bytes: int | None) -> None:
        self._real[node * _WIDTH + _RATE] = rate
        self._whole[node * _WIDTH + _CAPACITY] = -1 if capacity_bytes is None else capacity_bytes

    def disk_hits(self, node: int, what: str) -> int:
        """How often a limit, `rate` or `capacity_bytes`, was met."""
        return self._whole[node * _WIDTH + (_RATE_HITS if what == "rate" else _CAPACITY_HITS)]

    def count_disk(self, node: int, what: str) -> None:
        self._whole[node * _WIDTH + (_RATE_HITS if what == "rate" else _CAPACITY_HITS)] += 1
