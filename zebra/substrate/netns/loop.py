"""The event loop of a node in a network namespace of its own: names resolve to nodes, and all else is the kernel's."""

from __future__ import annotations

import asyncio
import errno
import socket
from typing import Any

from zebra.substrate.process.loop import ANY, LOCAL, NodeLoop

EVERY = "0.0.0.0"
SELF = "127.0.0.1"


class HostLoop(NodeLoop):
    """`zebra.substrate.process.loop.NodeLoop` without a proxy before it."""

    def address_of(self, host: Any) -> str:
        host = host.decode() if isinstance(host, bytes) else host
        return SELF if host in LOCAL else super().address_of(host)

    def _own(self, host: Any) -> str:
        if host in ANY:
            return EVERY
        address = self.address_of(host)
        if address not in (SELF, self.public):
            raise OSError(errno.EADDRNOTAVAIL, f"cannot bind {host!r}: it is another node's address")
        return address

    async def create_server(self, protocol_factory: Any, host: Any = None, port: Any = None, **more: Any) -> Any:
        """As asyncio's, on IPv4."""
        if more.get("sock") is None:
            hosts = [host] if host is None or isinstance(host, str) else list(host)
            host, port, more = [self._own(each) for each in hosts], port or 0, {**more, "family": socket.AF_INET}
        return await asyncio.SelectorEventLoop.create_server(self, protocol_factory, host, port, **more)

    async def sock_connect(self, sock: socket.socket, address: Any) -> None:
        if sock.family == socket.AF_INET:
            address = (self.address_of(address[0]), address[1])
        await asyncio.SelectorEventLoop.sock_connect(self, sock, address)

    async def create_datagram_endpoint(self, protocol_factory: Any, local_addr: Any = None, remote_addr: Any = None,
                                       **more: Any) -> Any:  # fmt: skip
        if more.get("sock") is None:
            local_addr = (self._own(local_addr[0]), local_addr[1]) if local_addr else (EVERY, 0)
            remote_addr = (self.address_of(remote_addr[0]), remote_addr[1]) if remote_addr else None
            more["family"] = socket.AF_INET
        endpoint = asyncio.SelectorEventLoop.create_datagram_endpoint
        return await endpoint(self, protocol_factory, local_addr, remote_addr, **more)
