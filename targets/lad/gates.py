"""Which hosts a gate lets see a staged version. Author and proxies both decide it, each with its own seed."""

from __future__ import annotations

import hashlib

from zebra.targets.lad.store_messages import Entry, Gate, Version


def is_inside(gate: Gate, host: str, seed: int) -> bool:
    """Whether a host (`Place.host`) may see what is behind the gate; `seed` is the asker's, used if the gate has none.

    A host inside at some percentage is inside at every higher one.
    """
    if host in gate.hosts or gate.percent >= 100:
        return True
    if gate.percent <= 0:
        return False
    seed = seed if gate.seed is None else gate.seed
    drawn = hashlib.blake2b(f"{seed} {gate.change} {host}".encode(), digest_size=8).digest()
    return int.from_bytes(drawn, "big") < gate.percent / 100 * 2**64


def visible(entry: Entry, host: str, seed: int) -> Version | None:
    """The version of a path that a host may see; None when it may see none."""
    if entry.gate is None or is_inside(entry.gate, host, seed):
        return entry.latest
    return entry.base
