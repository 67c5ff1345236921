"""Loopback addresses of one run: a block 127.K.0.0/16 that no other run on this machine uses meanwhile."""

from __future__ import annotations

import fcntl
import os
import tempfile
from pathlib import Path

from zebra.errors import ConfigError

NODES_MAX = 64 * 256 - 1


class Block:
    """A locked block. Of each node, by number from 1: where others reach it, and where it really listens.

    127.K.0.0/18 holds the `public` addresses, 127.K.64.0/18 the `hidden` ones, 127.K.128.0/17 one per ordered `pair`
    of nodes for programs that are no part of zebra.
    """

    def __init__(self) -> None:
        directory = Path(tempfile.gettempdir()) / "zebra-addresses"
        if not directory.exists():
            directory.mkdir(exist_ok=True)
            directory.chmod(0o1777)
        for offset in range(253):
            number = 2 + (os.getpid() + offset) % 253
            try:
                self._file = os.open(directory / str(number), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            except PermissionError:  # another user's, who may be using it
                continue
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                os.close(self._file)
                continue
            self.prefix = f"127.{number}."
            return
        raise ConfigError("substrate process: all 253 address blocks are in use by other runs")

    def public(self, node: int) -> str:
        return f"{self.prefix}{node >> 8}.{node & 255}"

    def hidden(self, node: int) -> str:
        return f"{self.prefix}{64 + (node >> 8)}.{node & 255}"

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

    def release(self) -> None:
        os.close(self._file)
