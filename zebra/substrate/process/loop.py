"""The event loop of a node's process: names resolve to nodes, servers listen behind the proxy.

A server binds the node's hidden address, and the proxy listens on the public one. A connection to another node binds
the node's public address as its source, and is made once the proxy has said that it goes through.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from asyncio.selector_events import _SelectorDatagramTransport  # type: ignore[attr-defined]
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from zebra.proxy.proxy import bind_source
from zebra.substrate import Effect
from zebra.substrate.process.addresses import Addressing

CONNECT_S = 127.0
"""An attempt to connect is given up after so long, as Linux does after six SYNs."""

LOCAL = ("localhost", "127.0.0.1", "::1")
ANY = (None, "", "0.0.0.0", "::")


class NodeLoop(asyncio.SelectorEventLoop):
    """`nodes` are numbers by name; `announce(kind, port)` makes the proxy listen, `retract(kind, port)` ends that.

    `lookups` gives the effects on what this node is told of names; at `nobody` no node ever is.
    """

    def __init__(self, node: int, nodes: Mapping[str, int], block: Addressing) -> None:
        super().__init__()
        self.node, self._nodes, self._block = node, nodes, block
        self.public, self.hidden, self._source = block.public(node), block.hidden(node), block.source(node)
        self._name = next(name for name, number in nodes.items() if number == node)
        self.nobody = block.public(0)
        self.lookups: Callable[[], Sequence[Effect]] = tuple
        self.announce: Callable[[str, int], Awaitable[None]]
        self.retract: Callable[[str, int], None]

    # -- names -----------------------------------------------------------------------------------------------

    def address_of(self, host: Any) -> str:
        """The address of a node's name (this node's own leads to itself); raises socket.gaierror."""
        host = host.decode() if isinstance(host, bytes) else host
        if host in LOCAL or host in ANY or host == self.public or self._nodes.get(host) == self.node:
            return self.hidden
        if host in self._nodes:
            return self.look_up(host)
        try:
            socket.inet_aton(host)
        except OSError:
            raise socket.gaierror(socket.EAI_NONAME, f"no node is called {host!r}") from None
        return str(host)

    def look_up(self, name: str) -> str:
        """The address of another node, under the effects on lookups; raises socket.gaierror."""
        for effect in self.lookups():
            if any(self._name in asking and name in asked for asking, asked in effect.arguments["products"]):
                effect.hits += 1
                if effect.arguments["fail"]:
                    raise socket.gaierror(socket.EAI_AGAIN, f"the name {name!r} does not resolve at present")
                return self.nobody
        return self._block.public(self._nodes[name])

    async def getaddrinfo(self, host: Any, port: Any, *, family: int = 0, type: int = 0, proto: int = 0,
                          flags: int = 0) -> list[Any]:  # fmt: skip
        if host is None and flags & socket.AI_PASSIVE:
            host = "0.0.0.0"
        address = host if host in ("0.0.0.0", "127.0.0.1") else self.address_of(host)
        if family not in (socket.AF_UNSPEC, socket.AF_INET):
            raise socket.gaierror(socket.EAI_ADDRFAMILY, f"{host!r} has only an IPv4 address")
        return socket.getaddrinfo(address, port, socket.AF_INET, type, proto)  # of a number: nothing is looked up

    def _own(self, host: Any) -> str:
        if host not in ANY and self.address_of(host) != self.hidden:
            raise OSError(errno.EADDRNOTAVAIL, f"cannot bind {host!r}: it is another node's address")
        return self.hidden

    # -- streams ---------------------------------------------------------------------------------------------

    async def create_server(self, protocol_factory: Any, host: Any = None, port: Any = None, **more: Any) -> Any:
        """As asyncio's. A server on the loopback address alone is for this node's own processes."""
        if more.get("sock") is not None:
            return await super().create_server(protocol_factory, **more)
        hosts = [host] if host is None or isinstance(host, str) else list(host)
        address = next(iter({self._own(each) for each in hosts}))
        server = await super().create_server(protocol_factory, address, port or 0, **{**more, "family": socket.AF_INET})
        if all(each in LOCAL for each in hosts):
            return server
        bound = server.sockets[0].getsockname()[1]
        close = server.close

        def closing() -> None:
            if server.is_serving():
                self.retract("tcp", bound)
            close()

        server.close = closing  # type: ignore[method-assign]
        try:
            await self.announce("tcp", bound)
        except BaseException:
            close()
            raise
        return server

    async def sock_connect(self, sock: socket.socket, address: Any) -> None:
        if sock.family != socket.AF_INET or sock.type & 0xF != socket.SOCK_STREAM:
            return await super().sock_connect(sock, address)
        host, port = self.address_of(address[0]), address[1]
        if not self._block.holds(host) or host == self.hidden:
            return await super().sock_connect(sock, (host, port))
        if sock.getsockname()[0] in ("0.0.0.0", self.hidden):
            bind_source(sock, self._source)
        if not self._block.is_public(host):
            return await super().sock_connect(sock, (host, port))
        if host == self.nobody:
            await asyncio.sleep(CONNECT_S)
            raise _timed_out((host, port))
        try:
            await super().sock_connect(sock, (host, port))
        except ConnectionResetError:  # the proxy accepted and hung up before this loop looked
            raise _refused(address) from None
        await self._greeted(sock, address)

    async def _greeted(self, sock: socket.socket, address: Any) -> None:
        """Wait until the proxy says that the connection goes through."""
        try:
            async with asyncio.timeout(CONNECT_S):
                greeting = await self.sock_recv(sock, 1)
        except TimeoutError:
            raise _timed_out(address) from None
        except ConnectionError:
            greeting = b""
        if not greeting:
            raise _refused(address)

    # -- datagrams -------------------------------------------------------------------------------------------

    async def create_datagram_endpoint(self, protocol_factory: Any, local_addr: Any = None, remote_addr: Any = None,
                                       **more: Any) -> Any:  # fmt: skip
        if more.get("sock") is not None:
            return await super().create_datagram_endpoint(protocol_factory, **more)
        local = (self._own(local_addr[0]), local_addr[1]) if local_addr else (self.hidden, 0)
        remote = (self.address_of(remote_addr[0]), remote_addr[1]) if remote_addr else None
        made: Any = await super().create_datagram_endpoint(protocol_factory, local, remote, family=socket.AF_INET)
        await self.announce("udp", made[0].get_extra_info("sockname")[1])
        return made

    def _make_datagram_transport(self, sock: Any, protocol: Any, address: Any = None, waiter: Any = None,
                                 extra: Any = None) -> Any:  # fmt: skip
        return _Datagrams(self, sock, protocol, address, waiter, extra)


def _timed_out(address: Any) -> TimeoutError:
    return TimeoutError(errno.ETIMEDOUT, f"connection to {address[0]}:{address[1]} timed out")


def _refused(address: Any) -> ConnectionRefusedError:
    return ConnectionRefusedError(errno.ECONNREFUSED, f"connection to {address[0]}:{address[1]} was refused")


class _Datagrams(_SelectorDatagramTransport):  # type: ignore[misc]
    """asyncio's datagram transport, sending to nodes by name."""

    _loop: NodeLoop

    def sendto(self, data: Any, addr: Any = None) -> None:
        if addr is not None:
            host = str(addr[0])
            try:
                addr = (self._loop.address_of(host), addr[1])
            except socket.gaierror as error:
                if error.errno != socket.EAI_AGAIN:
                    raise
                self._protocol.error_received(error)
                return
            if addr[0] == self._loop.nobody:
                return
        super().sendto(data, addr)

    def _call_connection_lost(self, error: Any) -> None:
        try:
            self._loop.retract("udp", self.get_extra_info("sockname")[1])
        finally:
            super()._call_connection_lost(error)
