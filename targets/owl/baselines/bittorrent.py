"""A BitTorrent-like swarm that knows no places: random neighbours, rarest piece first, tit for tat, whole pieces only.

A piece is a chunk. Each member unchokes a few interested neighbours, those that sent it most in the last period and a
random one, and chooses them anew each period. That is the only time to choose; where `free_slots` is `at_once` a free
slot goes to the first who wants it, as clients do today. What neighbours have and allow travels as soft state in casts,
which the next period repeats. Source: ../shared/targets/owl.md section 2 (baselines).
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any

from zebra.blob import Blob
from zebra.node import Node
from zebra.rpc import Caller, Rpc, RpcError
from zebra.targets.owl.baselines.config import BitTorrentConfig
from zebra.targets.owl.baselines.messages import WIRE, Announce, Choked, Have, State, Swarm, Want, Whole
from zebra.targets.owl.chunks import cut
from zebra.targets.owl.config import BACKOFF_S, RPC_S, deadline_s
from zebra.targets.owl.forest import EXT
from zebra.targets.owl.messages import Get, Got, Manifest, NotFound, Ok, Put


@dataclass(slots=True)
class Neighbour:
    """Another member: the pieces it has, who wants whom, who lets whom, what it sends us now, and sent this period."""

    have: int = 0
    wanted: bool = False
    wants: bool = False
    lets_us: bool = False
    unchoked: bool = False
    piece: int = -1
    received: int = 0


class Torrent:
    """One object at one member. Bit i of `have` is piece i; `going` are the pieces that are on their way."""

    def __init__(self, manifest: Manifest, config: BitTorrentConfig, loop: asyncio.AbstractEventLoop) -> None:
        self.manifest, self.pieces = manifest, cut(manifest, config.chunk)
        self.all = (1 << len(self.pieces)) - 1
        self.have = self.going = 0
        self.contents: dict[int, Blob] = {}
        self.neighbours: dict[str, Neighbour] = {}
        self.copies = [0] * len(self.pieces)
        self.done: asyncio.Future[None] = loop.create_future()

    def add(self, index: int, content: Blob) -> None:
        self.contents[index] = content
        self.have |= 1 << index
        if self.have == self.all and not self.done.done():
            self.done.set_result(None)

    def see(self, neighbour: Neighbour, have: int) -> None:
        """A neighbour has these pieces; `copies` counts how many neighbours have each."""
        for index in bits(neighbour.have ^ have):
            self.copies[index] += 1 if have >> index & 1 else -1
        neighbour.have = have

    def rarest(self, pieces: int) -> list[int]:
        """Those of some pieces that the fewest neighbours have."""
        fewest = min(self.copies[index] for index in bits(pieces))
        return [index for index in bits(pieces) if self.copies[index] == fewest]


def bits(pieces: int) -> list[int]:
    """The numbers of the pieces in a set of bits."""
    found = []
    while pieces:
        lowest = pieces & -pieces
        found.append(lowest.bit_length() - 1)
        pieces ^= lowest
    return found


class Member:
    """Downloads objects for its host and uploads their pieces to the neighbours that it has unchoked."""

    def __init__(self, node: Node[BitTorrentConfig]) -> None:
        self.node, self.loop, self.swarm = node, asyncio.get_running_loop(), node.config.swarm
        self.slots, self.at_once = self.swarm.slots, self.swarm.free_slots == "at_once"
        self.torrents: dict[str, Torrent] = {}
        self.tasks: dict[asyncio.Task[Any], None] = {}
        self.edges = 0

    async def run(self) -> None:
        self.rpc = Rpc(self.node, WIRE)
        await self.rpc.serve({**self.calls(), Want: self.want}, casts={State: self.state, Have: self.heard})
        await self.node.ready()
        await self.loop.create_future()

    def calls(self) -> dict[type, Any]:
        return {Get: self.get}

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = self.loop.create_task(work)
        self.tasks[task] = None
        task.add_done_callback(lambda _: self.tasks.pop(task))

    # -- joining ---------------------------------------------------------------------------------------------

    async def get(self, ask: Get, caller: Caller) -> Got:
        """Get an object for the consumer on this host; its pieces are served from then on."""
        manifest, config = ask.manifest, self.node.config
        self.node.emit("get.start", peer=self.node.name, object=manifest.object, bucket=manifest.bucket,
                       length=manifest.length)  # fmt: skip
        limit_s = deadline_s(manifest.length, config.retry.attempts, config.transfer.idle_timeout)
        torrent = self.torrents.get(manifest.object) or await self.join(manifest)
        try:
            async with asyncio.timeout(limit_s):
                await asyncio.shield(torrent.done)
            whole = Blob.join(torrent.contents[index] for index in range(len(torrent.pieces)))
            got = Got(ok=True, digest=whole.checksum("sha256"))
        except TimeoutError:
            got = Got(ok=False, why=f"not done in {limit_s:g} s")
        self.node.emit(
            "get.end", peer=self.node.name, object=manifest.object, ok=got.ok, digest=got.digest, why=got.why
        )
        return got

    async def join(self, manifest: Manifest) -> Torrent:
        """Become a member of an object's swarm, with the pieces that an earlier incarnation left on the disk."""
        torrent = self.torrents[manifest.object] = Torrent(manifest, self.node.config, self.loop)
        names = self.node.disk.names()
        for index, piece in enumerate(torrent.pieces):
            if piece.chunk in names:
                torrent.add(index, await self.node.disk.read(piece.chunk))
        self.spawn(self.periods(torrent))
        return torrent

    async def periods(self, torrent: Torrent) -> None:
        while True:
            if len(torrent.neighbours) < self.swarm.neighbours:
                await self.announce(torrent)
            self.rechoke(torrent)
            await asyncio.sleep(self.swarm.rechoke)

    async def announce(self, torrent: Torrent) -> None:
        """Get to know random members of the swarm."""
        try:
            found = await self.rpc.call(self.node.peers("tracker")[0], Announce(object=torrent.manifest.object), RPC_S)
        except RpcError:
            return
        for peer in found.peers:
            if peer not in torrent.neighbours:
                torrent.neighbours[peer] = Neighbour()
                self.tell(torrent, peer)

    # -- what neighbours say ---------------------------------------------------------------------------------

    def tell(self, torrent: Torrent, peer: str) -> None:
        neighbour = torrent.neighbours[peer]
        have = torrent.have.to_bytes(-(-len(torrent.pieces) // 8), "little")
        state = State(
            object=torrent.manifest.object, have=have, interested=neighbour.wanted, unchoked=neighbour.unchoked
        )
        self.rpc.cast(peer, state)

    def state(self, cast: State, caller: Caller) -> None:
        torrent = self.torrents.get(cast.object)
        if torrent is None:
            return
        known = caller.name in torrent.neighbours
        neighbour = torrent.neighbours.setdefault(caller.name, Neighbour())
        torrent.see(neighbour, int.from_bytes(cast.have, "little") & torrent.all)
        neighbour.wants, neighbour.lets_us = cast.interested, cast.unchoked
        changed = self.look(torrent, neighbour)
        if neighbour.unchoked and not neighbour.wants:
            neighbour.unchoked, changed = False, True
            if self.at_once:
                self.fill(torrent)
        elif neighbour.wants and not neighbour.unchoked and self.at_once and self.used(torrent) < self.slots:
            neighbour.unchoked = changed = True
        if changed or not known:
            self.tell(torrent, caller.name)
        self.ask(torrent, caller.name, neighbour)

    def heard(self, cast: Have, caller: Caller) -> None:
        torrent = self.torrents.get(cast.object)
        neighbour = torrent.neighbours.get(caller.name) if torrent is not None else None
        if torrent is not None and neighbour is not None and cast.index < len(torrent.pieces):
            torrent.see(neighbour, neighbour.have | 1 << cast.index)
            if self.look(torrent, neighbour):
                self.tell(torrent, caller.name)
            self.ask(torrent, caller.name, neighbour)

    def look(self, torrent: Torrent, neighbour: Neighbour) -> bool:
        """Find out whether a neighbour has what we lack; whether that has changed."""
        wanted = bool(neighbour.have & ~torrent.have)
        changed, neighbour.wanted = wanted != neighbour.wanted, wanted
        return changed

    # -- choking ---------------------------------------------------------------------------------------------

    def used(self, torrent: Torrent) -> int:
        return sum(neighbour.unchoked for neighbour in torrent.neighbours.values())

    def fill(self, torrent: Torrent) -> None:
        """Give free slots to neighbours that want something, at random."""
        waiting = [peer for peer, n in torrent.neighbours.items() if n.wants and not n.unchoked]
        for peer in self.node.random.sample(waiting, min(len(waiting), max(0, self.slots - self.used(torrent)))):
            torrent.neighbours[peer].unchoked = True
            self.tell(torrent, peer)

    def rechoke(self, torrent: Torrent) -> None:
        """Choose whom to let: all slots but one for those that sent us most, one for a random neighbour."""
        interested = [(peer, n) for peer, n in torrent.neighbours.items() if n.wants]
        self.node.random.shuffle(interested)
        interested.sort(key=lambda found: -found[1].received)
        best, rest = interested[: self.slots - 1], interested[self.slots - 1 :]
        chosen = dict([*best, *rest[:1]] if not rest else [*best, self.node.random.choice(rest)])
        for peer, neighbour in torrent.neighbours.items():
            neighbour.received = 0
            if neighbour.unchoked != (peer in chosen):
                neighbour.unchoked = peer in chosen
                self.tell(torrent, peer)

    # -- pieces ----------------------------------------------------------------------------------------------

    async def want(self, ask: Want, caller: Caller) -> Whole:
        torrent = self.torrents.get(ask.object)
        neighbour = torrent.neighbours.get(caller.name) if torrent is not None else None
        if torrent is None or neighbour is None or not neighbour.unchoked:
            raise Choked(f"{self.node.name} chokes {caller.name}")
        content = torrent.contents.get(ask.index)
        if content is None:
            raise NotFound(f"{self.node.name} does not have piece {ask.index} of {ask.object}")
        return Whole(content=content, checksum=content.checksum(self.node.config.checksum.algorithm))

    def ask(self, torrent: Torrent, peer: str, neighbour: Neighbour) -> None:
        """Ask a neighbour that lets us, and is not busy for us, for the rarest piece that only it is to send."""
        if not neighbour.lets_us or neighbour.piece >= 0:
            return
        missing = neighbour.have & ~torrent.have & ~torrent.going
        if missing:
            neighbour.piece = self.node.random.choice(torrent.rarest(missing))
            torrent.going |= 1 << neighbour.piece
            self.spawn(self.download(torrent, peer, neighbour))

    async def download(self, torrent: Torrent, peer: str, neighbour: Neighbour) -> None:
        """One piece from one neighbour, and then the next."""
        index, got = neighbour.piece, False
        ask = Want(object=torrent.manifest.object, index=index)
        self.edges += 1
        edge = f"{self.node.name}/{self.node.incarnation}/{self.edges}"
        chunk = torrent.pieces[index].chunk
        parent = EXT if self.node.place_of(peer).role == "store" else peer
        self.node.emit("edge.open", edge=edge, chunk=chunk, bucket=torrent.manifest.bucket, child=self.node.name,
                       parent=parent, src=peer, tracker="", lent=False)  # fmt: skip
        try:
            whole = await self.rpc.call(peer, ask, self.node.config.transfer.idle_timeout)
            got = await self.take(torrent, index, whole, edge)
            neighbour.received += len(whole.content)
            if not got:
                await asyncio.sleep(BACKOFF_S)
        except Choked:
            neighbour.lets_us = False
        except NotFound:
            torrent.see(neighbour, neighbour.have & ~(1 << index))
        except RpcError:
            await asyncio.sleep(BACKOFF_S)
        torrent.going &= ~(1 << index)
        neighbour.piece = -1
        self.node.emit("edge.close", edge=edge, chunk=chunk, child=self.node.name, parent=parent, src=peer,
                       why="done" if got else "failed")  # fmt: skip
        if got:
            self.spread(torrent, index)
        for other, each in torrent.neighbours.items() if not got else [(peer, neighbour)]:
            self.ask(torrent, other, each)

    async def take(self, torrent: Torrent, index: int, whole: Whole, edge: str) -> bool:
        """Verify a piece and keep it."""
        piece, content = torrent.pieces[index], whole.content
        self.node.emit("owl.recv", peer=self.node.name, chunk=piece.chunk, off=0, len=len(content), edge=edge)
        why = "length" if len(content) != piece.length else ""
        if content.checksum(self.node.config.checksum.algorithm) != whole.checksum:
            why = "checksum"
        self.node.emit("owl.verify", peer=self.node.name, chunk=piece.chunk, ok=not why, why=why)
        if why:
            return False
        torrent.add(index, content)
        self.node.emit("owl.keep", peer=self.node.name, chunk=piece.chunk)
        self.spawn(self.node.disk.write(piece.chunk, content))
        return True

    def spread(self, torrent: Torrent, index: int) -> None:
        """Tell the neighbours that lack a piece, and those that have nothing more for us."""
        for peer, neighbour in torrent.neighbours.items():
            if self.look(torrent, neighbour):
                self.tell(torrent, peer)
            elif not neighbour.have >> index & 1:
                self.rpc.cast(peer, Have(object=torrent.manifest.object, index=index))


class Seed(Member):
    """The store: has every object from its publication on, and more slots than others."""

    def __init__(self, node: Node[BitTorrentConfig]) -> None:
        super().__init__(node)
        self.slots = self.swarm.seed_slots

    def calls(self) -> dict[type, Any]:
        return {Put: self.put}

    async def put(self, ask: Put, caller: Caller) -> Ok:
        torrent = Torrent(ask.manifest, self.node.config, self.loop)
        for index, piece in enumerate(torrent.pieces):
            content = ask.content.slice(piece.start, piece.start + piece.length)
            torrent.add(index, content)
            await self.node.disk.write(piece.chunk, content)
        self.torrents[ask.manifest.object] = torrent
        await self.announce(torrent)
        self.spawn(self.periods(torrent))
        return Ok()


class SwarmTracker:
    """Knows who has joined which swarm, and tells random members of it."""

    def __init__(self, node: Node[BitTorrentConfig]) -> None:
        self.node = node
        self.members: dict[str, dict[str, None]] = {}

    async def run(self) -> None:
        self.rpc = Rpc(self.node, WIRE)
        await self.rpc.serve({Announce: self.announce})
        await self.node.ready()
        await asyncio.get_running_loop().create_future()

    def announce(self, ask: Announce, caller: Caller) -> Swarm:
        members = self.members.setdefault(ask.object, {})
        members[caller.name] = None
        others = [peer for peer in members if peer != caller.name]
        return Swarm(peers=tuple(self.node.random.sample(others, min(len(others), self.node.config.swarm.neighbours))))
