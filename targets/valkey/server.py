"""The roles: a server under a configuration file of its own, as primary or as replica."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from zebra.errors import TargetError
from zebra.node import Node
from zebra.programs import Program
from zebra.targets.valkey import certificates
from zebra.targets.valkey.resp import ReplyError, Resp
from zebra.targets.valkey.space import OWN, PORT, config_type, line_of, server_path, shown, shown_as, texts
from zebra.targets.valkey.texts import SECRET

START_S = 10.0
LOOK_S = 0.01
STOP_S = 4.0
"""A primary waits for its replicas before it saves and goes: they tell it once a second how far they are."""
ASK_S = 0.5


class Server:
    """Renders the file, starts the server, compares what it shows with what the file says, and waits for its end.

    `follows` is whom it replicates when it starts and no other server says that it is the primary.
    """

    follows = ""

    def __init__(self, node: Node[Any]) -> None:
        self.node, self.values = node, shown(node.config)

    async def run(self) -> None:
        primary = await self.primary()
        host, port = self.node.bind(PORT)
        plain = 0 if self.values["tls-port"] else port
        lines = [f"bind {host}", f"port {plain}", f"dir {self.node.directory}", *self.assigned()]
        if primary:
            lines.append("replicaof {} {}".format(*await self.node.reach(primary, PORT)))
        file = self.node.directory / "valkey.conf"
        file.write_text("\n".join(lines) + "\n")
        server = await Program.start(self.node, server_path(), str(file))
        try:
            await self.report(await self.answers(server, host, port))
            await self.node.ready()
            await server.wait()
        except (OSError, TimeoutError, ReplyError):
            if server.code is None:
                raise
        finally:
            await server.stop(STOP_S)
        raise TargetError(f"valkey-server ended with {server.code}: {server.last_lines()}")

    def assigned(self) -> list[str]:
        """The lines of those parameters whose values are not the server's own defaults."""
        own = shown(config_type()())
        changed = {name: value for name, value in self.values.items() if name in OWN or value != own[name]}
        return [line_of(name, value, self.node.prepared) for name, value in changed.items()]

    async def primary(self) -> str:
        """Whom to replicate: the server that says it is the primary, if any does, else `follows`."""
        for name in (*self.node.peers("replica"), *self.node.peers("primary")):
            if await self.says(name) == "master":
                return name
        return self.follows

    async def says(self, name: str) -> str:
        """What another server is: "master", "slave", or "" if it does not answer.

        Whether it wants a password, or an encrypted connection, is found out: a server's operator knows both.
        """
        encrypted = (True, False) if self.values["tls-port"] else (False, True)
        for tls in encrypted if (self.node.prepared / certificates.CERTIFICATE).exists() else (False,):
            for password in ("", SECRET):
                try:
                    return await self.role_of(name, tls, password)
                except (OSError, EOFError, TimeoutError):
                    break
                except ReplyError:
                    continue
        return ""

    async def role_of(self, name: str, tls: bool, password: str) -> str:
        """The first word that another server answers to ROLE."""
        context = certificates.trusting(self.node.prepared) if tls else None
        address = await self.node.reach(name, PORT)
        connection = await Resp.connect(*address, timeout_s=ASK_S, tls=context, password=password)
        try:
            role = await connection.call("ROLE")
        finally:
            connection.close()
        return str(role[0].decode())

    async def answers(self, server: Program, host: str, port: int) -> Resp:
        """A connection to the server, once it answers."""
        until = time.monotonic() + START_S
        tls = certificates.trusting(self.node.prepared) if self.values["tls-port"] else None
        while True:
            try:
                connection = await Resp.connect(host, port, tls=tls, password=str(self.values["requirepass"]))
                await connection.pipeline([("PING",)])  # an error such as LOADING is an answer too
                return connection
            except (OSError, EOFError, TimeoutError):
                if server.code is not None or time.monotonic() > until:
                    raise
                await asyncio.sleep(LOOK_S)

    async def report(self, connection: Resp) -> None:
        """Say which parameters have another value in the live server than in this node's configuration."""
        flat = [part.decode() for part in await connection.call("CONFIG", "GET", "*")]
        live = dict(zip(flat[::2], flat[1::2], strict=True))
        _, _, new = str(self.values["rename-command"]).partition(" ")
        is_there = new and (await connection.call("COMMAND", "INFO", new))[0] is not None
        live["rename-command"] = self.values["rename-command"] if is_there else ""
        connection.close()
        own = shown(config_type()())
        known = {name: value for name, value in self.values.items() if name not in texts() or value != own[name]}
        wanted = {name: shown_as(name, value, self.node.prepared) for name, value in known.items()}
        differs = {name: live.get(name, "") for name, value in wanted.items() if live.get(name) != value}
        self.node.emit("valkey.applied", parameters=len(wanted) - len(differs), differs=differs)
        if differs:
            self.node.emit("node.unapplied", parameters=[f"valkey.{name}" for name in sorted(differs)])


class Primary(Server):
    """Begins as the primary; started again it follows the one that was promoted meanwhile."""


class Replica(Server):
    """Follows the primary."""

    follows = "primary-1"
