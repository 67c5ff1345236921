"""How many connections others have opened to a host, by what its kernel says.

Source: Linux, Documentation/networking/proc_net_tcp.rst.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from zebra.proxy.toxics import Toxic

LISTED_S = 0.05
"""So soon a connection that was let in is in the kernel's list, or never."""

_LISTEN = "0A"
_OPEN = ("01", "03", "08")
"""Established; asked for and answered; ended by the other side alone."""


def callers(pid: int) -> set[bytes]:
    """Who has a connection to a listening port of a process's host: address and port of each, as packets have them."""
    try:
        lines = Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]
    except OSError:  # it has ended
        return set()
    rows = [line.split()[1:4] for line in lines]
    ports = {local[-4:] for local, _, state in rows if state == _LISTEN}
    return {_packed(remote) for local, remote, state in rows if state in _OPEN and local[-4:] in ports}


def _packed(text: str) -> bytes:
    address, port = text.split(":")
    return bytes.fromhex(address)[::-1] + bytes.fromhex(port)


@dataclass(slots=True, kw_only=True, eq=False)
class HostCeiling(Toxic):
    """Refuse a connection that would be one more than `limit`, where `there` gives the callers of those there are."""

    limit: int
    there: Callable[[], set[bytes]]
    _admitted: dict[bytes, float] = field(default_factory=dict)

    def refuses(self, caller: bytes, now: float) -> bool:
        """Whether a caller who asks for a connection now is one too many; one who repeats its question is not."""
        there = self.there()
        self._admitted = {c: s for c, s in self._admitted.items() if c not in there and now - s < LISTED_S}
        there |= self._admitted.keys()
        if caller in there:
            return False
        if len(there) >= self.limit:
            self.counter.hits += 1
            return True
        self._admitted[caller] = now
        return False
