"""Addresses as Toxiproxy's clients write them: `host:port`, `[::1]:port`, `:port`, a service's name for a port."""

from __future__ import annotations

import asyncio
import socket

from zebra.proxy.proxy import Address, is_address

LOOPBACK = "127.0.0.1"


class BadAddress(ValueError):
    """The address cannot be used; the message says why."""


def split(text: str) -> Address:
    """Host and port; an empty host is the loopback one, an empty port is 0. Raises BadAddress."""
    if not text:
        return LOOPBACK, 0
    host, colon, port = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    if not colon or text.endswith("]"):
        raise BadAddress(f"address {text}: missing port in address")
    if ":" in host and not bracketed:
        raise BadAddress(f"address {text}: too many colons in address")
    return (host[1:-1] if bracketed else host) or LOOPBACK, _port(port)


def _port(text: str) -> int:
    if not text:
        return 0
    if text.removeprefix("-").removeprefix("+").isdecimal():
        number = int(text) if len(text) < 10 else -1
        if not 0 <= number <= 65535:
            raise BadAddress(f"address {text}: invalid port")
        return number
    try:
        return socket.getservbyname(text)
    except (OSError, ValueError):
        raise BadAddress(f"lookup tcp/{text}: unknown port") from None


def join(address: Address) -> str:
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


async def resolve(text: str) -> Address:
    """The numbers that an address stands for, IPv4 before IPv6; raises BadAddress."""
    host, port = split(text)
    if is_address(host):
        return host, port
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise BadAddress(f"lookup {host}: no such host") from None
    first = min(found, key=lambda each: each[0] != socket.AF_INET)
    return str(first[4][0]), port
