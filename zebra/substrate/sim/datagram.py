"""Simulated datagrams: they are lost, doubled and overtaken, and nobody is told."""

from __future__ import annotations

import asyncio
import errno
import socket
from typing import TYPE_CHECKING, Any

from zebra.proxy.toxics import flip_bit
from zebra.substrate.sim.loop import Handle
from zebra.substrate.sim.path import hit

if TYPE_CHECKING:
    from zebra.substrate.sim.machine import Process
    from zebra.substrate.sim.network import Network
    from zebra.substrate.sim.path import Path

LIMIT_BYTES = 65_507
"""The largest payload of a UDP datagram."""


class DatagramTransport(asyncio.DatagramTransport):
    """A bound datagram port of one process."""

    def __init__(
        self, network: Network, process: Process, port: int, protocol: Any, peer: tuple[str, int] | None
    ) -> None:
        super().__init__({"peername": peer, "sockname": (process.machine.address, port)})
        self._network, self._process, self._port, self._protocol, self._peer = network, process, port, protocol, peer
        self._context = process.context.copy()
        self._open = True

    def sendto(self, data: Any, addr: Any = None) -> None:
        """Send to `addr` (a node name or an address, and a port) or to the connected peer.

        Raises ValueError without either; one that is too long is an OSError(EMSGSIZE) at `error_received`.
        """
        if not self._open or not self._process.alive:
            return
        payload, address = bytes(data), self._peer or addr
        if address is None or (self._peer is not None and addr is not None and addr != self._peer):
            raise ValueError(
                f"Invalid address: must be None or {self._peer}" if self._peer else "no address to send to"
            )
        if len(payload) > LIMIT_BYTES:
            self._fail(OSError(errno.EMSGSIZE, f"a datagram of {len(payload)} bytes, at most {LIMIT_BYTES} fit"))
            return
        network, size = self._network, len(payload)
        try:
            target = network.resolve(address[0])
        except socket.gaierror as error:
            if error.errno != socket.EAI_AGAIN:
                raise
            self._fail(error)
            return
        path = network.path(self._process.machine, target)
        lost = hit(path.drops + path.rejects + path.holds)
        if path.rejects:
            self._bounced()
        if lost or network.chance(path, "loss", "datagram", size):
            return
        if network.chance(path, "corrupt", "datagram", size) is not None:
            payload = flip_bit(payload, network.random)
        at = network.loop.now + network.departure(path, size)
        overtaken = network.chance(path, "reorder", "datagram", size)
        if overtaken is not None:
            at += (at - network.loop.now) * (1 + network.random.random())
        else:
            at = path.datagram_s = max(at, path.datagram_s)
        self._launch(path, address[1], payload, at)
        twice = network.chance(path, "duplicate", "datagram", size)
        if twice is not None:
            self._launch(path, address[1], payload, at + twice.arguments["after_s"])

    def _launch(self, path: Path, port: int, payload: bytes, at: float) -> None:
        loop = self._network.loop
        loop.call_at(at, self._land, path, port, payload, context=loop.kernel)

    def _land(self, path: Path, port: int, payload: bytes) -> None:
        """The datagram is at the host: whoever has the port now gets it."""
        target = path.target.datagrams.get(port)
        if target is not None:
            target._soon(target._deliver, payload, (path.source.address, self._port))
        elif path.target.powered and not self._network.path(path.target, path.source).drops:
            self._bounced()

    def _soon(self, callback: Any, *args: Any) -> None:
        if self._process.paused:
            self._process.arrive(Handle(self._context.run, callback, *args))
        else:
            self._context.run(callback, *args)

    def _deliver(self, payload: bytes, sender: tuple[str, int]) -> None:
        if self._open:
            self._protocol.datagram_received(payload, sender)

    def _bounced(self) -> None:
        if self._peer is not None:
            self._fail(ConnectionRefusedError(errno.ECONNREFUSED, "the datagram's port is closed"))

    def _fail(self, error: OSError) -> None:
        if self._open:
            self._network.loop.call_soon(self._soon, self._report, error, context=self._network.loop.kernel)

    def _report(self, error: OSError) -> None:
        if self._open:
            self._protocol.error_received(error)

    def cut(self) -> None:
        """Stop for ever without telling the protocol: its process is gone."""
        self._open = False

    def get_protocol(self) -> Any:
        return self._protocol

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._protocol = protocol

    def get_write_buffer_size(self) -> int:
        return 0

    def is_closing(self) -> bool:
        return not self._open

    def close(self) -> None:
        if self._open:
            self._open = False
            self._process.machine.datagrams.pop(self._port, None)
            self._network.loop.call_soon(self._protocol.connection_lost, None, context=self._context)

    abort = close
