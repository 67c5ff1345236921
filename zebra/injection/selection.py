"""Whom a fault hits, as text: resolved only when the fault is injected, from the run's own randomness.

`peer-3` a node · `all(peer)` every node of a role · `one(peer)` one of them that is up · `minority(store)`,
`majority(store)` fewer, more than half · `dc(r1-dc1)`, `rack(…)`, `region(r2)`, `host(…)` all in a place · a name of
the target's selectors, such as `roots`, alone or as `one(roots)` · `*` everyone.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Literal

from zebra.errors import ConfigError
from zebra.substrate import Pairs
from zebra.topology import Place

_FORM = re.compile(r"(?:([a-z]+)\()?([A-Za-z0-9_.*-]+)\)?", re.ASCII)
_SHARES = ("one", "minority", "majority", "all")
DRAWN = ("one", "minority", "majority")
"""Functions that draw by lot."""

_PLACES = ("host", "rack", "dc", "region")


def one(of: str) -> str:
    """One node, drawn anew at each injection, of a role or a selector."""
    return f"one({of})"


def all_of(of: str) -> str:
    """Every node of a role or a selector."""
    return f"all({of})"


def minority(of: str) -> str:
    """The most nodes of a role that are still fewer than half."""
    return f"minority({of})"


def majority(of: str) -> str:
    """The fewest nodes of a role that are more than half."""
    return f"majority({of})"


def check_form(text: str) -> tuple[str, str]:
    """The parts of a selection: (function or "", argument). Raises ConfigError for text that is none."""
    match = _FORM.fullmatch(text)
    if match is None or (match[1] is None) == text.endswith(")"):
        raise ConfigError(f"selection {text!r} is not a node, a role in all(…), one(…), minority(…) or majority(…), "
                          "a place in host(…), rack(…), dc(…) or region(…), or a selector")  # fmt: skip
    function = match[1] or ""
    if function and function not in _SHARES + _PLACES:
        raise ConfigError(f"selection {text!r}: {function} is unknown, known are {', '.join(_SHARES + _PLACES)}")
    return function, match[2]


@dataclass(frozen=True, slots=True)
class Selection:
    """The nodes that a fault hits, in the groups that it was given; `everyone` is the whole cluster."""

    groups: tuple[tuple[str, ...], ...]
    everyone: tuple[Place, ...]

    @property
    def nodes(self) -> tuple[str, ...]:
        """All nodes of all groups, once each, in order."""
        return tuple(dict.fromkeys(node for group in self.groups for node in group))

    def hosts(self) -> tuple[str, ...]:
        """All nodes on the hosts of the selected nodes: what a host fault hits."""
        hosts = {place.host for place in self.everyone if place.node in self.nodes}
        return tuple(place.node for place in self.everyone if place.host in hosts)

    def pairs(self, direction: Literal["both", "out", "in"] = "both") -> Pairs:
        """Every link that touches a selected node: those out of it, those into it, or both."""
        mine, all_nodes = frozenset(self.nodes), frozenset(place.node for place in self.everyone)
        products = []
        if direction in ("both", "out"):
            products.append((mine, all_nodes))
        if direction in ("both", "in"):
            products.append((all_nodes, mine))
        return Pairs(products)

    def between(self, direction: Literal["both", "out", "in"] = "both") -> Pairs:
        """The links between the groups, or between a single one and all other nodes. `out` is from the first group."""
        groups = [frozenset(group) for group in self.groups]
        if len(groups) == 1:
            groups.append(frozenset(place.node for place in self.everyone) - groups[0])
        products = []
        for index, a in enumerate(groups):
            for b in groups[index + 1 :]:
                if direction in ("both", "out"):
                    products.append((a - b, b - a))
                if direction in ("both", "in"):
                    products.append((b - a, a - b))
        return Pairs(products)


def resolve(
    on: Sequence[Sequence[str]],
    places: Iterable[Place],
    random: Random,
    is_up: Callable[[str], bool],
    selectors: Mapping[str, Callable[[], Iterable[str]]],
) -> Selection:
    """The selection that some groups of texts mean now; raises ConfigError when one names nothing."""
    places = tuple(places)
    groups = []
    for texts in on:
        nodes: list[str] = []
        for text in texts:
            nodes += _resolve(text, places, random, is_up, selectors)
        groups.append(tuple(dict.fromkeys(nodes)))
    return Selection(tuple(groups), places)


def _resolve(text: str, places: tuple[Place, ...], random: Random, is_up: Callable[[str], bool],
             selectors: Mapping[str, Callable[[], Iterable[str]]]) -> list[str]:  # fmt: skip
    function, argument = check_form(text)
    if function in _PLACES:
        found = [place.node for place in places if getattr(place, function) == argument]
    elif argument == "*":
        found = [place.node for place in places]
    elif argument in selectors:
        found = sorted(selectors[argument]())
        unknown = set(found) - {place.node for place in places}
        if unknown:
            raise ConfigError(f"selector {argument!r} names {min(unknown)!r}, which is no node of this cluster")
    elif function:
        found = [place.node for place in places if place.role == argument]
    else:
        found = [place.node for place in places if place.node == argument]
    if not found and argument not in selectors:
        roles = sorted({place.role for place in places})
        raise ConfigError(f"selection {text!r} names no node of this cluster, roles are {', '.join(roles)}")
    if function in ("", "all") or function in _PLACES:
        return found
    candidates = [node for node in found if is_up(node)] or found
    count = {"one": 1, "minority": (len(found) - 1) // 2, "majority": len(found) // 2 + 1}[function]
    return sorted(random.sample(candidates, min(count, len(candidates))), key=found.index)
