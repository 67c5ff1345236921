"""What is written: every type of value, in the first database and in the last that the node written to allows.

Sizes follow the configurations of all nodes: collections with as many entries as each limit at which a node changes how
it stores them, and with one more; and a value of 70 % of the node's own limit for one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from random import Random
from typing import Any

from zebra.targets.valkey.resp import Argument
from zebra.targets.valkey.texts import renamed

Command = tuple[Argument, ...]

ENTRIES_MAX = 2100
"""Collections are no longer than this, whatever the limits."""

LARGEST = 1_500_000
"""Bytes of the largest value that is written where the writer's limits allow it: above others' least limits."""

NEAR = 0.7
"""How near a limit the largest value comes."""

TIMEOUT_S_MAX = 5
"""A replication timeout of no more than so long is waited for."""

LIVES_MS = (60_000, 150)
"""Times to live: one that outlives the run, one that ends in it."""

SCRIPT = (
    "redis.call('SET', KEYS[1], ARGV[1]); redis.call('RPUSH', KEYS[2], ARGV[1], ARGV[2]); "
    "return redis.call('INCR', KEYS[3])"
)

_LENGTHS = {
    "hash-max-listpack-entries": "hash", "set-max-listpack-entries": "set", "set-max-intset-entries": "intset",
    "zset-max-listpack-entries": "zset", "stream-node-max-entries": "stream", "list-max-listpack-size": "list",
}  # fmt: skip
_LARGEST = ("proto-max-bulk-len", "client-query-buffer-limit")
_SIZES = {"hash-max-listpack-value": "hash", "set-max-listpack-value": "set", "zset-max-listpack-value": "zset"}


def databases(nodes: Iterable[Mapping[str, Any]]) -> tuple[int, ...]:
    """The first database and the last that all of these nodes allow."""
    last = min(int(config.get("databases", 1)) for config in nodes) - 1
    return (0, last) if last else (0,)


def idle_s(nodes: Iterable[Mapping[str, Any]], least_s: float) -> float:
    """How long to do nothing: past any node's replication timeout that can be waited for, twice.

    Once would not do: a primary that pings more rarely may do so in the middle. Timeouts are looked at each second.
    """
    timeouts = [int(config["repl-timeout"]) for config in nodes if "repl-timeout" in config]
    short = [timeout for timeout in timeouts if timeout <= TIMEOUT_S_MAX]
    return max([least_s, *(2 * (timeout + 1.5) for timeout in short)])


def around(limit: int) -> tuple[int, ...]:
    """The lengths around a limit, a small one if it is none."""
    return tuple(n for n in (limit, limit + 1) if 0 < n <= ENTRIES_MAX) or (5,)


def commands(tag: str, writer: Mapping[str, Any], nodes: Iterable[Mapping[str, Any]], random: Random) -> list[Command]:
    """One round of writes for one database. `writer` is the configuration of the node written to, `nodes` are all."""
    nodes = list(nodes)
    wanted = [_collection("list", f"{tag}:list:5", list("abcde"))]
    for name, kind in _LENGTHS.items():
        for length in sorted({n for config in nodes if name in config for n in around(int(config[name]))}):
            wanted.append(_collection(kind, f"{tag}:{kind}:{length}", [str(i) for i in range(length)]))
    for name, kind in _SIZES.items():
        for size in sorted({n for config in nodes if name in config for n in around(int(config[name]))}):
            wanted.append(_collection(kind, f"{tag}:{kind}:value:{size}", ["v" * size, "w" * max(size - 1, 1)]))
    limit = min((int(writer[name]) for name in _LARGEST if name in writer), default=LARGEST)
    wanted.append(("SET", "large", random.randbytes(1000) * (min(int(NEAR * limit), LARGEST) // 1000)))
    wanted += [
        ("SET", f"{tag}:string", random.randbytes(100)),
        ("SET", f"{tag}:number", random.randrange(1 << 40)),
        (renamed(str(writer.get("rename-command", "")), "APPEND"), f"{tag}:string", "more"),
        ("SETBIT", f"{tag}:bits", 1000, 1),
        ("PFADD", f"{tag}:hll", *range(300)),
        ("SADD", f"{tag}:popped", *range(40)),
        ("SPOP", f"{tag}:popped", 7),
        ("RPOPLPUSH", f"{tag}:list:5", f"{tag}:moved"),
        *(("XADD", f"{tag}:trimmed", "MAXLEN", "~", 60, "*", "n", i) for i in range(130)),
        ("XGROUP", "CREATE", f"{tag}:trimmed", "group", "0"),
        ("EVAL", SCRIPT, 3, f"{tag}:s1", f"{tag}:s2", f"{tag}:s3", "a", "b"),
        ("MULTI",),
        ("INCRBY", f"{tag}:t1", 5),
        ("HINCRBYFLOAT", f"{tag}:t2", "f", "10.5"),
        ("DEL", f"{tag}:moved"),
        ("EXEC",),
    ]  # fmt: skip
    for life_ms in LIVES_MS:
        wanted += [("SET", f"{tag}:expires:{life_ms}:{i}", i, "PX", life_ms + i) for i in range(10)]
        some = f"{tag}:list:expires:{life_ms}"
        wanted += [("RPUSH", some, 1, 2), ("PEXPIRE", some, life_ms)]
    return wanted


def _collection(kind: str, key: str, entries: list[str]) -> Command:
    if kind == "hash":
        return ("HSET", key, *(part for entry in entries for part in (entry, entry)))
    if kind == "zset":
        return ("ZADD", key, *(part for i, entry in enumerate(entries) for part in (i / 3, entry)))
    if kind == "stream":
        return ("EVAL", "for i=1,ARGV[1] do redis.call('XADD', KEYS[1], i .. '-1', 'n', i) end", 1, key, len(entries))
    if kind == "set":
        return ("SADD", key, *(f"m{entry}" for entry in entries))
    return ("SADD", key, *entries) if kind == "intset" else ("RPUSH", key, *entries)
