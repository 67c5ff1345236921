"""A target: a system under test, described once for every substrate."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from importlib import import_module
from pathlib import Path
from tempfile import mkdtemp
from typing import TYPE_CHECKING, Any

import msgspec

from zebra.errors import ConfigError, PluginError
from zebra.params import Assignment, Profile, Space
from zebra.params.rules import Rules
from zebra.registry import load, members
from zebra.structure import Structure
from zebra.topology import Topology

if TYPE_CHECKING:
    from zebra.cluster import Cluster

CLIENT = "client"
REAL = ("process", "netns", "docker")
"""The substrates on which programs that are not ours can run."""


@dataclass(frozen=True, kw_only=True)
class Target:
    """A system under test. Source of the fields: ../shared/design.md section 6.

    `config` is a frozen msgspec struct, nested per dotted name. `roles` are classes called with a Node; `client` is one
    more, its node is client-1. `topology` holds the counts and places of what a test does not name. `invariants` are
    factories. `selectors` name sets of nodes for faults, each a function of the cluster. `progress(cluster)` is what
    must succeed within `settle_s` once everything is healed. `sometimes` are event kinds that a whole campaign must
    have seen. `variants` are the planted bugs (`bug.…`) and safe forms (`safe.…`) that roles ask for. `accepted` lists
    parameters known to be unsafe. `realtime` is an assignment for real substrates, `prepare(directory)` makes what is
    costly and immutable once: roles find it as `node.prepared`. `structure` follows events and lists the links that a
    report draws at a violation (see `zebra.structure`). `profiles` are composite parameters (see `zebra.Profile`),
    `rules` what campaigns try beside or instead of what parameters say of themselves (see `zebra.params.rules`).
    `errors` are regular expressions: a node that writes or logs what matches fails the run. With `leaks` one does that
    leaves tasks or processes behind when it is stopped as planned.

    `external` says that roles start servers that are not ours: those run on real substrates only, and nobody sees what
    they read, so every parameter counts as read by every role but the client. A role emits `node.unapplied` with the
    `parameters` that its live server does not show as its configuration has them: these count as untested.
    `unavailable` says why this machine has no such server ("" if it has). `workers` is how many of its trials a
    campaign may well run at a time where nobody says: more than there are processors if they mostly wait.

    `images` are what the containers of some roles hold on docker, by role; see `docs/docker.md`.

    `agent` names the adapter (see `zebra.agent`) of a system whose tests start its nodes in their own process: these
    tests are not marked, a campaign needs `--zebra-agent`, and who reads in the pre-run is the topology.
    """

    name: str
    config: type[msgspec.Struct]
    roles: Mapping[str, Callable[[Any], Any]]
    client: Callable[[Any], Any] | None = None
    topology: Topology = field(default_factory=Topology)
    invariants: tuple[Any, ...] = ()
    selectors: Mapping[str, Callable[[Cluster], Iterable[str]]] = field(default_factory=dict)
    progress: Callable[[Cluster], Awaitable[None]] | None = None
    settle_s: float = 30.0
    start_s: float = 30.0
    prepare: Callable[[Path], None] | None = None
    realtime: Assignment = field(default_factory=dict)
    sometimes: tuple[str, ...] = ()
    variants: tuple[str, ...] = ()
    accepted: Path | None = None
    external: bool = False
    unavailable: str = ""
    workers: int = 1
    structure: Callable[[], Structure] | None = None
    images: Mapping[str, str] = field(default_factory=dict)
    errors: tuple[str, ...] = ()
    leaks: bool = False
    profiles: tuple[Profile, ...] = ()
    rules: Rules = field(default_factory=Rules)
    agent: str = ""

    def __post_init__(self) -> None:
        if CLIENT in self.roles:
            raise PluginError(f"target {self.name}: give the role {CLIENT!r} as client=, not in roles", self.name)
        for role in self.topology.counts:
            self.check_role(role)

    @cached_property
    def space(self) -> Space:
        """All parameters of the target."""
        return Space(self.name, self.config, self.profiles)

    @cached_property
    def prepared(self) -> Path | None:
        """The directory that `prepare` has filled, at the first call: before the first run, for all forks of this
        process; it goes when the session ends. None without `prepare`."""
        if self.prepare is None:
            return None
        from zebra.injection.warden import warden

        directory = Path(mkdtemp(prefix=f"{self.name}-", dir=warden().directory))
        self.prepare(directory)
        return directory

    @property
    def substrates(self) -> tuple[str, ...]:
        """Where it can run, the one to take first; () is anywhere."""
        return REAL if self.external else ()

    @cached_property
    def all_roles(self) -> dict[str, Callable[[Any], Any]]:
        """The roles by name, the client among them."""
        return {**self.roles, **({CLIENT: self.client} if self.client is not None else {})}

    def check_role(self, role: str) -> str:
        """The role, if the target has it; raises ConfigError."""
        if role not in self.all_roles:
            raise ConfigError(f"target {self.name}: role {role!r} is unknown, it has {', '.join(self.all_roles)}")
        return role

    def check_variant(self, variant: str) -> str:
        """The variants (comma-separated), if the target has them; raises ConfigError."""
        for name in filter(None, variant.split(",")):
            if name not in self.variants:
                raise ConfigError(
                    f"target {self.name}: variant {name!r} is unknown, it has {', '.join(self.variants) or 'none'}"
                )
        return variant

    def full_topology(self, topology: Topology | None) -> Topology:
        """The topology with the client and every role that it leaves out; raises ConfigError for unknown roles."""
        topology = self.topology if topology is None else topology
        for role in (*topology.counts, *topology.per_host, *topology.beside, *topology.beside.values()):
            self.check_role(role)
        defaults = {role: self.topology.counts.get(role, 1) for role in self.all_roles}
        return msgspec.structs.replace(topology, counts={**defaults, **topology.counts})


def find_target(name: str) -> Target:
    """The target of a name: one found through entry points, or `module:ATTRIBUTE`. Raises ConfigError."""
    if ":" in name:
        module, _, attribute = name.partition(":")
        try:
            found = getattr(import_module(module), attribute, None)
        except ImportError as error:
            raise ConfigError(f"target {name!r}: cannot import {module} ({error})") from None
    else:
        found = getattr(load("targets", name), "TARGET", None)
    if not isinstance(found, Target):
        raise ConfigError(f"target {name!r} is not a zebra.Target")
    return found


def target_names() -> list[str]:
    """The names of all targets that are installed."""
    return list(members("targets"))
