"""The way from one simulated node to another: its latency, and the link effects that touch it at present."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from zebra.substrate import Effect

if TYPE_CHECKING:
    from zebra.substrate.sim.machine import Machine


class Bucket:
    """A rate limit: when it is free again, and seconds per byte."""

    __slots__ = ("cost_s", "free")

    def __init__(self, rate: float) -> None:
        self.free, self.cost_s = 0.0, 1.0 / rate


class Path:
    """One ordered pair of nodes. `shaped` are the effects that change what a stream carries or when it ends."""

    __slots__ = (
        "base_s", "buckets", "datagram_s", "drops", "effects", "holds", "jitter_s", "left_s", "local", "new_drops",
        "new_rejects", "rejects", "shaped", "source", "target", "uplinks", "version",
    )  # fmt: skip

    def __init__(
        self, source: Machine, target: Machine, base_s: float, jitter: float, uplinks: tuple[Bucket, ...]
    ) -> None:
        self.source, self.target, self.base_s, self.jitter_s = source, target, base_s, base_s * jitter
        self.uplinks = uplinks
        self.local = source.nic is target.nic
        self.version, self.left_s, self.datagram_s = -1, 0.0, 0.0
        self.effects: tuple[Effect, ...] = ()
        self.drops: tuple[Effect, ...] = ()
        self.rejects: tuple[Effect, ...] = ()
        self.new_drops: tuple[Effect, ...] = ()
        self.new_rejects: tuple[Effect, ...] = ()
        self.holds: tuple[Effect, ...] = ()
        self.shaped: tuple[Effect, ...] = ()
        self.buckets: tuple[tuple[Effect, Bucket], ...] = ()

    def update(self, effects: Iterable[Effect], version: int) -> None:
        pair = (self.source.name, self.target.name)
        self.version = version
        self.effects = tuple(effect for effect in effects if pair in effect.arguments["pairs"])
        whole = [effect for effect in self.effects if not effect.arguments["new_only"]]
        opening = [effect for effect in self.effects if effect.arguments["new_only"]]
        self.drops, self.new_drops = (tuple(e for e in of if e.arguments["drop"]) for of in (whole, opening))
        self.rejects, self.new_rejects = (tuple(e for e in of if e.arguments["reject"]) for of in (whole, opening))
        self.holds = tuple(effect for effect in self.effects if effect.arguments["hold"])
        self.shaped = tuple(effect for effect in self.effects if _shapes(effect.arguments))
        self.buckets = tuple((e, b) for e in self.effects if e.arguments["rate"] for b in _buckets(e, pair))

    def crowded(self) -> bool:
        """Whether one more connection this way would be more than an effect allows, which is then hit."""
        name = self.target.name
        limits = [e for e in self.effects if e.arguments["connections"] is not None and name in e.arguments["on"]]
        return bool(limits) and hit(e for e in limits if self._open(e) >= e.arguments["connections"])

    def _open(self, effect: Effect) -> int:
        """How many connections into the target there are by the pairs of an effect."""
        process, pairs = self.target.process, effect.arguments["pairs"]
        accepted = () if process is None else (each for each in process.transports if each.server is not None)
        return sum((each.peer, self.target.name) in pairs for each in accepted)


def hit(effects: Iterable[Effect]) -> bool:
    """Count a hit on each effect; whether there is any."""
    found = False
    for effect in effects:
        effect.hits += 1
        found = True
    return found


def _shapes(arguments: dict[str, Any]) -> bool:
    wanted = arguments["corrupt"] or arguments["close_s"] or arguments["slice_bytes"]
    return bool(wanted) or arguments["limit_bytes"] is not None


def _buckets(effect: Effect, pair: tuple[str, str]) -> list[Bucket]:
    """The limits of a rate effect on a pair: one for each of its nodes and direction."""
    on, made = effect.arguments["on"], effect.arguments["buckets"]
    keys: list[Any] = [(node, way) for node, way in zip(pair, ("out", "in"), strict=True) if node in on] or [
        (pair, "pair")
    ]
    return [made.setdefault(key, Bucket(effect.arguments["rate"])) for key in keys]
