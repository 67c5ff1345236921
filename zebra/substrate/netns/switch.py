"""The namespaces of one run, as the zygote makes them: a switch, and a host for each node behind a cable of its own.

None has a name: descriptors of the zygote and the processes inside are all that holds them, so they vanish with these.
Without root the zygote first moves to a user namespace of its own, in which the user is still the same one.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import itertools
import os
from collections.abc import Callable, Mapping
from struct import Struct

from zebra.substrate.netns import devices
from zebra.substrate.netns.addresses import Addresses
from zebra.substrate.netns.loop import HostLoop
from zebra.substrate.netns.netlink import NETFILTER, ROUTE, Netlink
from zebra.substrate.process.network import Brought

NEW_NETWORK, NEW_USER = 0x40000000, 0x10000000
MARK, WIRE_TABLE, WIRE_RULE = 1, 100, 100
"""Packets with the mark go through the wire: a route table of their own, and the priority of the rule that says so."""

WIRE_NAME = "wire"
_TUN_SET_DEVICE, _TUN_SET_OFFLOAD, _TUN_SET_INDEX = 0x400454CA, 0x400454D0, 0x400454DA
_TUN, _NO_INFORMATION, _WITH_HEADER = 0x1, 0x1000, 0x4000
_OFFLOAD_CHECKSUM, _OFFLOAD_TCP = 1, 2

_libc = ctypes.CDLL(None, use_errno=True)


def _call(function: Callable[..., int], *arguments: int) -> None:
    if function(*arguments):
        error = ctypes.get_errno()
        raise OSError(error, f"{function.__name__}: {os.strerror(error)}")


def enter_new_namespace() -> int:
    """Move this process to a new network namespace; a descriptor of it. Raises OSError."""
    _call(_libc.unshare, NEW_NETWORK)
    return os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)


def enter(namespace: int) -> None:
    """Move this process to a network namespace."""
    _call(_libc.setns, namespace, NEW_NETWORK)


def become_able() -> None:
    """Without the right to make namespaces, move to a user namespace that has it. Raises OSError.

    The user is mapped to itself: programs such as PostgreSQL refuse to run as root.
    """
    try:
        _call(_libc.unshare, NEW_NETWORK)
        return
    except OSError as error:
        if error.errno != errno.EPERM:
            raise
    user, group = os.geteuid(), os.getegid()
    _call(_libc.unshare, NEW_USER)
    for name, content in (("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1")):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(content)


SWITCH_SETTINGS = {"ipv4/ip_forward": 1, "ipv4/conf/all/rp_filter": 0, "ipv4/conf/default/rp_filter": 0,
                   "ipv6/conf/default/disable_ipv6": 1}  # fmt: skip
HOST_SETTINGS = {"ipv4/ip_unprivileged_port_start": 0, "ipv4/tcp_orphan_retries": 4,
                 "ipv6/conf/default/disable_ipv6": 1}  # fmt: skip
"""Packets may come by another device than they leave by; nobody speaks unasked, as IPv6 does; all ports are free.

What a dead process could not deliver is given up after four retries (6 s), not eight (100 s): so long it keeps its
namespace in the kernel when all else is gone.
"""


def _set(settings: Mapping[str, int]) -> None:
    """Settings of this network namespace; what the kernel was built without is left out."""
    for name, value in settings.items():
        try:
            with open(f"/proc/sys/net/{name}", "w") as file:
                file.write(str(value))
        except FileNotFoundError:
            pass


def make_wire() -> int:
    """A device whose packets pass through userspace, in large pieces; a descriptor of it. Raises OSError."""
    wire = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        request = Struct("=16sH22x").pack(WIRE_NAME.encode(), _TUN | _NO_INFORMATION | _WITH_HEADER)
        fcntl.ioctl(wire, _TUN_SET_INDEX, Struct("=i").pack(devices.WIRE))
        fcntl.ioctl(wire, _TUN_SET_DEVICE, request)
        fcntl.ioctl(wire, _TUN_SET_OFFLOAD, _OFFLOAD_CHECKSUM | _OFFLOAD_TCP)
    except OSError:
        os.close(wire)
        raise
    return wire


class Switch:
    """`zebra.substrate.process.network.Network`: brings "switch" and, for each node that starts on a new host, "host".

    The word on the switch says why it has no wire ("" when it has), the one on a host is its node and the index of its
    cable.
    """

    def __init__(self, addresses: Addresses) -> None:
        self._addresses = addresses
        self._hosts: dict[int, tuple[int, int]] = {}
        self._cables = itertools.count(devices.FIRST_CABLE)

    def make(self) -> list[Brought]:
        """Make the switch: sockets to configure it, to filter in it and to be told of what was filtered; the wire."""
        become_able()
        self._switch = enter_new_namespace()
        _set(SWITCH_SETTINGS)
        self._route = Netlink.open(ROUTE)
        self._route.ask(devices.up(devices.LOOPBACK), devices.silence())
        files = [Netlink.open(family).sock.detach() for family in (ROUTE, NETFILTER, NETFILTER)]
        try:
            self._route.ask(devices.rule(MARK, WIRE_TABLE, WIRE_RULE))
            files.append(make_wire())
        except OSError as error:
            return [("switch", files, f"/dev/net/tun or routing by marks: {error.strerror}")]
        self._route.ask(devices.up(devices.WIRE), devices.route(devices.WIRE, table=WIRE_TABLE))
        return [("switch", files, "")]

    def prepare(self, node: int) -> list[Brought]:
        """Make the host of a node that has none, or whose cable was cut when it lost its power."""
        namespace, cable = self._hosts.get(node, (-1, 0))
        if namespace >= 0:
            if devices.is_up(self._route, cable):
                return []
            os.close(namespace)
        address, cable = self._addresses.public(node), next(self._cables)
        try:
            namespace = enter_new_namespace()
            self._hosts[node] = namespace, cable
            _set(HOST_SETTINGS)
            inside = Netlink.open(ROUTE)
            inside.ask(devices.up(devices.LOOPBACK), devices.cable(cable, self._switch), devices.up(devices.CARD),
                       devices.address(devices.CARD, address), devices.route(devices.CARD))  # fmt: skip
        finally:
            enter(self._switch)
        self._route.ask(devices.up(cable), devices.route(cable, address))
        return [("host", [inside.sock.detach()], (node, cable))]

    def enter(self, node: int) -> None:
        enter(self._hosts[node][0])

    def loop(self, node: int, nodes: Mapping[str, int]) -> HostLoop:
        return HostLoop(node, nodes, self._addresses)
