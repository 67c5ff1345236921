"""The addresses of one run: a range 10.K.0.0/16 that nothing on this machine uses meanwhile.

10.K.0.0/17 belongs to the session's side, which stands in for nodes there (see `route`): up to .31 are the nodes'
`public` addresses, up to .63 where clients really listen, the rest is one per ordered `pair` of nodes. From 10.K.128 on
each datacenter has a /22, a network of the engine's, in which every container has its `hidden` address.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path

OWN_BITS, DC_BITS, DCS_MAX, NODES_MAX = 17, 22, 32, 32 * 256 - 1
PER_DC_MAX = (1 << 32 - DC_BITS) - 3


class Subnets:
    """`zebra.substrate.process.addresses.Addressing`.

    `slots` has (datacenter, number in it), both from 0, of each node that is a container, by its number from 1.
    """

    proxied = True

    def __init__(self, slots: Mapping[int, tuple[int, int]], number: int = 0) -> None:
        self.slots = dict(slots)
        self.choose(number)

    def choose(self, number: int) -> None:
        """Take 10.`number`.0.0/16."""
        self.number, self.prefix = number, f"10.{number}."
        self._of = {self.hidden(node): node for node in self.slots}

    def public(self, node: int) -> str:
        return f"{self.prefix}{node >> 8}.{node & 255}"

    def hidden(self, node: int) -> str:
        if node not in self.slots:
            return f"{self.prefix}{32 + (node >> 8)}.{node & 255}"
        dc, slot = self.slots[node]
        low = (128 << 8) + (dc << 32 - DC_BITS) + 2 + slot
        return f"{self.prefix}{low >> 8}.{low & 255}"

    def source(self, node: int) -> str:
        """The address from which a node connects to others: a container has no other than its own."""
        return self.hidden(node) if node in self.slots else self.public(node)

    def pair(self, number: int) -> str:
        return f"{self.prefix}{64 + (number >> 8)}.{number & 255}"

    def node_of(self, address: str) -> int:
        """The number of the node that has an address, 0 if none has."""
        if address in self._of or not address.startswith(self.prefix):
            return self._of.get(address, 0)
        high, low = map(int, address[len(self.prefix) :].split("."))
        return (high & 31) << 8 | low if high < 64 else 0

    def is_public(self, address: str) -> bool:
        return address.startswith(self.prefix) and int(address[len(self.prefix) :].split(".")[0]) < 32

    def holds(self, address: str) -> bool:
        return address.startswith(self.prefix)

    # -- what the engine and the kernel are told ---------------------------------------------------------------

    @property
    def own(self) -> str:
        """The session's side of the range, a network of OWN_BITS bits."""
        return f"{self.prefix}0.0"

    def subnet(self, dc: int) -> tuple[str, str]:
        """A datacenter's network, and the address in it that this machine has."""
        third = 128 + (dc << 24 - DC_BITS)
        return f"{self.prefix}{third}.0/{DC_BITS}", f"{self.prefix}{third}.1"

    def release(self) -> None:
        """Nothing is locked: the networks of the engine hold the range."""


def free_numbers(first: int) -> Iterable[int]:
    """The K of which no route of this machine uses anything, from `first` on; 10.64 to 10.254 are looked at."""
    taken = [(int(dst, 16), int(mask, 16)) for dst, mask in _routes()]
    for offset in range(191):
        number = 64 + (first + offset) % 191
        mine, mask = struct.unpack("=II", socket.inet_aton(f"10.{number}.0.0") + socket.inet_aton("255.255.0.0"))
        if not any(m and (dst & m & mask) == (mine & m & mask) for dst, m in taken):
            yield number


def _routes() -> list[tuple[str, str]]:
    """Destination and mask of each route, as the kernel writes them."""
    lines = Path("/proc/net/route").read_text().splitlines()[1:]
    return [(fields[1], fields[7]) for fields in map(str.split, lines)]
