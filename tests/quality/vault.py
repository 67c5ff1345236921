"""A target whose parameters show only in a certain way: in a rolling change, to one odd one out, as slowness.

A primary keeps texts on its disk and copies them to replicas, which keep them too. Whoever is restarted reads back what
his former life has written. Clients try again while somebody restarts.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Annotated, Any, Literal

import msgspec

from zebra import Failed, Node, Param, Profile, Target, Topology
from zebra.cluster import Cluster
from zebra.errors import TargetError
from zebra.rpc import Caller, Message, RemoteError, Request, Rpc, RpcError, Wire

PATIENCE_S = 20.0
"""So long everybody tries again."""


class Put(Request["Done"], tag="put", frozen=True, kw_only=True):
    key: str
    text: str


class Get(Request["Done"], tag="get", frozen=True, kw_only=True):
    key: str


class Copy(Request["Done"], tag="copy", frozen=True, kw_only=True):
    key: str
    text: str
    password: str
    batch: int


class Meet(Request["Done"], tag="meet", frozen=True, kw_only=True):
    """The primary has started: from now on a replica's file is in the primary's format."""

    format: int
    password: str


class Done(Message, tag="done", frozen=True, kw_only=True):
    text: str = ""
    vote: str = ""
    codec: str = ""


WIRE = Wire(Put, Get, Copy, Meet, Done, port=7100)


class VaultConfig(msgspec.Struct, frozen=True, kw_only=True):
    """`packing`: what was written under one value is not readable under another. `format`: a replica that holds texts
    cannot be told to keep them in a format newer than it knows, and does not open a file that is. `vote`: one replica
    against all others is shut out. `codec`: a primary and a replica that differ take five seconds to get on. `password`
    and `peer_password` go together. `batch` is unsafe where a replica's is below the primary's. `page` is safe."""

    packing: Literal["plain", "hex"] = "plain"
    format: Annotated[int, Param(2)] = 1
    vote: Literal["a", "b"] = "a"
    codec: Literal["x", "y"] = "x"
    password: Annotated[str, Param(why="a secret")] = ""
    peer_password: Annotated[str, Param(why="a secret")] = ""
    batch: Annotated[int, Param(50)] = 100
    page: Annotated[int, Param(8)] = 4


class Keeper:
    """What primary and replica share: a file of texts."""

    file = "texts"

    def __init__(self, node: Node[VaultConfig]) -> None:
        self.node, self.texts, self.format = node, dict[str, str](), node.config.format

    async def open(self) -> None:
        """Read back what the last life wrote."""
        try:
            lines = bytes(await self.node.disk.read(self.file)).decode().splitlines()
        except FileNotFoundError:
            return
        if lines and self.node.role == "replica" and int(lines[0]) > self.node.config.format:
            raise TargetError(f"{self.node.name}: its file has format {lines[0]}")
        for line in lines[1:]:
            key, _, text = line.partition("=")
            self.texts[key] = bytes.fromhex(text).decode() if self.node.config.packing == "hex" else text

    async def save(self) -> None:
        hexed = self.node.config.packing == "hex"
        texts = {key: text.encode().hex() if hexed else text for key, text in self.texts.items()}
        lines = [str(self.format), *(f"{key}={text}" for key, text in texts.items())]
        await self.node.disk.write(self.file, "\n".join(lines).encode())
        await self.node.disk.sync(self.file)

    def get(self, get: Get, caller: Caller) -> Done:
        return Done(text=self.texts.get(get.key, ""))


class Primary(Keeper):
    """Takes texts and copies them to all replicas."""

    async def run(self) -> None:
        self.rpc = Rpc(self.node, WIRE)
        await self.open()
        await self.save()
        await self.rpc.serve({Put: self.put, Get: self.get})
        await self.meet()
        await self.node.ready()
        await asyncio.Event().wait()

    async def meet(self) -> None:
        config = self.node.config
        meet = Meet(format=config.format, password=config.peer_password)
        answers = [await again(self.rpc, replica, meet) for replica in self.node.peers("replica")]
        votes = Counter(answer.vote for answer in answers)
        if len(votes) > 1 and min(votes.values()) == 1:
            raise TargetError(f"one replica is alone with its vote: {dict(votes)}")
        for answer in answers:
            if answer.codec != config.codec:
                await asyncio.sleep(5.0)

    async def put(self, put: Put, caller: Caller) -> Done:
        self.texts[put.key] = put.text
        await self.save()
        config = self.node.config
        copy = Copy(key=put.key, text=put.text, password=config.peer_password, batch=config.batch)
        for replica in self.node.peers("replica"):
            await again(self.rpc, replica, copy)
        return Done()


class Replica(Keeper):
    """Keeps copies."""

    async def run(self) -> None:
        self.room = self.node.config.page
        await self.open()
        await self.save()
        await Rpc(self.node, WIRE).serve({Copy: self.copy, Meet: self.meet, Get: self.get})
        await self.node.ready()
        await asyncio.Event().wait()

    def check(self, password: str) -> None:
        if password != self.node.config.password:
            raise ValueError("wrong password")

    async def meet(self, meet: Meet, caller: Caller) -> Done:
        self.check(meet.password)
        if meet.format > self.node.config.format and self.texts:
            raise ValueError(f"cannot turn its texts into format {meet.format}")
        self.format = meet.format
        await self.save()
        return Done(vote=self.node.config.vote, codec=self.node.config.codec)

    async def copy(self, copy: Copy, caller: Caller) -> Done:
        self.check(copy.password)
        if copy.batch > self.node.config.batch:
            raise ValueError(f"a batch of {copy.batch} is too large")
        self.texts[copy.key] = copy.text
        await self.save()
        return Done()


class Client:
    """Stores texts with the primary, and compares what all nodes hold."""

    def __init__(self, node: Node[VaultConfig]) -> None:
        self.node = node

    async def store(self, count: int) -> None:
        rpc = Rpc(self.node, WIRE)
        for i in range(count):
            await again(rpc, "primary-1", Put(key=f"k{i}", text=f"text {i}"))
            await asyncio.sleep(0.2)
        await rpc.close()

    async def compare(self, count: int) -> None:
        rpc = Rpc(self.node, WIRE)
        for name in ("primary-1", *self.node.peers("replica")):
            for i in range(count):
                held = (await again(rpc, name, Get(key=f"k{i}"))).text
                if held != f"text {i}":
                    raise Failed(f"{name} holds {held!r} as k{i}")
        await rpc.close()


async def again(rpc: Rpc, name: str, request: Request[Done]) -> Done:
    """Ask until there is an answer; one that says no is raised as Failed."""
    until_s = rpc.loop.time() + PATIENCE_S
    while True:
        try:
            return await rpc.call(name, request, timeout_s=1.0)
        except RemoteError as error:
            raise Failed(f"{name}: {error}") from error
        except RpcError:
            if rpc.loop.time() > until_s:
                raise
            await asyncio.sleep(0.05)


async def store_and_compare(cluster: Cluster) -> None:
    await cluster.client.store(8)
    await cluster.client.compare(8)


async def without_restarts(cluster: Cluster) -> None:
    """A test that does not bear restarts."""
    await store_and_compare(cluster)
    assert len(cluster.history.of("node.start")) == len(cluster.nodes())


PASSWORD: dict[str, dict[str, Any]] = {
    "off": {}, "on": {"vault.password": "s3cret", "vault.peer_password": "s3cret"},
}  # fmt: skip
TARGET = Target(
    name="vault", config=VaultConfig, roles={"primary": Primary, "replica": Replica}, client=Client,
    topology=Topology(counts={"primary": 1, "replica": 5}), profiles=(Profile("vault.secrecy", PASSWORD),),
)  # fmt: skip
