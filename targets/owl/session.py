"""A peer's standing with its tracker: which one it has, the lease, and what to do when that one is gone."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

from zebra.node import Node
from zebra.rpc import Request, Rpc, RpcError, Unreachable
from zebra.targets.owl.config import BACKOFF_S, RPC_TRIES, OwlConfig
from zebra.targets.owl.messages import NotRegistered, Register, VersionMismatch
from zebra.targets.owl.policies import weight

R = TypeVar("R")


class Session:
    """Calls to whichever tracker the peer is registered with. `describe` makes the Register message of this moment."""

    def __init__(self, node: Node[OwlConfig], rpc: Rpc, describe: Callable[[tuple[str, ...]], Register]) -> None:
        self.node, self.rpc, self.describe = node, rpc, describe
        self.tracker, self.version, self.ttl = "", 0, 0.0
        # trackers that may still take us for theirs: after a restart we cannot know
        self._before: dict[str, None] = dict.fromkeys(node.peers("tracker") if node.incarnation > 1 else ())
        self._avoid: dict[str, None] = {}
        self._joining = asyncio.Lock()

    async def call(self, request: Request[R]) -> R:
        """The tracker's answer, however many trackers that takes; callers bound the time."""
        while True:
            tracker = await self.join()
            for _ in range(RPC_TRIES):
                try:
                    return await self.rpc.call(tracker, request, self.node.config.rpc.timeout)
                except NotRegistered:
                    self.lose(tracker, avoid=False)
                    break
                except Unreachable:
                    await asyncio.sleep(BACKOFF_S)
                except RpcError:
                    pass
                if self.tracker != tracker:
                    break
            else:
                self.lose(tracker)

    def lose(self, tracker: str, avoid: bool = True) -> None:
        """Have this tracker no longer: the next call registers anew, with another one if this is to be avoided."""
        if self.tracker == tracker and not self.node.variant("bug.no_reregister"):
            self.tracker = ""
            self._before[tracker] = None
            if avoid:
                self._avoid[tracker] = None
                self.node.emit("owl.failover", tracker=tracker)

    async def join(self) -> str:
        """The tracker that the peer is registered with, after registering if there is none."""
        async with self._joining:
            while not self.tracker:
                tracker = self.pick()
                try:
                    register, timeout_s = self.describe(tuple(self._before)), self.node.config.rpc.timeout
                    ack = await self.rpc.call(tracker, register, timeout_s)
                except VersionMismatch:
                    raise
                except RpcError:
                    self._avoid[tracker] = self._before[tracker] = None
                    await asyncio.sleep(BACKOFF_S)
                    continue
                self._avoid.clear()
                self._before.clear()
                self.tracker, self.version, self.ttl = tracker, ack.version, ack.lease_ttl
            return self.tracker

    def pick(self) -> str:
        """A tracker of our region, else any; those that did not answer only when nobody else is left."""
        trackers = [t for t in self.node.peers("tracker") if t not in self._avoid]
        if not trackers:
            self._avoid.clear()
            trackers = list(self.node.peers("tracker"))
        near = [t for t in trackers if self.node.place_of(t).region == self.node.place.region] or trackers
        if self.node.config.tracker.pick == "hash":
            return max(near, key=lambda t: weight(self.node.name, t))
        return self.node.random.choice(near)
