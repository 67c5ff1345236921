"""What static tree and hierarchical cache share: a peer with a fixed list of parents, and Owl's own data plane.

Frames, cut-through, checks and time-outs are those of Owl's peer; only the way to a source differs. Who is pulled from
fetches the chunk for its child if it has to, outside of `fetch.parallel`: trees that differ by chunk would else wait
for each other's slots. Source: ../shared/targets/owl.md sections 2 and 7.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

from zebra.rpc import Caller, Rpc
from zebra.targets.owl.baselines.messages import WIRE, Pull
from zebra.targets.owl.chunks import find_piece
from zebra.targets.owl.config import WAIT_S
from zebra.targets.owl.forest import EXT
from zebra.targets.owl.messages import Data, End, Fetch, Get, Read, Source
from zebra.targets.owl.peer import GetFailed, Peer
from zebra.targets.owl.policies import distance
from zebra.targets.owl.transfer import Transfer


class Relay(Peer):
    """Downloads from the first of its parents, and from the next once that one was silent for `idle_timeout`."""

    edges = 0

    async def run(self) -> None:
        await self.cache.restore()
        self.rpc = Rpc(self.node, WIRE)
        await self.rpc.serve(self.calls())
        await self.node.ready()
        await self.loop.create_future()

    def calls(self) -> dict[type, Any]:
        return {Get: self.get, Pull: self.pull}

    def parents(self, transfer: Transfer) -> Sequence[str]:
        """Whom to download from, the first choice first; the last is a store."""
        raise NotImplementedError

    def nearest_store(self) -> str:
        return min(self.node.peers("store"), key=lambda store: distance(self.node.place, self.node.place_of(store)))

    def pull(self, ask: Pull, caller: Caller) -> AsyncIterator[Data | End]:
        """Send a child a chunk, and begin to fetch it if we do not have it."""
        piece = find_piece(ask.fetch.chunk, ask.manifest, self.node.config.chunk)
        if piece is not None and piece.chunk not in self.cache:
            self.begin(piece, ask.manifest)
        return self.uploads.fetch(ask.fetch, caller)

    async def transfer(self, transfer: Transfer) -> None:
        chunk = transfer.piece.chunk
        try:
            async with asyncio.timeout(self.limit_s(transfer.manifest)):
                await self.attempts(transfer)
        except TimeoutError:
            transfer.fail(GetFailed(f"{chunk}: not done in {self.limit_s(transfer.manifest):g} s"))
            self.node.emit("owl.drop", peer=self.node.name, chunk=chunk)
        else:
            await self.keep(transfer)
        del self.transfers[chunk]

    async def attempts(self, transfer: Transfer) -> None:
        """Fetch from the parents in turn until the chunk is there and verified."""
        parents = list(self.parents(transfer))
        silence_s, well_s = self.node.config.transfer.idle_timeout, self.loop.time()
        while True:
            held, source = transfer.held, self.open(parents[0], transfer)
            why = await self.fetch_from(source, transfer)
            transfer.source = None
            self.node.emit("edge.close", edge=source.edge, chunk=transfer.piece.chunk, child=self.node.name,
                           parent=source.parent, src=source.src, why=why or "done")  # fmt: skip
            if not why:
                return
            if transfer.held > held or why in ("busy", "upstream", "tainted"):  # it was alive until now, or just before
                well_s = self.loop.time() - (silence_s if why == "stall" else 0)
            await self.repair(transfer, why)
            if len(parents) > 1 and self.loop.time() - well_s >= silence_s:
                self.node.emit("owl.skip", peer=self.node.name, chunk=transfer.piece.chunk, parent=parents.pop(0))
                well_s = self.loop.time()
            else:
                await asyncio.sleep(WAIT_S)

    def open(self, parent: str, transfer: Transfer) -> Source:
        external = self.node.place_of(parent).role == "store"
        self.edges += 1
        edge = f"{self.node.name}/{self.node.incarnation}/{self.edges}"
        source = Source(
            kind="external" if external else "peer", src=parent, parent=EXT if external else parent, edge=edge
        )
        transfer.source = source
        self.node.emit("edge.open", edge=edge, chunk=transfer.piece.chunk, bucket=transfer.manifest.bucket,
                       child=self.node.name, parent=source.parent, src=parent, tracker="", lent=False)  # fmt: skip
        return source

    def request(self, source: Source, transfer: Transfer) -> Any:
        ask: Fetch | Read = super().request(source, transfer)
        return Pull(fetch=ask, manifest=transfer.manifest) if isinstance(ask, Fetch) else ask
