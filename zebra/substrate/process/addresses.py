"""Loopback addresses of one run: a block 127.K.0.0/16 that no other run on this machine uses meanwhile."""

from __future__ import annotations

import os
import socket
from typing import Protocol

from zebra.errors import ConfigError

NODES_MAX = 64 * 256 - 1


class Addressing(Protocol):
    """Of each node, by number from 1: where others reach it, and where it really listens.

    `proxied` says that these two differ, as the proxy stands between them. `source` is from where a node connects,
    `holds` says whether an address is any of the run's.
    """

    proxied: bool

    def public(self, node: int) -> str: ...
    def hidden(self, node: int) -> str: ...
    def source(self, node: int) -> str: ...
    def pair(self, number: int) -> str: ...
    def node_of(self, address: str) -> int: ...
    def is_public(self, address: str) -> bool: ...
    def holds(self, address: str) -> bool: ...
    def release(self) -> None: ...


class Block:
    """`Addressing` in a locked block.

    127.K.0.0/18 holds the `public` addresses, 127.K.64.0/18 the `hidden` ones, 127.K.128.0/17 one per ordered `pair`
    of nodes for programs that are no part of zebra.
    """

    proxied = True

    def __init__(self) -> None:
        for offset in range(253):
            number = 2 + (os.getpid() + offset) % 253
            self._lock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            try:
                self._lock.bind(f"\0zebra-addresses-{number}")  # such a name is as wide as the addresses themselves
            except OSError:
                self._lock.close()
                continue
            self.prefix = f"127.{number}."
            return
        raise ConfigError("substrate process: all 253 address blocks are in use by other runs")

    def public(self, node: int) -> str:
        return f"{self.prefix}{node >> 8}.{node & 255}"

    def hidden(self, node: int) -> str:
        return f"{self.prefix}{64 + (node >> 8)}.{node & 255}"

    source = public

    def pair(self, number: int) -> str:
        return f"{self.prefix}{128 + (number >> 8)}.{number & 255}"

    def node_of(self, address: str) -> int:
        """The number of the node that has an address, 0 if none has."""
        if not address.startswith(self.prefix):
            return 0
        high, low = map(int, address[len(self.prefix) :].split("."))
        return (high & 63) << 8 | low if high < 128 else 0

    def is_public(self, address: str) -> bool:
        return address.startswith(self.prefix) and int(address[len(self.prefix) :].split(".")[0]) < 64

    def holds(self, address: str) -> bool:
        return address.startswith(self.prefix)

    def release(self) -> None:
        self._lock.close()
