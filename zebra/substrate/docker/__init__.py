"""Containers: one per node, a network of the engine's per datacenter, joined by the fault proxy.

The session's machinery is that of `zebra.substrate.process`; `running` has the engine start nodes where that has its
zygote. `engine` is what one run makes by it, `filesystem` what containers hold, `addresses` and `route` where nodes
are reached, `birth` and `node` how a process in a container becomes a node, `reap` removes what a session has left.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zebra.substrate.docker.substrate import SUBSTRATE as SUBSTRATE


def __getattr__(name: str) -> Any:
    """`SUBSTRATE` is made on first use: neither a node's process nor a reaper needs the session's side."""
    if name == "SUBSTRATE":
        from zebra.substrate.docker.substrate import SUBSTRATE

        return SUBSTRATE
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
