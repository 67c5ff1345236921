"""The client: writes to the primary, promotes a replica, and compares the nodes with each other."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from zebra.errors import Failed
from zebra.node import Node
from zebra.targets.valkey import certificates, workload
from zebra.targets.valkey.dataset import DataSet, count, differences, read_data
from zebra.targets.valkey.resp import Argument, ReplyError, Resp, fields
from zebra.targets.valkey.space import PORT, shown

CALL_S = 2.0
"""Bound of one exchange with a server."""

ALIKE_S = 6.0
"""Within so long of the last write all nodes hold the same data."""

LOOK_S = 0.02
WAIT_MS = 1000
CONNECTION = (OSError, EOFError, TimeoutError)
PASSING = (*CONNECTION, ReplyError)
"""What a client sees of a server that is restarted: no connection, or that it still loads its data."""
HEALTH = {
    "rdb_last_bgsave_status": "ok",
    "aof_last_bgrewrite_status": "ok",
    "aof_last_write_status": "ok",
    "loading": "0",
}
"""What INFO says of a server in good health."""

FAILED = "unexpected_error_replies"
"""Where INFO says how often a command failed on a replica that came from the primary."""

T = TypeVar("T")


def lasting(problem: str) -> bool:
    """Whether a problem does not go away by waiting."""
    return problem.startswith(FAILED)


class ValkeyClient:
    """Knows who the primary is, because it is the one that promotes."""

    def __init__(self, node: Node[Any]) -> None:
        self.node, self.primary, self.written = node, "primary-1", 0
        self.counts: dict[str, dict[str, int]] = {}
        self.configs: dict[str, Any] = {}

    def servers(self) -> tuple[str, ...]:
        """The servers that are meant to run, the primary first."""
        up = (*self.node.up("primary"), *self.node.up("replica"))
        return tuple(sorted(up, key=lambda name: name != self.primary))

    async def on(self, name: str, work: Callable[[Resp], Awaitable[T]], timeout_s: float = CALL_S) -> T:
        """Work on a connection of its own to a server, encrypted and logged in as that server wants it."""
        values = shown(self.configs[name]) if name in self.configs else {}
        tls = certificates.trusting(self.node.prepared) if values.get("tls-port") else None
        password = str(values.get("requirepass", ""))
        address = await self.node.reach(name, PORT)
        connection = await Resp.connect(*address, timeout_s=timeout_s, tls=tls, password=password)
        try:
            return await work(connection)
        finally:
            connection.close()

    async def know(self, configs: dict[str, Any]) -> None:
        """Be told the nodes' configurations, where they are not the usual ones."""
        self.configs = configs

    # -- writing ---------------------------------------------------------------------------------------------

    async def load(self, tag: str, configs: dict[str, Any], shared: bool = False) -> None:
        """A round of everything on the primary, in its first database and in the last that it allows.

        `configs` are the nodes' configurations; with `shared` the last database is the last that all of them allow.
        """
        writer = shown(configs[self.primary])
        nodes = [shown(config) for name, config in configs.items() if name != self.node.name]

        async def work(connection: Resp) -> None:
            for database in workload.databases(nodes if shared else [writer]):
                await connection.call("SELECT", database)
                commands = workload.commands(f"{tag}:{database}", writer, nodes, self.node.random)
                errors = [a for a in await connection.pipeline(commands) if isinstance(a, ReplyError)]
                if errors:
                    raise Failed(f"{self.primary} refuses {len(errors)} of {len(commands)} writes: {errors[0]}")

        async with self.node.op("load", tag=tag, to=self.primary):
            await self.on(self.primary, work, timeout_s=2 * CALL_S)

    async def write(self, replicas: int = 2, timeout_ms: int = WAIT_MS, saved: bool = False) -> int:
        """Write one key of its own and wait for so many replicas: how many confirmed it.

        `saved` is for a primary that saves when it is stopped: what it has said itself is to be kept then.
        """
        self.written += 1
        key, value = f"{self.node.name}:{self.written}", f"v{self.node.random.getrandbits(32)}"

        async def work(connection: Resp) -> int:
            await connection.call("SET", key, value)
            return int(await connection.call("WAIT", replicas, timeout_ms)) if replicas else 0

        async with self.node.op("write", key=key, value=value) as op:
            confirmed = await self.on(self.primary, work, timeout_s=CALL_S + timeout_ms / 1000)
            op.note(confirmed=confirmed, saved=saved)
        return confirmed

    # -- while servers may be restarted ------------------------------------------------------------------------

    async def load_on(self, tag: str, configs: dict[str, Any]) -> None:
        """`load` past restarts, into databases that all nodes allow; every try under a name of its own."""
        tries = itertools.count(1)
        await self.past_restarts(lambda: self.load(f"{tag}-{next(tries)}", configs, shared=True))

    async def write_on(self, for_s: float) -> None:
        """Write one key after the other past restarts, for so long, and at least one.

        They count as kept once the primary has said so, for it saves before it goes.
        """
        until = time.monotonic() + for_s
        while True:
            await self.past_restarts(lambda: self.write(replicas=0, saved=True))
            if time.monotonic() > until:
                return
            await asyncio.sleep(LOOK_S)

    async def past_restarts(self, work: Callable[[], Awaitable[T]]) -> T:
        """Do something anew while it fails as it does on a server that is restarted, for `ALIKE_S` at most."""
        until = time.monotonic() + ALIKE_S
        while True:
            try:
                return await work()
            except PASSING:
                if time.monotonic() > until:
                    raise
            await asyncio.sleep(LOOK_S)

    # -- comparing -------------------------------------------------------------------------------------------

    async def compare(self, phase: str, within_s: float = ALIKE_S) -> None:
        """Compare all servers that should run with the primary until they are alike, or the time is over.

        What remains is emitted as `valkey.compared`; so is each node's own state, as `valkey.health`.
        """
        until = time.monotonic() + within_s
        while True:
            problems = await self._state()
            in_step = all(map(lasting, problems.values()))
            differs = await self._differs() if in_step else {}
            if (in_step and (problems or not differs)) or time.monotonic() > until:
                break
            await asyncio.sleep(LOOK_S)
        if in_step:
            self.node.emit("valkey.compared", phase=phase, differs=differs, keys=self.counts)
        self.node.emit("valkey.health", phase=phase, problems=problems)

    async def _state(self) -> dict[str, str]:
        """What is wrong with the replication state or with a node itself, by node."""
        infos: dict[str, Any] = {self.primary: "is down"}
        for name in self.servers():
            try:
                infos[name] = fields(await self.command(name, "INFO", "everything"))
            except PASSING as error:
                infos[name] = f"{type(error).__name__} {error}".strip()
        found = {name: self._wrong(name, info, infos[self.primary]) for name, info in infos.items()}
        return {name: wrong for name, wrong in found.items() if wrong}

    def _wrong(self, name: str, info: Any, primary: Any) -> str:
        if isinstance(info, str):
            return f"does not answer: {info}"
        for field, well in HEALTH.items():
            if info.get(field, well) != well:
                return f"{field} is {info[field]}, not {well}"
        if name == self.primary:
            return "" if info.get("role") == "master" else f"role is {info.get('role')}"
        if info.get("role") != "slave":
            return f"role is {info.get('role')}"
        if info.get("master_link_status") != "up":
            return f"its link to the primary is {info.get('master_link_status')}"
        failed = int(info.get(FAILED, 0))
        behind = int(primary["master_repl_offset"]) - int(info["slave_repl_offset"]) if isinstance(primary, dict) else 0
        return f"is {behind} bytes behind" if behind > 0 else f"{FAILED} {failed}" if failed else ""

    async def _differs(self) -> dict[str, list[str]]:
        data: dict[str, DataSet] = {}
        for name in self.servers():
            try:
                data[name] = await self.on(name, read_data)
            except PASSING as error:
                return {name: [f"cannot be read: {type(error).__name__} {error}".strip()]}
        self.counts = {name: count(held) for name, held in data.items()}
        found = {name: differences(data[self.primary], held) for name, held in data.items() if name != self.primary}
        return {name: lines for name, lines in found.items() if lines}

    async def syncs(self) -> dict[str, int]:
        """How often the primary has begun to serve a replica, in full and in part: steady while nothing happens."""
        info = fields(await self.command(self.primary, "INFO", "stats"))
        return {name: int(info[name]) for name in ("sync_full", "sync_partial_ok")}

    async def idle(self, for_s: float) -> None:
        """Do nothing for a while, past nodes' short timeouts too; no replica may lose its primary meanwhile."""
        nodes = [shown(config) for name, config in self.configs.items() if name != self.node.name]
        before = await self.syncs()
        await asyncio.sleep(workload.idle_s(nodes, for_s))
        after = await self.syncs()
        came = f"replicas came anew while nothing happened: {before}, {after}"
        problems = {} if after == before else {self.primary: came}
        self.node.emit("valkey.health", phase="idle", problems=problems)

    # -- who leads -------------------------------------------------------------------------------------------

    async def promote(self, name: str) -> None:
        """Make a replica the primary; others follow it once they are started again."""
        await self.command(name, "REPLICAOF", "NO", "ONE")
        self.primary = name
        self.node.emit("valkey.promoted", to=name)

    async def detach(self, name: str) -> None:
        """Take a replica out, so that what it saves belongs to another history: started again it needs a full copy."""
        await self.command(name, "REPLICAOF", "NO", "ONE")
        until = time.monotonic() + CALL_S
        while True:
            try:
                await self.command(name, "SAVE")
                return
            except ReplyError as error:  # it saves by itself at the moment
                if "in progress" not in str(error) or time.monotonic() > until:
                    raise
                await asyncio.sleep(LOOK_S)

    async def command(self, name: str, *words: Argument) -> Any:
        """One command on a server, on a connection of its own; raises ReplyError."""
        return await self.on(name, lambda connection: connection.call(*words))

    async def read_back(self) -> None:
        """Read every key that `write` may have written from the primary: event `valkey.kept`."""
        keys = [f"{self.node.name}:{number}" for number in range(1, self.written + 1)]

        async def work(connection: Resp) -> list[bytes | None]:
            return await connection.pipeline([("GET", key) for key in keys]) if keys else []

        values = await self.on(self.primary, work)
        held = {key: value.decode() for key, value in zip(keys, values, strict=True) if value is not None}
        self.node.emit("valkey.kept", on=self.primary, values=held)
