"""Addresses of one run's nodes. They mean something inside the run's own namespaces only, so all runs have the same."""

from __future__ import annotations

PREFIX = "10."
NODES_MAX = 1000


class Addresses:
    """Of each node, by number from 1, its one address; the counterpart of `zebra.substrate.process.addresses.Block`."""

    proxied = False

    def public(self, node: int) -> str:
        return f"{PREFIX}0.{node >> 8}.{node & 255}"

    hidden = source = public

    def pair(self, number: int) -> str:
        raise LookupError("a node has one address for all others")

    def node_of(self, address: str) -> int:
        """The number of the node that has an address, 0 if none has."""
        if not address.startswith(f"{PREFIX}0."):
            return 0
        _, _, high, low = map(int, address.split("."))
        return high << 8 | low

    def is_public(self, address: str) -> bool:
        return self.node_of(address) > 0

    holds = is_public

    def release(self) -> None:
        """Nothing is locked."""
