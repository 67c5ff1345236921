"""The parts of the netns substrate that need no kernel: messages, packets, addresses, the wire's order."""

from __future__ import annotations

import asyncio
import os
import socket
from random import Random
from struct import Struct
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from zebra.proxy.connections import Limit, Slicer, SlowClose
from zebra.proxy.toxics import Corrupt, Duplicate, Latency, Reset, Toxic, Way
from zebra.substrate.netns import packet as packets
from zebra.substrate.netns.addresses import NODES_MAX, Addresses
from zebra.substrate.netns.ceiling import HostCeiling
from zebra.substrate.netns.netlink import attribute, attributes, chunks, nest, network_number, number, text, unpack
from zebra.substrate.netns.packet import TCP, UDP, parse, resets
from zebra.substrate.netns.segments import HEADER_BYTES, Sent, judged
from zebra.substrate.netns.wire import Wire

ADDRESS = st.binary(min_size=4, max_size=4)
PORT = st.integers(0, 65535)
SEQUENCE = st.integers(0, 2**32 - 1)


def ip(source: bytes, target: bytes, protocol: int, inside: bytes, offset: int = 0) -> bytes:
    head = (0x45, 0, 20 + len(inside), 0, offset, 64, protocol, 0, source, target)
    return Struct(">BBHHHBBH4s4s").pack(*head) + inside


def tcp(data: bytes, flags: int = 0x18, ports: tuple[int, int] = (1, 2), sequence: int = 7, ack: int = 9) -> bytes:
    return Struct(">HHIIBBHHH").pack(*ports, sequence, ack, 5 << 4, flags, 0, 0, 0) + data


def udp(data: bytes, ports: tuple[int, int] = (1, 2)) -> bytes:
    return Struct(">HHHH").pack(*ports, 8 + len(data), 0) + data


# -- netlink -----------------------------------------------------------------------------------------------------


@given(st.dictionaries(st.integers(0, 0x3FFF), st.binary(max_size=50)))
def test_attributes_are_read_as_they_were_written(fields: dict[int, bytes]) -> None:
    data = b"".join(attribute(kind, value) for kind, value in fields.items())
    assert len(data) % 4 == 0
    assert attributes(data) == fields
    assert attributes(attributes(nest(5, data))[5]) == fields


@given(st.integers(0, 2**32 - 1))
def test_numbers_stand_in_the_order_that_was_asked_for(value: int) -> None:
    assert attributes(network_number(1, value))[1] == value.to_bytes(4, "big")
    assert Struct("=I").unpack(attributes(number(1, value))[1]) == (value,)
    assert attributes(network_number(1, -3))[1] == b"\xff\xff\xff\xfd"
    assert attributes(text(1, "eth0"))[1] == b"eth0\0"


@given(st.binary(max_size=200))
def test_whatever_comes_from_outside_is_read_without_a_crash(data: bytes) -> None:
    list(unpack(data))
    attributes(data)
    parse(data)


@given(st.lists(st.binary(min_size=4, max_size=4)), st.integers(1, 5))
def test_chunks_hold_all_in_order_and_no_more_than_their_count(items: list[bytes], count: int) -> None:
    made = list(chunks(items, count))
    assert b"".join(made) == b"".join(items)
    assert all(0 < len(each) <= 4 * count for each in made)


# -- packets -----------------------------------------------------------------------------------------------------


@given(ADDRESS, ADDRESS, st.binary(max_size=100), PORT, PORT)
def test_headers_tell_whose_a_packet_is_and_how_much_it_carries(
    source: bytes, target: bytes, data: bytes, here: int, there: int
) -> None:
    for protocol, inside, over in ((TCP, tcp(data, 0x10, (here, there)), "stream"), (UDP, udp(data), "datagram"),
                                   (TCP, tcp(data, 0x02), "connect"), (TCP, tcp(data, 0x12), "connect")):  # fmt: skip
        whole = ip(source, target, protocol, inside)
        for form in (whole, whole[:40]):  # of what the kernel lost it shows the headers only
            found = parse(form)
            assert found is not None
            assert (found.source, found.target, found.size, found.over) == (source, target, len(data), over)
    assert parse(ip(source, target, 1, data)) is None


def test_a_later_piece_of_a_long_datagram_is_known_as_one() -> None:
    found = parse(ip(b"aaaa", b"bbbb", UDP, b"x" * 100, offset=185))
    assert found is not None and (found.size, found.over) == (100, "datagram")


@given(ADDRESS, ADDRESS, st.binary(min_size=1, max_size=100), PORT, PORT, SEQUENCE, SEQUENCE)
def test_resets_are_what_each_end_accepts(
    source: bytes, target: bytes, data: bytes, here: int, there: int, sequence: int, ack: int
) -> None:
    whole = ip(source, target, TCP, tcp(data, 0x18, (here, there), sequence, ack))
    found = parse(whole)
    assert found is not None
    to_sender, to_receiver = resets(whole, found)
    for made, ends, ports, expected in ((to_sender, (target, source), (there, here), ack),
                                      (to_receiver, (source, target), (here, there), sequence)):  # fmt: skip
        assert (made[12:16], made[16:20]) == ends
        assert Struct(">HHI").unpack_from(made, 20) == (*ports, expected)
        assert made[33] & 0x04, "RST"
        assert packets._checksum(made[:20]) == 0
        assert packets._checksum(made[12:20] + Struct(">HH").pack(TCP, 20) + made[20:]) == 0


def summed(made: bytes, protocol: int = TCP) -> bool:
    """Whether a packet's checksums are right."""
    inside = made[20:] + bytes(len(made) % 2)
    pseudo = made[12:20] + Struct(">HH").pack(protocol, len(made) - 20)
    return packets._checksum(made[:20]) == 0 and packets._checksum(pseudo + inside) == 0


def through(toxic: Toxic, way: Way, *whole: bytes, now: float = 0.0) -> list[Sent]:
    """What a toxic makes of packets that the kernel has summed up itself."""
    ready = [Sent(0.0, bytes(HEADER_BYTES) + each) for each in whole]
    return [made for one in ready for made in judged(toxic, way, one, now, _never, _never)]


def _never(*_: Any) -> Any:
    raise AssertionError("nothing is to be sent later")


def new_way() -> Way:
    return Way("a", "b", Random(0), lambda *_: None)


def carried(sent: list[Sent], begin: int) -> tuple[bytes, bool]:
    """What a receiver gets that waits for byte `begin`, and whether the stream ends there; checks each packet."""
    data, ended = b"", False
    for each in sent:
        made = each.data[HEADER_BYTES:]
        found = parse(made)
        assert found is not None and summed(made)
        if packets.flags_of(made, found) & 0x04:
            continue
        assert packets.sequence_of(made, found) == (begin + len(data)) & 0xFFFFFFFF, "in order, without a gap"
        assert not ended
        data += made[len(made) - found.size :]
        ended = bool(packets.flags_of(made, found) & packets.FIN)
    return data, ended


@given(st.binary(min_size=1, max_size=5000), st.integers(1, 3000), SEQUENCE, st.booleans())
def test_a_sliced_segment_carries_the_same_in_pieces(data: bytes, size: int, sequence: int, fin: bool) -> None:
    slicer = Slicer(size=size, delay_s=0.5)
    whole = ip(b"aaaa", b"bbbb", TCP, tcp(data, 0x18 | fin, sequence=sequence))
    way = new_way()
    made = through(slicer, way, whole)
    if len(data) <= size:
        assert [each.data[HEADER_BYTES:] for each in made] == [whole]
        assert slicer.counter.hits == 0
        return
    assert carried(made, sequence) == (data, fin)
    pieces = -(-len(data) // size)
    assert {each.delay_s for each in made} == {0.5 * number for number in range(pieces)}
    assert slicer.counter.hits == pieces - 1
    assert through(slicer, way, whole, now=0.1) == [], "it is sent again while it waits"
    assert carried(through(slicer, way, whole, now=9e9), sequence) == (data, fin), "it was lost behind the wire"


@given(st.lists(st.binary(min_size=1, max_size=200), min_size=1, max_size=9), st.integers(0, 1500), SEQUENCE)
def test_a_limited_stream_ends_after_so_many_bytes_whatever_is_sent_again(
    parts: list[bytes], limit: int, sequence: int
) -> None:
    whole, at = [], sequence
    for each in parts:
        whole.append(ip(b"aaaa", b"bbbb", TCP, tcp(each, 0x18, sequence=at)))
        at = (at + len(each)) & 0xFFFFFFFF
    toxic, way = Limit(size=limit), new_way()
    data, total = b"".join(parts), sum(map(len, parts))
    sent = through(toxic, way, whole[0])
    again = through(toxic, way, whole[0]) if limit > len(parts[0]) else []
    assert [each.data[HEADER_BYTES:] for each in again] in ([], [whole[0]])
    sent += through(toxic, way, *whole[1:])
    resets_sent = [each for each in sent if each.data[HEADER_BYTES + 33] & 0x04]
    if total < limit:
        assert [each.data[HEADER_BYTES:] for each in sent] == whole
        assert toxic.counter.hits == 0
        return
    kept = [each for each in sent if summed(each.data[HEADER_BYTES:])]
    untouched = [each for each in sent if each.data[HEADER_BYTES:] in whole]
    assert len(resets_sent) == 1 and resets_sent[0] in kept
    passed = b"".join(each.data[HEADER_BYTES + 40 :] for each in sent)
    assert passed == data[:limit]
    assert sum(each.data[HEADER_BYTES + 33] & packets.FIN for each in sent) == 1
    assert len(untouched) + len(kept) == len(sent)
    assert toxic.counter.hits == 1
    assert through(toxic, way, *whole) == [], "it is cut off"


@given(st.binary(min_size=1, max_size=300), st.sampled_from([TCP, UDP]), st.booleans(), st.integers(0, 99))
def test_a_corrupted_packet_has_one_wrong_bit_and_sums_that_say_it_is_right(
    data: bytes, protocol: int, later: bool, seed: int
) -> None:
    whole = ip(b"aaaa", b"bbbb", protocol, tcp(data) if protocol == TCP else udp(data))
    header = bytes([later]) + bytes(HEADER_BYTES - 1)
    toxic, way = Corrupt(probability=1.0), Way("a", "b", Random(seed), lambda *_: None)
    [made] = judged(toxic, way, Sent(0.0, header + whole), 0.0, _never, _never)
    changed = made.data[HEADER_BYTES:]
    begin = len(whole) - len(data)
    assert sum((a ^ b).bit_count() for a, b in zip(changed[begin:], data, strict=True)) == 1
    if later:  # the kernel makes the sums when the packet leaves
        assert (made.data[:HEADER_BYTES], changed[:begin]) == (header, whole[:begin])
    elif protocol == TCP:
        assert summed(changed)
    else:
        assert changed[26:28] == bytes(2), "a datagram without a sum"
    assert toxic.counter.hits == 1


def test_the_end_of_a_stream_waits_alone_and_once() -> None:
    toxic, way = SlowClose(delay_s=2.0), new_way()
    whole = ip(b"aaaa", b"bbbb", TCP, tcp(b"data", 0x19, sequence=5))
    first, end = through(toxic, way, whole)
    assert (first.delay_s, end.delay_s, first.loose, end.loose) == (0.0, 2.0, False, True)
    assert carried([first, end], 5) == (b"data", True)
    assert carried(through(toxic, way, whole, now=1.0), 5) == (b"data", False), "sent again while the end waits"
    assert [each.data[HEADER_BYTES:] for each in through(toxic, way, whole, now=3.0)] == [whole]
    assert toxic.counter.hits == 1


def test_who_asks_again_is_not_one_more_and_who_has_gone_is_one_less() -> None:
    there = {b"one"}
    ceiling = HostCeiling(limit=2, there=lambda: set(there))
    assert not ceiling.refuses(b"two", 0.0)
    assert not ceiling.refuses(b"two", 0.01)
    assert ceiling.refuses(b"three", 0.01), "the kernel does not list the second yet, but it was let in"
    there.add(b"two")
    assert ceiling.refuses(b"three", 0.02)
    there.discard(b"one")
    assert not ceiling.refuses(b"three", 0.03)
    assert ceiling.counter.hits == 2


# -- addresses ---------------------------------------------------------------------------------------------------


@given(st.integers(1, NODES_MAX))
def test_each_node_has_one_address(node: int) -> None:
    addresses = Addresses()
    assert addresses.node_of(addresses.public(node)) == node
    assert (
        addresses.hidden(node) == addresses.public(node) == socket.inet_ntoa(socket.inet_aton(addresses.public(node)))
    )
    assert addresses.is_public(addresses.public(node)) and not addresses.is_public("127.0.0.1")


# -- the wire ----------------------------------------------------------------------------------------------------


def through_wire(toxics: tuple[Toxic, ...], sent: list[bytes], count: int) -> tuple[list[bytes], list[Any]]:
    """What comes out of a wire under toxics, and what was told of decisions."""
    told: list[Any] = []

    async def go() -> list[bytes]:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for each in (ours, theirs):
            each.setblocking(False)
        loop = asyncio.get_running_loop()
        wire = Wire(loop, os.dup(theirs.fileno()), 0, lambda *_: toxics, lambda address: address,
                    lambda toxic, *what: told.append(what))  # fmt: skip
        try:
            for data in sent:
                ours.send(bytes(HEADER_BYTES) + data)
            async with asyncio.timeout(10):
                return [(await loop.sock_recv(ours, 1 << 17))[HEADER_BYTES:] for _ in range(count)]
        finally:
            wire.close()
            ours.close()
            theirs.close()

    return asyncio.run(go()), told


def test_under_jitter_a_flow_of_segments_keeps_its_order() -> None:
    sent = [ip(b"\n\0\0\1", b"\n\0\0\2", TCP, tcp(bytes([n]))) for n in range(50)]
    slow = Latency(jitter_s=0.02)
    assert through_wire((slow,), sent, 50)[0] == sent
    assert slow.counter.hits == 50


def test_only_datagrams_are_doubled() -> None:
    double = Duplicate(probability=1.0)
    sent = [ip(b"\n\0\0\1", b"\n\0\0\2", UDP, udp(b"x")), ip(b"\n\0\0\1", b"\n\0\0\2", TCP, tcp(b"y"))]
    came, told = through_wire((double,), sent, 3)
    assert came == [sent[0], sent[0], sent[1]]
    assert told == [("10.0.0.1", "10.0.0.2", "duplicate", "datagram", 1)]


def test_a_reset_takes_the_place_of_data_and_spares_what_has_none() -> None:
    sent = [ip(b"\n\0\0\1", b"\n\0\0\2", TCP, tcp(b"")), ip(b"\n\0\0\1", b"\n\0\0\2", TCP, tcp(b"data"))]
    came, told = through_wire((Reset(probability=1.0),), sent, 3)
    found = parse(sent[1])
    assert found is not None
    assert came == [sent[0], *resets(sent[1], found)]
    assert told == [("10.0.0.1", "10.0.0.2", "reset", "stream", 4)]
