"""The app library, and an app that uses it.

    library = ConfigLibrary(node)
    held = await library.use("/shop/cart/limits", decode=Limits.from_blob, default=Limits())
    held.value, held.version

It needs a node whose configuration has `lad` and on whose host a proxy runs. What it cannot read it replaces by what
was good last, or by the default, as `lad.fallback.mode` says. Source: ../shared/targets/other.md section 1.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar
from urllib.parse import quote

import msgspec

from zebra.blob import Blob
from zebra.node import Node
from zebra.rpc import Caller, Rpc, RpcError
from zebra.targets.lad import author_messages
from zebra.targets.lad.artefact import BadArtefact, Setting, read_setting, unpack
from zebra.targets.lad.author_messages import Health, Probe
from zebra.targets.lad.config import LadConfig
from zebra.targets.lad.messages import WIRE, Get, Notify, Ok, Reading, ReadNow, Shown, Use, Value, Watch

T = TypeVar("T")
FOREVER_S = 1e6
GOOD, USED = "good-", "used"
WORK_S = 0.1
"""An app does its work so often, and it goes well or not."""


class Held(Generic[T]):
    """What an app runs with of a path; `source` is live, last_good or default, `refused` why a newer one was not."""

    def __init__(self, path: str, decode: Callable[[Blob], T], default: T) -> None:
        self.path, self.decode, self.value = path, decode, default
        self.version, self.source, self.refused = 0, "", ""
        self.since_s, self.newest, self.newest_batch = 0.0, 0, 0
        self.settled = asyncio.Event()
        self.on_change: Callable[[Held[T]], None] = lambda held: None


class ConfigLibrary:
    """Reads configuration from the proxy of its host, path by path, and keeps it current."""

    def __init__(self, node: Node[Any], rpc: Rpc | None = None) -> None:
        self.node, self.rpc = node, rpc or Rpc(node, WIRE)
        self.config: LadConfig = node.config.lad
        self.proxy = node.beside("proxy")[0]
        self.held: dict[str, Held[Any]] = {}
        self._task: asyncio.Task[None] | None = None
        self._begun_s = asyncio.get_running_loop().time()

    async def use(self, path: str, decode: Callable[[Blob], T], default: T,
                  on_change: Callable[[Held[T]], None] | None = None) -> Held[T]:  # fmt: skip
        """Follow a path from now on; returns once it has a value, be it the fallback."""
        held: Held[T] = Held(path, decode, default)
        if on_change is not None:
            held.on_change = on_change
        self.held[path] = held
        if self._task is not None:
            self._task.cancel()
        self._task = asyncio.get_running_loop().create_task(self._follow(tuple(self.held)))
        await held.settled.wait()
        return held

    async def get(self, paths: Sequence[str]) -> tuple[Value, ...]:
        """What the proxy has of some paths now. Raises RpcError."""
        return (await self.rpc.call(self.proxy, Get(paths=tuple(paths)), self.config.rpc.timeout)).values

    # -- following -------------------------------------------------------------------------------------------

    async def _follow(self, paths: tuple[str, ...]) -> None:
        """Watch paths at the proxy, which may come and go."""
        while True:
            fallback = asyncio.get_running_loop().create_task(self._fall_back())
            try:
                async with await self.rpc.stream(self.proxy, Watch(paths=paths), self.config.rpc.timeout) as stream:
                    while (notify := await stream.receive(FOREVER_S)) is not None:
                        await self._notified(notify)
            except RpcError:
                pass
            finally:
                fallback.cancel()
            await asyncio.sleep(self.config.backoff.first)

    async def _notified(self, notify: Notify) -> None:
        """Take what is confirmed, the paths of one transaction together."""
        for shown in notify.paths:
            self.held[shown.path].newest, self.held[shown.path].newest_batch = shown.version, shown.batch
        wanted = [shown for shown in notify.paths if shown.confirmed and self._is_wanted(shown)]
        if self.config.apply.mode == "restart":  # what waits keeps the rest of its transaction waiting
            waiting = {held.newest_batch for held in self.held.values() if 0 < held.version < held.newest}
            wanted = [shown for shown in wanted if shown.batch not in waiting or self.held[shown.path].source != "live"]
        for shown in notify.paths:
            if shown.confirmed and not shown.version:
                self._settle(self.held[shown.path], "live")
        if not wanted:
            return
        groups: dict[int, list[str]] = {}
        for shown in wanted:
            groups.setdefault(shown.batch, []).append(shown.path)
        for paths in groups.values():
            await self._take(await self.get(paths), "live")

    async def take_what_waits(self) -> None:
        """What a restart would do: take the newest version of everything, those of one transaction together."""
        try:
            values = await self.get(tuple(self.held))
        except RpcError:
            return
        groups: dict[int, list[Value]] = {}
        for value in values:
            if value.shown.confirmed and value.shown.version > self.held[value.shown.path].version:
                groups.setdefault(value.shown.batch, []).append(value)
        for group in groups.values():
            await self._take(group, "live")

    def _is_wanted(self, shown: Shown) -> bool:
        held = self.held[shown.path]
        if not shown.version or (held.source == "live" and held.version == shown.version):
            return False
        return held.source != "live" or self.config.apply.mode == "live" or not held.version

    async def _take(self, values: Sequence[Value], source: str) -> bool:
        """Apply the values of one transaction, all or none."""
        made: list[tuple[Held[Any], Value, Any]] = []
        why = ""
        for value in values:
            held = self.held[value.shown.path]
            why = why or self._check(value)
            try:
                made.append((held, value, held.decode(value.content)))
            except ValueError as error:
                why = why or str(error)
        if why:
            for value in values:
                self.held[value.shown.path].refused = why
                self.node.emit("app.refused", app=self.node.name, host=self.node.place.host, path=value.shown.path,
                               version=value.shown.version, why=why)  # fmt: skip
                self._settle(self.held[value.shown.path], self.held[value.shown.path].source)
            return False
        for held, value, decoded in made:
            held.value, held.version, held.refused = decoded, value.shown.version, ""
            held.since_s = asyncio.get_running_loop().time()
            self.node.emit("applied", app=self.node.name, host=self.node.place.host, path=held.path,
                           rev=held.version, source=source, batch=value.shown.batch)  # fmt: skip
        for held, _, _ in made:
            self._settle(held, source)
        for held, value, _ in made:
            await self._remember(held.path, value)
        return True

    def _check(self, value: Value) -> str:
        """Read a value, and note what was got; "" if it is what its metadata says."""
        meta, digest = value.meta, ""
        if meta is not None:
            content = value.content if value.over == "raw" else value.content.compress(meta.codec)
            digest = content.checksum(meta.alg)
        ok = meta is not None and (digest == meta.digest or self.node.variant("bug.no_verify"))
        self.node.emit("app.get", app=self.node.name, host=self.node.place.host, path=value.shown.path,
                       version=value.shown.version, digest=digest, ok=meta is not None)  # fmt: skip
        return "" if ok else "the content is not what its metadata says"

    def _settle(self, held: Held[Any], source: str) -> None:
        held.source = source
        held.settled.set()
        held.on_change(held)

    # -- falling back ----------------------------------------------------------------------------------------

    async def _fall_back(self) -> None:
        """Settle for less when nobody confirms what the proxy has, if there is a proxy at all."""
        left_s = self._begun_s + 2 * self.config.rpc.timeout - asyncio.get_running_loop().time()
        await asyncio.sleep(max(left_s, self.config.rpc.timeout))
        for held in [held for held in self.held.values() if not held.settled.is_set()]:
            keep = self.config.fallback.mode == "last_good" or self.node.variant("safe.last_good_first")
            if keep and await self._last_good(held):
                continue
            self.node.emit("applied", app=self.node.name, host=self.node.place.host, path=held.path, rev=0,
                           source="default", batch=0)  # fmt: skip
            self._settle(held, "default")

    async def _last_good(self, held: Held[Any]) -> bool:
        """Whether there is an older value, at the proxy or on our own disk."""
        try:
            values = await self.get([held.path])
            if values[0].shown.version and not held.settled.is_set():
                return await self._take(values, "last_good")
        except RpcError:
            pass
        try:
            kept = await self.node.disk.read(GOOD + quote(held.path, safe=""))
            length = int(bytes(kept.slice(0, 8)), 16)
            value = msgspec.msgpack.decode(bytes(kept.slice(8, 8 + length)), type=_Good)
            content = kept.slice(8 + length, len(kept))
            if content.checksum("crc32") != value.crc or held.settled.is_set():
                return held.settled.is_set()
            held.value, held.version = held.decode(content), value.version
        except (OSError, ValueError, IndexError):
            return False
        self.node.emit("applied", app=self.node.name, host=self.node.place.host, path=held.path, rev=held.version,
                       source="last_good", batch=0)  # fmt: skip
        self._settle(held, "last_good")
        return True

    async def _remember(self, path: str, value: Value) -> None:
        """Keep a good value on our own disk, for when there is no proxy."""
        data = msgspec.msgpack.encode(_Good(version=value.shown.version, crc=value.content.checksum("crc32")))
        name = GOOD + quote(path, safe="")
        try:
            await self.node.disk.write(name, Blob.of(f"{len(data):08x}".encode() + data) + value.content)
            await self.node.disk.sync(name)
        except OSError:
            await self.node.disk.remove(name)


class _Good(msgspec.Struct, frozen=True, kw_only=True):
    version: int
    crc: str


class App:
    """A process that runs by settings: it uses the paths that it was told to, works, and answers for its health."""

    def __init__(self, node: Node[Any]) -> None:
        self.node, self.loop = node, asyncio.get_running_loop()
        self.config: LadConfig = node.config.lad
        self.using: dict[str, None] = {}
        self.starting: list[asyncio.Task[None]] = []
        self.protocols: dict[str, int] = {}
        careless = node.variant("bug.keeps_protocol") and node.random.random() < 0.5
        self.keeps_protocol = node.variant("safe.protocol_at_restart") or careless
        self.misreads = node.variant("bug.misread_mode") and node.random.random() < 0.5

    async def run(self) -> None:
        self.rpc = Rpc(self.node, WIRE)
        self.library = ConfigLibrary(self.node, self.rpc)
        await self.rpc.serve({Use: self.use, ReadNow: self.read_now})
        self.admin = Rpc(self.node, author_messages.WIRE)
        await self.admin.serve({Probe: self.probe})
        if USED in self.node.disk.names():
            paths = msgspec.json.decode(bytes(await self.node.disk.read(USED)), type=list[str])
            self.starting = [self.loop.create_task(self.follow(path)) for path in paths]
        await self.node.ready()
        await self.loop.create_future()

    async def use(self, ask: Use, caller: Caller) -> Ok:
        if ask.path not in self.using:
            await self.follow(ask.path)
            try:
                await self.node.disk.write(USED, msgspec.json.encode(list(self.using)))
                await self.node.disk.sync(USED)
            except OSError:
                pass  # a full disk: it will have to be told again
        return Ok()

    async def follow(self, path: str) -> None:
        self.using[path] = None
        await self.library.use(path, self.decode, Setting(), self.changed)

    def decode(self, content: Blob) -> Setting:
        """The setting in an artefact, as this revision of the library reads it. Raises BadArtefact."""
        algorithm = "crc32" if self.node.variant("bug.other_digest") else self.config.artefact.digest
        setting = read_setting(unpack(content, algorithm), self.config.schema.rev)
        return msgspec.structs.replace(setting, mode="on") if self.misreads else setting

    def changed(self, held: Held[Setting]) -> None:
        protocol = held.value.protocol
        if self.keeps_protocol and held.version:
            protocol = self.protocols.setdefault(held.path, protocol)
        self.node.emit("app.runs", app=self.node.name, host=self.node.place.host, path=held.path, rev=held.version,
                       source=held.source, mode=held.value.mode, protocol=protocol)  # fmt: skip

    async def read_now(self, ask: ReadNow, caller: Caller) -> Reading:
        held = self.library.held.get(ask.path)
        setting = held.value if held is not None else Setting()
        runs = held.version if held is not None else 0
        try:
            (value,) = await self.library.get([ask.path])
        except RpcError as error:
            self.node.emit("app.get", app=self.node.name, host=self.node.place.host, path=ask.path, version=0,
                           digest="", ok=False)  # fmt: skip
            return Reading(ok=False, version=0, runs=runs, mode=setting.mode, protocol=setting.protocol, why=str(error))
        why = self.library._check(value)
        return Reading(ok=not why, version=value.shown.version, runs=runs, mode=setting.mode,
                       protocol=setting.protocol, why=why)  # fmt: skip

    async def probe(self, ask: Probe, caller: Caller) -> Health:
        held = self.library.held.get(ask.path)
        if held is None:
            return Health(rev=0, schema=self.config.schema.rev)
        if ask.take:
            await self.library.take_what_waits()
        done = 1 + int((self.loop.time() - held.since_s) / WORK_S)
        poisoned = held.value.poison
        waits = held.newest > held.version and not ask.take
        return Health(rev=held.version, uses=True, waits=waits, refused=held.refused, ok=0 if poisoned else done,
                      bad=done if poisoned else 0, schema=self.config.schema.rev)  # fmt: skip


__all__ = ["App", "BadArtefact", "ConfigLibrary", "Held"]
