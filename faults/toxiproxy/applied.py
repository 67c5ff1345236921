"""A toxic on a proxy, as clients see it: which connections it is on, and for how long."""

from __future__ import annotations

import ipaddress
from asyncio import TimerHandle
from collections.abc import Callable, Container
from dataclasses import dataclass, field
from random import Random
from typing import Any
from weakref import WeakKeyDictionary

from zebra.faults.toxiproxy.kinds import KINDS, Attributes, Kind
from zebra.faults.toxiproxy.wire import ApiError, Body, bad_body
from zebra.proxy.toxics import Toxic, Way

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

LEASE_S_MAX = 10.0**7


@dataclass(slots=True, kw_only=True, eq=False)
class Applied:
    """`toxic` with the settings that a client gave it.

    `toxicity` is the share of connections that it is on. `sources` are the peers that it is on for, all when empty.
    With `lease_s` set it goes by itself unless it is updated within so many seconds.
    """

    name: str
    type: str
    stream: str
    toxicity: float
    attributes: Attributes
    sources: tuple[Network, ...]
    lease_s: float
    toxic: Toxic
    seed: str
    drawn: Callable[[Applied, Way, bool], None] | None = None
    timer: TimerHandle | None = None
    _known: WeakKeyDictionary[Way, tuple[float, bool]] = field(default_factory=WeakKeyDictionary)

    @property
    def kind(self) -> Kind:
        return KINDS[self.type]

    @property
    def upstream(self) -> bool:
        return self.stream.lower() == "upstream"

    def is_on(self, way: Way) -> bool:
        """Whether it is on a link: drawn once for each by the seed, the connection and the toxic's name."""
        if self.sources and not self._is_source(way.source if self.upstream else way.target):
            return False
        if self.toxicity >= 1.0:
            return True
        known = self._known.get(way)
        if known is None or known[0] != self.toxicity:
            on = Random(f"{self.seed}/{way.name}/{self.name}").random() < self.toxicity
            self._known[way] = known = (self.toxicity, on)
            if self.drawn is not None:
                self.drawn(self, way, on)
        return known[1]

    def _is_source(self, peer: str) -> bool:
        address = ipaddress.ip_address(peer)
        if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        return any(address in network for network in self.sources)

    def update(self, body: Body) -> None:
        """Take what a client sent, all of it or, raising ApiError, nothing."""
        attributes = self.kind.read(body.body("attributes"), self.attributes)
        toxicity, lease_s, sources = body.number("toxicity"), body.number("lease_s"), _sources(body)
        _check_lease(lease_s)
        self.attributes = attributes
        self.toxicity = self.toxicity if toxicity is None else toxicity
        self.lease_s = self.lease_s if lease_s is None else lease_s
        self.sources = self.sources if sources is None else sources
        self.kind.change(self.toxic, attributes)

    def show(self) -> dict[str, Any]:
        made: dict[str, Any] = {
            "attributes": self.attributes,
            "name": self.name,
            "type": self.type,
            "stream": self.stream,
            "toxicity": int(self.toxicity) if self.toxicity.is_integer() else self.toxicity,
        }
        if self.sources:
            made["sources"] = [str(network) for network in self.sources]
        if self.lease_s:
            made["lease_s"] = self.lease_s
        return made


def read(body: Body, seed: str, datagrams: bool, taken: Container[str]) -> Applied:
    """A toxic as a client wants it, by a name that is not taken; raises ApiError."""
    body.body("attributes")
    name, type_, stream, toxicity = body.text("name"), body.text("type"), body.text("stream"), body.number("toxicity")
    lease_s, sources = body.number("lease_s"), _sources(body)
    _check_lease(lease_s)
    stream = "downstream" if stream is None else stream
    if stream.lower() not in ("upstream", "downstream"):
        raise ApiError(400, "stream was invalid, can be either upstream or downstream")
    kind = KINDS.get(type_ or "")
    if kind is None or type_ is None:
        raise ApiError(400, "invalid toxic type")
    if datagrams and not kind.datagrams:
        raise ApiError(400, f"invalid toxic type: {type_} does nothing to datagrams")
    name = name or f"{type_}_{stream}"
    if name in taken:
        raise ApiError(409, "toxic already exists")
    attributes = kind.read(body.body("attributes"))
    made = Applied(
        name=name,
        type=type_,
        stream=stream,
        toxicity=1.0 if toxicity is None else toxicity,
        attributes=attributes,
        sources=sources or (),
        lease_s=lease_s or 0.0,
        toxic=kind.make(attributes),
        seed=seed,
    )
    made.toxic.only = made.is_on
    return made


def _sources(body: Body) -> tuple[Network, ...] | None:
    texts = body.texts("sources")
    if texts is None:
        return None
    try:
        return tuple(ipaddress.ip_network(text, strict=False) for text in texts)
    except ValueError as error:
        raise bad_body(f"sources must be addresses or networks: {error}") from None


def _check_lease(lease_s: float | None) -> None:
    if lease_s is not None and not 0 <= lease_s <= LEASE_S_MAX:
        raise bad_body(f"lease_s must be seconds from 0, for no lease, to {LEASE_S_MAX:g}, not {lease_s:g}")
