"""What to try: for each test and parameter the cases, from what the pre-run read.

A case gives one value to some of the nodes that read a parameter and another to the rest. ZebraConf tries each role
against the rest, and each role's odd and even nodes, a run for each (2.4 in ../shared/research/zebraconf.md). Here one
run covers many such shapes: in one every other node of every role holds the other value; in few more whole roles do,
chosen so that any two roles are apart in one at least. With both values either way round, every ordered pair of roles
and every role by itself is seen in each mixture, by 2 log2(roles) + 2 runs instead of 2 roles + 4 per role of several
nodes. Two cases that give every reader the same value are one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from random import Random

from zebra.params import Assignment, Read, Space
from zebra.params.assignment import values_for
from zebra.params.parameter import Parameter, Value
from zebra.topology import Place


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One parameter of one test: the nodes of `who` hold `other`, all others `base`; `who` is one or more of an
    assignment's selectors, joined by `+`."""

    test: str
    parameter: str
    base: Value
    other: Value
    who: str

    def shares(self) -> dict[str, Value]:
        return {"*": self.base, **dict.fromkeys(self.who.split("+"), self.other)}

    def swapped(self) -> Case:
        """The same nodes with the values the other way round."""
        return Case(test=self.test, parameter=self.parameter, base=self.other, other=self.base, who=self.who)


def mixed(cases: Iterable[Case]) -> Assignment:
    """The assignment of some cases of different parameters."""
    return {case.parameter: case.shares() for case in cases}


def readers(parameter: str, reads: Iterable[Read]) -> tuple[str, ...]:
    """The roles that read a parameter."""
    return tuple(sorted({read.role for read in reads if read.parameter == parameter}))


Shapes = Callable[[Sequence[str], Sequence[Place]], list[str]]
"""Who holds the other value, by the roles and nodes that read a parameter: for each case some selectors, joined."""


def cases_of(
    test: str, parameter: Parameter, observed: Value, roles: tuple[str, ...], places: tuple[Place, ...], shapes: Shapes
) -> list[Case]:
    """Every case of a parameter in a test, the candidates in their order."""
    reading = [place for place in places if place.role in roles]
    found: dict[tuple[Value, ...], Case] = {}
    for alternative in parameter.alternatives(observed):
        for who in shapes(roles, reading):
            for base, other in ((observed, alternative), (alternative, observed)):
                case = Case(test=test, parameter=parameter.name, base=base, other=other, who=who)
                vector = tuple(values_for({parameter.name: case.shares()}, place)[parameter.name] for place in reading)
                if len(set(vector)) > 1:
                    found.setdefault(vector, case)
    return list(found.values())


def one_by_one(roles: Sequence[str], reading: Sequence[Place]) -> list[str]:
    """ZebraConf's shapes: of each role the odd nodes, the even nodes, all."""
    shapes = []
    for role in roles:
        count = sum(place.role == role for place in reading)
        if count > 1:
            shapes += [f"{role}:odd", f"{role}:even"]
        if 0 < count < len(reading):
            shapes.append(role)
    return shapes


def designed(roles: Sequence[str], reading: Sequence[Place], random: Random) -> list[str]:
    """So few shapes as keep any two roles apart and split every role of several nodes; which go together is drawn."""
    counts = {role: sum(place.role == role for place in reading) for role in roles}
    present = [role for role in roles if counts[role]]
    random.shuffle(present)
    found = []
    for bit in range((len(present) - 1).bit_length()):
        found.append("+".join(sorted(role for number, role in enumerate(present) if number >> bit & 1)))
    if split := sorted(role for role in present if counts[role] > 1):
        found.append("+".join(f"{role}:odd" for role in split))
    return found


def pools(cases: dict[str, list[Case]], random: Random) -> list[list[Case]]:
    """ZebraConf's pools of one test: the first case of every parameter, the second of every parameter …, each order
    drawn. There are as many as the parameter with most cases has cases; no pool holds a parameter twice.
    """
    shuffled = [random.sample(own, len(own)) for _, own in sorted(cases.items())]
    return [[own[k] for own in shuffled if k < len(own)] for k in range(max(map(len, shuffled), default=0))]


def observed_values(space: Space, test_assignment: Assignment) -> dict[str, Value]:
    """The value that each parameter has in a test of its own accord: what the test assigns to all, or the default."""
    return {name: test_assignment.get(name, {}).get("*", parameter.default) for name, parameter in space.items()}
