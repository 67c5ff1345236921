"""Toxiproxy's proxies by name, their toxics, and what clients may do with them.

Host names are resolved before anything changes, and what is done between two awaits is one step, so there is no lock
that somebody could hold while he waits. Taking toxics on or off hundreds of connections leaves others their turn.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections import deque
from collections.abc import AsyncIterator
from typing import Any

from zebra.faults.toxiproxy import applied
from zebra.faults.toxiproxy.address import BadAddress, join, resolve, split
from zebra.faults.toxiproxy.applied import Applied
from zebra.faults.toxiproxy.datagrams import Relay
from zebra.faults.toxiproxy.wire import ApiError, Body
from zebra.proxy.proxy import Address, Listener, Passed, Proxy, add_passed, listening
from zebra.proxy.toxics import Over, Toxic, Way

TURN_S = 0.005
"""So long at a time are connections changed before others have their turn."""

LINGER_S = 5.0
"""So long may a peer take to read the rest of a connection that was closed."""

DECISIONS = 10_000
"""So many of the last decisions are kept for each proxy."""

NOWHERE: Address = ("0.0.0.0", 0)
"""Stands for an upstream that is no address: whoever connects to port 0 is refused."""

UPSTREAM = "upstream"


class NamedProxy:
    """One proxy. `listen` is as a client wrote it until the proxy is up, then where it listens."""

    def __init__(self, name: str, listen: str, upstream: str, protocol: str, seed: str) -> None:
        self.name, self.listen, self.upstream, self.protocol, self.seed = name, listen, upstream, protocol, seed
        self.enabled = False
        self.toxics: dict[str, Applied] = {}
        self.decisions: deque[dict[str, Any]] = deque(maxlen=DECISIONS)
        self._loop = asyncio.get_running_loop()
        self._up: tuple[Toxic, ...] = ()
        self._down: tuple[Toxic, ...] = ()
        self._listener: Listener | None = None
        self._relay: Relay | None = None
        self._passed: Passed = (0, 0, 0, 0)
        self.core = Proxy(self._loop, seed, self._toxics_of, lambda address: address, decided=self._decided)

    # -- up and down -----------------------------------------------------------------------------------------

    def start(self, at: Address) -> None:
        """Listen, if it does not; raises ApiError. The address has been resolved."""
        if self.enabled:
            return
        try:
            upstream = split(self.upstream)
        except BadAddress:
            upstream = NOWHERE
        try:
            if self.protocol == "udp":
                at = self._relay_at(at, upstream)
            else:
                sock = listening(at)
                self._listener = Listener(self.core, sock, UPSTREAM, upstream, refusal="close", label=self.name)
                at = self._listener.address
        except (OSError, OverflowError) as error:
            reason = os.strerror(error.errno or 0).lower() if isinstance(error, OSError) else str(error)
            raise ApiError(500, f"listen {self.protocol} {join(at)}: bind: {reason}") from None
        self.listen, self.enabled = join(at), True

    def _relay_at(self, at: Address, upstream: Address) -> Address:
        sock = socket.socket(socket.AF_INET6 if ":" in at[0] else socket.AF_INET, socket.SOCK_DGRAM)
        try:
            sock.bind(at)
        except BaseException:
            sock.close()
            raise
        sock.setblocking(False)
        self._relay = relay = Relay(self._loop, UPSTREAM, upstream, self.core.random, self._toxics_of, self._decided)
        self.core.spawn(self._loop.create_datagram_endpoint(lambda: relay, sock=sock))
        host, port = sock.getsockname()[:2]
        return host, port

    async def stop(self) -> None:
        """Refuse new connections and close those that are on."""
        self.enabled = False
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        if self._relay is not None:
            self._passed = add_passed(self._passed, self._relay.passed)
            self._relay.close()
            self._relay = None
        async for connection in _in_turns(list(self.core.connections)):
            connection.end("close")

    @property
    def passed(self) -> Passed:
        total = add_passed(self._passed, self.core.passed)
        return total if self._relay is None else add_passed(total, self._relay.passed)

    # -- toxics ----------------------------------------------------------------------------------------------

    def read_toxic(self, body: Body) -> Applied:
        """A toxic that this proxy can take; raises ApiError."""
        return applied.read(body, self.seed, self.protocol == "udp", self.toxics)

    def put(self, toxic: Applied) -> None:
        """Add a toxic; `settle` puts it on the connections that there are."""
        toxic.drawn = self._drawn
        self.toxics[toxic.name] = toxic
        self._change()
        self.lease(toxic)

    def take(self, toxic: Applied) -> None:
        """Remove a toxic; `settle` takes it off the connections."""
        if toxic.timer is not None:
            toxic.timer.cancel()
            toxic.timer = None
        self.toxics.pop(toxic.name, None)
        self._change()

    def take_all(self) -> None:
        for toxic in list(self.toxics.values()):
            self.take(toxic)

    def lease(self, toxic: Applied) -> None:
        """Begin a toxic's lease anew."""
        if toxic.timer is not None:
            toxic.timer.cancel()
        toxic.timer = self._loop.call_later(toxic.lease_s, self._expire, toxic) if toxic.lease_s else None

    def _expire(self, toxic: Applied) -> None:
        if self.toxics.get(toxic.name) is toxic:
            self.decisions.append({"toxic": toxic.name, "stream": toxic.stream, "decision": "expired"})
            self.take(toxic)
            self.core.spawn(self.settle())

    def _change(self) -> None:
        self._up = tuple(toxic.toxic for toxic in self.toxics.values() if toxic.upstream)
        self._down = tuple(toxic.toxic for toxic in self.toxics.values() if not toxic.upstream)

    def _toxics_of(self, source: str, target: str) -> tuple[Toxic, ...]:
        return self._up if target == UPSTREAM else self._down

    async def settle(self, renewed: Applied | None = None) -> None:
        """Let all connections take the toxics, and the new settings of one, before this returns."""
        async for connection in _in_turns(list(self.core.connections)):
            if not connection.over:
                connection.refresh()
            if renewed is not None and not connection.over:
                connection.renew(renewed.toxic)

    # -- the record ------------------------------------------------------------------------------------------

    def _drawn(self, toxic: Applied, way: Way, on: bool) -> None:
        decision = "on" if on else "off"
        self.decisions.append({"toxic": toxic.name, "stream": toxic.stream, "way": way.name, "decision": decision})

    def _decided(self, toxic: Toxic, source: str, target: str, what: str, over: Over, size: int) -> None:
        found = next((each for each in self.toxics.values() if each.toxic is toxic), None)
        if found is not None:
            self.decisions.append({"toxic": found.name, "stream": found.stream, "way": f"{source}>{target}",
                                   "decision": what, "over": over, "bytes": size})  # fmt: skip

    def show(self) -> dict[str, Any]:
        made: dict[str, Any] = {
            "name": self.name,
            "listen": self.listen,
            "upstream": self.upstream,
            "enabled": self.enabled,
            "toxics": self.show_toxics(),
        }
        if self.protocol != "tcp":
            made["protocol"] = self.protocol
        return made

    def show_toxics(self) -> list[dict[str, Any]]:
        """Those of the stream towards the upstream first, each in the order in which they came."""
        return [toxic.show() for toxic in sorted(self.toxics.values(), key=lambda toxic: not toxic.upstream)]

    def close(self) -> None:
        """Give up all sockets now."""
        self.take_all()
        if self._listener is not None:
            self._listener.close()
        if self._relay is not None:
            self._relay.close()
        self.core.close()


class Proxies:
    """All proxies of a server. Methods raise ApiError."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.by_name: dict[str, NamedProxy] = {}
        self._retired: set[NamedProxy] = set()

    def find(self, name: str) -> NamedProxy:
        if name not in self.by_name:
            raise ApiError(404, "proxy not found")
        return self.by_name[name]

    def find_toxic(self, proxy: str, name: str) -> tuple[NamedProxy, Applied]:
        found = self.find(proxy)
        if name not in found.toxics:
            raise ApiError(404, "toxic not found")
        return found, found.toxics[name]

    async def create(self, body: Body) -> NamedProxy:
        made, enabled, toxics = self._read(body)
        if made.name in self.by_name:
            raise ApiError(409, "proxy already exists")
        at = await _resolved(made.listen, f"listen {made.protocol}: ") if enabled else None
        if made.name in self.by_name:
            raise ApiError(409, "proxy already exists")
        self._begin(made, toxics, at)
        return made

    def _read(self, body: Body, where: str = "") -> tuple[NamedProxy, bool, list[Applied]]:
        """A proxy that is not up yet, whether it should be, and its toxics."""
        name, listen, upstream = body.text("name"), body.text("listen"), body.text("upstream")
        enabled, protocol, toxics = body.flag("enabled"), body.text("protocol"), body.bodies("toxics") or []
        for field, value in (("name", name), ("upstream", upstream)):
            if not value:
                raise ApiError(400, f"missing required field: {field}{where}")
        if protocol not in (None, "tcp", "udp"):
            raise ApiError(400, f"bad request body: protocol must be tcp or udp, not {protocol!r}{where}")
        seed = f"{self.seed}/{name}"
        made = NamedProxy(name or "", listen or "", upstream or "", protocol or "tcp", seed)
        wanted = [made.read_toxic(toxic) for toxic in toxics]
        if len({toxic.name for toxic in wanted}) < len(wanted):
            raise ApiError(409, "toxic already exists")
        return made, enabled is not False, wanted

    def _begin(self, made: NamedProxy, toxics: list[Applied], at: Address | None) -> None:
        """Take a proxy in, with its toxics on before it listens."""
        for toxic in toxics:
            made.put(toxic)
        try:
            if at is not None:
                made.start(at)
        except BaseException:
            made.close()
            raise
        self.by_name[made.name] = made

    async def update(self, name: str, body: Body) -> NamedProxy:
        proxy = self.find(name)
        listen, upstream, enabled = body.text("listen"), body.text("upstream"), body.flag("enabled")
        listen = proxy.listen if listen is None else listen
        upstream = proxy.upstream if upstream is None else upstream
        at = await _resolved(listen)
        differs = join(at) != proxy.listen or upstream != proxy.upstream
        if self.find(name) is not proxy:
            raise ApiError(404, "proxy not found")
        enabled = proxy.enabled if enabled is None else enabled
        if differs or not enabled:
            await proxy.stop()
        if differs:
            proxy.listen, proxy.upstream = listen, upstream
        if enabled and self.by_name.get(name) is proxy:
            proxy.start(at)
        return proxy

    async def delete(self, name: str) -> None:
        proxy = self.find(name)
        del self.by_name[name]
        await proxy.stop()
        self._retire(proxy)

    async def populate(self, bodies: list[Body]) -> tuple[list[NamedProxy], ApiError | None]:
        """Create or replace; those that are the same already stay. What was done before an error stays done."""
        wanted = [self._read(body, f" at proxy {number}") for number, body in enumerate(bodies, 1)]
        done: list[NamedProxy] = []
        try:
            for made, enabled, toxics in wanted:
                done.append(await self._populate(made, enabled, toxics))
        except ApiError as error:
            return done, error
        return done, None

    async def _populate(self, made: NamedProxy, enabled: bool, toxics: list[Applied]) -> NamedProxy:
        before = self.by_name.get(made.name)
        if before is None:
            at = await _resolved(made.listen, f"listen {made.protocol}: ") if enabled else None
        else:
            at = await _resolved(made.listen)
            same = join(at) == before.listen and before.protocol == made.protocol
            if same and before.upstream == made.upstream:
                return before
            await before.stop()
            at = at if enabled else None
        before = self.by_name.get(made.name)
        self._begin(made, toxics, at)
        if before is not None:
            self._retire(before)
        return made

    async def reset(self) -> None:
        """Enable all proxies and remove all toxics; the first error is raised once all that can be done is."""
        trouble: ApiError | None = None
        for proxy in list(self.by_name.values()):
            try:
                proxy.start(await _resolved(proxy.listen, f"listen {proxy.protocol}: "))
            except ApiError as error:
                trouble = trouble or error
                continue
            proxy.take_all()
            await proxy.settle()
        if trouble is not None:
            raise trouble

    async def add_toxic(self, name: str, body: Body) -> Applied:
        proxy = self.find(name)
        toxic = proxy.read_toxic(body)
        proxy.put(toxic)
        await proxy.settle()
        return toxic

    async def update_toxic(self, proxy_name: str, name: str, body: Body) -> Applied:
        """Change a toxic, which also renews its lease."""
        proxy, toxic = self.find_toxic(proxy_name, name)
        toxic.update(body)
        proxy.lease(toxic)
        await proxy.settle(renewed=toxic)
        return toxic

    async def remove_toxic(self, proxy_name: str, name: str) -> None:
        proxy, toxic = self.find_toxic(proxy_name, name)
        proxy.take(toxic)
        await proxy.settle()

    def _retire(self, proxy: NamedProxy) -> None:
        """Give up a stopped proxy; its closed connections still send what is left, for LINGER_S at most."""
        proxy.take_all()
        self._retired.add(proxy)
        asyncio.get_running_loop().call_later(LINGER_S, self._bury, proxy)

    def _bury(self, proxy: NamedProxy) -> None:
        self._retired.discard(proxy)
        proxy.close()

    def close(self) -> None:
        """Give up all sockets now."""
        for proxy in (*self.by_name.values(), *self._retired):
            proxy.close()
        self.by_name.clear()


async def _resolved(listen: str, prefix: str = "") -> Address:
    try:
        return await resolve(listen)
    except BadAddress as error:
        raise ApiError(500, f"{prefix}{error}") from None


async def _in_turns(items: list[Any]) -> AsyncIterator[Any]:
    """Items, with a turn for everybody else whenever they have taken TURN_S."""
    since = time.monotonic()
    for item in items:
        yield item
        if time.monotonic() - since > TURN_S:
            await asyncio.sleep(0)
            since = time.monotonic()
