"""What this machine's kernel can do for the substrate, tried out in a child process that leaves nothing.

Kernels are built differently: nothing is assumed of one.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cache

import msgspec

from zebra.errors import ZebraError
from zebra.substrate.netns import devices, nftables, shaping
from zebra.substrate.netns.addresses import Addresses
from zebra.substrate.netns.netlink import NETFILTER, ROUTE, Netlink
from zebra.substrate.netns.nftables import Rules, Table
from zebra.substrate.netns.switch import Switch
from zebra.substrate.netns.told import Told


@cache
def lacks() -> dict[str, str]:
    """What is not to be had here, with the reason: `netns` (all of it), arguments of `Links.add`, `netem`."""
    out, into = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            os.close(out)
            os.write(into, msgspec.json.encode(_try()))
        finally:
            os._exit(0)
    os.close(into)
    with open(out, "rb") as file:
        said = file.read()
    os.waitpid(pid, 0)
    return msgspec.json.decode(said, type=dict[str, str]) if said else {"netns": "the probe died"}


def _try() -> dict[str, str]:
    found = {}

    def tried(what: str, attempt: Callable[[], object]) -> None:
        try:
            attempt()
        except (OSError, ZebraError) as error:
            found[what] = str(error)

    try:
        no_wire = _hosts()
    except (OSError, ZebraError) as error:
        return {"netns": str(error)}
    if no_wire:
        found["latency_s"] = no_wire
    route = Netlink.open(ROUTE)
    tried("rate", lambda: shaping.Shaper(route, devices.FIRST_CABLE, outward=False).limit(1e6, ["10.0.0.2"]))
    tried("loss", _losing)
    tried("netem", lambda: shaping.try_netem(route, devices.FIRST_CABLE + 1))
    return found


def _hosts() -> str:
    """A switch with two hosts, that filters; why it has no wire."""
    switch = Switch(Addresses())
    [(_, _, no_wire)] = switch.make()
    for node in (1, 2):
        switch.prepare(node)
    table, nodes = Table(Netlink.open(NETFILTER)), frozenset({"10.0.0.1"})
    match = nftables.source_in("a") + nftables.opening() + nftables.count("c")
    table.replace(Rules(chains={"forward": [match + nftables.RESET]}, sets={"a": nodes}, counters=frozenset("c")))
    return str(no_wire)


def _losing() -> None:
    told, table = Netlink.open(NETFILTER), Table(Netlink.open(NETFILTER))
    Told(told, lambda prefix, packet: None)
    lose = nftables.chance(0.5) + nftables.tell(1, "c", 64) + nftables.DROP
    table.replace(Rules(chains={"forward": [lose]}, sets={}, counters=frozenset()))
