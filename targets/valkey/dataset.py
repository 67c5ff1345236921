"""A node's whole data set, read with types, and how two of them differ.

Compared are values and not text: a hash is a mapping, a set has no order, scores are numbers, and a key's expiry is the
point in time at which it goes. How a server stores a value (its encoding) is its own affair.
"""

from __future__ import annotations

from typing import Any

from zebra.targets.valkey.resp import Argument, ReplyError, Resp

Key = bytes
Contents = tuple[str, Any, int]
"""A key's type, its value, and when it expires (milliseconds since 1970, -1 for never)."""

DataSet = dict[int, dict[Key, Contents]]
"""The databases that hold anything, by number."""

GONE = -2
"""What PEXPIRETIME says of a key that is no more."""

EXAMPLES = 3
"""How many keys a difference names."""

_READ: dict[str, tuple[Argument, ...]] = {
    "string": ("GET", "key"), "hash": ("HGETALL", "key"), "list": ("LRANGE", "key", 0, -1), "set": ("SMEMBERS", "key"),
    "zset": ("ZRANGE", "key", 0, -1, "WITHSCORES"), "stream": ("XRANGE", "key", "-", "+"),
}  # fmt: skip


async def read_data(connection: Resp) -> DataSet:
    """Every key of every database that a server holds. Raises ReplyError where it refuses to be read."""
    found: DataSet = {}
    info = (await connection.call("INFO", "keyspace")).decode()
    for line in info.splitlines():
        if line.startswith("db"):
            number = int(line[2:].partition(":")[0])
            await connection.call("SELECT", number)
            contents = await _read_database(connection)
            if contents:  # what has expired is still counted
                found[number] = contents
    return found


async def _read_database(connection: Resp) -> dict[Key, Contents]:
    keys: list[Key] = []
    cursor = b"0"
    while True:
        cursor, some = await connection.call("SCAN", cursor, "COUNT", 1000)
        keys += some
        if cursor == b"0":
            break
    keys = sorted(set(keys))
    types = _checked(await connection.pipeline([("TYPE", key) for key in keys]))
    kept = [(key, kind) for key, kind in zip(keys, types, strict=True) if kind in _READ]
    reads = [[key if part == "key" else part for part in _READ[kind]] for key, kind in kept]
    values = _checked(await connection.pipeline(reads))
    ends = _checked(await connection.pipeline([("PEXPIRETIME", key) for key, _ in kept]))
    rows = zip(kept, values, ends, strict=True)
    return {key: (kind, _typed(kind, value), end) for (key, kind), value, end in rows if end != GONE}


def _checked(answers: list[Any]) -> list[Any]:
    for answer in answers:
        if isinstance(answer, ReplyError):
            raise answer
    return answers


def _typed(kind: str, value: Any) -> Any:
    if kind == "hash":
        return dict(zip(value[::2], value[1::2], strict=True))
    if kind == "set":
        return set(value)
    if kind == "zset":
        return {member: float(score) for member, score in zip(value[::2], value[1::2], strict=True)}
    return value


def differences(mine: DataSet, theirs: DataSet) -> list[str]:
    """How `theirs` differs from `mine`, a line for each database and way of differing."""
    lines = []
    for number in sorted(mine.keys() | theirs.keys()):
        left, right = mine.get(number, {}), theirs.get(number, {})
        same_type = {key for key in left.keys() & right.keys() if left[key][0] == right[key][0]}
        same_value = {key for key in same_type if left[key][1] == right[key][1]}
        ways = {
            "lacks": left.keys() - right.keys(),
            "has besides": right.keys() - left.keys(),
            "has of another type": (left.keys() & right.keys()) - same_type,
            "has with another value": same_type - same_value,
            "has with another expiry": {key for key in same_value if left[key][2] != right[key][2]},
        }
        for way, keys in ways.items():
            if keys:
                some = ", ".join(key.decode(errors="replace")[:40] for key in sorted(keys)[:EXAMPLES])
                lines.append(f"db{number}: {way} {len(keys)} keys ({some}{', …' if len(keys) > EXAMPLES else ''})")
    return lines


def count(data: DataSet) -> dict[str, int]:
    """How many keys each database holds."""
    return {f"db{number}": len(contents) for number, contents in sorted(data.items())}
