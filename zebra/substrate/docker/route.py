"""Makes this machine take every address of a range as its own, so that the fault proxy can stand in for nodes there.

A route of type `local` through a network's bridge does it (AnyIP); it goes when the bridge goes. The message is made by
hand, for a netlink library takes longer to import than a container to start.

Source: Linux, include/uapi/linux/rtnetlink.h.
"""

from __future__ import annotations

import os
import socket
import struct
import sys

RTM_NEWROUTE, NLM_F_REQUEST, NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL = 24, 1, 4, 0x400, 0x200
RT_TABLE_LOCAL, RTPROT_STATIC, RT_SCOPE_HOST, RTN_LOCAL, RTA_DST, RTA_OIF = 255, 4, 254, 2, 1, 4


def adopt(network: str, bits: int, bridge: str) -> None:
    """Take all addresses of `network`/`bits` as this machine's own, by way of an interface. Raises OSError."""
    index = socket.if_nametoindex(bridge)
    header = struct.pack(
        "=BBBBBBBBI", socket.AF_INET, bits, 0, 0, RT_TABLE_LOCAL, RTPROT_STATIC, RT_SCOPE_HOST, RTN_LOCAL, 0
    )
    attributes = struct.pack("=HH4sHHI", 8, RTA_DST, socket.inet_aton(network), 8, RTA_OIF, index)
    flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL
    message = struct.pack("=IHHII", 16 + len(header) + len(attributes), RTM_NEWROUTE, flags, 1, 0) + header + attributes
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as sock:
        sock.settimeout(5.0)
        sock.send(message)
        answer = sock.recv(65536)
    (error,) = struct.unpack_from("=i", answer, 16)
    if error:
        raise OSError(-error, os.strerror(-error), f"{network}/{bits}")


if __name__ == "__main__":
    adopt(sys.argv[1], int(sys.argv[2]), sys.argv[3])
