"""A program of somebody else's as a node: started in the node's directory, heard, and ended.

A role that runs a real server starts it here, waits until it answers, says `ready`, and waits for its end:

    program = await Program.start(self.node, "some-server", str(file))
    try:
        ...
        await self.node.ready()
        await program.wait()
    finally:
        await program.stop(grace_s=2.0)
    raise TargetError(f"some-server ended with {program.code}: {program.last_lines()}")
"""

from __future__ import annotations

import asyncio
import os
from asyncio.subprocess import PIPE, STDOUT, Process
from typing import Any

from zebra.node import Node

LOG_LINES, END_BYTES = 3, 4096
"""How much of its output a program that has ended is quoted with: lines, out of so many bytes."""


class Program:
    """A running program. What it writes to either stream becomes the node's own output, the last of it is kept."""

    def __init__(self, process: Process) -> None:
        self._process, self._end = process, bytearray()
        self._passing = asyncio.create_task(self._pass_on())

    @classmethod
    async def start(cls, node: Node[Any], *command: str) -> Program:
        """Start a command with the node's environment in the node's directory. Raises OSError if it cannot be."""
        environment = {**os.environ, **node.environment}
        return cls(await asyncio.create_subprocess_exec(
            *command, cwd=node.directory, env=environment, stdout=PIPE, stderr=STDOUT
        ))  # fmt: skip

    @property
    def code(self) -> int | None:
        """Its exit code, that of a signal negative; None while it runs."""
        return self._process.returncode

    async def wait(self) -> int:
        """Wait until it has ended: its exit code."""
        return await self._process.wait()

    async def stop(self, grace_s: float) -> None:
        """End it, asked first and killed after `grace_s`, and pass on what it still had to say."""
        if self.code is None:
            self._process.terminate()
            try:
                async with asyncio.timeout(grace_s):
                    await self._process.wait()
            except TimeoutError:
                self._process.kill()
                await self._process.wait()
        await asyncio.wait([self._passing], timeout=grace_s)

    def last_lines(self) -> str:
        """The end of what it wrote, in one line."""
        return last_lines(self._end)

    async def _pass_on(self) -> None:
        assert self._process.stdout is not None
        while data := await self._process.stdout.read(1 << 16):
            print(data.decode(errors="replace"), end="")
            self._end += data
            del self._end[:-END_BYTES]


def last_lines(said: bytes | bytearray) -> str:
    """The end of what a program wrote, in one line."""
    return " | ".join(said.decode(errors="replace").split("\n")[-LOG_LINES - 1 :]).strip(" |")
