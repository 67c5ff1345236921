"""A page of memory that the session and its nodes share: what each needs to know of the other at any moment, at once.

The session writes who is up, and for each node the effects that act inside it; a node counts how often they did. So an
effect needs no message, and a paused node has it when it goes on.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from zebra.errors import ConfigError
from zebra.substrate import Effect

EFFECTS_MAX = 64
"""So many effects may act inside one node at a time."""

_TEXT_BYTES = 16 * 1024
_UP, _VERSION, _LENGTHS, _COUNTS = 0, 1, 2, 4
"""Where the numbers of a node are: two lengths, and for each slot the hits and the chances."""
_NUMBERS = _COUNTS + 2 * EFFECTS_MAX
_NODE_BYTES = 8 * _NUMBERS + 2 * _TEXT_BYTES

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[tuple[int, int, str, dict[str, Any]]]).decode


class Board:
    """One region per node, by its number; made before the nodes are forked, or in a `file` that they open."""

    def __init__(self, nodes: int, file: int = -1) -> None:
        self._bytes = memoryview(mmap.mmap(file, (nodes + 1) * _NODE_BYTES))
        self._numbers = self._bytes.cast("q")
        self._slots: dict[int, dict[int, int]] = {}
        self._next: dict[int, int] = {}
        self._bases: dict[tuple[int, int], tuple[int, int]] = {}

    @staticmethod
    def size_bytes(nodes: int) -> int:
        """How long a file for so many nodes must be."""
        return (nodes + 1) * _NODE_BYTES

    def _at(self, node: int) -> int:
        return node * _NODE_BYTES // 8

    def is_up(self, node: int) -> bool:
        return bool(self._numbers[self._at(node) + _UP])

    def set_up(self, node: int, up: bool) -> None:
        self._numbers[self._at(node) + _UP] = up

    # -- the session's side ------------------------------------------------------------------------------------

    def impose(self, node: int, effects: Iterable[Effect]) -> None:
        """These are the effects on a node from now on. Raises ConfigError when they are too many."""
        slots, wanted = self._slots.setdefault(node, {}), {effect.id: effect for effect in effects}
        for gone in set(slots) - set(wanted):
            del slots[gone]
        for number in wanted:
            if number not in slots:
                slots[number] = self._free_slot(node, slots)
                self._bases[node, number] = self._counts(node, slots[number])
        text = _encode([(slots[e.id], e.id, e.capability, _told(e.arguments)) for e in wanted.values()])
        if len(text) > _TEXT_BYTES:
            raise ConfigError(f"{len(wanted)} effects on one node at a time are too many for substrate process")
        at = self._at(node)
        version = self._numbers[at + _VERSION] + 1
        start = node * _NODE_BYTES + 8 * _NUMBERS + version % 2 * _TEXT_BYTES
        self._bytes[start : start + len(text)] = text
        self._numbers[at + _LENGTHS + version % 2] = len(text)
        self._numbers[at + _VERSION] = version  # what a node is reading meanwhile stays as it was

    def _free_slot(self, node: int, slots: dict[int, int]) -> int:
        """The slot that was used the longest time ago: a node may still be counting for the last one."""
        taken = set(slots.values())
        for _ in range(EFFECTS_MAX):
            slot = self._next.get(node, 0)
            self._next[node] = (slot + 1) % EFFECTS_MAX
            if slot not in taken:
                return slot
        raise ConfigError(f"a node can be under {EFFECTS_MAX} effects at a time on substrate process")

    def _counts(self, node: int, slot: int) -> tuple[int, int]:
        at = self._at(node) + _COUNTS + 2 * slot
        return self._numbers[at], self._numbers[at + 1]

    def counted(self, node: int, effect: int) -> tuple[int, int]:
        """How often an effect has acted in a node so far, and how often it might have."""
        slot = self._slots.get(node, {}).get(effect)
        if slot is None:
            return 0, 0
        (hits, seen), (hits_before, seen_before) = self._counts(node, slot), self._bases[node, effect]
        return hits - hits_before, seen - seen_before

    # -- the node's side ---------------------------------------------------------------------------------------

    def version(self, node: int) -> int:
        return self._numbers[self._at(node) + _VERSION]

    def read(self, node: int) -> tuple[int, list[tuple[int, int, str, dict[str, Any]]]]:
        """The version of a node's effects, and these: (slot, id, capability, arguments)."""
        at = self._at(node)
        while True:
            version = self._numbers[at + _VERSION]
            start = node * _NODE_BYTES + 8 * _NUMBERS + version % 2 * _TEXT_BYTES
            text = bytes(self._bytes[start : start + self._numbers[at + _LENGTHS + version % 2]])
            if self._numbers[at + _VERSION] == version:  # else this half may be about to be written
                return version, _decode(text) if text else []

    def count(self, node: int, slot: int, which: int, value: int) -> None:
        """Set a counter, 0 for hits and 1 for chances; only the node itself does that."""
        self._numbers[self._at(node) + _COUNTS + 2 * slot + which] = value

    def counter(self, node: int, slot: int, which: int) -> int:
        return self._numbers[self._at(node) + _COUNTS + 2 * slot + which]


def _told(arguments: dict[str, Any]) -> dict[str, Any]:
    """What a node needs to know of an effect: not which others have it."""
    return {name: value for name, value in arguments.items() if name != "nodes"}


class NodeEffect:
    """An effect as the node sees it; what it counts is on the board. Stands for `zebra.substrate.Effect`."""

    __slots__ = ("_board", "_node", "_slot", "arguments", "id")

    def __init__(self, board: Board, node: int, slot: int, number: int, arguments: dict[str, Any]) -> None:
        self._board, self._node, self._slot, self.id, self.arguments = board, node, slot, number, arguments

    @property
    def hits(self) -> int:
        return self._board.counter(self._node, self._slot, 0)

    @hits.setter
    def hits(self, value: int) -> None:
        self._board.count(self._node, self._slot, 0, value)

    @property
    def seen(self) -> int:
        return self._board.counter(self._node, self._slot, 1)

    @seen.setter
    def seen(self, value: int) -> None:
        self._board.count(self._node, self._slot, 1, value)


class Imposed:
    """The effects on the node of this process, by capability, as the board has them now."""

    def __init__(self, board: Board, node: int) -> None:
        self._board, self._node, self._version = board, node, 0
        self._lists: dict[str, list[Any]] = {}

    def of(self, capability: str) -> Sequence[Effect]:
        if self._board.version(self._node) != self._version:
            self._version, found = self._board.read(self._node)
            self._lists = {}
            for slot, number, name, arguments in found:
                effect = NodeEffect(self._board, self._node, slot, number, arguments)
                self._lists.setdefault(name, []).append(effect)
        return self._lists.get(capability, ())

    def clocks(self) -> Sequence[Effect]:
        return self.of("clocks")

    def disks(self) -> Sequence[Effect]:
        return self.of("disks")

    def application(self) -> Sequence[Effect]:
        return self.of("application")

    def names(self) -> Sequence[Effect]:
        return self.of("names")
