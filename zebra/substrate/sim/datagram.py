"""Simulated datagrams: they are lost, doubled and overtaken, and nobody is told."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from zebra.substrate.sim.loop import Handle

if TYPE_CHECKING:
    from zebra.substrate.sim.network import Network, Path
    from zebra.substrate.sim.machine import Process

LIMIT_BYTES = 65_507
"""The largest payload of a UDP datagram."""


class DatagramTransport(asyncio.DatagramTransport):
    """A bound datagram port of one process."""

    def __init__(self, network: Network, process: Process, port: int, protocol: Any, peer: tuple[str, int] | None) -> None:
        super().__init__({"peername": peer, "sockname": (process.machine.address, port)})
        self._network, self._process, self._port, self._protocol, self._peer = network, process, port, protocol, peer
        self._context = process.context.copy()
        self._open = True

    def sendto(self, data: Any, addr: Any = None) -> None:
        """Send to `addr` (a node name or an address, and a port) or to the connected peer. Raises ValueError if too long."""
        if not self._open:
            return
        if len(data) > LIMIT_BYTES:
            raise ValueError(f"a datagram of {len(data)} bytes, at most {LIMIT_BYTES} fit")
        address = addr or self._peer
        network, payload = self._network, bytes(data)
        path = network.path(self._process.machine, network.resolve(address[0]))
        for effect in path.drops + path.rejects:
            effect.hits += 1
        if path.drops or path.rejects or network.chance(path, "loss"):
            return
        delay_s = network.departure(path, len(payload))
        if network.chance(path, "reorder"):
            delay_s += delay_s * (1 + network.random.random())
        self._launch(path, address[1], payload, delay_s)
        twice = network.chance(path, "duplicate")
        if twice is not None:
            self._launch(path, address[1], payload, delay_s + twice.arguments["after_s"])

    def _launch(self, path: Path, port: int, payload: bytes, delay_s: float) -> None:
        sender = (self._process.machine.address, self._port)
        target = path.target.datagrams.get(port)
        if target is None:
            self._network.loop.call_later(delay_s, self._bounced)
        else:
            self._network.loop.call_later(delay_s, target._deliver, payload, sender, context=target._context)

    def _deliver(self, payload: bytes, sender: tuple[str, int]) -> None:
        if self._process.paused:
            self._process.arrive(Handle(self._context.run, self._deliver, payload, sender))
        elif self._open:
            self._protocol.datagram_received(payload, sender)

    def _bounced(self) -> None:
        if self._open and self._peer is not None:
            self._protocol.error_received(ConnectionRefusedError("the datagram's port is closed"))

    def cut(self) -> None:
        """Stop for ever without telling the protocol: its process is gone."""
        self._open = False

    def is_closing(self) -> bool:
        return not self._open

    def close(self) -> None:
        if self._open:
            self._open = False
            del self._process.machine.datagrams[self._port]
            self._network.loop.call_soon(self._protocol.connection_lost, None, context=self._context)

    abort = close
