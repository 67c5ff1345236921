"""What the kernel lost by chance, as it tells us packet by packet: for the events `link.effect`.

Source: linux/netfilter/nfnetlink_log.h.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from struct import Struct

from zebra.substrate.netns.netlink import BUFFER_BYTES, Message, Netlink, attribute, attributes, network_number, unpack
from zebra.substrate.netns.packet import Packet, parse

GROUP = 1
HEAD_BYTES = 64
"""So much of a packet is told: its headers."""

_SUBSYSTEM, _PACKET, _CONFIG = 4, 0, 1
_PAYLOAD, _PREFIX = 9, 10
_BIND, _COPY_PACKET = 1, 2


class Told:
    """Listens to the group to which rules send what they drop; `hear` gets the rule's prefix and the packet."""

    def __init__(self, netlink: Netlink, hear: Callable[[str, Packet], None]) -> None:
        self.sock, self._hear = netlink.sock, hear
        head = Struct(">BBH").pack(socket.AF_UNSPEC, 0, GROUP)
        mode = attribute(2, Struct(">IBx").pack(HEAD_BYTES, _COPY_PACKET))
        for settings in (attribute(1, bytes([_BIND])), mode + network_number(5, 1)):
            netlink.ask(Message(_SUBSYSTEM << 8 | _CONFIG, 0, head + settings))
        self.sock.setblocking(False)

    def read(self) -> None:
        """Take what was told since."""
        while True:
            try:
                data = self.sock.recv(BUFFER_BYTES)
            except BlockingIOError:
                return
            except OSError:  # more than the buffer holds: some were not told, all are counted
                continue
            for kind, _, body in unpack(data):
                if kind == _SUBSYSTEM << 8 | _PACKET:
                    fields = attributes(body[4:])
                    packet = parse(fields.get(_PAYLOAD, b""))
                    if packet is not None:
                        self._hear(fields[_PREFIX].rstrip(b"\0").decode(), packet)
