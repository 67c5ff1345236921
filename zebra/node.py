"""What a role holds: its name, place and configuration, and the services of the substrate that it runs on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from random import Random
from typing import Any, Generic, Protocol, TypeVar

from zebra.blob import Blob
from zebra.errors import Escape
from zebra.sites import Sites
from zebra.topology import Place
from zebra.workload import Op

C = TypeVar("C")


class Clock(Protocol):
    """A node's clocks: the wall clock may be skewed, the monotonic one never jumps."""

    def time(self) -> float: ...
    def monotonic(self) -> float: ...


class Disk(Protocol):
    """A node's files, flat and by name; they outlive the process. What is not synced may not survive a crash."""

    async def write(self, name: str, data: Blob | bytes) -> None: ...
    async def append(self, name: str, data: Blob | bytes) -> None: ...
    async def read(self, name: str) -> Blob: ...
    async def sync(self, name: str) -> None: ...
    async def remove(self, name: str) -> None: ...
    def names(self) -> list[str]: ...


class Outside(Protocol):
    """What a real node offers to the programs that it starts; see the members of Node by the same names."""

    directory: Path
    environment: dict[str, str]

    def bind(self, port: int) -> tuple[str, int]: ...
    async def reach(self, name: str, port: int) -> tuple[str, int]: ...


class Role(Protocol):
    """A role is a class called with a Node; `run` is its life. `reload(config)` is optional."""

    async def run(self) -> None: ...


class Places(dict[str, Place]):
    """Where every node is, by name, and the names by role; one for all nodes of a run."""

    def __init__(self, places: Mapping[str, Place]) -> None:
        super().__init__(places)
        names: dict[str, list[str]] = {}
        self.index: dict[str, int] = {}
        for name, place in places.items():
            same = names.setdefault(place.role, [])
            self.index[name] = len(same)
            same.append(name)
        self.by_role = {role: tuple(same) for role, same in names.items()}
        self.by_host: dict[tuple[str, str], tuple[str, ...]] = {}
        for name, place in places.items():
            key = place.host, place.role
            self.by_host[key] = (*self.by_host.get(key, ()), name)


class Node(Generic[C]):
    """One running node, as its role sees it. Nothing here tells which substrate it is on.

    `config` is this node's own configuration; `random` a generator of its own; `incarnation` counts its starts from 1.
    """

    def __init__(self, *, place: Place, config: C, incarnation: int, random: Random, clock: Clock, disk: Disk,
                 emit: Callable[..., None], ready: Callable[[], None], places: Mapping[str, Place],
                 variants: frozenset[str], is_up: Callable[[str], bool], real_bytes: bool = False,
                 prepared: Path | None = None, outside: Outside | None = None,
                 sites: Sites | None = None) -> None:  # fmt: skip
        self.place, self.config, self.incarnation, self.random = place, config, incarnation, random
        self.clock, self.disk = clock, disk
        self.name, self.role = place.node, place.role
        self.emit, self._ready, self._variants, self._is_up = emit, ready, variants, is_up
        self._places = places if isinstance(places, Places) else Places(places)
        self._real_bytes, self._prepared, self._outside, self.sites = real_bytes, prepared, outside, sites

    def peers(self, role: str) -> tuple[str, ...]:
        """The names of the other nodes of a role, up or not, in order."""
        names = self._places.by_role.get(role, ())
        if role != self.role:
            return names
        mine = self._places.index[self.name]
        return names[:mine] + names[mine + 1 :]

    def beside(self, role: str) -> tuple[str, ...]:
        """The names of the other nodes of a role on this node's host, up or not, in order."""
        names = self._places.by_host.get((self.place.host, role), ())
        return tuple(name for name in names if name != self.name)

    def up(self, role: str) -> tuple[str, ...]:
        """The nodes of a role that the cluster means to be running now: for clients, as a scheduler would tell them."""
        return tuple(name for name in self.peers(role) if self._is_up(name))

    def is_up(self, name: str) -> bool:
        """Whether the cluster means a node to be running now, as `up` has it."""
        return self._is_up(name)

    def place_of(self, name: str) -> Place:
        """Where a node is. Raises KeyError for a name that the cluster does not have."""
        return self._places[name]

    async def ready(self) -> None:
        """The role serves from now on; the cluster waits for it."""
        self._ready()

    def variant(self, name: str) -> bool:
        """Whether this node runs the named variant: a planted bug, or a form that makes a parameter safe."""
        if name in self._variants:
            return True
        return self.sites is not None and self.sites.active() and self.sites.variant(name)

    def blob(self, seed: int, length: int) -> Blob:
        """Content of `length` bytes drawn from a seed: bytes on real substrates, on sim a rope that costs nothing."""
        return Blob.random(seed, length, materialise=self._real_bytes)

    @property
    def prepared(self) -> Path:
        """The directory that the target's `prepare` filled once for all runs: to be read only."""
        assert self._prepared is not None, "the target has no `prepare`"
        return self._prepared

    # -- for the programs that a role starts: on real substrates only ------------------------------------------

    def bind(self, port: int) -> tuple[str, int]:
        """The real address where a server started by this node must listen so that it is reached as (name, port)."""
        return self._real("bind").bind(port)

    async def reach(self, name: str, port: int) -> tuple[str, int]:
        """The address through which this node, and any program that it starts, reaches another node's port."""
        return await self._real("reach").reach(name, port)

    @property
    def directory(self) -> Path:
        """The node's private directory, which outlives its restarts."""
        return self._real("directory").directory

    @property
    def environment(self) -> dict[str, str]:
        """What the environment of a program that it starts must hold: ZEBRA_NODE and ZEBRA_RUN, and what lets faults of
        clocks reach it where ZEBRA_FAKETIME is set."""
        return dict(self._real("environment").environment)

    def _real(self, what: str) -> Outside:
        if self._outside is None:
            raise Escape(f"node.{what} is for programs that a role starts: a simulated node runs none")
        return self._outside

    def op(self, kind: str, **fields: Any) -> Op:
        """Record an operation of this client: `async with node.op("write", key=k, value=v):` (see `zebra.workload`)."""
        return Op(self, kind, fields)
