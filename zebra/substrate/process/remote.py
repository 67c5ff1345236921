"""Links whose faults are those of a real Toxiproxy server (`--zebra-toxiproxy=URL`), not of our own proxy.

Our proxy still stands before each node, as it knows who connects and Toxiproxy does not. It hands a connection on to a
proxy on the server that is only for this ordered pair of nodes and this port, made on first use, and does nothing to
it. The server says nothing of what its toxics did; but all passes by here, so a hit is a message of the kind that the
toxic acts upon, which went into the server, or came out of it, while the toxic was on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from zebra.errors import ConfigError, Infrastructure
from zebra.proxy.link import Chunk, Link
from zebra.proxy.proxy import Address
from zebra.proxy.toxics import Toxic
from zebra.substrate import Effect, Pairs
from zebra.substrate.process.capabilities import ProcessLinks
from zebra.substrate.process.toxiproxy import PREFIX, Toxiproxy, delete, join, path_of

if TYPE_CHECKING:
    from zebra.substrate.process.running import ProcessRunning

LACKS = {
    "drop": "network.partition with how=drop: it cannot stall a connection that goes on later; how=reject can be had",
    "new_only": "network.partition with connections=new: it takes a proxy down with all its connections",
    "loss": "network.loss: it has no toxic that loses packets",
    "duplicate": "network.duplicate: it carries no datagrams",
    "reorder": "network.reorder: it carries no datagrams",
    "corrupt": "network.corruption: it has no toxic that changes data",
    "connections": "network.connection_limit: it has no limit of connections",
    "rate": "network.bandwidth: its bandwidth is one connection's, not one that a node's links share",
}
"""What a Toxiproxy server has no means for, by argument of `Links.add`."""

FIRST_PAIR = 0x4000
"""The server listens at addresses of the run's block from this pair on; those before it are our proxy's."""

Bites = Callable[[Chunk, Link, "Witness"], bool]


@dataclass(slots=True, kw_only=True, eq=False)
class Witness(Toxic):
    """Does nothing, and counts what passes that a toxic on the server acts upon."""

    bites: Bites

    def judge(self, chunk: Chunk, link: Link) -> float:
        self.counter.hits += self.bites(chunk, link, self)
        return 0.0


def _data(chunk: Chunk, link: Link, witness: Witness) -> bool:
    return bool(chunk.data)


def _end(chunk: Chunk, link: Link, witness: Witness) -> bool:
    return chunk.kind == "end"


def _open(chunk: Chunk, link: Link, witness: Witness) -> bool:
    return chunk.kind == "open"


def _longer(size: int) -> Bites:
    return lambda chunk, link, witness: len(chunk.data) > size


def _reaching(size: int) -> Bites:
    """A chunk with which a connection has carried so many bytes."""

    def reaches(chunk: Chunk, link: Link, witness: Witness) -> bool:
        before: int = link.state.get(witness, 0)
        link.state[witness] = after = before + len(chunk.data)
        return before < max(1, size) <= after

    return reaches


@dataclass(frozen=True, slots=True)
class Wanted:
    """A toxic that an effect is made of, as the server's API has it, and what it acts upon."""

    type: str
    attributes: Mapping[str, int]
    bites: Bites


@dataclass(slots=True)
class On:
    """An effect that is on: on which pairs, of what it is made, and whether it takes links down."""

    pairs: Pairs
    toxics: list[Wanted] = field(default_factory=list)
    down: bool = False


@dataclass(frozen=True, slots=True)
class OnServer:
    """A proxy on the server, and where it listens."""

    name: str
    listen: Address


class RemoteLinks(ProcessLinks):
    """`zebra.substrate.Links` by toxics of a Toxiproxy server. What touches a node without power, our proxy holds."""

    def __init__(self, running: ProcessRunning, server: Toxiproxy) -> None:
        super().__init__(running)
        self._server = server
        self._on: dict[int, On] = {}
        self._proxies: dict[tuple[str, str, int], OnServer] = {}
        self._entries: list[dict[str, Any]] = []
        self._made_at = 0
        self._turn = asyncio.Lock()

    async def add(self, pairs: Pairs, *, drop: bool = False, reject: bool = False, new_only: bool = False,
                  latency_s: float = 0.0, jitter_s: float = 0.0, loss: float = 0.0, duplicate: float = 0.0,
                  after_s: float = 0.0, reorder: float = 0.0, reset: float = 0.0, corrupt: float = 0.0,
                  hold: bool = False, timeout_s: float = 0.0, close_s: float = 0.0, slice_bytes: int = 0,
                  slice_s: float = 0.0, limit_bytes: int | None = None, connections: int | None = None,
                  rate: float = 0.0, on: frozenset[str] = frozenset()) -> Effect:  # fmt: skip
        asked = {"drop": drop, "new_only": new_only, "loss": loss, "duplicate": duplicate, "reorder": reorder,
                 "corrupt": corrupt, "connections": connections is not None, "rate": rate}  # fmt: skip
        for argument, wanted in asked.items():
            if wanted:
                raise ConfigError(f"toxiproxy cannot do {LACKS[argument]}")
        if 0 < reset < 1:
            raise ConfigError("toxiproxy cannot do network.reset of a share: it resets connections, not at messages")
        self._check(pairs, both_ways=reject)
        made = On(pairs, down=reject)
        if latency_s or jitter_s:
            middle_s = latency_s + jitter_s / 2
            attributes = {"latency": _ms("latency", middle_s), "jitter": round(jitter_s * 500)}
            made.toxics.append(Wanted("latency", attributes, _data))
        if hold:
            timeout = {"timeout": _ms("timeout_s", timeout_s) if timeout_s else 0}
            made.toxics.append(Wanted("timeout", timeout, _data))
        if reset:
            made.toxics.append(Wanted("reset_peer", {"timeout": 0}, _data))
        if close_s:
            made.toxics.append(Wanted("slow_close", {"delay": _ms("close_s", close_s)}, _end))
        if slice_bytes:
            attributes = {"average_size": slice_bytes, "size_variation": 0, "delay": round(slice_s * 1e6)}
            made.toxics.append(Wanted("slicer", attributes, _longer(slice_bytes)))
        if limit_bytes is not None:
            made.toxics.append(Wanted("limit_data", {"bytes": limit_bytes}, _reaching(limit_bytes)))
        effect = self._effect(rate=0.0, connections=None, on=on)
        bites = [toxic.bites for toxic in made.toxics] + [_open] * reject
        async with self._turn:
            self._on[effect.id] = made
            try:
                await asyncio.to_thread(self._put, effect.id, made)
            except BaseException:
                await asyncio.shield(self._forget(effect))
                raise
            self._made[effect.id] = pairs, tuple(Witness(counter=effect, bites=each) for each in bites)
            self._changed()
        return effect

    async def remove(self, effect: Effect) -> None:
        if effect.id in self.effects:
            async with self._turn:
                await self._forget(effect)

    async def _forget(self, effect: Effect) -> None:
        self.effects.pop(effect.id)
        self._made.pop(effect.id, None)
        self._changed()
        await asyncio.to_thread(self._take, effect.id, self._on.pop(effect.id))

    def _check(self, pairs: Pairs, *, both_ways: bool) -> None:
        """Raises ConfigError for pairs whose links the server cannot hit."""
        for source, target in _each(pairs):
            if both_ways and (target, source) not in pairs:
                way = f"from {source} to {target} alone"
                raise ConfigError(f"toxiproxy cannot do network.partition {way}: it takes a proxy down both ways")
            for node in (source, target):
                if self._running.has_datagrams(node):
                    raise ConfigError(f"toxiproxy carries no datagrams, which {node} uses: faults would not hit them")

    # -- the server ------------------------------------------------------------------------------------------

    async def route(self, source: str, target: str, upstream: Address) -> Address:
        """Where the server stands for an ordered pair of nodes and a port; upstream itself for who is no node.

        Raises OSError.
        """
        if not source:
            return upstream
        key = (source, target, upstream[1])
        async with self._turn:
            if key not in self._proxies:
                try:
                    await asyncio.to_thread(self._make, key, upstream)
                except Infrastructure as error:
                    self._running.plan.on_crash("", error)
                    raise OSError(str(error)) from None
            return self._proxies[key].listen

    def _make(self, key: tuple[str, str, int], upstream: Address) -> None:
        """Make a proxy on the server, with its toxics on before a connection passes."""
        ground, (source, target, port) = self._running.ground, key
        session = ground.directory.parent.name.removeprefix(PREFIX)
        name = f"{PREFIX}{session}-{ground.directory.name}-{source}-{target}-{port}"
        self._made_at += 1
        listen = (ground.block.pair(FIRST_PAIR + self._made_at), port)
        entry = {"id": f"proxy {name}", "kind": "proxy", "url": self._server.url, "name": name}
        self._running.ledger.add([entry])
        self._entries.append(entry)
        body = {"name": name, "listen": join(listen), "upstream": join(upstream), "enabled": False}
        self._server.do("POST", "/proxies", body)
        proxy = OnServer(name, listen)
        try:
            for number, made in self._on.items():
                self._put_on(key, proxy, number, made)
            self._able(key, proxy)
        except Infrastructure:
            self._server.do("DELETE", path_of(name), gone=True)
            raise
        self._proxies[key] = proxy

    def _put(self, number: int, made: On) -> None:
        for key, proxy in self._proxies.items():
            self._put_on(key, proxy, number, made)
            if made.down:
                self._able(key, proxy)

    def _put_on(self, key: tuple[str, str, int], proxy: OnServer, number: int, made: On) -> None:
        for stream, name, toxic in _toxics(key, number, made):
            body = {"name": name, "type": toxic.type, "stream": stream, "toxicity": 1.0,
                    "attributes": dict(toxic.attributes)}  # fmt: skip
            self._server.do("POST", f"{path_of(proxy.name)}/toxics", body)

    def _take(self, number: int, made: On) -> None:
        """Raises Infrastructure, once all was tried, for the first toxic that could not be removed."""
        trouble: Infrastructure | None = None
        for key, proxy in self._proxies.items():
            try:
                for _, name, _ in _toxics(key, number, made):
                    self._server.do("DELETE", f"{path_of(proxy.name)}/toxics/{name}", gone=True)
                if made.down:
                    self._able(key, proxy)
            except Infrastructure as error:
                trouble = trouble or error
        if trouble is not None:
            raise trouble

    def _able(self, key: tuple[str, str, int], proxy: OnServer) -> None:
        """Let a proxy listen unless an effect takes it down."""
        down = any(made.down and key[:2] in made.pairs for made in self._on.values())
        self._server.do("POST", path_of(proxy.name), {"enabled": not down})

    def close(self) -> None:
        """Delete the run's proxies, as far as their server has not taken them along; what cannot be deleted stays in
        the ledger, and is the warden's."""
        self._running.ledger.done([entry["id"] for entry in self._entries if delete(entry)])
        self._entries.clear()
        self._proxies.clear()


def _toxics(key: tuple[str, str, int], number: int, made: On) -> Iterator[tuple[str, str, Wanted]]:
    """The stream, the name and the settings of each toxic that an effect has on a proxy."""
    source, target, _ = key
    for stream, pair in (("upstream", (source, target)), ("downstream", (target, source))):
        for toxic in made.toxics if pair in made.pairs else ():
            yield stream, f"{number}-{toxic.type}-{stream}", toxic


def _each(pairs: Pairs) -> Iterator[tuple[str, str]]:
    for sources, targets in pairs.products:
        yield from ((source, target) for source in sources for target in targets if source != target)


def _ms(argument: str, value_s: float) -> int:
    """Whole milliseconds, as the server counts; raises ConfigError for less than one."""
    if value_s < 1e-3:
        raise ConfigError(f"toxiproxy counts in whole milliseconds: {argument} is {value_s * 1e3:g} ms")
    return round(value_s * 1e3)
