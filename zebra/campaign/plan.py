"""What to try: for each test and parameter the cases, from what the pre-run read.

A case gives one value to some of the nodes that read a parameter and another to the rest. Within a role it takes every
other node (odd, even), across roles a whole role against the others, both ways round: ZebraConf's shapes (2.4 in
../shared/research/zebraconf.md). Two cases that give every reader the same value are one.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from random import Random

from zebra.params import Assignment, Read, Space
from zebra.params.assignment import values_for
from zebra.params.parameter import Parameter, Value
from zebra.topology import Place


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One parameter of one test: the nodes of `who` (a selector of assignments) hold `other`, all others `base`."""

    test: str
    parameter: str
    base: Value
    other: Value
    who: str

    def shares(self) -> dict[str, Value]:
        return {"*": self.base, self.who: self.other}

    def swapped(self) -> Case:
        """The same nodes with the values the other way round."""
        return Case(test=self.test, parameter=self.parameter, base=self.other, other=self.base, who=self.who)


def mixed(cases: Iterable[Case]) -> Assignment:
    """The assignment of some cases of different parameters."""
    return {case.parameter: case.shares() for case in cases}


def readers(parameter: str, reads: Iterable[Read]) -> tuple[str, ...]:
    """The roles that read a parameter."""
    return tuple(sorted({read.role for read in reads if read.parameter == parameter}))


def cases_of(
    test: str, parameter: Parameter, observed: Value, roles: tuple[str, ...], places: tuple[Place, ...]
) -> list[Case]:
    """Every case of a parameter in a test, the candidates in their order."""
    reading = [place for place in places if place.role in roles]
    found: dict[tuple[Value, ...], Case] = {}
    for alternative in parameter.alternatives(observed):
        for who in _shapes(roles, reading):
            for base, other in ((observed, alternative), (alternative, observed)):
                case = Case(test=test, parameter=parameter.name, base=base, other=other, who=who)
                vector = tuple(values_for({parameter.name: case.shares()}, place)[parameter.name] for place in reading)
                if len(set(vector)) > 1:
                    found.setdefault(vector, case)
    return list(found.values())


def _shapes(roles: tuple[str, ...], reading: list[Place]) -> list[str]:
    shapes = []
    for role in roles:
        count = sum(place.role == role for place in reading)
        if count > 1:
            shapes += [f"{role}:odd", f"{role}:even"]
        if 0 < count < len(reading):
            shapes.append(role)
    return shapes


def pools(cases: dict[str, list[Case]], random: Random) -> list[list[Case]]:
    """Pools of one test: the first case of every parameter, the second of every parameter …, each order drawn.

    There are as many pools as the parameter with most cases has cases; no pool holds a parameter twice.
    """
    shuffled = [random.sample(own, len(own)) for _, own in sorted(cases.items())]
    return [[own[k] for own in shuffled if k < len(own)] for k in range(max(map(len, shuffled), default=0))]


def observed_values(space: Space, test_assignment: Assignment) -> dict[str, Value]:
    """The value that each parameter has in a test of its own accord: what the test assigns to all, or the default."""
    return {name: test_assignment.get(name, {}).get("*", parameter.default) for name, parameter in space.items()}
