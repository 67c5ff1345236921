"""The role: one server of the cluster, under a configuration file of its own."""

from __future__ import annotations

import asyncio
import json
import shutil
import time
from asyncio.subprocess import DEVNULL, PIPE, STDOUT
from pathlib import Path
from typing import Any

from zebra.errors import TargetError
from zebra.node import Node
from zebra.programs import Program, last_lines
from zebra.targets.nats.monitor import UNREACHABLE, ask
from zebra.targets.nats.space import differing, server_path, set_by

CLIENT, ROUTE, MONITOR = 4222, 6222, 8222
"""The ports: for clients, for the other servers, for the monitoring pages."""

USER, PASSWORD = "app", "zebra"
OPERATOR = "operator"
ACCOUNTS = {
    "APP": {"jetstream": "enabled", "users": [{"user": USER, "password": PASSWORD}]},
    "SYS": {"users": [{"user": OPERATOR, "password": PASSWORD}]},
}
NOWHERE = "127.0.0.1:1"
"""What a server tells the others to be its address. Nothing listens there: the only routes are the configured ones,
which lead through the proxy of their ordered pair, and no server learns a way around it."""

START_S = 25.0
LOOK_S = 0.01
STOP_S = 3.0


class Server:
    """Renders the file, starts the server, compares what it shows with what the file says, and waits for its end."""

    def __init__(self, node: Node[Any]) -> None:
        self.node = node

    async def run(self) -> None:
        store = self.node.directory / "jetstream"
        if self.node.variant("bug.ephemeral_disk"):
            shutil.rmtree(store, ignore_errors=True)
        file = self.node.directory / "nats.conf"
        file.write_text(json.dumps(await self.settings(store), indent=1))
        expected = await digest(file)
        server = await Program.start(self.node, server_path(), "-c", str(file))
        try:
            await self.report(await self.answers(server), expected)
            await self.node.ready()
            await server.wait()
        except UNREACHABLE:
            if server.code is None:
                raise
        finally:
            await server.stop(STOP_S)
        raise TargetError(f"{server_path()} ended with {server.code}: {server.last_lines()}")

    async def settings(self, store: Path) -> dict[str, Any]:
        """The whole configuration: the node's own values, and what the target sets."""
        conf = set_by(self.node.config, self.node.prepared)
        cluster, jetstream = conf.setdefault("cluster", {}), conf.setdefault("jetstream", {})
        login = cluster["authorization"]
        who = f"{login['user']}:{login['password']}@" if login["user"] else ""
        routes = [await self.node.reach(name, ROUTE) for name in self.node.peers("server")]
        conf["server_name"] = self.node.name
        conf["listen"], conf["http"], cluster["listen"] = (
            "{}:{}".format(*self.node.bind(port)) for port in (CLIENT, MONITOR, ROUTE)
        )
        cluster |= {"no_advertise": True, "advertise": NOWHERE}
        cluster["routes"] = [f"nats-route://{who}{host}:{port}" for host, port in routes]
        if self.node.variant("bug.no_routes"):
            cluster["routes"] = [f"nats-route://{who}{NOWHERE}"]
        jetstream["store_dir"] = str(store)
        return conf | {"accounts": ACCOUNTS, "system_account": "SYS"}

    async def answers(self, server: Program) -> dict[str, Any]:
        """What the running server says of itself, once JetStream is on in it."""
        host, port = self.node.bind(MONITOR)
        until = time.monotonic() + START_S
        base = self.node.config.http_base_path
        while True:
            try:
                # a server that was asked for /varz before JetStream was on shows it without JetStream for good
                if "config" in await ask(host, port, f"{base}/jsz"):
                    return await ask(host, port, f"{base}/varz")
            except UNREACHABLE:
                if server.code is not None:
                    raise
            if time.monotonic() > until:
                raise TimeoutError(f"{self.node.name} does not serve JetStream {START_S:g} s after its start")
            await asyncio.sleep(LOOK_S)

    async def report(self, varz: dict[str, Any], expected: str) -> None:
        """Say whether the running server has read this file, and which parameters it shows with another value."""
        if varz["config_digest"] != expected:
            raise TargetError(f"{self.node.name} runs with another file: {varz['config_digest']}, not {expected}")
        differs = differing(self.node.config, varz)
        self.node.emit("nats.applied", version=varz["version"], differs=differs)
        if differs:
            self.node.emit("node.unapplied", parameters=[f"nats.{name}" for name in sorted(differs)])


async def digest(file: Path) -> str:
    """The digest of a configuration, from the server's own check of it. Raises TargetError with what is wrong."""
    check = await asyncio.create_subprocess_exec(
        server_path(), "-t", "-c", str(file), stdin=DEVNULL, stdout=PIPE, stderr=STDOUT
    )
    said, _ = await check.communicate()
    if check.returncode:
        raise TargetError(f"{server_path()} does not take its configuration: {last_lines(said)}")
    return said.decode().rpartition("(")[2].rstrip(")\n")
