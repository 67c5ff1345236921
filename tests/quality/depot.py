"""A small target with one parameter of each kind, to test campaigns: servers that store, a client that reads back."""

from __future__ import annotations

import zlib
from typing import Annotated, Any, Literal

import msgspec

from zebra import Failed, Node, Param, Target, Topology
from zebra.cluster import Cluster
from zebra.rpc import Caller, Message, RemoteError, Request, Rpc, RpcError, Wire


class Put(Request["Done"], tag="put", frozen=True, kw_only=True):
    key: str
    text: str
    check: str
    batch: int = 0


class Done(Message, tag="done", frozen=True, kw_only=True):
    text: str = ""


class Get(Request[Done], tag="get", frozen=True, kw_only=True):
    key: str


WIRE = Wire(Put, Done, Get, port=7000)


class DepotConfig(msgspec.Struct, frozen=True, kw_only=True):
    """`digest` is unsafe, `limit` if a server's is below its client's, `salt` with digest=crc; the rest is safe."""

    digest: Literal["crc", "adler"] = "crc"
    limit: Annotated[int, Param("50", minimum=0)] = 100
    salt: bool = False
    retries: Annotated[int, Param("3", "0", minimum=0)] = 1
    cache: Annotated[int, Param(minimum=0)] = 16
    label: Literal["a", "b"] = "a"
    pause: Annotated[float, Param("2s", unit="s")] = 1.0
    broken: Annotated[int, Param("7")] = 1
    unread: int = 3


def digest(config: Any, text: str) -> str:
    data = text.encode() + (b"salt" if config.salt and config.digest == "crc" else b"")
    return str(zlib.crc32(data) if config.digest == "crc" else zlib.adler32(data))


class Server:
    """Keeps texts whose check is right by its own configuration."""

    def __init__(self, node: Node[DepotConfig]) -> None:
        self.node, self.kept = node, dict[str, str]()

    async def run(self) -> None:
        config = self.node.config
        self.room = config.cache + config.retries + config.broken + len(config.label) + config.pause
        self.rpc = Rpc(self.node, WIRE)
        await self.rpc.serve({Put: self.put, Get: self.get})
        await self.node.ready()
        await self.rpc.loop.create_future()

    def put(self, put: Put, caller: Caller) -> Done:
        if put.check != digest(self.node.config, put.text):
            raise ValueError("the check does not match")
        if put.batch > self.node.config.limit:
            raise ValueError("the batch is too large")
        self.kept[put.key] = put.text
        self.node.emit("depot.kept", key=put.key)
        return Done()

    def get(self, get: Get, caller: Caller) -> Done:
        return Done(text=self.kept[get.key])


class Client:
    """Stores on every server and reads back."""

    def __init__(self, node: Node[DepotConfig]) -> None:
        self.node = node

    async def round_trip(self, text: str) -> None:
        rpc, config = Rpc(self.node, WIRE), self.node.config
        if config.broken != 1 or config.retries == 0:
            raise Failed("a value that cannot work")
        for server in self.node.peers("server"):
            async with self.node.op("put", server=server):
                try:
                    await rpc.call(
                        server, Put(key="k", text=text, check=digest(config, text), batch=config.limit), timeout_s=1.0
                    )
                except (RemoteError, RpcError) as error:
                    raise Failed(str(error)) from error
            assert (await rpc.call(server, Get(key="k"), timeout_s=1.0)).text == text
        await rpc.close()


async def store_and_read(cluster: Cluster) -> None:
    await cluster.client.round_trip("hello")


TARGET = Target(
    name="depot", config=DepotConfig, roles={"server": Server}, client=Client, topology=Topology(counts={"server": 2}),
    sometimes=("depot.kept",),
)  # fmt: skip
