"""A UDP proxy: a session per client address, each with a socket of its own towards the upstream."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Any

from zebra.proxy.proxy import Address, Passed
from zebra.proxy.toxics import HOLD, Decided, Toxic, Way

IDLE_S = 60.0
"""A session that says nothing for so long is forgotten."""

SESSIONS_MAX = 4096
"""The oldest is forgotten for a new one."""


class Session(asyncio.DatagramProtocol):
    """What one client and the upstream say to each other."""

    def __init__(self, relay: Relay, client: Any, number: int) -> None:
        self._relay, self._client = relay, client
        peer, name = client[0], f"{client[0]}>{relay.target}/{number}"
        self._out = Way(peer, relay.target, relay.random(f"{name}/out"), relay.decided, name=f"{name}/out")
        self._back = Way(relay.target, peer, relay.random(f"{name}/back"), relay.decided, name=f"{name}/back")
        self._early: list[bytes] = []
        self._transport: Any = None
        self._timer: asyncio.TimerHandle | None = None
        self.touch()

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        for data in self._early:
            transport.sendto(data)
        self._early.clear()

    def touch(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._relay.loop.call_later(IDLE_S, self._relay.forget, self._client)

    def from_client(self, data: bytes) -> None:
        self.touch()
        self._relay.received_up += len(data)
        self._pass(data, self._out, self._send_up)

    def datagram_received(self, data: bytes, address: Any) -> None:
        self.touch()
        self._relay.received_down += len(data)
        self._pass(data, self._back, self._send_down)

    def error_received(self, error: Exception) -> None:
        """The upstream refuses: a datagram that nobody takes is lost."""

    def _pass(self, data: bytes, way: Way, send: Callable[[bytes], None]) -> None:
        delays, now = [0.0], self._relay.loop.time()
        for toxic in self._relay.toxics_of(way.source, way.target):
            if toxic.only(way):
                delays = toxic.copies(delays, len(data), way, now)
        for delay in delays:
            if 0 < delay < HOLD:
                self._relay.loop.call_later(delay, send, data)
            elif delay <= 0:
                send(data)

    def _send_up(self, data: bytes) -> None:
        self._relay.sent_up += len(data)
        if self._transport is None:
            self._early.append(data)
        elif not self._transport.is_closing():
            self._transport.sendto(data)

    def _send_down(self, data: bytes) -> None:
        self._relay.sent_down += len(data)
        self._relay.answer(data, self._client)

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._transport is not None:
            self._transport.close()


class Relay(asyncio.DatagramProtocol):
    """The port where clients send their datagrams."""

    def __init__(self, loop: asyncio.AbstractEventLoop, target: str, upstream: Address, random: Callable[[str], Any],
                 toxics_of: Callable[[str, str], tuple[Toxic, ...]], decided: Decided) -> None:  # fmt: skip
        self.loop, self.target, self.upstream = loop, target, upstream
        self.random, self.toxics_of, self.decided = random, toxics_of, decided
        self.received_up = self.sent_up = self.received_down = self.sent_down = 0
        self._sessions: dict[Any, Session] = {}
        self._numbers: Counter[str] = Counter()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._transport: Any = None

    @property
    def passed(self) -> Passed:
        return self.received_up, self.sent_up, self.received_down, self.sent_down

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def datagram_received(self, data: bytes, address: Any) -> None:
        session = self._sessions.get(address)
        if session is None:
            session = self._begin(address)
        session.from_client(data)

    def _begin(self, address: Any) -> Session:
        if len(self._sessions) >= SESSIONS_MAX:
            self.forget(next(iter(self._sessions)))
        self._numbers[address[0]] += 1
        session = self._sessions[address] = Session(self, address, self._numbers[address[0]])
        task = self.loop.create_task(self._connect(session))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return session

    async def _connect(self, session: Session) -> None:
        try:
            await self.loop.create_datagram_endpoint(lambda: session, remote_addr=self.upstream)
        except OSError:  # nobody there: what is sent is lost
            pass

    def answer(self, data: bytes, client: Any) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.sendto(data, client)

    def forget(self, client: Any) -> None:
        session = self._sessions.pop(client, None)
        if session is not None:
            session.close()

    def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        for client in list(self._sessions):
            self.forget(client)
        if self._transport is not None:
            self._transport.close()
