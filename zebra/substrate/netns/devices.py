"""Network devices, addresses, routes and rules, as netlink messages.

Source: linux/if_link.h, linux/if_addr.h, linux/rtnetlink.h, linux/fib_rules.h.
"""

from __future__ import annotations

import socket
from struct import Struct

from zebra.substrate.netns.netlink import CREATE, EXCL, Message, Netlink, attribute, nest, number, text

LOOPBACK, CARD, WIRE, FIRST_CABLE = 1, 2, 2, 16
"""Indexes of a host's devices; of the wire through userspace, and of the first cable to a host, in the switch."""

MAC = b"\x02\0\0\0\0\x01"
"""All devices have one address and ask for none: a cable has two ends, and what comes out is for who hears it."""

_NEW_LINK, _GET_LINK, _NEW_ADDRESS, _NEW_ROUTE, _NEW_RULE = 16, 18, 20, 24, 32
_UP, _NO_ARP = 0x1, 0x80
_ADDRESS, _NAME, _INFO, _NAMESPACE = 1, 3, 18, 28
_PEER = 1
_TABLE_MAIN, _STATIC = 254, 4
_SCOPE_UNIVERSE, _SCOPE_LINK = 0, 253
_UNICAST, _BLACKHOLE = 1, 6
_LINK, _ROUTE, _ADDRESS_HEADER = Struct("=BxHiII"), Struct("=BBBBBBBBI"), Struct("=BBBBI")


def _link(index: int, flags: int = 0) -> bytes:
    return _LINK.pack(socket.AF_UNSPEC, 0, index, flags, flags)


def cable(index: int, switch: int) -> Message:
    """A host's card, joined to a new device of the switch, whose namespace is given as a descriptor."""
    far = _link(index) + text(_NAME, f"cable{index}") + attribute(_ADDRESS, MAC)
    far += number(_NAMESPACE, switch)
    kind = nest(_INFO, text(1, "veth"), nest(2, nest(_PEER, far)))
    near = _link(CARD) + text(_NAME, "eth0") + attribute(_ADDRESS, MAC)
    return Message(_NEW_LINK, CREATE | EXCL, near + kind)


def up(index: int) -> Message:
    """Set a device up; it asks for no addresses of others."""
    return Message(_NEW_LINK, 0, _link(index, _UP | _NO_ARP if index != LOOPBACK else _UP))


def down(index: int) -> Message:
    """Nothing goes in or out any more, and the ways through it are forgotten. Deleting it would take a hundred times as
    long."""
    return Message(_NEW_LINK, 0, _LINK.pack(socket.AF_UNSPEC, 0, index, 0, _UP))


def is_up(netlink: Netlink, index: int) -> bool:
    """Whether a device is set up."""
    (found,) = netlink.get(_GET_LINK, _link(index))
    return bool(_LINK.unpack_from(found)[3] & _UP)


def address(index: int, ip: str) -> Message:
    packed = socket.inet_aton(ip)
    header = _ADDRESS_HEADER.pack(socket.AF_INET, 32, 0, _SCOPE_UNIVERSE, index)
    return Message(_NEW_ADDRESS, CREATE | EXCL, header + attribute(1, packed) + attribute(2, packed))


def route(index: int, ip: str = "", table: int = _TABLE_MAIN) -> Message:
    """The way to one address, or to all, out of a device."""
    header = _ROUTE.pack(socket.AF_INET, 32 if ip else 0, 0, 0, table, _STATIC, _SCOPE_LINK, _UNICAST, 0)
    target = attribute(1, socket.inet_aton(ip)) if ip else b""
    return Message(_NEW_ROUTE, CREATE | EXCL, header + target + number(4, index))


def silence() -> Message:
    """What leads nowhere is lost without a word, as behind a cable that is cut."""
    header = _ROUTE.pack(socket.AF_INET, 0, 0, 0, _TABLE_MAIN, _STATIC, _SCOPE_UNIVERSE, _BLACKHOLE, 0)
    return Message(_NEW_ROUTE, CREATE | EXCL, header)


def rule(mark: int, table: int, priority: int) -> Message:
    """Packets with a mark take the ways of a table."""
    header = _ROUTE.pack(socket.AF_INET, 0, 0, 0, table, 0, 0, _UNICAST, 0)
    return Message(_NEW_RULE, CREATE | EXCL, header + number(6, priority) + number(10, mark) + number(15, table))
