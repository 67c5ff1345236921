"""Where nodes are: hosts in racks, racks in datacenters, datacenters in regions.

A `Topology` is data: how many nodes of each role, over how many places, and how fast the network is.
`places()` spreads the nodes deterministically: a role's nodes go to the regions in turn, within a region to
its racks in turn, and `per_host` nodes of a role share a host. Each role has hosts of its own, unless `beside` says
whose hosts it uses: `beside={"app": "proxy"}, per_host={"app": 2}` puts two apps on each proxy's host.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from zebra.errors import ConfigError
from zebra.units import RATE, SECONDS, Unit


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """One node and where it runs."""

    node: str
    role: str
    host: str
    rack: str
    dc: str
    region: str


class Topology(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Counts of nodes per role, and the shape of the network.

    Latencies are one way, in seconds, rates in bytes per second.
    Rack, datacenter and region latencies are typical round figures of datacenter networks; `jitter` is the share
    of a latency that is random. A rack's hosts share an uplink, each way, of the rate of all their cards together over
    `oversubscription`; at 1 it limits nothing.
    """

    counts: dict[str, int] = {}
    regions: int = 1
    dcs: int = 1
    racks: int = 2
    per_host: dict[str, int] = {}
    beside: dict[str, str] = {}
    nic_rate: float = 1.25e9
    oversubscription: float = 1.0
    latency_host_s: float = 20e-6
    latency_rack_s: float = 60e-6
    latency_dc_s: float = 150e-6
    latency_region_s: float = 600e-6
    latency_wan_s: float = 30e-3
    jitter: float = 0.2

    def with_counts(self, counts: Mapping[str, int]) -> Topology:
        """The same topology with some roles' counts replaced."""
        return msgspec.structs.replace(self, counts={**self.counts, **counts})

    def places(self) -> tuple[Place, ...]:
        """Every node with its place, roles in the order of `counts`, nodes numbered from 1."""
        places: list[Place] = []
        for role, count in self.counts.items():
            share, owner = self.per_host.get(role, 1), self.beside.get(role, role)
            for index in range(count):
                region = index % self.regions
                slot = index // self.regions // share
                dc, rack = slot % self.dcs, slot // self.dcs % self.racks
                name = f"r{region + 1}"
                places.append(
                    Place(
                        node=f"{role}-{index + 1}",
                        role=role,
                        host=f"{name}-{owner}-host{slot + 1}",
                        region=name,
                        dc=f"{name}-dc{dc + 1}",
                        rack=f"{name}-dc{dc + 1}-rack{rack + 1}",
                    )
                )
        return tuple(places)

    def latency_s(self, a: Place, b: Place) -> float:
        """The one-way latency between two places, in seconds, without jitter."""
        if a.host == b.host:
            return self.latency_host_s
        if a.rack == b.rack:
            return self.latency_rack_s
        if a.dc == b.dc:
            return self.latency_dc_s
        return self.latency_region_s if a.region == b.region else self.latency_wan_s

    @classmethod
    def parse(cls, values: Mapping[str, object], what: str) -> Topology:
        """A topology from a mapping of its fields; times and rates may be text. Raises ConfigError."""
        if not isinstance(values, Mapping):
            got = type(values).__name__
            raise ConfigError(f"{what}: expected a mapping such as {{counts: {{peer: 5}}, dcs: 2}}, got {got}")
        known = dict(values)
        for field in known:
            if field not in cls.__struct_fields__:
                raise ConfigError(f"{what}: unknown field {field!r}, known are {', '.join(cls.__struct_fields__)}")
            if field.endswith("_s"):
                known[field] = SECONDS.parse(known[field], f"{what}.{field}")
            elif field == "nic_rate":
                known[field] = RATE.parse(known[field], f"{what}.{field}")
            elif field in ("jitter", "oversubscription"):
                known[field] = Unit("1").parse(known[field], f"{what}.{field}")
        try:
            topology = msgspec.convert(known, cls)
        except msgspec.ValidationError as error:
            raise ConfigError(f"{what}: {error}") from None
        bad = [f"{role}={count}" for role, count in topology.counts.items() if not 0 <= count <= 1_000_000]
        if bad or min(topology.regions, topology.dcs, topology.racks, *topology.per_host.values()) < 1:
            limits = "counts are 0 to 1000000, regions, dcs, racks and per_host at least 1"
            raise ConfigError(f"{what}: {limits} {' '.join(bad)}".rstrip())
        if topology.oversubscription < 1:
            raise ConfigError(f"{what}.oversubscription: {topology.oversubscription:g} is below 1, which is no limit")
        return topology
