"""The packet filter of a network namespace: one table, made anew in one step whenever something changes.

Expressions are what `nft` calls them, in the kernel's own form. What counts hits is a counter by name, which lives on
while the rules around it are replaced.

Source: linux/netfilter/nf_tables.h; `nft --debug=netlink`.
"""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from struct import Struct

from zebra.substrate.netns.netlink import (
    APPEND,
    CREATE,
    DUMP,
    Message,
    Netlink,
    attribute,
    attributes,
    chunks,
    nest,
    network_number,
    text,
    unframed,
)

TABLE = "zebra"
PREROUTING, FORWARD = 0, 2
_BATCH_BEGIN, _BATCH_END, _SUBSYSTEM = 16, 17, 10
_NEW_TABLE, _NEW_CHAIN, _NEW_RULE, _DELETE_RULE = 0, 3, 6, 8
_NEW_SET, _DELETE_SET, _NEW_ELEMENT = 9, 11, 12
_NEW_OBJECT, _GET_OBJECT, _DELETE_OBJECT = 18, 19, 20
_GENERIC = Struct(">BBH")
_IPV4 = 2
_COUNTER = 1
_DATA, _VERDICT = 1, 2
_EQUAL, _NOT_EQUAL, _LESS = 0, 1, 2
_REGISTER = 1
_NETWORK, _TRANSPORT = 1, 2
_SOURCE_AT, _TARGET_AT, _PROTOCOL_AT, _FLAGS_AT = 12, 16, 9, 13
_SYN, _SYN_AND_ACK = 0x02, 0x12
ELEMENTS_PER_MESSAGE = 1000
CHANCES = 1_000_000

TCP, UDP = 6, 17


def _expression(name: str, *parts: bytes) -> bytes:
    return nest(1, text(1, name), nest(2, *parts))


def _value(kind: int, data: bytes) -> bytes:
    return nest(kind, attribute(_DATA, data))


def _payload(base: int, offset: int, length: int) -> bytes:
    fields = ((1, _REGISTER), (2, base), (3, offset), (4, length))
    return _expression("payload", *(network_number(kind, value) for kind, value in fields))


def _compare(operation: int, data: bytes) -> bytes:
    return _expression("cmp", network_number(1, _REGISTER), network_number(2, operation), _value(3, data))


def _meta(key: int) -> bytes:
    return _expression("meta", network_number(1, _REGISTER), network_number(2, key))


def source_in(name: str) -> bytes:
    """The sender is in a set."""
    return _payload(_NETWORK, _SOURCE_AT, 4) + _expression("lookup", text(1, name), network_number(2, _REGISTER))


def target_in(name: str) -> bytes:
    """The receiver is in a set."""
    return _payload(_NETWORK, _TARGET_AT, 4) + _expression("lookup", text(1, name), network_number(2, _REGISTER))


def protocol(number: int) -> bytes:
    return _payload(_NETWORK, _PROTOCOL_AT, 1) + _compare(_EQUAL, bytes([number]))


def opening() -> bytes:
    """A segment that asks for a connection: SYN without ACK. It needs no table of connections and knows them all."""
    mask = _expression("bitwise", network_number(1, _REGISTER), network_number(2, _REGISTER), network_number(3, 1),
                       _value(4, bytes([_SYN_AND_ACK])), _value(5, b"\0"))  # fmt: skip
    return protocol(TCP) + _payload(_TRANSPORT, _FLAGS_AT, 1) + mask + _compare(_EQUAL, bytes([_SYN]))


def comes_from(device: int) -> bytes:
    return _meta(4) + _compare(_EQUAL, device.to_bytes(4, sys.byteorder))


def comes_not_from(device: int) -> bytes:
    return _meta(4) + _compare(_NOT_EQUAL, device.to_bytes(4, sys.byteorder))


def goes_to(device: int) -> bytes:
    return _meta(5) + _compare(_EQUAL, device.to_bytes(4, sys.byteorder))


def chance(probability: float) -> bytes:
    """By the kernel's own random numbers."""
    draw = _expression("numgen", network_number(1, _REGISTER), network_number(2, CHANCES), network_number(3, 1),
                       network_number(4, 0))  # fmt: skip
    fields = ((1, _REGISTER), (2, _REGISTER), (3, 1), (4, 4), (5, 4))
    order = _expression("byteorder", *(network_number(kind, value) for kind, value in fields))
    return draw + order + _compare(_LESS, round(probability * CHANCES).to_bytes(4, "big"))


def count(name: str) -> bytes:
    return _expression("objref", network_number(1, _COUNTER), text(2, name))


def tell(group: int, prefix: str, size: int) -> bytes:
    """Send the first bytes of the packet to who listens to a group."""
    return _expression("log", attribute(1, group.to_bytes(2, "big")), text(2, prefix), network_number(3, size),
                       attribute(4, b"\0\1"))  # fmt: skip


def mark(value: int) -> bytes:
    load = _expression("immediate", network_number(1, _REGISTER), _value(2, value.to_bytes(4, sys.byteorder)))
    return load + _expression("meta", network_number(2, 3), network_number(3, _REGISTER))


def _verdict(code: int) -> bytes:
    return _expression("immediate", network_number(1, 0), nest(2, nest(_VERDICT, network_number(1, code))))


DROP, ACCEPT = _verdict(0), _verdict(1)
RESET = _expression("reject", network_number(1, 1), attribute(2, b"\0"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What the table holds: rules by chain, addresses by set, and counters."""

    chains: Mapping[str, list[bytes]]
    sets: Mapping[str, frozenset[str]]
    counters: frozenset[str]


CHAINS = {"mark": (PREROUTING, -150), "forward": (FORWARD, 0)}
"""Hook and priority of each chain."""


class Table:
    """The one table of a namespace."""

    def __init__(self, netlink: Netlink) -> None:
        self._netlink = netlink
        self._now = Rules(chains={}, sets={}, counters=frozenset())
        chains = []
        for name, (hook, priority) in CHAINS.items():
            where = nest(4, network_number(1, hook), network_number(2, priority))
            body = text(1, TABLE) + text(3, name) + where + network_number(5, 1) + text(7, "filter")
            chains.append(_message(_NEW_CHAIN, body, CREATE))
        self._batch([_message(_NEW_TABLE, text(1, TABLE), CREATE), *chains])

    def replace(self, rules: Rules) -> None:
        """Put other rules in the place of those that there are. Counters of both go on counting."""
        was, self._now = self._now, rules
        filled = [chain for chain, there in was.chains.items() if there]
        messages = [_message(_DELETE_RULE, text(1, TABLE) + text(2, chain)) for chain in filled]
        for name in was.sets:
            messages.append(_message(_DELETE_SET, text(1, TABLE) + text(2, name)))
        for name in sorted(was.counters - rules.counters):
            messages.append(_message(_DELETE_OBJECT, text(1, TABLE) + text(2, name) + network_number(3, _COUNTER)))
        for name in sorted(rules.counters - was.counters):
            counter = text(1, TABLE) + text(2, name) + network_number(3, _COUNTER) + nest(4)
            messages.append(_message(_NEW_OBJECT, counter, CREATE))
        for number, (name, addresses) in enumerate(rules.sets.items(), 1):
            messages += _set(name, number, addresses)
        for chain, expressions in rules.chains.items():
            for each in expressions:
                messages.append(_message(_NEW_RULE, text(1, TABLE) + text(2, chain) + nest(4, each), CREATE | APPEND))
        self._batch(messages)

    def packets(self) -> dict[str, int]:
        """How many packets each counter has seen."""
        found = {}
        for body in self._netlink.get(_SUBSYSTEM << 8 | _GET_OBJECT, _generic() + text(1, TABLE), DUMP):
            fields = attributes(body[4:])
            found[fields[2].rstrip(b"\0").decode()] = int.from_bytes(attributes(fields[4])[2], "big")
        return found

    def _batch(self, messages: list[Message]) -> None:
        where = _GENERIC.pack(socket.AF_UNSPEC, 0, _SUBSYSTEM)
        self._netlink.ask(*messages, before=unframed(_BATCH_BEGIN, where), after=unframed(_BATCH_END, where))


def _generic() -> bytes:
    return _GENERIC.pack(_IPV4, 0, 0)


def _message(kind: int, body: bytes, flags: int = 0) -> Message:
    return Message(_SUBSYSTEM << 8 | kind, flags, _generic() + body)


def _set(name: str, number: int, addresses: Iterable[str]) -> list[Message]:
    """A set of addresses; the number stands for it in the same batch."""
    fields = ((3, 0), (4, 7), (5, 4), (10, number))
    head = text(1, TABLE) + text(2, name)
    made = [_message(_NEW_SET, head + b"".join(network_number(kind, value) for kind, value in fields), CREATE)]
    elements = (nest(1, _value(1, socket.inet_aton(address))) for address in sorted(addresses))
    for each in chunks(elements, ELEMENTS_PER_MESSAGE):
        made.append(_message(_NEW_ELEMENT, head + network_number(4, number) + nest(3, each), CREATE))
    return made
