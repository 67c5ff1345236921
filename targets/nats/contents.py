"""What a server says that it holds: its streams, their configuration, and where their consumers are.

Compared are the servers' own copies, as each server's page /jsz shows them. What a copy takes on disk is its
own affair.
"""

from __future__ import annotations

from typing import Any
from zlib import crc32

EXAMPLES = 3
"""How many streams a difference names."""

State = dict[str, dict[str, Any]]
"""By stream: its configuration, its sequence numbers, and what each consumer has had."""

COUNTS = ("messages", "first_seq", "last_seq", "num_deleted")


def streams_of(jsz: dict[str, Any]) -> list[dict[str, Any]]:
    """The streams on a server's page, with whatever was asked for."""
    accounts = jsz.get("account_details") or []
    return [stream for account in accounts for stream in account.get("stream_detail") or []]


def held_by(jsz: dict[str, Any]) -> State:
    """What a server holds, from its page /jsz."""
    found: State = {}
    for stream in streams_of(jsz):
        state = stream["state"]
        consumers = {
            consumer["name"]: (consumer["delivered"]["stream_seq"], consumer["ack_floor"]["stream_seq"])
            for consumer in stream.get("consumer_detail") or []
        }
        counts = {name: state.get(name, 0) for name in COUNTS}
        found[stream["name"]] = {"config": stream.get("config"), "consumers": consumers, **counts}
    return found


def differences(mine: State, theirs: State) -> list[str]:
    """How `theirs` differs from `mine`, a line for each way of differing."""
    lines = []
    ways = {"lacks": mine.keys() - theirs.keys(), "has besides": theirs.keys() - mine.keys()}
    for way, streams in ways.items():
        if streams:
            lines.append(f"{way} {len(streams)} streams ({_some(streams)})")
    both = mine.keys() & theirs.keys()
    for what in ("config", "consumers", *COUNTS):
        odd = {stream for stream in both if mine[stream][what] != theirs[stream][what]}
        if odd:
            first = min(odd)
            values = f"{theirs[first][what]} instead of {mine[first][what]}"
            lines.append(f"has another {what} of {len(odd)} streams ({_some(odd)}: {values})")
    return lines


def _some(streams: set[str]) -> str:
    return ", ".join(sorted(streams)[:EXAMPLES]) + (", …" if len(streams) > EXAMPLES else "")


def published(subject: str, data: bytes) -> str:
    """The checksum of a message as its publisher knows it."""
    return f"{crc32(data, crc32(subject.encode())):08x}"


def stored(message: dict[str, Any], data: bytes) -> str:
    """The checksum of a message as a server holds it: the publisher's, and that of its headers and time."""
    rest = f"{message.get('hdrs', '')} {message['time']}"
    return f"{published(message['subject'], data)} {crc32(rest.encode()):08x}"
