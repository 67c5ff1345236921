"""Versions of values on a node: fetched once, forwarded as they arrive (cut-through), verified at the end.

KNOWN -> FETCHING -> READY. Distributors and proxies share this; where the bytes come from differs (`Upstream`).
Source: ../shared/targets/lad.md section 2.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import Any

from zebra.blob import Blob
from zebra.node import Node
from zebra.targets.lad.config import LadConfig
from zebra.targets.lad.messages import Content, GetContent, Gone, NoContent
from zebra.targets.lad.store_messages import Entry, Version

EMPTY = Blob.of(b"")
RETRY_S = 0.05
"""Pause before a child asks again a parent that did not have the content yet."""


class Holding:
    """What a node has of one version. `round` counts how often it was begun at 0; `why` says why it was given up."""

    def __init__(self, path: str, version: Version, loop: asyncio.AbstractEventLoop) -> None:
        self.path, self.version = path, version
        self.content, self.codec, self.round = EMPTY, version.codec, 0
        self.ready, self.why = False, ""
        self.task: asyncio.Task[None] | None = None
        self._loop = loop
        self._waiters: dict[asyncio.Future[None], None] = {}

    @property
    def key(self) -> tuple[str, int]:
        return self.path, self.version.version

    def add(self, piece: Content) -> None:
        """Take a range: it goes on where we are, or begins anew, maybe in another form."""
        if piece.offset != len(self.content) or piece.codec != self.codec:
            if piece.offset:
                raise NoContent(f"{self.path}: a range at {piece.offset}, expected {len(self.content)}")
            self.restart(piece.codec)
        self.content += piece.content
        self.wake()

    def restart(self, codec: str) -> None:
        self.content, self.codec, self.round = EMPTY, codec, self.round + 1
        self.wake()

    def give_up(self, why: str) -> None:
        """Nobody gets more of it from us."""
        self.why = why
        if self.task is not None and not self.task.done():
            self.task.cancel()
        self.wake()

    def wake(self) -> None:
        for waiter in self._waiters:
            _wake(waiter)

    async def changed(self, timeout_s: float) -> None:
        """Wait until there is something new, or for so long."""
        waiter: asyncio.Future[None] = self._loop.create_future()
        self._waiters[waiter] = None
        timer = self._loop.call_later(timeout_s, _wake, waiter)
        try:
            await waiter
        finally:
            timer.cancel()
            del self._waiters[waiter]

    def raw(self) -> Blob:
        """The value. Raises ValueError when the stored form is damaged."""
        return self.content.decompress(self.codec)


def _wake(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)


def digest_of(content: Blob, codec: str, version: Version, over: str) -> str:
    """The digest of content in the form of `codec`, by the algorithm of that version; "" when it is damaged.

    It is `over` the raw or the stored form, unless the version says what its digest covers (`safe.name_coverage`).
    """
    try:
        raw = content.decompress(codec)
    except ValueError:
        return ""
    if (version.over or over) == "raw":
        return raw.checksum(version.alg)
    return (content if codec == version.codec else raw.compress(version.codec)).checksum(version.alg)


Fetch = Callable[[Holding], Coroutine[Any, Any, None]]
"""Makes a holding ready, trying until it is; ends when that has happened or can no longer."""


class Contents:
    """All versions that a node holds or gets. `entries` is what it knows of each path."""

    def __init__(self, node: Node[Any], entries: Callable[[str], Entry | None], fetch: Fetch) -> None:
        self.node, self.config = node, _config(node)
        self.entries, self._fetch = entries, fetch
        self.loop = asyncio.get_running_loop()
        self.holdings: dict[str, dict[int, Holding]] = {}
        self.leaving = False
        self.spoil_next = False

    def find(self, path: str, version: int) -> Holding | None:
        return self.holdings.get(path, {}).get(version)

    def known(self, path: str, version: int) -> Version | None:
        """What metadata says of a version of a path, if it is one that some host may still need."""
        entry = self.entries(path)
        if entry is not None:
            for one in (entry.latest, entry.base):
                if one is not None and one.version == version and not one.deleted:
                    return one
        return None

    def begin(self, path: str, version: Version) -> Holding:
        """The holding of a version, on its way unless it is there already."""
        holding = self.find(path, version.version)
        if holding is None:
            holding = self.add(Holding(path, version, self.loop))
            holding.task = self.loop.create_task(self._get(holding))
        return holding

    def add(self, holding: Holding) -> Holding:
        self.holdings.setdefault(holding.path, {})[holding.version.version] = holding
        return holding

    async def _get(self, holding: Holding) -> None:
        await self._fetch(holding)
        if not holding.ready:
            self.drop(holding, holding.why or "not to be had")

    def drop(self, holding: Holding, why: str) -> None:
        """Forget a version; who reads it from us is told."""
        kept = self.holdings.get(holding.path, {})
        if kept.get(holding.version.version) is holding:
            del kept[holding.version.version]
        holding.give_up(why)

    def forget_others(self, entry: Entry) -> None:
        """Drop all versions of a path that its entry does not name."""
        keep = {one.version for one in (entry.latest, entry.base) if one is not None}
        for holding in list(self.outdated(entry.path, keep, 0)):
            self.drop(holding, "outdated")

    def outdated(self, path: str, keep: set[int], retain: int) -> Iterator[Holding]:
        """The holdings of a path that nobody needs: all but `keep`, newer ones and the newest `retain` ready."""
        kept = self.holdings.get(path, {})
        newest = max(keep, default=0)
        ready = sorted((v for v, holding in kept.items() if holding.ready), reverse=True)[:retain]
        for version in [v for v in kept if v not in keep and v not in ready and v < newest]:
            yield kept[version]

    # -- serving ---------------------------------------------------------------------------------------------

    async def serve(self, ask: GetContent, child: str) -> AsyncIterator[Content]:
        """The ranges of a version, as we get them; ends once it is verified. Raises Gone, NoContent."""
        holding = self._wanted(ask, child)
        round_, offset, sent = holding.round, ask.offset if ask.codec == holding.codec else 0, 0
        try:
            while True:
                if holding.why or (self.leaving and not holding.ready):
                    raise NoContent(f"{ask.path}: {holding.why or 'leaving'}")
                if round_ != holding.round:
                    round_, offset = holding.round, 0
                content = self._next(holding, offset, ask.length)
                if content is not None:
                    sent, offset = sent + len(content.content), offset + len(content.content)
                    yield content
                elif holding.ready:
                    return
                else:
                    await holding.changed(self.config.content.idle / 2)
                    if (
                        round_ == holding.round
                        and len(holding.content) == offset
                        and not (holding.ready or holding.why)
                    ):
                        yield Content(offset=offset, size=holding.version.size, codec=holding.codec, content=EMPTY)
        finally:
            self.node.emit("content.sent", path=ask.path, version=ask.version, to=child, bytes=sent)

    def _next(self, holding: Holding, offset: int, length: int) -> Content | None:
        """The range at an offset, None if there is nothing there yet."""
        if offset >= len(holding.content):
            return None
        piece = holding.content.slice(offset, min(offset + length, len(holding.content)))
        if self.spoil_next:
            self.spoil_next, piece = False, piece.flip(0)
        return Content(offset=offset, size=holding.version.size, codec=holding.codec, content=piece)

    def _wanted(self, ask: GetContent, child: str) -> Holding:
        holding = self.find(ask.path, ask.version)
        if holding is not None:
            return holding
        version = self.known(ask.path, ask.version)
        if version is None:
            entry = self.entries(ask.path)
            if entry is not None and entry.version > ask.version:
                raise Gone(f"{entry.version}")
            raise NoContent(f"{ask.path}: version {ask.version} is not known here")
        self.node.emit("content.asked", path=ask.path, version=ask.version, by=child)
        return self.begin(ask.path, version)


def _config(node: Node[Any]) -> LadConfig:
    config: LadConfig = node.config.lad
    return config
