"""Network namespaces: one per node, joined by one switch, all without a name, so that nothing can be left behind.

It is the process substrate with another network. The `switch` is what the zygote makes; `links` what faults do to it,
through `nftables`, `shaping` and the `wire`; `netlink` and `devices` talk to the kernel; `loop` makes names resolve.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping

from zebra.substrate import Plan
from zebra.substrate.netns.addresses import NODES_MAX, Addresses
from zebra.substrate.netns.links import BY_WIRE
from zebra.substrate.netns.probe import lacks
from zebra.substrate.netns.running import NetnsRunning
from zebra.substrate.netns.switch import Switch
from zebra.substrate.process import ProcessSubstrate
from zebra.substrate.process.addresses import Addressing
from zebra.substrate.process.network import Network


class NetnsSubstrate(ProcessSubstrate):
    """`zebra.Substrate` on network namespaces of this machine, as root or inside a user namespace."""

    name = "netns"
    nodes_max = NODES_MAX
    toxiproxied = False
    running = NetnsRunning

    def unavailable(self) -> str:
        if not sys.platform.startswith("linux"):
            return f"it needs Linux, this is {sys.platform}"
        reason = super().unavailable()
        if not reason and "netns" in lacks():
            reason = f"network namespaces cannot be made here ({lacks()['netns']})"
        return reason

    @property
    def refused(self) -> Mapping[str, str]:
        """Arguments of capabilities that this kernel has no means for, and why."""
        wanted = {"links.rate": "rate", "links.loss": "loss", **{f"links.{what}": "latency_s" for what in BY_WIRE}}
        return {name: lacks()[what] for name, what in wanted.items() if what in lacks()}

    @property
    def remarks(self) -> list[str]:
        netem = "has no netem" if "netem" in lacks() else "has netem, which does not say what it did to which packet"
        return [f"the kernel {netem}: {', '.join(BY_WIRE)} of links pass through userspace while they are on"]

    def joined(self, plan: Plan) -> tuple[Addressing, Network | None]:
        addresses = Addresses()
        return addresses, Switch(addresses)


SUBSTRATE = NetnsSubstrate()
