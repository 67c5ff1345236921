"""IPv4 packets as they cross the switch: whose they are, what they carry, and the segments that reset a connection."""

from __future__ import annotations

import socket
from struct import Struct
from typing import NamedTuple

from zebra.proxy.toxics import Over

TCP, UDP = 6, 17
FIN, SYN, _RST, ACK = 1, 2, 4, 16
_TCP = Struct(">HHIIBBHHH")
_IP = Struct(">BBHHHBBH4s4s")
_PORTS = Struct(">HH")
_IP_BYTES, _UDP_BYTES, _TTL = 20, 8, 64
_FRAGMENT_OFFSET = 0x1FFF


class Packet(NamedTuple):
    """What a packet's headers say. `at` is where TCP's or UDP's begin, `size` how many bytes of data follow them."""

    source: bytes
    target: bytes
    protocol: int
    flow: bytes
    at: int
    size: int
    over: Over


def parse(data: bytes | memoryview) -> Packet | None:
    """A packet by its headers, of which the rest may have been cut off; None for what is neither TCP nor UDP."""
    if len(data) < _IP_BYTES or data[0] >> 4 != 4 or data[9] not in (TCP, UDP):
        return None
    at, total, protocol = (data[0] & 15) * 4, data[2] << 8 | data[3], data[9]
    source, target = bytes(data[12:16]), bytes(data[16:20])
    if (data[6] << 8 | data[7]) & _FRAGMENT_OFFSET:  # a later piece of a long datagram
        return Packet(source, target, protocol, b"", at, total - at, "datagram")
    flow = bytes(data[12:20]) + bytes(data[at : at + 4])
    if protocol == UDP:
        return Packet(source, target, protocol, flow, at, total - at - _UDP_BYTES, "datagram")
    if len(data) < at + 14:
        return None
    over: Over = "connect" if data[at + 13] & SYN else "stream"
    return Packet(source, target, protocol, flow, at, total - at - (data[at + 12] >> 4) * 4, over)


def flags_of(data: bytes | memoryview, packet: Packet) -> int:
    """TCP's flags."""
    return data[packet.at + 13]


def sequence_of(data: bytes | memoryview, packet: Packet) -> int:
    """The number of a segment's first byte."""
    return int.from_bytes(data[packet.at + 4 : packet.at + 8], "big")


def part(data: bytes, packet: Packet, begin: int, end: int, *, fin: bool) -> bytes:
    """The segment with a part of its data alone, with or without the end of the stream, and with all checksums."""
    at = packet.at
    start = at + (data[at + 12] >> 4) * 4
    cut = bytearray(data[:start] + data[start + begin : start + end])
    sequence = (sequence_of(data, packet) + begin) & 0xFFFFFFFF
    cut[2:4], cut[at + 4 : at + 8] = len(cut).to_bytes(2, "big"), sequence.to_bytes(4, "big")
    cut[at + 13] = data[at + 13] | FIN if fin else data[at + 13] & ~FIN
    cut[10:12], cut[at + 16 : at + 18] = bytes(2), bytes(2)
    cut[10:12] = _checksum(bytes(cut[:at])).to_bytes(2, "big")
    pseudo = packet.source + packet.target + _PORTS.pack(TCP, len(cut) - at)
    cut[at + 16 : at + 18] = _checksum(pseudo + bytes(cut[at:])).to_bytes(2, "big")
    return bytes(cut)


def refusal(data: bytes | memoryview, packet: Packet) -> bytes:
    """What answers a segment that asks for a connection where nobody takes any."""
    here, there, sequence, *_ = _TCP.unpack_from(data, packet.at)
    return _segment(packet.target, packet.source, there, here, 0, (sequence + 1) & 0xFFFFFFFF)


def resets(data: bytes | memoryview, packet: Packet) -> tuple[bytes, bytes]:
    """In place of a segment: what breaks the connection for its sender, and what breaks it for its receiver."""
    here, there, sequence, acknowledged, *_ = _TCP.unpack_from(data, packet.at)
    end = (sequence + packet.size) & 0xFFFFFFFF
    to_sender = _segment(packet.target, packet.source, there, here, acknowledged, end)
    to_receiver = _segment(packet.source, packet.target, here, there, sequence, acknowledged)
    return to_sender, to_receiver


def _segment(source: bytes, target: bytes, here: int, there: int, sequence: int, acknowledged: int) -> bytes:
    """A segment with RST and without data."""
    fields = (here, there, sequence, acknowledged, 5 << 4, _RST | ACK, 0)
    pseudo = source + target + Struct(">HH").pack(TCP, _TCP.size)
    segment = _TCP.pack(*fields, _checksum(pseudo + _TCP.pack(*fields, 0, 0)), 0)
    head = (0x45, 0, _IP_BYTES + _TCP.size, 0, 0, _TTL, TCP)
    return _IP.pack(*head, _checksum(_IP.pack(*head, 0, source, target)), source, target) + segment


def _checksum(data: bytes) -> int:
    data += bytes(len(data) % 2)
    total: int = sum(Struct(f">{len(data) // 2}H").unpack(data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def text_of(address: bytes) -> str:
    return socket.inet_ntoa(address)
