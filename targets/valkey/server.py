"""The roles: a server under a configuration file of its own, as primary or as replica."""

from __future__ import annotations

import asyncio
import os
import time
from asyncio.subprocess import PIPE, STDOUT
from typing import Any

from zebra.errors import TargetError
from zebra.node import Node
from zebra.targets.valkey.resp import ReplyError, Resp
from zebra.targets.valkey.space import OWN, config_type, server_path, shown, text_of, texts

PORT = 6379
START_S = 10.0
LOOK_S = 0.01
STOP_S = 2.0
ASK_S = 0.5
LOG_LINES, END_BYTES = 3, 4096
"""How much of its log a server that ended unexpectedly is quoted with: lines, out of so many bytes."""


class Server:
    """Renders the file, starts the server, compares what it shows with what the file says, and waits for its end.

    `follows` is whom it replicates when it starts and no other server says that it is the primary.
    """

    follows = ""

    def __init__(self, node: Node[Any]) -> None:
        self.node = node

    async def run(self) -> None:
        primary = await self.primary()
        host, port = self.node.bind(PORT)
        lines = [f"bind {host}", f"port {port}", f"dir {self.node.directory}", 'save ""', *self.assigned()]
        if primary:
            lines.append("replicaof {} {}".format(*await self.node.reach(primary, PORT)))
        file = self.node.directory / "valkey.conf"
        file.write_text("\n".join(lines) + "\n")
        environment = {**os.environ, **self.node.environment}
        process = await asyncio.create_subprocess_exec(
            server_path(), str(file), cwd=self.node.directory, env=environment, stdout=PIPE, stderr=STDOUT
        )
        end = bytearray()
        passing = asyncio.create_task(pass_on(process, end))
        try:
            await self.report(await self.answers(process, host, port))
            await self.node.ready()
            await process.wait()
        except (OSError, TimeoutError, ReplyError):
            if process.returncode is None:
                raise
        finally:
            await stop(process)
            await asyncio.wait([passing], timeout=STOP_S)
        last = " | ".join(end.decode(errors="replace").split("\n")[-LOG_LINES - 1 :]).strip(" |")
        raise TargetError(f"valkey-server ended with {process.returncode}: {last}")

    def assigned(self) -> list[str]:
        """The lines of those parameters whose values are not the server's own defaults."""
        own = shown(config_type()())
        values = shown(self.node.config).items()
        return [f"{name} {text_of(value)}" for name, value in values if name in OWN or value != own[name]]

    async def primary(self) -> str:
        """Whom to replicate: the server that says it is the primary, if any does, else `follows`."""
        for name in (*self.node.peers("replica"), *self.node.peers("primary")):
            if await self.says(name) == "master":
                return name
        return self.follows

    async def says(self, name: str) -> str:
        """What another server is: "master", "slave", or "" if it does not answer."""
        try:
            connection = await Resp.connect(*await self.node.reach(name, PORT), timeout_s=ASK_S)
            try:
                role = await connection.call("ROLE")
            finally:
                connection.close()
        except (OSError, EOFError, TimeoutError, ReplyError):
            return ""
        return str(role[0].decode())

    async def answers(self, process: asyncio.subprocess.Process, host: str, port: int) -> Resp:
        """A connection to the server, once it answers."""
        until = time.monotonic() + START_S
        while True:
            try:
                connection = await Resp.connect(host, port)
                await connection.call("PING")
                return connection
            except ReplyError:  # such as LOADING, or MASTERDOWN
                return connection
            except (OSError, EOFError, TimeoutError):
                if process.returncode is not None or time.monotonic() > until:
                    raise
                await asyncio.sleep(LOOK_S)

    async def report(self, connection: Resp) -> None:
        """Say which parameters have another value in the live server than in this node's configuration."""
        flat = [part.decode() for part in await connection.call("CONFIG", "GET", "*")]
        connection.close()
        live = dict(zip(flat[::2], flat[1::2], strict=True))
        wanted = {name: text_of(value) for name, value in shown(self.node.config).items() if name not in texts()}
        differs = {name: live.get(name, "") for name, value in wanted.items() if live.get(name) != value}
        self.node.emit("valkey.applied", parameters=len(wanted) - len(differs), differs=differs)
        if differs:
            self.node.emit("node.unapplied", parameters=[f"valkey.{name}" for name in sorted(differs)])


class Primary(Server):
    """Begins as the primary; started again it follows the one that was promoted meanwhile."""


class Replica(Server):
    """Follows the primary."""

    follows = "primary-1"


async def pass_on(process: asyncio.subprocess.Process, end: bytearray) -> None:
    """Make what a server writes this node's own output; the last of it is kept in `end`."""
    assert process.stdout is not None
    while data := await process.stdout.read(1 << 16):
        print(data.decode(errors="replace"), end="")
        end += data
        del end[:-END_BYTES]


async def stop(process: asyncio.subprocess.Process) -> None:
    """End a server: asked first, then killed."""
    if process.returncode is not None:
        return
    process.terminate()
    try:
        async with asyncio.timeout(STOP_S):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()
