"""The metadata of one shard on a node, and the streams by which its children follow it.

Source: ../shared/targets/lad.md section 2 (metadata relay): an update goes to the children before any content is
fetched.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterable

from zebra.targets.lad.messages import MetaUpdate, Position, Tree
from zebra.targets.lad.store_messages import Entry

NOWHERE = Position(seq=0, prev=0, zxid=0)


class Outlet:
    """What one child is still to be sent."""

    __slots__ = ("_waiter", "closed", "queue")

    def __init__(self) -> None:
        self.queue: deque[MetaUpdate] = deque()
        self.closed = False
        self._waiter: asyncio.Future[None] | None = None

    def put(self, update: MetaUpdate) -> None:
        self.queue.append(update)
        self._wake()

    def close(self) -> None:
        self.closed = True
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def wait(self) -> None:
        """Until there is something to send, or it is closed."""
        if not self.queue and not self.closed:
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter


class Feed:
    """The entries of a shard, the one changed last at the end, and the position that they stand for.

    `zxid` is that of the last change known; `at` numbers the updates as the current tree's distributor does.
    """

    def __init__(self, shard: str) -> None:
        self.shard = shard
        self.entries: dict[str, Entry] = {}
        self.at, self.zxid = NOWHERE, 0
        self.tree: Tree | None = None
        self.outlets: dict[str, Outlet] = {}

    def apply(self, entries: Iterable[Entry]) -> list[Entry]:
        """Take entries; those that were news, by zxid."""
        news = [entry for entry in entries if self._is_news(entry)]
        news.sort(key=lambda entry: entry.zxid)
        for entry in news:
            self.entries.pop(entry.path, None)
            self.entries[entry.path] = entry
        if news:
            self.zxid = max(self.zxid, news[-1].zxid)
        return news

    def _is_news(self, entry: Entry) -> bool:
        known = self.entries.get(entry.path)
        return known is None or known.zxid < entry.zxid

    def since(self, have: int) -> tuple[Entry, ...]:
        """What changed after a zxid."""
        found = []
        for path in reversed(self.entries):
            entry = self.entries[path]
            if entry.zxid <= have:
                break
            found.append(entry)
        return tuple(reversed(found))

    def catch_up(self, tree: Tree, have: int) -> MetaUpdate:
        """What a child needs that knows the shard up to `have`."""
        return MetaUpdate(tree=tree, at=self.at, entries=self.since(have), first=True)

    def publish(self, update: MetaUpdate) -> None:
        """Send an update to every child."""
        for outlet in self.outlets.values():
            outlet.put(update)

    async def follow(self, child: str, tree: Tree, have: int) -> AsyncIterator[MetaUpdate]:
        """The updates for a child, from its `have` on, until it is taken away."""
        self.close(child)
        outlet = self.outlets[child] = Outlet()
        try:
            yield self.catch_up(tree, have)
            while True:
                await outlet.wait()
                while outlet.queue:
                    yield outlet.queue.popleft()
                if outlet.closed:
                    return
        finally:
            if self.outlets.get(child) is outlet:
                del self.outlets[child]

    def close(self, child: str) -> None:
        """End a child's stream."""
        outlet = self.outlets.pop(child, None)
        if outlet is not None:
            outlet.close()

    def close_all(self) -> None:
        for child in list(self.outlets):
            self.close(child)
