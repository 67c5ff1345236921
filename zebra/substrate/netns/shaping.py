"""Rate limits of one network device: each is a class of its own with the peers that it is for.

The class holds a token bucket, which cuts large packets into those of the wire and lets a bounded queue wait. A limit
that is taken off stays as a bucket without bottom, so that what waits leaves at once and nothing is lost.

Source: tc-htb(8), tc-tbf(8), tc-u32(8); linux/pkt_sched.h, linux/pkt_cls.h.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable
from struct import Struct

from zebra.substrate.netns.netlink import CREATE, EXCL, REPLACE, Message, Netlink, attribute, nest, number, text

_NEW_QDISC, _NEW_CLASS, _NEW_FILTER, _DELETE_FILTER = 36, 40, 44, 45
_MESSAGE = Struct("=BxHiIII")
_RATE = Struct("=BBHhHI")
_KIND, _OPTIONS = 1, 2
_ROOT, _HANDLE = 0xFFFFFFFF, 0x10000
_ETHERNET = 1
_IP = socket.htons(0x0800)
_SOURCE_AT, _TARGET_AT = 12, 16

RATE_MAX = 0xFFFFFFF0
BURST_S, BURST_BYTES_MIN = 0.01, 2 * 1514
"""A limited node may send so much at once."""

WAIT_S, WAIT_BYTES_MIN = 0.5, 64 * 1024
"""So much may wait: as much as passes in half a second, and a whole large packet."""


def _rate(rate: int) -> bytes:
    return _RATE.pack(0, _ETHERNET, 0, 0, 0, rate)


class Shaper:
    """The limits of one device. `outward` says whether peers are receivers of what passes, or senders."""

    def __init__(self, netlink: Netlink, device: int, *, outward: bool) -> None:
        self._netlink, self._device, self._at = netlink, device, _TARGET_AT if outward else _SOURCE_AT
        self._classes = 0
        options = nest(_OPTIONS, attribute(2, Struct("=IIIII").pack(3, 10, 0, 0, 0)))
        body = self._head(_HANDLE, _ROOT) + text(_KIND, "htb") + options
        netlink.ask(Message(_NEW_QDISC, CREATE | EXCL, body))

    def _head(self, handle: int, parent: int, info: int = 0) -> bytes:
        return _MESSAGE.pack(socket.AF_UNSPEC, 0, self._device, handle, parent, info)

    def limit(self, rate: float, peers: Iterable[str]) -> int:
        """Limit what goes between this device and peers to so many bytes per second; a number to take it off by."""
        self._classes += 1
        each = self._classes
        free = _rate(RATE_MAX) * 2 + Struct("=IIIII").pack(1 << 20, 1 << 20, 1 << 16, 0, 0)
        klass = self._head(_HANDLE | each, _HANDLE) + text(_KIND, "htb") + nest(_OPTIONS, attribute(1, free))
        self._netlink.ask(
            Message(_NEW_CLASS, CREATE | EXCL, klass),
            self._bucket(each, rate, CREATE | EXCL),
            *(self._filter(each, peer) for peer in sorted(peers)),
        )
        return each

    def release(self, each: int) -> None:
        """Take a limit off."""
        everything = self._head(0, _HANDLE, each << 16 | _IP) + text(_KIND, "u32")
        self._netlink.ask(self._bucket(each, RATE_MAX, CREATE | REPLACE), Message(_DELETE_FILTER, 0, everything))

    def _bucket(self, each: int, rate: float, flags: int) -> Message:
        size = max(1, min(round(rate), RATE_MAX))
        burst = max(BURST_BYTES_MIN, min(round(size * BURST_S), 1 << 24))
        limit = burst + max(WAIT_BYTES_MIN, min(round(size * WAIT_S), 1 << 28))
        settings = _rate(size) + _rate(0) + Struct("=III").pack(limit, 0, 0)
        options = nest(_OPTIONS, attribute(1, settings), number(6, burst))
        head = self._head((each + 1) * _HANDLE, _HANDLE | each)
        return Message(_NEW_QDISC, flags, head + text(_KIND, "tbf") + options)

    def _filter(self, each: int, peer: str) -> Message:
        """Packets from or to an address belong to a class; its number is also the filters' priority."""
        key = b"\xff" * 4 + socket.inet_aton(peer) + Struct("=ii").pack(self._at, 0)
        select = Struct("=BBBxHHhhI").pack(1, 0, 1, 0, 0, 0, 0, 0) + key
        options = nest(_OPTIONS, number(1, _HANDLE | each), attribute(5, select))
        body = self._head(0, _HANDLE, each << 16 | _IP) + text(_KIND, "u32") + options
        return Message(_NEW_FILTER, CREATE | EXCL, body)


def try_netem(netlink: Netlink, device: int) -> None:
    """Put netem on a device; raises KernelError where the kernel has none."""
    head = _MESSAGE.pack(socket.AF_UNSPEC, 0, device, _HANDLE, _ROOT, 0)
    options = attribute(_OPTIONS, Struct("=IIIIII").pack(0, 1000, 0, 0, 0, 0))
    netlink.ask(Message(_NEW_QDISC, CREATE | EXCL, head + text(_KIND, "netem") + options))
