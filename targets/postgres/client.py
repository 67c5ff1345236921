"""The client: writes to the primary, promotes a standby, and compares the nodes with each other."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import psycopg

from zebra.errors import Failed
from zebra.node import Node
from zebra.targets.postgres import data
from zebra.targets.postgres.data import Connection, DataSet, copy_in, copy_out, differences, read_data
from zebra.targets.postgres.server import PORT, connect
from zebra.targets.postgres.space import shown

CONNECT_S = 10.0
"""Bound of one attempt to connect."""

WORK_S = 30.0
"""Bound of the work on one connection."""

ALIKE_S = 15.0
"""Within so long of the last write all nodes hold the same data."""

CONFIRM_S = 10.0
PROMOTE_S = 20.0
LOOK_S = 0.02
BROKEN = (OSError, TimeoutError, psycopg.Error)

STATE = (
    "SELECT pg_is_in_recovery(), (SELECT n FROM mark), "
    "CASE WHEN pg_is_in_recovery() THEN pg_get_wal_replay_pause_state() ELSE '' END, "
    "(SELECT pid FROM pg_stat_wal_receiver WHERE status = 'streaming')"
)
"""Of one node: is it a standby, the last mark that it holds, whether it replays, and who receives for it."""

PREPARED = "SELECT gid FROM pg_prepared_xacts ORDER BY 1"
DIFFER = (
    "SELECT coalesce(k.id, c.id) FROM kinds k FULL JOIN copied c USING (id) "
    "WHERE k.id IS NULL OR c.id IS NULL OR k.* *<> c.* ORDER BY 1"
)
"""The rows that are not the same, bit by bit, in the table and in its copy."""

T = TypeVar("T")


def lasting(problem: str) -> bool:
    """Whether a problem does not go away by waiting."""
    return problem.startswith(("does not replay", "is a primary too"))


class PostgresClient:
    """Knows who the primary is, because it is the one that promotes."""

    def __init__(self, node: Node[Any]) -> None:
        self.node, self.primary, self.written, self.rounds = node, "primary-1", 0, 0
        self.held: DataSet = {}
        self.fenced: set[str] = set()
        self.form = "text" if node.variant("bug.text_values") else "binary"

    def servers(self) -> tuple[str, ...]:
        """The servers that are meant to run and to follow the primary, which comes first."""
        up = (*self.node.up("primary"), *self.node.up("standby"))
        return tuple(sorted({*up} - self.fenced, key=lambda name: (name != self.primary, name)))

    async def on(self, name: str, work: Callable[[Connection], Awaitable[T]], timeout_s: float = WORK_S) -> T:
        """Work on a connection of its own to a server. Raises OSError, TimeoutError or psycopg.Error."""
        connection = await connect(*await self.node.reach(name, PORT), timeout_s=CONNECT_S)
        try:
            async with asyncio.timeout(timeout_s):
                return await work(connection)
        finally:
            await connection.close()

    async def sql(self, name: str, *statements: str) -> list[list[Any]]:
        """Statements on a server; the rows of the last one, if it has any."""

        async def work(connection: Connection) -> list[list[Any]]:
            for statement in statements:
                cursor = await connection.execute(statement)
            return [list(row) for row in await cursor.fetchall()] if cursor.description else []

        return await self.on(name, work)

    # -- writing ---------------------------------------------------------------------------------------------

    async def load(self, tag: str, configs: dict[str, Any]) -> None:
        """A round of everything on the primary, transactions left prepared among it if its configuration allows them.

        `configs` are the nodes' configurations.
        """
        self.held = {}
        self.rounds += 1
        limit = shown(configs[self.primary]).get("max_prepared_transactions", 0)
        statements = data.statements(self.rounds, tag, self.node.random)
        async with self.node.op("load", tag=tag, to=self.primary):
            try:
                open_ones = len(await self.sql(self.primary, *statements, PREPARED))
                more = min(int(limit), data.PREPARED_MAX) - open_ones
                await self.sql(self.primary, "SELECT 1", *data.prepare_some(tag, more))
            except psycopg.Error as error:
                raise Failed(f"{self.primary} refuses to be written: {one_line(error)}") from None

    async def finish_prepared(self) -> int:
        """Commit what is prepared on the primary: how many transactions that was."""
        names = [row[0] for row in await self.sql(self.primary, PREPARED)]
        await self.sql(self.primary, "SELECT 1", *(f"COMMIT PREPARED '{name}'" for name in names))
        return len(names)

    async def write(self, within_s: float = CONFIRM_S) -> int:
        """Commit one row of its own and wait until the standbys show it: how many do."""
        self.held = {}
        self.written += 1
        key, value = f"{self.node.name}:{self.written}", f"v{self.node.random.getrandbits(32)}"
        if self.written == 1 and self.node.variant("bug.unlogged"):
            await self.sql(self.primary, "ALTER TABLE kept SET UNLOGGED")
        standbys = self.servers()[1:]
        async with self.node.op("write", key=key, value=value) as op:
            await self.sql(self.primary, f"INSERT INTO kept VALUES ('{key}', '{value}')")
            until = time.monotonic() + within_s
            seen = await asyncio.gather(*(self._sees(name, key, until) for name in standbys))
            op.note(confirmed=sum(seen), standbys=len(standbys))
        return sum(seen)

    async def _sees(self, name: str, key: str, until: float) -> bool:
        """Whether a standby shows a row before the time is over; of an unlogged table it can only show the mark."""
        unlogged = self.node.variant("bug.unlogged")
        query = "SELECT 1" if unlogged else f"SELECT value FROM kept WHERE key = '{key}'"
        while time.monotonic() < until:
            try:
                if await asyncio.wait_for(self.sql(name, query), max(until - time.monotonic(), LOOK_S)):
                    return True
            except BROKEN:
                pass
            await asyncio.sleep(LOOK_S)
        return False

    async def write_back(self, source: str, to: str) -> None:
        """Read the table of all kinds from one node, write it on another, which is a primary, and compare it there."""

        async def read(connection: Connection) -> bytes:
            return await copy_out(connection, "SELECT * FROM kinds ORDER BY id", self.form)

        read_rows = await self.on(source, read)

        async def write(connection: Connection) -> list[int]:
            await connection.execute("TRUNCATE copied")
            await copy_in(connection, "copied", read_rows, self.form)
            return [row[0] for row in await (await connection.execute(DIFFER)).fetchall()]

        differs = await self.on(to, write)
        self.node.emit("postgres.written_back", source=source, to=to, differs=differs)

    # -- comparing -------------------------------------------------------------------------------------------

    async def compare(self, phase: str, within_s: float = ALIKE_S) -> None:
        """Wait until all servers that should run are well and have what was written before; then compare their data
        with the primary's.

        How they differ is emitted as `postgres.compared`, and what is wrong with a node, as `postgres.health`.
        """
        until, mark = time.monotonic() + within_s, 0
        while True:
            try:
                mark = mark or await self._mark()
            except psycopg.errors.ReadOnlySqlTransaction as error:
                problems = {self.primary: f"refuses to be written: {one_line(error)}"}
                break
            problems = await self._state(mark) if mark else {self.primary: "cannot be written"}
            if not problems or any(map(lasting, problems.values())) or time.monotonic() > until:
                break
            await asyncio.sleep(LOOK_S)
        if not problems:
            differs = await self._differs()
            self.node.emit("postgres.compared", phase=phase, differs=differs, tables=len(self.held))
        self.node.emit("postgres.health", phase=phase, problems=problems)

    async def _mark(self) -> int:
        """Write the next mark, after all that was written before; 0 if the primary cannot be reached.

        Raises ReadOnlySqlTransaction if it takes nothing, which does not go away by waiting.
        """
        try:
            [[mark]] = await self.sql(self.primary, "UPDATE mark SET n = n + 1 RETURNING n")
        except psycopg.errors.ReadOnlySqlTransaction:
            raise
        except BROKEN:
            return 0
        return int(mark)

    async def _state(self, mark: int) -> dict[str, str]:
        """What is wrong with each node, by name."""
        found = {name: await self._wrong(name, mark) for name in self.servers()}
        return {name: wrong for name, wrong in found.items() if wrong}

    async def _wrong(self, name: str, mark: int) -> str:
        try:
            [[standby, held, replays, receiver]] = await self.sql(name, STATE)
        except BROKEN as error:
            return f"does not answer: {one_line(error)}"
        if name == self.primary:
            return "is a standby" if standby else ""
        if not standby:
            return "is a primary too"
        if replays != "not paused":
            return f"does not replay: {replays}"
        return "receives nothing" if receiver is None else f"is {mark - held} marks behind" if held < mark else ""

    async def _differs(self) -> dict[str, list[str]]:
        """How the data of the others differs from the primary's."""
        found: dict[str, list[str]] = {}
        for name in self.servers():
            try:
                held = await self.on(name, read_data)
            except BROKEN as error:
                return {name: [f"cannot be read: {one_line(error)}"]}
            if name == self.primary:
                self.held = held
            elif lines := differences(self.held, held):
                found[name] = lines
        return found

    async def idle(self, for_s: float) -> None:
        """Do nothing for a while, in which no standby may lose its primary."""
        before = await self._receivers()
        await asyncio.sleep(for_s)
        after = await self._receivers()
        lost = {name: "lost its primary while nothing happened" for name in before if after[name] != before[name]}
        self.node.emit("postgres.health", phase="idle", problems=lost)

    async def _receivers(self) -> dict[str, Any]:
        return {name: (await self.sql(name, STATE))[0][3] for name in self.servers()[1:]}

    # -- who leads -------------------------------------------------------------------------------------------

    async def promote(self, name: str, fenced: bool = False) -> None:
        """Make a standby the primary, and compare what it holds with what a comparison just before it saw.

        `fenced` says that the old primary goes on running, and nobody asks it for anything but what it holds.
        """
        before = {table: held for table, held in self.held.items() if table != "mark"}
        await self.sql(name, "SELECT pg_promote(false)")
        until = time.monotonic() + PROMOTE_S
        while (await self.sql(name, "SELECT pg_is_in_recovery()"))[0][0]:
            if time.monotonic() > until:
                raise Failed(f"{name} was not promoted within {PROMOTE_S:g} s")
            await asyncio.sleep(LOOK_S)
        if fenced:
            self.fenced.add(self.primary)
        self.primary = name
        self.node.emit("postgres.promoted", to=name)
        if before:
            held = await self.on(name, read_data)
            lines = differences(before, {table: held[table] for table in held if table != "mark"})
            differs = {name: lines} if lines else {}
            self.node.emit("postgres.compared", phase="promotion", differs=differs, tables=len(held))

    async def read_back(self) -> None:
        """Read every row that `write` may have written from the primary: event `postgres.kept`."""
        values = dict(await self.sql(self.primary, "SELECT key, value FROM kept"))
        self.node.emit("postgres.kept", on=self.primary, values=values)


def one_line(error: BaseException) -> str:
    """An error for people."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
