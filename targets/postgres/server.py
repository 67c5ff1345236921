"""The roles: a server with a data directory and a configuration file of its own, as primary or as hot standby."""

from __future__ import annotations

import asyncio
import ctypes
import os
import shutil
import signal
import stat
import time
from asyncio.subprocess import PIPE, STDOUT
from pathlib import Path
from typing import Any

import psycopg

from zebra.errors import TargetError
from zebra.node import Node
from zebra.targets.postgres.install import (
    DATABASE,
    SUPERUSER,
    as_user,
    complaint,
    environment,
    own_directory,
    program,
    write_file,
)
from zebra.targets.postgres.space import assigned, number, render
from zebra.targets.postgres.template import HBA, copy_template

PORT = 5432
START_S = 30.0
LOOK_S = 0.01
ASK_S = 1.0
STOP_S = 4.0
"""A server has so long for a fast shutdown, which waits until its standbys have all."""

END_BYTES = 1 << 20
"""How much of the end of its log is looked at for the reason why a server ended."""

NO_STANDBY = "Hot standby mode is disabled"
PLAIN = "sslmode=disable gssencmode=disable connect_timeout=2"
SHORTENED = "SELECT pg_relation_filepath('\"late template\"')"
"""The file of a table that the prepared data holds, read without an index: a planted bug empties it."""

IPC_RMID = 0


async def connect(host: str, port: int, timeout_s: float) -> psycopg.AsyncConnection[Any]:
    """A connection that commits each statement. Raises OSError, TimeoutError or psycopg.Error."""
    where = f"host={host} port={port} user={SUPERUSER} dbname={DATABASE} {PLAIN}"
    async with asyncio.timeout(timeout_s):
        return await psycopg.AsyncConnection.connect(where, autocommit=True)


class Server:
    """Makes its data directory if it has none, starts the server, and waits for its end.

    `follows` is whom a standby asks for the data when no other server says that it is the primary.
    """

    follows = ""

    def __init__(self, node: Node[Any]) -> None:
        self.node = node
        self.home = node.directory / "server"
        self.data = self.home / "data"

    async def run(self) -> None:
        if not self.home.exists():
            own_directory(self.home)
        await bury(self.data)
        leader = await self.leader()
        await self.make_data(leader)
        host, port = self.node.bind(PORT)
        await self.write_settings(leader, host, port)
        since = os.fstat(1).st_size
        process = await asyncio.create_subprocess_exec(
            program("postgres"), "-D", str(self.data), cwd=self.home, env=self.environment(),
            stderr=STDOUT, **as_user(),
        )  # fmt: skip
        try:
            await self.report(await self.answers(process, host, port))
            await self.node.ready()
            await process.wait()
        except (OSError, TimeoutError, psycopg.Error):
            if process.returncode is None:
                raise
        finally:
            await stop(process)
        raise TargetError(f"postgres ended with {process.returncode}: {complaint(written(since))}")

    def environment(self) -> dict[str, str]:
        return environment(self.home) | self.node.environment

    # -- who leads -------------------------------------------------------------------------------------------

    async def leader(self) -> str:
        """The server to follow, "" to be the primary: another that says that it is one; else who it was before."""
        if other := await self.other_primary():
            return other
        if self.data.exists():
            return self.follows if (self.data / "standby.signal").exists() else ""
        until = time.monotonic() + START_S
        while self.follows and not (other := await self.other_primary()):
            if time.monotonic() > until:
                raise TargetError(f"{self.follows} is no primary to copy from after {START_S:g} s")
            await asyncio.sleep(LOOK_S)
        return other

    async def other_primary(self) -> str:
        """The other server that says it is a primary, if any does."""
        for name in (*self.node.peers("primary"), *self.node.peers("standby")):
            try:
                connection = await connect(*await self.node.reach(name, PORT), timeout_s=ASK_S)
                async with connection:
                    answer = await (await connection.execute("SELECT pg_is_in_recovery()")).fetchone()
            except (OSError, TimeoutError, psycopg.Error):
                continue
            if answer == (False,):
                return name
        return ""

    # -- the data directory ----------------------------------------------------------------------------------

    async def make_data(self, leader: str) -> None:
        """The prepared data for a first primary; for a standby a full copy, made anew if it was a primary before."""
        if leader and not (self.data / "standby.signal").exists():
            shutil.rmtree(self.data, ignore_errors=True)
            await self.full_copy(leader)
            self.node.emit("postgres.copied", of=leader)
        elif not self.data.exists():
            await copy_template(self.node.prepared, self.data)

    async def full_copy(self, leader: str) -> None:
        """A base backup. Raises TargetError with what the program says."""
        host, port = await self.node.reach(leader, PORT)
        where = f"host={host} port={port} user={SUPERUSER} {PLAIN}"
        process = await asyncio.create_subprocess_exec(
            program("pg_basebackup"), f"--dbname={where}", f"--pgdata={self.data}", "--checkpoint=fast", "--no-sync",
            "--wal-method=stream", cwd=self.home, env=self.environment(), stdout=PIPE, stderr=STDOUT, **as_user(),
        )  # fmt: skip
        said, _ = await process.communicate()
        if process.returncode:
            raise TargetError(f"pg_basebackup of {leader} failed: {complaint(said.decode(errors='replace'))}")

    async def write_settings(self, leader: str, host: str, port: int) -> None:
        """The configuration: what the target sets, and those parameters that have not the server's own default."""
        lines: dict[str, Any] = {"listen_addresses": host, "port": port, "unix_socket_directories": ""}
        lines |= assigned(self.node.config)
        if leader:
            address = "host={} port={}".format(*await self.node.reach(leader, PORT))
            lines["primary_conninfo"] = f"{address} user={SUPERUSER} application_name={self.node.name} {PLAIN}"
            if not self.node.variant("bug.no_signal"):
                write_file(self.data / "standby.signal", "")
        write_file(self.data / "postgresql.conf", render(lines))
        write_file(self.data / "postgresql.auto.conf", "")
        write_file(self.data / "pg_hba.conf", HBA)

    # -- the running server ----------------------------------------------------------------------------------

    async def answers(self, process: asyncio.subprocess.Process, host: str, port: int) -> psycopg.AsyncConnection[Any]:
        """A connection to the server, once it answers."""
        until, freed = time.monotonic() + START_S, False
        while True:
            freed = freed or self.free_on_exit()
            try:
                connection = await connect(host, port, START_S)
                if not freed:
                    self.free_on_exit()
                return connection
            except (OSError, TimeoutError, psycopg.Error) as error:
                if NO_STANDBY in str(error):
                    raise TargetError(f"it cannot be read: {NO_STANDBY}") from None
                if process.returncode is not None or time.monotonic() > until:
                    raise
                await asyncio.sleep(LOOK_S)

    async def report(self, connection: psycopg.AsyncConnection[Any]) -> None:
        """Say which parameters have another value in the live server than in this node's configuration."""
        async with connection:
            rows = await (await connection.execute("SELECT name, setting, vartype FROM pg_settings")).fetchall()
        live = {name: typed(setting, kind) for name, setting, kind in rows}
        wanted = {name: value for name, value in assigned(self.node.config).items() if name in live}
        differs = {name: live[name] for name, value in wanted.items() if live[name] != value}
        self.node.emit("postgres.applied", parameters=len(wanted) - len(differs), differs=differs)
        if differs:
            self.node.emit("node.unapplied", parameters=[f"postgres.{name}" for name in sorted(differs)])

    def free_on_exit(self) -> bool:
        """Let the server's System V segment go with its last process, as soon as it is there: a killed server would
        leave it behind. Whether that is done."""
        try:
            segment = (self.data / "postmaster.pid").read_text().splitlines()[6].split()
        except (FileNotFoundError, IndexError):
            return False
        return len(segment) == 2 and ctypes.CDLL(None).shmctl(int(segment[1]), IPC_RMID, None) == 0


class Primary(Server):
    """Begins as the primary; started again it follows the one that was promoted meanwhile."""


class Standby(Server):
    """Begins with a full copy of the primary and follows it."""

    follows = "primary-1"

    async def full_copy(self, leader: str) -> None:
        await super().full_copy(leader)
        if self.node.variant("bug.short_copy"):
            async with await connect(*await self.node.reach(leader, PORT), timeout_s=ASK_S) as connection:
                answer = await (await connection.execute(SHORTENED)).fetchone()
            assert answer is not None
            os.truncate(self.data / answer[0], 0)


def written(since: int) -> str:
    """The end of what was written to this node's output, a file, from a size on; "" where it is no file.

    The server writes there by itself: at its most talkative, passing that on would take longer than all else.
    """
    if not stat.S_ISREG(os.fstat(1).st_mode):
        return ""
    with open("/proc/self/fd/1", "rb") as output:
        output.seek(max(since, os.fstat(1).st_size - END_BYTES))
        return output.read().decode(errors="replace")


def typed(setting: str, kind: str) -> Any:
    """A live value as a configuration has it."""
    return setting == "on" if kind == "bool" else setting if kind in ("enum", "string") else number(setting, kind)


async def bury(data: Path) -> None:
    """Wait until no process of a server that was killed works in its directory: it may take them a moment to notice,
    and each leads a process group of its own."""
    left, place = True, os.path.realpath(data)
    while left:
        left = False
        for entry in os.scandir("/proc"):
            try:
                if entry.name.isdigit() and os.readlink(f"/proc/{entry.name}/cwd") == place:
                    os.kill(int(entry.name), signal.SIGKILL)
                    left = True
            except OSError:
                continue
        if left:
            await asyncio.sleep(LOOK_S)
    (data / "postmaster.pid").unlink(missing_ok=True)


async def stop(process: asyncio.subprocess.Process) -> None:
    """End a server: a fast shutdown, an immediate one, SIGKILL."""
    for how in (signal.SIGINT, signal.SIGQUIT, signal.SIGKILL):
        if process.returncode is not None:
            return
        process.send_signal(how)
        try:
            async with asyncio.timeout(STOP_S if how == signal.SIGINT else ASK_S):
                await process.wait()
        except TimeoutError:
            continue
