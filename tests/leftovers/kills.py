"""What is killed in the midst of: every kind of effect that there is, and every fault of the catalogue.

`python -m tests.leftovers` does it.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from random import Random
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from zebra import units
from zebra.injection.fault import catalogue, fault, make, settings_of
from zebra.injection.selection import Selection
from zebra.substrate import CAPABILITIES

SAMPLES: dict[str, list[dict[str, Any]]] = {
    "processes": [
        {"down": "crash"}, {"down": "kill"}, {"down": "pause"}, {"down": "stop", "grace_s": 0.5},
        {"down": "crash", "back_after_s": 0.01},
    ],
    "links": [
        {"drop": True}, {"drop": True, "new_only": True}, {"reject": True}, {"latency_s": 0.01}, {"jitter_s": 0.01},
        {"loss": 0.5}, {"duplicate": 0.5, "after_s": 0.01}, {"reorder": 0.5}, {"reset": 0.5},
        {"corrupt": 0.5}, {"hold": True, "timeout_s": 0.01}, {"close_s": 0.01}, {"slice_bytes": 10, "slice_s": 0.001},
        {"limit_bytes": 100}, {"connections": 1, "on": {"server-1"}}, {"rate": 1e5, "on": {"server-1"}},
    ],
    "names": [{"fail": True}, {"stale": True}],
    "clocks": [{"offset_s": 60.0}, {"offset_s": 60.0, "every_s": 0.01}, {"drift": 0.5}, {"freeze": True}],
    "disks": [
        {"lose_unsynced": True, "torn": 0.5}, {"rate": 1e5}, {"capacity_bytes": 1000}, {"read_error": 0.5},
        {"write_error": 0.5}, {"flip": 0.5}, {"read_only": True},
    ],
    "resources": [
        {"cpu": 0.5}, {"stall_s": 0.01, "every_s": 0.05}, {"memory_bytes": 1 << 30}, {"files": 100},
        {"processes": 100},
    ],
    "application": [
        {"at": "Say", "error": "RuntimeError", "probability": 0.5}, {"delay_s": 0.01}, {"align_s": 0.01},
        {"drop": True}, {"repeat": True}, {"wrong": True}, {"stale": True}, {"leak": 1e6}, {"variant": "other"},
        {"buggify": 1.0},
    ],
}  # fmt: skip
"""What each capability is asked to add: every parameter that it has, at least once."""


def _made(name: str) -> Any:
    """A fault that adds the sample of a capability that its setting says."""

    class Effect:
        """Add one effect of a capability, waiting for one's turn `turns` times before and after."""

        which: int = 0
        turns: int = 0

        async def inject(self, on: Selection, capability: Any) -> None:
            await take_turns(self.turns)
            await capability.add(on.pairs() if name in ("links", "names") else on.nodes, **SAMPLES[name][self.which])
            await take_turns(self.turns)

    return fault(f"kills.{name}", level="host", needs=CAPABILITIES[name])(Effect)


for _name in SAMPLES:
    _made(_name)


async def take_turns(times: int) -> None:
    """Let others go on, so many times."""
    for _ in range(times):
        await asyncio.sleep(0)


@dataclass(frozen=True, eq=False)
class Sample:
    """A fault and its settings. It has so many `nodes` for itself; with 0 it shares one with others."""

    name: str
    fault: str
    settings: dict[str, Any] = field(default_factory=dict)
    nodes: int = 0


def effects(capabilities: Iterable[str]) -> list[Sample]:
    """One sample per kind of effect of these capabilities. What takes a node down has that node for itself."""
    return [
        Sample(
            name=f"{name} {', '.join(f'{k}={v}' for k, v in sample.items())}", fault=f"kills.{name}",
            settings={"which": which}, nodes=int("down" in sample or "variant" in sample),
        )
        for name in capabilities
        for which, sample in enumerate(SAMPLES[name])
    ]  # fmt: skip


VALUES = {
    units.SECONDS: 0.1, units.OFFSET: 60.0, units.BYTES: 1 << 26, units.RATE: 1e5, units.SHARE: 0.5, units.COUNT: 1,
    units.SPARE: 3, units.DRIFT: 0.5,
}  # fmt: skip
"""What a setting without a default is, by its unit; one that has none is a variant of the code."""

CHOSEN: dict[str, dict[str, Any]] = {
    "application.leak": {"rate": 1e6},
    "cluster.storm": {"faults": [{"fault": "host.crash"}, {"fault": "network.latency", "settings": {"delay": "9ms"}}]},
}
"""Settings that are not left to that."""


def faults() -> list[Sample]:
    """One sample of every fault of the catalogue; a composite one has two nodes, a shape of partitions four."""
    return [
        Sample(name=name, fault=name, settings=_settings(name, cls), nodes=_nodes(cls))
        for name, cls in catalogue().items()
        if cls.__module__.startswith("zebra.")
    ]


def _settings(name: str, cls: type[Any]) -> dict[str, Any]:
    found = dict(CHOSEN.get(name, {}))
    for each in dataclasses.fields(cls):
        missing = each.default is dataclasses.MISSING and each.default_factory is dataclasses.MISSING
        if missing and each.name not in found:
            hint = get_type_hints(cls, include_extras=True)[each.name]
            unit = get_args(hint)[1] if get_origin(hint) is Annotated else None
            found[each.name] = VALUES[unit] if unit is not None else "other"
    return settings_of(make(name, found))


def _nodes(cls: type[Any]) -> int:
    if hasattr(cls, "expand"):
        return 4 if "partition" in cls.zebra_name else 2
    return int(cls.zebra_needs == "processes" or "variant" in get_type_hints(cls))


def triples(samples: list[Sample], count: int, random: Random) -> Iterator[list[Sample]]:
    """So many random three of some samples."""
    for _ in range(count):
        yield random.sample(samples, 3)
