"""What toxics do to the packets of a connection on the wire, where nobody stands between its ends.

Packets may come twice, as their senders repeat what nobody has acknowledged; so what was decided of a byte is kept by
its number in the stream. A stream is known by the addresses and ports of its packets.
"""

from __future__ import annotations

from asyncio import TimerHandle
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from zebra.proxy.connections import Hold, Limit, Slicer, SlowClose
from zebra.proxy.toxics import Corrupt, Reset, Toxic, Way, flip_bit
from zebra.substrate.netns.ceiling import HostCeiling
from zebra.substrate.netns.packet import (
    ACK,
    FIN,
    SYN,
    TCP,
    UDP,
    Packet,
    flags_of,
    parse,
    part,
    refusal,
    resets,
    sequence_of,
)

HEADER_BYTES = 10
"""Before each packet: what is left to do about checksums and sizes. It goes back as it came."""

_TO_BE_SUMMED = 1
"""In the header: the kernel has yet to make the checksum."""

_UDP_BYTES, _UDP_SUM_AT = 8, 6
_PIECE_BYTES_MAX = 1380
"""So much data fits into a packet that nobody cuts any more."""


Later = Callable[[float, Callable[[], None]], TimerHandle]


class Sent(NamedTuple):
    """A packet that goes on, so many seconds later. One that is `loose` need not wait for those before it."""

    delay_s: float
    data: bytes
    loose: bool = False


@dataclass(slots=True)
class Stalled:
    """A stream of which segments are held: the first of these, the last packet that its sender sent, and its end."""

    first: tuple[bytes, Packet]
    last: tuple[bytes, Packet]
    timer: TimerHandle | None = None


def forget(way: Way, toxic: Toxic) -> None:
    """A toxic is off: what it remembers is of no use any more."""
    remembered = way.state.pop(toxic, None)
    for each in remembered.values() if isinstance(remembered, dict) else ():
        if isinstance(each, Stalled) and each.timer is not None:
            each.timer.cancel()


def judged(toxic: Toxic, way: Way, sent: Sent, now: float, later: Later,
           write: Callable[[bytes], None]) -> list[Sent]:  # fmt: skip
    """What one toxic makes of a packet. `later` calls back after some seconds, `write` sends at once."""
    packet = parse(memoryview(sent.data)[HEADER_BYTES:])
    if packet is None or not packet.flow:
        return [sent]
    if isinstance(toxic, Corrupt):
        return [_corrupted(toxic, way, sent, packet)]
    if packet.protocol == UDP:
        if not isinstance(toxic, Hold):
            return [sent]
        toxic.counter.hits += 1
        return []
    data, flows = sent.data[HEADER_BYTES:], way.state.setdefault(toxic, {})
    if flags_of(data, packet) & SYN:
        flows.pop(packet.flow, None)  # another connection, from a port that was used before
    if isinstance(toxic, Reset):
        return _reset(toxic, way, sent, data, packet)
    if isinstance(toxic, Hold):
        return _held(toxic, flows, sent, data, packet, later, write)
    if isinstance(toxic, Limit):
        return _limited(toxic, flows, sent, data, packet)
    if isinstance(toxic, Slicer):
        return _sliced(toxic, flows, sent, data, packet, now)
    if isinstance(toxic, SlowClose):
        return _closed_slowly(toxic, flows, sent, data, packet, now)
    if isinstance(toxic, HostCeiling) and flags_of(data, packet) & (SYN | ACK) == SYN:
        caller = packet.source + packet.flow[8:10]
        if toxic.refuses(caller, now):
            return [Sent(sent.delay_s, bytes(HEADER_BYTES) + refusal(data, packet))]
    return [sent]


JUDGES = (Corrupt, Reset, Hold, Limit, Slicer, SlowClose, HostCeiling)
"""The toxics for which `judged` is."""


def _cut(sent: Sent, packet: Packet, begin: int, end: int, *, fin: bool, delay_s: float = 0.0,
         loose: bool = False) -> list[Sent]:  # fmt: skip
    """A part of a segment's data, in as many packets as it needs."""
    data, made = sent.data[HEADER_BYTES:], []
    steps = range(begin, end, _PIECE_BYTES_MAX) or (begin,)
    for at in steps:
        stop = min(at + _PIECE_BYTES_MAX, end)
        each = part(data, packet, at, stop, fin=fin and stop == end)
        made.append(Sent(sent.delay_s + delay_s, bytes(HEADER_BYTES) + each, loose))
    return made


def _corrupted(toxic: Corrupt, way: Way, sent: Sent, packet: Packet) -> Sent:
    if packet.size <= 0 or way.random.random() >= toxic.probability:
        return sent
    toxic.counter.hits += 1
    way.decided(toxic, "corrupt", packet.over, packet.size)
    data, at = sent.data[HEADER_BYTES:], packet.at
    begin = len(data) - packet.size
    changed = data[:begin] + flip_bit(data[begin:], way.random)
    if sent.data[0] & _TO_BE_SUMMED:
        return sent._replace(data=sent.data[:HEADER_BYTES] + changed)
    if packet.protocol == TCP:
        fin = bool(flags_of(data, packet) & FIN)
        return sent._replace(data=bytes(HEADER_BYTES) + part(changed, packet, 0, packet.size, fin=fin))
    changed = changed[: at + _UDP_SUM_AT] + bytes(2) + changed[at + _UDP_BYTES :]
    return sent._replace(data=sent.data[:HEADER_BYTES] + changed)


def _reset(toxic: Reset, way: Way, sent: Sent, data: bytes, packet: Packet) -> list[Sent]:
    if packet.size <= 0 or way.random.random() >= toxic.probability:
        return [sent]
    toxic.counter.hits += 1
    way.decided(toxic, "reset", packet.over, packet.size)
    return [Sent(sent.delay_s, bytes(HEADER_BYTES) + each) for each in resets(data, packet)]


def _held(toxic: Hold, flows: dict[bytes, Any], sent: Sent, data: bytes, packet: Packet,
          later: Later, write: Callable[[bytes], None]) -> list[Sent]:  # fmt: skip
    """Nothing, for its sender repeats it until it gets through; what only acknowledges passes."""
    stalled = flows.get(packet.flow)
    if stalled is not None:
        stalled.last = data, packet
    if packet.size <= 0 and not flags_of(data, packet) & FIN:
        return [sent]
    toxic.counter.hits += 1
    if toxic.timeout_s > 0 and stalled is None:
        stalled = flows[packet.flow] = Stalled((data, packet), (data, packet))

        def time_out(stalled: Stalled = stalled) -> None:
            toxic.counter.hits += 1
            for each in (resets(*stalled.last)[0], resets(*stalled.first)[1]):
                write(bytes(HEADER_BYTES) + each)

        stalled.timer = later(toxic.timeout_s, time_out)
    return []


def _limited(toxic: Limit, flows: dict[bytes, int], sent: Sent, data: bytes, packet: Packet) -> list[Sent]:
    """The segment, or what of it may still pass: then the end for its receiver, and a reset for its sender."""
    if packet.flow in flows and flows[packet.flow] < 0:
        return []  # it is cut off
    if packet.size <= 0:
        return [sent]
    sequence = sequence_of(data, packet)
    passed = _distance(flows.setdefault(packet.flow, sequence), sequence)
    if passed + packet.size < toxic.size:
        return [sent]
    toxic.counter.hits += 1
    flows[packet.flow] = -1
    to_sender, _ = resets(data, packet)
    rest = max(0, min(toxic.size - passed, packet.size))
    return [*_cut(sent, packet, 0, rest, fin=True), Sent(sent.delay_s, bytes(HEADER_BYTES) + to_sender)]


def _sliced(toxic: Slicer, flows: dict[bytes, Any], sent: Sent, data: bytes, packet: Packet,
            now: float) -> list[Sent]:  # fmt: skip
    if packet.size <= 0:
        return [sent]
    sequence = sequence_of(data, packet)
    free_s, upto = flows.get(packet.flow, (0.0, sequence))
    if free_s > now and _distance(sequence, upto) >= packet.size:
        return []  # sent again, while it still waits here
    count = -(-packet.size // toxic.size)
    wait_s = max(0.0, free_s - now)
    flows[packet.flow] = now + wait_s + (count * toxic.delay_s if count > 1 else 0.0), sequence + packet.size
    toxic.counter.hits += count - 1 or wait_s > 0
    if count == 1:
        return [sent._replace(delay_s=sent.delay_s + wait_s)]
    fin = bool(flags_of(data, packet) & FIN)
    made = []
    for number in range(count):
        begin, end = number * toxic.size, min((number + 1) * toxic.size, packet.size)
        last = fin and number == count - 1
        made += _cut(sent, packet, begin, end, fin=last, delay_s=wait_s + number * toxic.delay_s)
    return made


def _closed_slowly(toxic: SlowClose, flows: dict[bytes, Any], sent: Sent, data: bytes, packet: Packet,
                   now: float) -> list[Sent]:  # fmt: skip
    """The data as it comes, and the end of the stream alone, later. What only acknowledges does not wait for that."""
    if not flags_of(data, packet) & FIN:
        return [sent]
    if packet.flow in flows and flows[packet.flow] <= now:
        return [sent]  # sent again, after it has waited
    made = _cut(sent, packet, 0, packet.size, fin=False) if packet.size > 0 else []
    if packet.flow in flows:
        return made  # sent again, while it still waits here
    toxic.counter.hits += 1
    flows[packet.flow] = now + toxic.delay_s
    return [*made, *_cut(sent, packet, packet.size, packet.size, fin=True, delay_s=toxic.delay_s, loose=True)]


def _distance(begin: int, end: int) -> int:
    """How far a byte's number is from another's, less than 0 if it comes before."""
    return ((end - begin + (1 << 31)) & 0xFFFFFFFF) - (1 << 31)
