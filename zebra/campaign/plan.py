"""What to try: for each test and parameter the cases, from what the pre-run read.

A case gives one value to some of the nodes that read a parameter and another to the rest. ZebraConf tries each role
against the rest, and each role's odd and even nodes, a run for each (2.4 in ../shared/research/zebraconf.md). Here one
run covers many such shapes: in one every other node of every role holds the other value; in few more whole roles do,
chosen so that any two roles are apart in one at least. With both values either way round, every ordered pair of roles
and every role by itself is seen in each mixture, by 2 log2(roles) + 2 runs instead of 2 roles + 4 per role of several
nodes. Where a role has so many nodes that odd and even leave nobody alone, one more shape has one odd one out of each
such role, in the few tests in which most nodes read the parameter. Two cases that give every reader the same value are
one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from random import Random

from zebra.params import Assignment, Read, Space
from zebra.params.assignment import values_for
from zebra.params.parameter import Parameter, Value
from zebra.topology import Place


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One parameter of one test: the nodes of `who` hold `other`, all others `base`; `who` is one or more of an
    assignment's selectors, joined by `+`.

    With an `order` of roles it is a rolling change: all nodes hold `base` at first, and those of the roles are
    restarted to `other` one after the other, role by role; `who` is then the order, joined by `>`.
    """

    test: str
    parameter: str
    base: Value
    other: Value
    who: str
    order: tuple[str, ...] = ()

    def shares(self) -> dict[str, Value]:
        return {"*": self.base, **({} if self.order else dict.fromkeys(self.who.split("+"), self.other))}

    def swapped(self) -> Case:
        """The same nodes with the values the other way round."""
        return replace(self, base=self.other, other=self.base)

    def __str__(self) -> str:
        """The case's shape, for people."""
        return f"while nodes change, {', then '.join(self.order)}" if self.order else f"{self.who} against the rest"


def mixed(cases: Iterable[Case]) -> Assignment:
    """The assignment of some cases of different parameters."""
    return {case.parameter: case.shares() for case in cases}


def readers(parameter: Parameter, reads: Iterable[Read]) -> tuple[str, ...]:
    """The roles that read a parameter, or a member of a profile."""
    names = {parameter.name, *parameter.members}
    return tuple(sorted({read.role for read in reads if read.parameter in names}))


ALONE_BELOW = 3
"""Of so many nodes of a role or fewer, one is alone where odd and even ones differ."""

ALONE_TESTS = 3
"""In so many tests a parameter is tried with one odd one out."""

Shapes = Callable[[Sequence[str], Sequence[Place]], list[str]]
"""Who holds the other value, by the roles and nodes that read a parameter: for each case some selectors, joined."""


def cases_of(
    test: str, parameter: Parameter, observed: Value, roles: tuple[str, ...], places: tuple[Place, ...], shapes: Shapes
) -> list[Case]:
    """Every case of a parameter in a test, the candidates in their order. None for a profile if the test's own settings
    are those of none of its values."""
    if observed not in parameter.settings and parameter.settings:
        return []
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


def designed(roles: Sequence[str], reading: Sequence[Place], random: Random, alone: bool = True) -> list[str]:
    """So few shapes as keep any two roles apart and split every role of several nodes; which go together is drawn.

    With `alone` one node of each role of many is the odd one out.
    """
    counts = {role: sum(place.role == role for place in reading) for role in roles}
    present = [role for role in roles if counts[role]]
    random.shuffle(present)
    found = []
    for bit in range((len(present) - 1).bit_length()):
        found.append("+".join(sorted(role for number, role in enumerate(present) if number >> bit & 1)))
    if split := sorted(role for role in present if counts[role] > 1):
        found.append("+".join(f"{role}:odd" for role in split))
    if many := alone and sorted(role for role in present if counts[role] > ALONE_BELOW):
        found.append("+".join(random.choice([p.node for p in reading if p.role == role]) for role in many))
    return found


def pools(cases: dict[str, list[Case]], random: Random) -> list[list[Case]]:
    """ZebraConf's pools of one test: the first case of every parameter, the second of every parameter …, each order
    drawn. There are as many as the parameter with most cases has cases; no pool holds a parameter twice.
    """
    shuffled = [random.sample(own, len(own)) for _, own in sorted(cases.items())]
    return [[own[k] for own in shuffled if k < len(own)] for k in range(max(map(len, shuffled), default=0))]


def observed_values(space: Space, own: Assignment) -> dict[str, Value]:
    """The value that each parameter has in a test of its own accord: what the test assigns to all, or the default; of a
    profile the value whose settings those are, "" if there is none."""
    given = {name: shares["*"] for name, shares in own.items() if "*" in shares and name in space}
    plain = {name: p.default for name, p in space.items() if not p.members} | space.plain(given)
    return plain | {
        name: next((v for v, wanted in p.settings.items() if all(plain[m] == w for m, w in wanted.items())), "")
        for name, p in space.items()
        if p.members
    }
