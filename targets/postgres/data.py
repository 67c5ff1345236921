"""What the nodes hold: tables of every kind of value, what is written to them, and how two nodes' contents differ.

Compared are typed values: what `COPY … (FORMAT binary)` sends is a value's exact content, whatever the node's settings
say about how it looks as text. All literals are of forms that no setting reads in another way.
"""

from __future__ import annotations

from random import Random
from struct import unpack_from
from typing import Any

import psycopg

Connection = psycopg.AsyncConnection[Any]
Rows = tuple[tuple[bytes | None, ...], ...]
DataSet = dict[str, Rows]
"""The rows of each table or query, each value in its type's binary form."""

KINDS = {
    "flag": "bool", "small": "int2", "whole": "int4", "big": "int8", "exact": "numeric", "near": "float4",
    "double": "float8", "word": "text", "padded": "char(8)", "raw": "bytea", "day": "date", "moment": "timestamp",
    "instant": "timestamptz", "hour": "time", "zoned": "timetz", "span": "interval", "key": "uuid", "document": "jsonb",
    "list": "int[]", "words": "text[]", "address": "inet", "network": "cidr", "bits": "varbit", "range": "int4range",
    "place": "point", "search": "tsvector",
}  # fmt: skip
"""The columns of the table `kinds`."""

COLLATIONS = ("und-x-icu", "pg_unicode_fast", "pg_c_utf8", "ucs_basic", "C")
"""Collations that text is ordered by, as far as the server has them."""

WORDS = (
    "Zebra",
    "zebra",
    "Äpfel",
    "apfel",
    "öl",
    "Öl",
    "ß",
    "ss",
    "éclair",
    "eclair",
    "ñandú",
    "10",
    "9",
    "",
    " a",
    "à",
)
EVENTS = 300
PREPARED_MAX = 2
"""So many transactions are left prepared at most; fewer where the node allows fewer."""

EXAMPLES = 3
"""How many rows a difference names."""

SCHEMA = (
    f"CREATE TABLE kinds (id int PRIMARY KEY, {', '.join(f'{name} {kind}' for name, kind in KINDS.items())})",
    "CREATE TABLE copied (LIKE kinds INCLUDING INDEXES)",
    "CREATE TABLE words (id int PRIMARY KEY, word text)",
    "CREATE TABLE events (id int PRIMARY KEY, at timestamptz, kind text, body jsonb, place point, "
    "twice int GENERATED ALWAYS AS (id * 2) STORED) PARTITION BY RANGE (id)",
    "CREATE TABLE events_1 PARTITION OF events FOR VALUES FROM (0) TO (100000)",
    "CREATE TABLE events_2 PARTITION OF events DEFAULT",
    "CREATE INDEX ON events USING hash (kind)",
    "CREATE INDEX ON events USING gin (body)",
    "CREATE INDEX ON events USING gist (place)",
    "CREATE INDEX ON events USING brin (at)",
    "CREATE TABLE large (id int PRIMARY KEY, body text, noise text)",
    "CREATE TABLE staging (id int)",
    "CREATE TABLE waiting (id text PRIMARY KEY)",
    "CREATE TABLE kept (key text PRIMARY KEY, value text)",
    "CREATE TABLE mark (id int PRIMARY KEY, n int)",
    "INSERT INTO mark VALUES (1, 0)",
)


def collation_indexes(names: list[str]) -> list[str]:
    """Statements that make an index of the words for each collation of these that we know."""
    return [f'CREATE INDEX ON words (word COLLATE "{name}", id)' for name in COLLATIONS if name in names]


def _kinds(first: int, tag: str) -> str:
    """Rows of `kinds`: usual values, extremes, what is no number, what is nearly nothing, and nothing."""
    unit = f"md5('{tag}')::uuid"
    rows = [
        f"true, 7, 70000, 7000000000, 1234567890.0123456789, 1.5, 0.1::float8 + 0.2::float8, '{tag}', 'padded', "
        "decode('00ff5c27', 'hex'), '2024-02-03', '2024-02-03 04:05:06.789', '2024-02-03 04:05:06.789+05:30', "
        "'23:59:59.999999', '12:00:00+03', make_interval(years => 1, months => 2, days => 3, hours => 4), "
        f"{unit}, '{{\"a\": [1, 2.50, null], \"b\": {{}}}}', ARRAY[1, 2, NULL], ARRAY['a,b', '\"', chr(92), ''], "
        "'10.1.2.3/8', '10.0.0.0/8', B'10110', int4range(1, 10), point(1.5, -2.5), to_tsvector('simple', 'a b a')",
        "false, -32768, -2147483648, -9223372036854775808, 'NaN', 'NaN', '-Infinity', '', '', decode('', 'hex'), "
        "'-infinity', 'infinity', 'infinity', '00:00', '24:00:00-12', make_interval(days => -1, hours => -2), "
        f"{unit}, 'null', ARRAY[]::int[], ARRAY[]::text[], '::1', '::/0', B'', 'empty', point('Infinity', 'NaN'), ''",
        "NULL, 0, 0, 0, 0.000, '-0', '-0', ' ', ' ', decode('5c78', 'hex'), '4713-01-01 BC', '0001-01-01', "
        "'1970-01-01 00:00:00+00', '12:00', '12:00:00+00', make_interval(months => -1, days => 1, secs => -0.000001), "
        f"{unit}, '1e-7', ARRAY[[1, 2], [3, 4]], ARRAY['NULL', NULL], '1.2.3.4', '1.2.3.0/24', B'0', "
        "int4range(NULL, 5), point(0, 0), 'w:1A'",
        "true, 32767, 2147483647, 9223372036854775807, 1e-300, 1e-45, 5e-324, repeat('long ', 400), 'x', "
        "decode(repeat('00ff', 600), 'hex'), '5874897-12-31', '294276-12-31', '294276-12-31 00:00:00+00', "
        f"'00:00:00.000001', '00:00:00+15:59', make_interval(hours => -2), {unit}, '[]', ARRAY[1], ARRAY['x'], "
        "'::ffff:1.2.3.4', '1::/16', B'1111111111111', '[,]', point(1e300, 1e-300), 'a:1 b:2'",
        ", ".join(["NULL"] * len(KINDS)),
    ]
    return "INSERT INTO kinds VALUES " + ", ".join(f"({first + i}, {row})" for i, row in enumerate(rows))


def statements(number: int, tag: str, random: Random) -> list[str]:
    """One round of writes, each statement a transaction; rounds have different numbers."""
    first, seed = number * 10_000, random.randrange(1 << 30)
    words = ", ".join(f"({first + i}, '{word}')" for i, word in enumerate(WORDS))
    return [
        _kinds(first, tag),
        f"INSERT INTO words VALUES {words}",
        f"INSERT INTO events SELECT i, timestamptz '2024-01-01 00:00:00+00' + make_interval(secs => i), "
        f"'kind ' || i % 7, jsonb_build_object('n', i, 'of', '{tag}'), point(i % 10, i % 17) "
        f"FROM generate_series({first}, {first + EVENTS - 1}) i",
        f"UPDATE events SET kind = kind || '!', body = body || '{{\"seen\": true}}' WHERE id >= {first} AND id % 3 = 0",
        f"DELETE FROM events WHERE id >= {first} AND id % 5 = 0",
        f"UPDATE events SET id = id + 100000 WHERE id >= {first} AND id < 100000 AND id % 11 = 0",
        f"INSERT INTO large SELECT {first}, repeat('{tag} ', 20000), "
        f"(SELECT string_agg(md5(i::text || {seed}::text), '') FROM generate_series(1, 1500) i)",
        f"SELECT lo_from_bytea({20_000 + number}, decode(repeat('00017f80ff', 1000), 'hex'))",
        f'CREATE TABLE "late {tag}" AS SELECT id, word FROM words',
        f'CREATE INDEX ON "late {tag}" (word)',
        f'CREATE MATERIALIZED VIEW "seen {tag}" AS SELECT kind, count(*) AS number FROM events GROUP BY kind',
        f"INSERT INTO staging SELECT generate_series({first}, {first + 50})",
        "TRUNCATE staging",
        "VACUUM (FREEZE, ANALYZE) events",
        "BEGIN; LOCK TABLE kinds, words, events, large, staging, kept IN ACCESS EXCLUSIVE MODE; "
        f"INSERT INTO staging VALUES ({first}); SAVEPOINT a; INSERT INTO staging VALUES (-1); ROLLBACK TO SAVEPOINT a; "
        "COMMIT",
    ]


def prepare_some(tag: str, count: int) -> list[str]:
    """Statements that leave so many transactions prepared."""
    return [f"BEGIN; INSERT INTO waiting VALUES ('{tag} {i}'); PREPARE TRANSACTION '{tag} {i}'" for i in range(count)]


# -- reading -----------------------------------------------------------------------------------------------------

PLAIN = "SET enable_seqscan = off; SET gin_fuzzy_search_limit = 0"
"""For reading: through the indexes, and all that they know."""

TABLES = (
    "SELECT relname::text FROM pg_class WHERE relkind IN ('r', 'p', 'm') AND NOT relispartition "
    "AND relnamespace = 'public'::regnamespace ORDER BY 1"
)
COLUMNS = (
    "SELECT attrelid::int4, attname::text, atttypid::int4, indexrelid::int4 FROM pg_attribute LEFT JOIN pg_index "
    "ON indrelid = attrelid WHERE attrelid IN (SELECT oid FROM pg_class WHERE relnamespace = 'public'::regnamespace) "
    "AND attnum > 0 ORDER BY 1, 2, 4"
)
LARGE_OBJECTS = "SELECT loid::int8, pageno, data FROM pg_largeobject ORDER BY 1, 2"
BY_INDEX = {
    "events by hash": "SELECT id FROM events WHERE kind = 'kind 3' ORDER BY 1",
    "events by gin": "SELECT id FROM events WHERE body @> '{\"seen\": true}' ORDER BY 1",
    "events by gist": "SELECT id FROM events WHERE place <@ box(point(0, 0), point(4, 4)) ORDER BY 1",
    "events by brin": "SELECT id FROM events WHERE at > timestamptz '2024-01-01 03:00:00+00' ORDER BY 1",
}


async def read_data(connection: Connection) -> DataSet:
    """Every table, the large objects, and what indexes find. Raises psycopg.Error where the node refuses."""
    await connection.execute(PLAIN)
    tables = [row[0] for row in await (await connection.execute(TABLES)).fetchall()]
    collations = [row[0] for row in await (await connection.execute("SELECT collname FROM pg_collation")).fetchall()]
    queries = {table: f'SELECT * FROM "{table}" ORDER BY 1' for table in tables}
    queries |= {"columns": COLUMNS, "large objects": LARGE_OBJECTS, **BY_INDEX}
    for name in COLLATIONS:
        if name in collations:
            queries[f"words by {name}"] = f'SELECT id FROM words ORDER BY word COLLATE "{name}", id'
    return {name: rows(await copy_out(connection, query)) for name, query in queries.items()}


async def copy_out(connection: Connection, query: str, form: str = "binary") -> bytes:
    """All that a query answers, in a format of COPY."""
    async with connection.cursor() as cursor, cursor.copy(f"COPY ({query}) TO STDOUT (FORMAT {form})") as copy:
        return b"".join([bytes(part) async for part in copy])


async def copy_in(connection: Connection, table: str, data: bytes, form: str = "binary") -> None:
    """Write to a table what `copy_out` gave."""
    async with connection.cursor() as cursor, cursor.copy(f"COPY {table} FROM STDIN (FORMAT {form})") as copy:
        await copy.write(data)


def rows(data: bytes) -> Rows:
    """The rows of a binary COPY."""
    (extension,) = unpack_from(">i", data, 15)
    at, found = 19 + extension, []
    while (count := unpack_from(">h", data, at)[0]) >= 0:
        at, row = at + 2, list[bytes | None]()
        for _ in range(count):
            (size,) = unpack_from(">i", data, at)
            at += 4
            row.append(None if size < 0 else data[at : at + size])
            at += max(size, 0)
        found.append(tuple(row))
    return tuple(found)


def differences(mine: DataSet, theirs: DataSet) -> list[str]:
    """How `theirs` differs from `mine`, a line for each table and way of differing."""
    lines = [f"lacks {name}" for name in mine if name not in theirs]
    lines += [f"has {name} besides" for name in theirs if name not in mine]
    for name, own in mine.items():
        other = theirs.get(name, own)
        if own == other:
            continue
        ours, others = {row[0]: row for row in own}, {row[0]: row for row in other}
        ways = {
            "lacks": ours.keys() - others.keys(),
            "has besides": others.keys() - ours.keys(),
            "has other values in": {key for key in ours.keys() & others.keys() if ours[key] != others[key]},
        }
        found = [f"{name}: {way} {len(keys)} rows ({_some(keys)})" for way, keys in ways.items() if keys]
        lines += found or [f"{name}: has another order or number of rows"]
    return lines


def _some(keys: set[bytes | None]) -> str:
    shown = sorted(_key(key) for key in keys)
    return ", ".join(shown[:EXAMPLES]) + (", …" if len(keys) > EXAMPLES else "")


def _key(key: bytes | None) -> str:
    """A row's first value for people: a number if it has a number's size."""
    if key is None:
        return "NULL"
    return str(int.from_bytes(key, "big", signed=True)) if len(key) == 4 else key.decode(errors="replace")[:40]
