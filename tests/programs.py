"""Programs that nodes start and that talk by plain sockets: one serves, one reads."""

from __future__ import annotations

import asyncio
import os
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from typing import Any

from zebra import Node

SERVER = """
import socket, sys
host, port, node = sys.argv[1:]
server = socket.create_server((host, int(port)))
print(flush=True)
while True:
    connection, address = server.accept()
    connection.sendall(f"{node} {server.getsockname()[0]} {address[0]}".encode())
    connection.close()
"""
READER = """
import socket, sys
host, port, timeout_s = sys.argv[1:]
print(socket.create_connection((host, int(port)), timeout=float(timeout_s)).recv(100).decode(), end="")
"""


async def serve(node: Node[Any], port: int) -> tuple[Process, str]:
    """A program that listens at a port of the node's, and the address at which it does."""
    host, port = node.bind(port)
    command = [sys.executable, "-c", SERVER, host, str(port), node.name]
    environment = {**os.environ, **node.environment}
    program = await asyncio.create_subprocess_exec(*command, env=environment, stdout=PIPE)
    assert program.stdout is not None
    await program.stdout.readline()
    return program, host


async def read(node: Node[Any], name: str, port: int, timeout_s: float) -> str:
    """What a program of the node's gets from another node's: that node, its address and whom it sees; "" if nothing."""
    host, port = await node.reach(name, port)
    command = [sys.executable, "-c", READER, host, str(port), str(timeout_s)]
    reader = await asyncio.create_subprocess_exec(*command, stdout=PIPE, stderr=DEVNULL)
    return (await reader.communicate())[0].decode()
