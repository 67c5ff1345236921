"""What faults can do to the links between network namespaces, most of it by the kernel itself.

One table in the switch drops, rejects, loses and counts; token buckets at both ends of a cable limit rates; what the
kernel has no means for goes through the wire. After every change all is rendered anew, from the effects that are on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from zebra.errors import ConfigError
from zebra.proxy.connections import Hold, Limit, Slicer, SlowClose
from zebra.proxy.toxics import Corrupt, Duplicate, Latency, Reorder, Reset, Toxic, Way
from zebra.substrate import Effect, Pairs
from zebra.substrate.capability import Capability
from zebra.substrate.decisions import Decisions
from zebra.substrate.netns import devices, nftables
from zebra.substrate.netns.ceiling import HostCeiling, callers
from zebra.substrate.netns.netlink import NETFILTER, ROUTE, Netlink
from zebra.substrate.netns.nftables import Rules, Table
from zebra.substrate.netns.packet import Packet, text_of
from zebra.substrate.netns.probe import lacks
from zebra.substrate.netns.shaping import Shaper
from zebra.substrate.netns.switch import MARK
from zebra.substrate.netns.told import GROUP, HEAD_BYTES, Told
from zebra.substrate.netns.wire import Wire

if TYPE_CHECKING:
    from zebra.substrate.netns.running import NetnsRunning


BY_WIRE = ("latency_s", "jitter_s", "duplicate", "reorder", "reset", "corrupt", "hold", "timeout_s", "close_s",
           "slice_bytes", "slice_s", "limit_bytes", "connections")  # fmt: skip
"""What goes through userspace, where packets are judged one by one."""


class LinkEffect(Effect):
    """An effect whose hits the kernel and its toxics count; the last count stays once it is removed."""

    __slots__ = ("_count", "_hits", "toxics")

    def __init__(self, count: Callable[[int], int], toxics: tuple[Toxic, ...], **fields: Any) -> None:
        self._count: Callable[[int], int] | None = count
        self.toxics = toxics
        super().__init__(**fields)

    @property
    def hits(self) -> int:
        if self._count is None:
            return self._hits
        return self._count(self.id) + sum(toxic.counter.hits for toxic in self.toxics)

    @hits.setter
    def hits(self, value: int) -> None:
        self._hits = value

    def finish(self) -> None:
        """It is removed."""
        self._hits, self._count = self.hits, None


Rate = tuple[float, frozenset[str]]
Label = tuple[int, str]
"""An effect, and a sender where each has a limit of its own."""


@dataclass(slots=True)
class _Shaped:
    """The limits on one device, with the number of each."""

    shaper: Shaper
    limits: dict[Label, tuple[int, Rate]] = field(default_factory=dict)


class NetnsLinks(Capability["NetnsRunning"]):
    """`zebra.substrate.Links` between network namespaces."""

    name = "links"

    def __init__(self, running: NetnsRunning) -> None:
        super().__init__(running)
        self._ground = running.ground
        self._names = running.names
        self._on: dict[int, tuple[LinkEffect, Pairs]] = {}
        self._known: dict[tuple[str, str], tuple[Toxic, ...]] = {}
        self._hosts: dict[int, tuple[Netlink, int]] = {}
        self._shaped: dict[tuple[int, str], _Shaped] = {}
        self._wire: Wire | None = None
        self._told: Told | None = None
        self._table: Table | None = None
        self._files: list[Netlink] = []

    # -- what the zygote brings ------------------------------------------------------------------------------

    def switch(self, files: list[int], no_wire: str) -> None:
        """The switch is made."""
        families = (ROUTE, NETFILTER, NETFILTER)
        self._files = [Netlink.of(number, family) for number, family in zip(files, families, strict=False)]
        self._route, filtering, telling = self._files
        self._table = Table(filtering)
        self._told = told = Told(telling, self._lost)
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(told.sock, told.read)
        self._decisions = Decisions(self._running.log)
        if not no_wire:
            seed = self._ground.plan.seed
            self._wire = Wire(self._loop, files[3], seed, self.toxics_of, self._name_of, self._decided)
        self._changed()

    def host(self, file: int, node: int, cable: int) -> None:
        """A node has a new host."""
        before = self._hosts.get(node)
        if before is not None:
            before[0].close()
        self._hosts[node] = Netlink.of(file, ROUTE), cable
        for way in ("out", "in"):
            self._shaped.pop((node, way), None)
        self._shape()

    def close(self) -> None:
        """Let go of the run's namespaces."""
        for effect, _ in self._on.values():
            effect.finish()
        if self._told is not None:
            self._loop.remove_reader(self._told.sock)
            self._told = self._table = None
        if self._wire is not None:
            self._wire.close()
            self._wire = None
        for each in (*self._files, *(host for host, _ in self._hosts.values())):
            each.close()
        self._files, self._hosts = [], {}

    # -- effects ---------------------------------------------------------------------------------------------

    async def add(self, pairs: Pairs, *, drop: bool = False, reject: bool = False, new_only: bool = False,
                  latency_s: float = 0.0, jitter_s: float = 0.0, loss: float = 0.0, duplicate: float = 0.0,
                  after_s: float = 0.0, reorder: float = 0.0, reset: float = 0.0, corrupt: float = 0.0,
                  hold: bool = False, timeout_s: float = 0.0, close_s: float = 0.0, slice_bytes: int = 0,
                  slice_s: float = 0.0, limit_bytes: int | None = None, connections: int | None = None,
                  rate: float = 0.0, on: frozenset[str] = frozenset()) -> Effect:  # fmt: skip
        wanted: list[tuple[Any, Toxic]] = [
            (latency_s or jitter_s, Latency(latency_s=latency_s, jitter_s=jitter_s)),
            (duplicate, Duplicate(probability=duplicate, after_s=after_s)),
            (reorder, Reorder(probability=reorder)),
            (reset, Reset(probability=reset)),
            (hold, Hold(timeout_s=timeout_s)),
            (corrupt, Corrupt(probability=corrupt)),
            (limit_bytes is not None, Limit(size=limit_bytes or 0)),
            (slice_bytes, Slicer(size=slice_bytes, delay_s=slice_s)),
            (close_s, SlowClose(delay_s=close_s)),
        ]
        if connections is not None:
            wanted += [(True, self._ceiling(node, pairs, connections)) for node in sorted(on)]
        toxics = tuple(toxic for on_, toxic in wanted if on_)
        for argument, needed in {"rate": rate, "latency_s": toxics, "loss": loss}.items():
            if needed and lacks().get(argument):
                raise ConfigError(f"substrate netns: {argument} is not available here: {lacks()[argument]}")
        arguments = {"drop": drop, "reject": reject, "new_only": new_only, "loss": loss, "rate": rate, "on": on}
        effect = LinkEffect(self._count, toxics, id=self._running.next_effect(), capability=self.name,
                            arguments=arguments)  # fmt: skip
        self.effects[effect.id] = effect
        self._on[effect.id] = effect, pairs
        try:
            self._changed()
        except OSError:
            del self.effects[effect.id], self._on[effect.id]
            raise
        return effect

    def _ceiling(self, node: str, pairs: Pairs, limit: int) -> HostCeiling:
        """The most connections that others may have to a node."""

        def there() -> set[bytes]:
            pid = self._running.pid_of(node)
            found = callers(pid) if pid else set()
            return {each for each in found if (self._name_of(text_of(each[:4])), node) in pairs}

        def only(way: Way) -> bool:
            return way.target == node

        return HostCeiling(limit=limit, there=there, only=only)

    async def remove(self, effect: Effect) -> None:
        if self.effects.get(effect.id) is not effect or not isinstance(effect, LinkEffect):
            return
        del self._on[effect.id]
        self._changed()
        if self._told is not None:
            self._told.read()
        effect.finish()
        del self.effects[effect.id]

    def _changed(self) -> None:
        self._known.clear()
        if self._table is None:
            return
        if self._wire is not None:
            self._wire.refresh()
        self._table.replace(self._rules())
        self._shape()

    def _count(self, effect: int) -> int:
        return self._table.packets().get(f"e{effect}", 0) if self._table is not None else 0

    def darken(self, node: str) -> None:
        """A node loses its power: its cable is cut, and what its kernel still wants to say stays unsaid."""
        host = self._hosts.get(self._ground.nodes[node])
        if host is not None:
            self._route.ask(devices.down(host[1]))

    def lighten(self, node: str) -> None:
        """It is started again, on a new host."""

    # -- the table -------------------------------------------------------------------------------------------

    def _rules(self) -> Rules:
        """Packets on their way to the wire pass, and are judged when they come back. All that hits is counted first,
        as the first verdict is the last."""
        sets: dict[str, frozenset[str]] = {}
        marks, counts, rejects, drops, losses = [list[bytes]() for _ in range(5)]
        for number, (effect, pairs) in self._on.items():
            arguments, counter = effect.arguments, nftables.count(f"e{number}")
            only = nftables.opening() if arguments["new_only"] else b""
            for match in self._matches(number, pairs, sets):
                if effect.toxics:
                    opening = all(isinstance(toxic, HostCeiling) for toxic in effect.toxics)
                    those = match + nftables.opening() if opening else match
                    marks.append(nftables.comes_not_from(devices.WIRE) + those + nftables.mark(MARK))
                if arguments["rate"]:
                    counts.append(match + counter)
                if arguments["drop"] or arguments["reject"]:
                    counts.append(match + only + counter)
                if arguments["reject"]:
                    rejects.append(match + only + nftables.protocol(nftables.TCP) + nftables.RESET)
                    rejects.append(match + only + nftables.DROP)
                if arguments["drop"]:
                    drops.append(match + only + nftables.DROP)
                if arguments["loss"]:
                    told = nftables.tell(GROUP, f"e{number}", HEAD_BYTES)
                    losses.append(match + nftables.chance(arguments["loss"]) + counter + told + nftables.DROP)
        passing = [nftables.goes_to(devices.WIRE) + nftables.ACCEPT] if marks else []
        chains = {"mark": marks, "forward": [*passing, *counts, *rejects, *drops, *losses]}
        return Rules(chains=chains, sets=sets, counters=frozenset(f"e{number}" for number in self.effects))

    def _matches(self, effect: int, pairs: Pairs, sets: dict[str, frozenset[str]]) -> Iterator[bytes]:
        """Expressions that together match an effect's pairs, whose sets of addresses are added to `sets`."""
        for at, (sources, targets) in enumerate(pairs.products):
            if sources and targets:
                here, there = f"e{effect}s{at}", f"e{effect}t{at}"
                sets[here], sets[there] = self._addresses(sources), self._addresses(targets)
                yield nftables.source_in(here) + nftables.target_in(there)

    def _addresses(self, nodes: Iterable[str]) -> frozenset[str]:
        ground = self._ground
        return frozenset(ground.block.public(ground.nodes[node]) for node in nodes)

    def _lost(self, prefix: str, packet: Packet) -> None:
        effect = self.effects.get(int(prefix[1:]))
        if effect is not None:
            source, target = (self._name_of(text_of(each)) for each in (packet.source, packet.target))
            self._decisions(effect, source, target, "loss", packet.over, packet.size)

    def _name_of(self, address: str) -> str:
        return self._names.get(self._ground.block.node_of(address), "")

    # -- rates -----------------------------------------------------------------------------------------------

    def _shape(self) -> None:
        """Let every device have the limits that it should have. Of several on one way the tightest holds."""
        wanted: dict[tuple[int, str], dict[Label, Rate]] = {}
        limits = [limit for number, on in self._on.items() for limit in self._limits(number, *on)]
        for rate, label, key, peers in sorted(limits, key=lambda limit: limit[:2]):
            of = wanted.setdefault(key, {})
            left = peers.difference(*(taken for _, taken in of.values()))
            if left:
                of[label] = rate, left
        for key in {*wanted, *self._shaped}:
            self._shape_one(key, wanted.get(key, {}))

    def _limits(self, number: int, effect: LinkEffect, pairs: Pairs
                ) -> Iterator[tuple[float, Label, tuple[int, str], frozenset[str]]]:  # fmt: skip
        """The limits of an effect: rate, label, node and way, peers."""
        rate, on, nodes = effect.arguments["rate"], effect.arguments["on"], self._ground.nodes
        if not rate:
            return
        for node in on:
            for way, peers in (("out", [peer for peer in nodes if (node, peer) in pairs]),
                               ("in", [peer for peer in nodes if (peer, node) in pairs])):  # fmt: skip
                yield rate, (number, ""), (nodes[node], way), self._addresses(peers)
        for sources, targets in pairs.products:
            for source in sources - on:
                for target in targets - on - {source}:
                    yield rate, (number, source), (nodes[target], "in"), self._addresses([source])

    def _shape_one(self, key: tuple[int, str], wanted: dict[Label, Rate]) -> None:
        node, way = key
        if node not in self._hosts:  # it has not begun yet
            return
        shaped = self._shaped.get(key)
        if shaped is None:
            host, cable = self._hosts[node]
            where = (host, devices.CARD) if way == "out" else (self._route, cable)
            shaped = self._shaped[key] = _Shaped(Shaper(*where, outward=way == "out"))
        for label, (number, limit) in list(shaped.limits.items()):
            if wanted.get(label) != limit:
                shaped.shaper.release(number)
                del shaped.limits[label]
        for label, limit in wanted.items():
            if label not in shaped.limits:
                shaped.limits[label] = shaped.shaper.limit(*limit), limit

    # -- the wire --------------------------------------------------------------------------------------------

    def toxics_of(self, source: str, target: str) -> tuple[Toxic, ...]:
        """The toxics of an ordered pair at present."""
        pair = (source, target)
        if pair not in self._known:
            on = [effect for effect, pairs in self._on.values() if pair in pairs]
            self._known[pair] = tuple(toxic for effect in on for toxic in effect.toxics)
        return self._known[pair]

    def _decided(self, toxic: Toxic, *what: Any) -> None:
        for effect, _ in self._on.values():
            if toxic in effect.toxics:
                self._decisions(effect, *what)
