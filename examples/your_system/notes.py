"""The target: what zebra has to know of the notes server."""

import asyncio
import json
import sys
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from zebra import Node, Param, Target, Topology
from zebra.programs import Program

PORT, SERVER = 7000, Path(__file__).with_name("notes_server.py")


class NotesConfig(msgspec.Struct, frozen=True, kw_only=True):
    max_length: Annotated[int, Param(50, minimum=1)] = 100
    packing: Literal["plain", "hex"] = "plain"
    retry_s: Annotated[float, Param("50ms", unit="s")] = 0.1


class Server:
    def __init__(self, node: Node[NotesConfig]) -> None:
        self.node = node

    async def run(self) -> None:
        host, port = self.node.bind(PORT)
        leader = await self.node.reach("leader-1", PORT) if self.node.role == "follower" else None
        settings = {"host": host, "port": port, "follow": leader, **msgspec.to_builtins(self.node.config)}
        (file := self.node.directory / "config.json").write_text(json.dumps(settings))
        server = await Program.start(self.node, sys.executable, str(SERVER), str(file))
        for _ in range(500):
            if await ask(host, port, "all"):
                break
            await asyncio.sleep(0.02)
        await self.node.ready()
        raise RuntimeError(f"the server ended with {await server.wait()}: {server.last_lines()}")


class Client:
    def __init__(self, node: Node[NotesConfig]) -> None:
        self.node = node

    async def ask(self, server: str, line: str) -> str:
        return await ask(*await self.node.reach(server, PORT), line)


async def ask(host: str, port: int, line: str) -> str:
    """A server's answer to a line, "" if there is none within a second."""
    try:
        async with asyncio.timeout(1.0):
            reader, writer = await asyncio.open_connection(host, port)
            writer.write(f"{line}\n".encode())
            answer = await reader.readline()
            writer.close()
            return answer.decode().strip()
    except (OSError, TimeoutError):
        return ""


TARGET = Target(
    name="notes", config=NotesConfig, roles={"leader": Server, "follower": Server}, client=Client, external=True,
    topology=Topology(counts={"leader": 1, "follower": 2}),
)  # fmt: skip
