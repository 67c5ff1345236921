"""Who is at the other end of a connection on this machine: a loopback address alone keeps no other user out."""

from __future__ import annotations

import ipaddress
import os
import socket
import sys
from pathlib import Path
from typing import Any

ROOT = 0


def allowed(connection: Any) -> bool:
    """Whether the client of an accepted loopback connection is this process's user, or root.

    Peers that are not on loopback can only come when the server was told to listen elsewhere: they are let in.
    """
    ours, theirs = connection.getsockname()[:2], connection.getpeername()[:2]
    if not ipaddress.ip_address(theirs[0]).is_loopback:
        return True
    return uid_of(connection.family, theirs, ours) in (ROOT, os.geteuid())


def uid_of(family: int, end: tuple[str, int], other: tuple[str, int]) -> int | None:
    """The user whose socket is bound to `end` and connected to `other`, as the kernel's table has it; None if none."""
    table = Path("/proc/net/tcp6" if family == socket.AF_INET6 else "/proc/net/tcp")
    wanted = [_hex(family, end), _hex(family, other)]
    for line in table.read_text().splitlines()[1:]:
        fields = line.split()
        if fields[1:3] == wanted:
            return int(fields[7])
    return None


def _hex(family: int, address: tuple[str, int]) -> str:
    """An address as the table writes it: 32-bit words in the machine's byte order, and the port."""
    packed = socket.inet_pton(family, address[0])
    words = [int.from_bytes(packed[at : at + 4], sys.byteorder) for at in range(0, len(packed), 4)]
    return "".join(f"{word:08X}" for word in words) + f":{address[1]:04X}"
