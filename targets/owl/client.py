"""The client: publishes objects at the stores and lets peers get them. It also brings about application faults."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import TypeVar

from zebra.errors import Failed
from zebra.node import Node
from zebra.rpc import Request, Rpc, Unreachable
from zebra.targets.owl.chunks import cut
from zebra.targets.owl.config import OwlConfig, deadline_s
from zebra.targets.owl.messages import WIRE, Abandon, Flip, Get, Got, Manifest, Ok, Piece, PushPolicy, Put, Throttle
from zebra.units import size_bytes

R = TypeVar("R")
PUT_S = 30.0
ADMIN_S = 2.0
LOOK_S = 0.2
"""How often a waiting client looks whether its peer is still meant to run."""


class PeerWentDown(Exception):
    """The peer was taken down while it was getting the object."""


class OwlClient:
    """Puts objects into the stores, asks peers to get them, and plays the administrator."""

    def __init__(self, node: Node[OwlConfig]) -> None:
        self.node, self.published = node, dict[str, Manifest]()
        self.rpc = Rpc(node, WIRE)

    async def publish(self, size: int | str, bucket: str = "default") -> str:
        """Put a new object of so many bytes at every store; its name."""
        name, length = f"{self.node.name}-object-{len(self.published) + 1}", size_bytes(size)
        blob = self.node.blob(self.node.random.getrandbits(63), length)
        manifest = Manifest(object=name, length=length, digest=blob.checksum("sha256"), bucket=bucket)
        if self.node.variant("safe.digest_in_manifest"):
            pieces = [(p, blob.slice(p.start, p.start + p.length)) for p in cut(manifest, self.node.config.chunk)]
            listed = tuple(
                Piece(chunk=p.chunk, start=p.start, length=p.length, digest=b.checksum("sha256")) for p, b in pieces
            )
            manifest = Manifest(object=name, length=length, digest=manifest.digest, bucket=bucket, pieces=listed)
        self.published[name] = manifest
        async with self.node.op("publish", object=name, length=length, bucket=bucket, digest=manifest.digest):
            await asyncio.gather(
                *(self._call(s, Put(manifest=manifest, content=blob), PUT_S) for s in self.node.peers("store"))
            )
        return name

    async def fetch(self, name: str, peer: str) -> None:
        """Let a peer get an object; raises Failed when it does not, PeerWentDown when it was taken down meanwhile."""
        manifest = self.published[name]
        async with self.node.op("fetch", object=name, peer=peer) as op:
            call = asyncio.get_running_loop().create_task(self._get(manifest, peer))
            try:
                while not (await asyncio.wait([call], timeout=LOOK_S))[0]:
                    self._check_up(peer)
            finally:
                call.cancel()
            try:
                got = call.result()
            except Unreachable:
                self._check_up(peer)
                raise
            op.note(digest=got.digest)
            if not got.ok:
                self._check_up(peer)
                raise Failed(f"{peer} could not get {name}: {got.why}")

    async def _get(self, manifest: Manifest, peer: str) -> Got:
        config = self.node.config
        idle_s, rpc_s = config.transfer.idle_timeout, config.rpc.timeout
        limit_s = 2 * deadline_s(manifest.length, config.retry.attempts, idle_s, rpc_s) + PUT_S
        return await self._call(peer, Get(manifest=manifest), limit_s)

    async def _call(self, to: str, request: Request[R], timeout_s: float) -> R:
        """The answer of a node that is up: a broken connection is made again, requests bear repetition."""
        while True:
            try:
                return await self.rpc.call(to, request, timeout_s)
            except Unreachable:
                if not self.node.is_up(to):
                    raise
                await asyncio.sleep(LOOK_S)

    def _check_up(self, peer: str) -> None:
        if not self.node.is_up(peer):
            raise PeerWentDown(f"{peer} was taken down")

    async def fetch_everywhere(self, name: str, peers: Iterable[str] | None = None) -> None:
        """Let all peers that are up (or those given) get an object; one taken down meanwhile is no failure."""
        peers = self.node.up("peer") if peers is None else peers
        results = await asyncio.gather(*(self.fetch(name, peer) for peer in peers), return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException) and not isinstance(result, PeerWentDown):
                raise result

    # -- application faults ----------------------------------------------------------------------------------

    async def throttle(self, store: str, pause_s: float) -> None:
        """Let a store pause before each block that it sends; 0 ends that."""
        await self._admin(store, Throttle(pause_s=pause_s))

    async def close_store(self, store: str) -> None:
        """An outage: the store refuses every read, and ends those that are on."""
        await self._admin(store, Throttle(closed=True, cut=True))

    async def cut_reads(self, store: str, pause_s: float) -> None:
        """Break off the reads that are on at a throttled store."""
        await self._admin(store, Throttle(pause_s=pause_s, cut=True))

    async def flip(self, peer: str) -> None:
        """Flip a bit of the next frame that a peer forwards."""
        await self._admin(peer, Flip())

    async def abandon(self, peer: str) -> None:
        """Let a peer lose the sources of all its downloads."""
        await self._admin(peer, Abandon())

    async def push_policy(self, bucket: str, external_limit: int, uploads: int) -> None:
        """Give all trackers another policy for a bucket."""
        ask = PushPolicy(bucket=bucket, external_limit=external_limit, uploads=uploads)
        await asyncio.gather(*(self._admin(tracker, ask) for tracker in self.node.up("tracker")))

    async def _admin(self, to: str, ask: Request[Ok]) -> None:
        await self._call(to, ask, ADMIN_S)
