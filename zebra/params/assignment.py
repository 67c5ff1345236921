"""Assignments: for each parameter, who gets which value.

An assignment is data: `{"owl.chunk.size": {"*": "8MiB", "peer:odd": "4MiB"}}`. The keys inside say who: `*` (every
node), a role, `role:odd` or `role:even` (by node number), or a node's name; the more exact one wins.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import msgspec

from zebra.errors import ConfigError
from zebra.params.parameter import Space, Value
from zebra.topology import Place

Assignment = dict[str, dict[str, Value]]
_WHO = re.compile(r"\*|[a-z][a-z0-9_]*(:odd|:even|-[1-9][0-9]*)?", re.ASCII)


def parse(values: Mapping[str, object], what: str = "assignment") -> Assignment:
    """An assignment from outside data: a value alone means every node. Raises ConfigError."""
    if not isinstance(values, Mapping):
        raise ConfigError(f"{what}: expected a mapping of parameters, got {type(values).__name__}")
    assignment: Assignment = {}
    for name, whom in values.items():
        shares: Mapping[object, object] = whom if isinstance(whom, Mapping) else {"*": whom}
        for who, value in shares.items():
            if not isinstance(who, str) or not _WHO.fullmatch(who):
                raise ConfigError(f"{what}: {name}: {who!r} is not *, a role, role:odd, role:even or a node")
            if not isinstance(value, bool | int | float | str):
                raise ConfigError(f"{what}: {name}: {who}: {value!r} is not a value")
            assignment.setdefault(str(name), {})[who] = value
    return assignment


def validate(assignment: Assignment, space: Space, places: Iterable[Place]) -> Assignment:
    """The assignment with every value parsed; raises ConfigError for unknown parameters, roles, nodes, bad values."""
    places = tuple(places)
    roles, nodes = {place.role for place in places}, {place.node for place in places}
    for name, shares in assignment.items():
        space[name]
        for who in shares:
            known = who in nodes if "-" in who else who.partition(":")[0] in roles | {"*"}
            if not known:
                raise ConfigError(f"assignment: {name}: {who!r} is neither a role nor a node of this cluster, "
                                  f"roles are {', '.join(sorted(roles))}")  # fmt: skip
    return {name: {who: space[name].parse(v) for who, v in shares.items()} for name, shares in assignment.items()}


def values_for(assignment: Assignment, place: Place) -> dict[str, Value]:
    """The parameters that this node gets from the assignment."""
    number = int(place.node.rpartition("-")[2])
    order = ("*", place.role, f"{place.role}:{'odd' if number % 2 else 'even'}", place.node)
    found: dict[str, Value] = {}
    for name, shares in assignment.items():
        for who in order:
            if who in shares:
                found[name] = shares[who]
    return found


def configs(assignment: Assignment, space: Space, places: Iterable[Place]) -> dict[str, msgspec.Struct]:
    """Each node's whole configuration. Equal configurations are one object."""
    base, seen, result = space.config(), dict[tuple[tuple[str, Value], ...], msgspec.Struct](), {}
    for place in places:
        values = values_for(assignment, place)
        key = tuple(values.items())
        if key not in seen:
            seen[key] = space.replace(base, values)
        result[place.node] = seen[key]
    return result


def is_mixed(shares: Mapping[str, Value]) -> bool:
    """Whether the shares of one parameter can give two nodes different values."""
    return len(set(shares.values())) > 1 or "*" not in shares
