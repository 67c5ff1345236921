"""A datagram port of a node, as the proxy stands in for it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from zebra.proxy.toxics import HOLD

if TYPE_CHECKING:
    from zebra.proxy.proxy import Address, Proxy


class Port(asyncio.DatagramProtocol):
    """A node's datagram port: what comes to it from others, under the toxics of the pair."""

    def __init__(self, proxy: Proxy, node: str, upstream: Address) -> None:
        self._proxy, self.node, self.upstream = proxy, node, upstream
        self.transport: Any = None

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, address: Any) -> None:
        proxy = self._proxy
        source = proxy.name_of(address[0])
        toxics = proxy.toxics_of(source, self.node)
        if not toxics:
            self._deliver(source, address[1], data)
            return
        way, now, delays = proxy.way(source, self.node), proxy.loop.time(), [0.0]
        for toxic in toxics:
            data = toxic.alter(data, way)
            delays = toxic.copies(delays, len(data), way, now)
        for delay in delays:
            if delay >= HOLD:
                continue
            if delay > 0:
                proxy.loop.call_later(delay, self._deliver, source, address[1], data)
            else:
                self._deliver(source, address[1], data)

    def _deliver(self, source: str, port: int, data: bytes) -> None:
        """Send on from the sender's own public port, so that the receiver can answer."""
        sender = self._proxy.ports.get((source, port))
        transport = None if sender is None else sender.transport
        if transport is not None and not transport.is_closing():
            transport.sendto(data, self.upstream)
