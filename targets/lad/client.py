"""The client: commits through the author, lets apps use paths, waits until they have what was committed."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

import msgspec

from zebra.errors import Failed
from zebra.node import Node
from zebra.rpc import Request, Rpc, RpcError, Unreachable
from zebra.targets.lad import author_messages
from zebra.targets.lad.artefact import Setting, compile_setting, pack
from zebra.targets.lad.author_messages import Commit, Committed, RollBack, SetValidator, Source
from zebra.targets.lad.config import LadConfig
from zebra.targets.lad.messages import WIRE, Hang, Reading, ReadNow, Spoil, Use, Want
from zebra.targets.lad.store_client import StoreClient
from zebra.targets.lad.store_messages import Put, TooLarge
from zebra.units import size_bytes

R = TypeVar("R")
COMMIT_S = 120.0
ADMIN_S = 10.0
LOOK_S = 0.1


class Rejected(Failed):
    """The author did not take the change, or took it back: nobody is to have it."""


class NotThere(Exception):
    """An app does not have what it should have by now."""


class LadClient:
    """Commits changes, asks apps for them, and plays the administrator."""

    def __init__(self, node: Node[Any]) -> None:
        self.node = node
        self.config: LadConfig = node.config.lad
        self.rpc, self.author = Rpc(node, WIRE), Rpc(node, author_messages.WIRE)
        self.store = StoreClient(node)
        self.changes = 0

    # -- changes ---------------------------------------------------------------------------------------------

    async def commit(
        self, *paths: str, payload: int | str = 0, staged: bool = False, **setting: Any
    ) -> tuple[int, ...]:
        """Commit a setting, with so many bytes of payload, to paths as one change; their versions, once all may see it.

        Raises Rejected when the author does not take it.
        """
        text, length = msgspec.json.encode(setting), size_bytes(payload)
        if not self.node.peers("author"):
            return await self._compile(paths, compile_setting(text), length)
        sources = tuple(
            Source(path=path, text=text, payload=self.node.blob(self.node.random.getrandbits(63), length))
            for path in paths
        )
        self.changes += 1
        ask = Commit(id=f"{self.node.name}/{self.node.incarnation}/{self.changes}", sources=sources, staged=staged)
        return await self._change(ask, paths=list(paths))

    async def _compile(self, paths: tuple[str, ...], setting: Setting, length: int) -> tuple[int, ...]:
        """Be one's own author, in a cluster that has none."""
        config = self.config
        ops = [Put(path=path, data=pack(setting, self.node.blob(self.node.random.getrandbits(63), length),
                                        schema=config.schema.rev, encoding=config.artefact.encoding,
                                        algorithm=config.artefact.digest)) for path in paths]  # fmt: skip
        async with self.node.op("commit", paths=list(paths)) as op:
            try:
                written = await self.store.multi(ops)
            except TooLarge as error:
                raise Rejected(str(error)) from None
            op.note(state="FULL", zxid=written.zxid, revs=list(written.versions))
        return written.versions

    async def roll_back(self, path: str) -> tuple[int, ...]:
        """Make the content before a path's latest version its newest one."""
        self.changes += 1
        return await self._change(RollBack(id=f"{self.node.name}/{self.node.incarnation}/{self.changes}", path=path),
                                  paths=[path])  # fmt: skip

    async def _change(self, ask: Request[Committed], paths: list[str]) -> tuple[int, ...]:
        async with self.node.op("commit", paths=paths) as op:
            authors = self.node.peers("author")
            done = await self._call(self.author, authors[self.changes % len(authors)], ask, COMMIT_S)
            op.note(state=done.state, zxid=done.zxid, revs=list(done.revs))
            if done.state != "FULL":
                raise Rejected(f"{', '.join(paths)}: {done.state} ({done.why})")
        return done.revs

    async def put(self, path: str, size: int | str) -> int:
        """Write so many bytes to a path of the store, which no author has seen; its version."""
        blob = self.node.blob(self.node.random.getrandbits(63), size_bytes(size))
        async with self.node.op("put", path=path) as op:
            written = await self.store.write(path, blob)
            op.note(zxid=written.zxid)
        return written.versions[0]

    async def burst(self, paths: Iterable[str], times: int, size: int | str = 100) -> dict[str, int]:
        """Write to all of some paths, many times at once; the versions that they end at."""
        versions: dict[str, int] = {}

        async def one(path: str) -> None:
            for _ in range(times):
                blob = self.node.blob(self.node.random.getrandbits(63), size_bytes(size))
                versions[path] = (await self.store.multi([Put(path=path, data=blob)])).versions[0]

        await asyncio.gather(*(one(path) for path in paths))
        return versions

    # -- apps ------------------------------------------------------------------------------------------------

    async def use(self, *paths: str, apps: Iterable[str] | None = None) -> None:
        """Let apps (all that are up, unless given) use paths from now on."""
        apps = self.node.up("app") if apps is None else apps
        await asyncio.gather(*(self._call(self.rpc, app, Use(path=path), ADMIN_S) for app in apps for path in paths))

    async def want(self, path: str, proxies: Iterable[str] | None = None) -> None:
        """Let proxies (all that are up, unless given) keep a path for no app in particular."""
        proxies = self.node.up("proxy") if proxies is None else proxies
        await asyncio.gather(*(self._call(self.rpc, proxy, Want(path=path), ADMIN_S) for proxy in proxies))

    async def read(self, app: str, path: str) -> Reading:
        """What an app gets from its proxy now, and what it runs with."""
        async with self.node.op("read", app=app, path=path) as op:
            reading = await self._call(self.rpc, app, ReadNow(path=path), ADMIN_S)
            op.note(version=reading.version, runs=reading.runs, ok=reading.ok)
            if not reading.ok:
                raise Failed(f"{app} cannot read {path}: {reading.why}")
        return reading

    async def arrived(
        self, versions: Mapping[str, int], apps: Iterable[str] | None = None, within_s: float = 0.0
    ) -> None:
        """Wait until apps (all that are up, unless given) can read these versions, or later ones. Raises NotThere."""
        deadline_s = asyncio.get_running_loop().time() + (within_s or 2 * self.config.limit.propagation)
        chosen = list(self.node.up("app") if apps is None else apps)
        await asyncio.gather(*(self._arrived(app, path, version, deadline_s)
                               for app in chosen for path, version in versions.items()))  # fmt: skip

    async def _arrived(self, app: str, path: str, version: int, deadline_s: float) -> None:
        seen = -1
        while asyncio.get_running_loop().time() < deadline_s:
            if app not in self.node.up("app"):
                return
            try:
                reading = await self.rpc.call(app, ReadNow(path=path), self.config.rpc.timeout * 2)
                seen = reading.version
            except RpcError:
                pass
            if seen >= version:
                return
            await asyncio.sleep(LOOK_S)
        raise NotThere(f"{app} has version {seen} of {path}, not {version}")

    async def settings(self, path: str) -> dict[str, Reading]:
        """What each app that is up runs with."""
        apps = self.node.up("app")
        readings = await asyncio.gather(*(self._call(self.rpc, app, ReadNow(path=path), ADMIN_S) for app in apps))
        return dict(zip(apps, readings, strict=True))

    async def _call(self, rpc: Rpc, to: str, request: Request[R], timeout_s: float) -> R:
        """The answer of a node that is meant to be up: a broken connection is made again, requests bear repetition."""
        while True:
            try:
                return await rpc.call(to, request, timeout_s)
            except Unreachable:
                if to not in self.node.up(self.node.place_of(to).role):
                    raise
                await asyncio.sleep(LOOK_S)

    # -- application faults ----------------------------------------------------------------------------------

    async def hang(self, proxy: str, on: bool) -> None:
        """Let a proxy answer pings and apps but relay nothing, or let it go on."""
        await self._call(self.rpc, proxy, Hang(on=on), ADMIN_S)

    async def spoil(self, proxy: str) -> None:
        """Flip a bit of the next content that a proxy forwards."""
        await self._call(self.rpc, proxy, Spoil(), ADMIN_S)

    async def validator(self, up: bool) -> None:
        """Take the author's validator down, or up again."""
        await self._call(self.author, self.node.peers("author")[0], SetValidator(up=up), ADMIN_S)
