"""Why a parameter is unsafe: what else has to be so (`requires`), which way round (`direction`), and in which order
nodes may change its value one after the other (`rollouts`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from zebra.campaign.halving import necessary
from zebra.campaign.plan import Case
from zebra.campaign.result import ParameterResult, Rollout
from zebra.campaign.rolling import Order
from zebra.campaign.trial import trial_seed
from zebra.params import Assignment
from zebra.params.parameter import Value
from zebra.topology import Place

if TYPE_CHECKING:
    from zebra.campaign.campaign import Campaign
    from zebra.spec import RunSpec

CURE_SEEDS = 2
"""A change counts as a cure when the failing assignment passes with it on so many seeds."""

SWAP_SEEDS = 4
"""The reverse direction counts as harmless when it passes on so many seeds."""

ROLL_SEEDS = 6
"""A rolling change counts as safe when it passes on so many seeds."""


class Explanation:
    """Fills in what is to be known of one parameter that was found to be unsafe."""

    def __init__(self, campaign: Campaign, name: str) -> None:
        self.campaign, self.name, self.state = campaign, name, campaign.state[name]
        self.case = next(case for case in self.state.cases if case in self.state.failed)
        self.test = self.case.test

    def run(self) -> None:
        found = self.state.found
        assert found is not None
        found.requires = self._requires()
        found.direction = "" if found.rolling else "both" if self.state.together else self._direction(found)
        if found.rolling:
            found.rollouts = self._rollouts()
        elif ">" in found.direction:
            found.rollouts = self._confirmed(found)

    def _failing(self, seed: int, also: Assignment | None = None, without_faults: Sequence[str] = ()) -> RunSpec:
        """The run that failed, on another seed: the case, and what of other parameters it does not fail without: a
        value that all nodes have, or cases of theirs."""
        cases = [self.case, *self.state.together]
        return self.campaign.spec_of(
            self.test, self.case.order, cases, seed, self.state.given | (also or {}), without_faults
        )

    def _seeds(self, what: str, count: int) -> list[int]:
        return [trial_seed(self.campaign.seed, what, self.name, i) for i in range(count)]

    def _pass(self, specs: Sequence[RunSpec]) -> bool:
        return all(result.passed for result in self.campaign.make("requires", specs))

    # -- what it needs ---------------------------------------------------------------------------------------

    def _requires(self) -> list[str]:
        space, observed = self.campaign.space, self.campaign.observed(self.test)
        others = self._harmless(self._others(observed))

        def cures(changed: Sequence[tuple[str, Value]]) -> bool:
            also: Assignment = {name: {"*": value} for name, value in changed}
            return self._pass([self._failing(seed, also) for seed in self._seeds("requires", CURE_SEEDS)])

        def passes_without(faults: Sequence[str]) -> bool:
            seeds = self._seeds("requires", CURE_SEEDS)
            return self._pass([self._failing(seed, without_faults=faults) for seed in seeds])

        needed = necessary(others, cures)
        requires = [f"{name}={space[name].show(observed[name])}" for name, _ in needed]
        for other in self.state.together:
            requires.append(f"{other.parameter}={space[other.parameter].show(other.other)}")
        for name, shares in self.state.given.items():
            requires.append(f"{name}={space[name].show(shares['*'])}")
        return requires + [f"fault:{name}" for name in necessary(self._faults(), passes_without)]

    def _others(self, observed: dict[str, Value]) -> list[tuple[str, Value]]:
        """Another value of each other parameter that the test reads, with which the campaign saw a run pass; no two set
        the same parameter."""
        campaign, others = self.campaign, list[tuple[str, Value]]()
        fixed = [self.name, *self.state.given, *(case.parameter for case in self.state.together)]
        taken = set[str]().union(*map(campaign.touches, fixed))
        for name, parameter in campaign.space.items():
            if taken & campaign.touches(name) or parameter.param.timer or not campaign.readers(self.test, name):
                continue
            screened = [v for v in parameter.alternatives(observed[name]) if (name, v) in campaign.screened]
            if valid := [value for value in screened if value not in campaign.state[name].invalid]:
                others.append((name, valid[0]))
                taken |= campaign.touches(name)
        return others

    def _harmless(self, changed: list[tuple[str, Value]]) -> list[tuple[str, Value]]:
        """Those changes for everybody with which the test passes, found by halving."""
        seed = trial_seed(self.campaign.seed, "requires", self.test)
        spec = self.campaign.spec(self.test, {name: {"*": value} for name, value in changed}, seed)
        if not changed or self._pass([spec]):
            return changed
        middle = len(changed) // 2
        return self._harmless(changed[:middle]) + self._harmless(changed[middle:]) if middle else []

    def _faults(self) -> list[str]:
        """The faults that the failing run injected, from its schedule or in the test itself."""
        specs = [self._failing(seed) for seed in self._seeds("requires", CURE_SEEDS)]
        return sorted({fault for result in self.campaign.make("requires", specs) for fault in result.faults})

    # -- which way round -------------------------------------------------------------------------------------

    def _direction(self, found: ParameterResult) -> str:
        """`both`, unless the values the other way round pass: in the failing test, then in others with such roles."""
        campaign, swapped, seeds = self.campaign, self.case.swapped(), self._seeds("direction", SWAP_SEEDS)
        there = [campaign.spec_of(self.test, (), [swapped], seed, self.state.given) for seed in seeds]
        elsewhere = [
            campaign.spec(test, {self.name: swapped.shares()} | self.state.given, seeds[0])
            for test in campaign.tested
            if self._has_shape(test)
        ]
        if not self._pass(there) or not self._pass(elsewhere):
            return "both"
        return self._one_sided(found)

    def _has_shape(self, test: str) -> bool:
        """Whether the case has a meaning in another test: its roles read the parameter there, and its nodes are."""
        if test == self.test:
            return False
        who, nodes = self.case.who.split("+"), {place.node for place in self.campaign.tested[test].places}
        roles = {each.partition(":")[0].partition("-")[0] for each in who}
        return roles <= set(self.campaign.readers(test, self.name)) and nodes >= {each for each in who if "-" in each}

    def _one_sided(self, found: ParameterResult) -> str:
        """Who must hold which value: whole roles where they show it as well as the nodes of the failing case do. Of two
        numbers the greater comes first, so that one fact is told in one way."""
        campaign, case = self.campaign, self.case
        roles, seeds = campaign.readers(self.test, self.name), self._seeds("one-sided", CURE_SEEDS)
        for other in self.state.cases:
            same = other.test == case.test and {other.base, other.other} == {case.base, case.other}
            of_roles = not other.order and not set(other.who) & {":", "-"}
            if set(case.who) & {":", "-"} and of_roles and same:
                there, back = (
                    campaign.make(
                        "requires", [campaign.spec_of(self.test, (), [c], seed, self.state.given) for seed in seeds]
                    )
                    for c in (other, other.swapped())
                )
                if not any(result.passed for result in there) and all(result.passed for result in back):
                    case = other
                    break
        values, who = [case.other, case.base], list(sides(case, roles, campaign.tested[self.test].places))
        if not any(isinstance(value, bool | str) for value in values) and float(values[0]) < float(values[1]):
            values, who = values[::-1], who[::-1]
        found.values = [campaign.space[self.name].show(value) for value in values]
        return ">".join(who)

    # -- in which order ----------------------------------------------------------------------------------------

    def _rollouts(self) -> list[Rollout]:
        """Rolling changes there and back, in each order that the test bears and that differs for who reads."""
        if self.state.together:
            return []
        campaign, case, reading = self.campaign, self.case, self.campaign.readers(self.test, self.name)
        orders: dict[Order, Order] = {}
        for order in campaign.tested[self.test].orders:
            if shown := tuple(role for role in order if role in reading):
                orders.setdefault(shown, order)
        return [
            self._rollout(values, order, shown)
            for values in ((case.base, case.other), (case.other, case.base))
            for shown, order in orders.items()
        ]

    def _confirmed(self, found: ParameterResult) -> list[Rollout]:
        """The orders that follow from a direction between roles, each tried. Where mixtures fail either way round there
        is nothing to try: a quick change that passes proves no order safe."""
        campaign, parse = self.campaign, self.campaign.space[self.name].parse
        holds, others = (set(side.split("+")) for side in found.direction.split(">"))
        a, b = map(parse, found.values)
        rollouts = []
        for values, first, then in (((b, a), others, holds), ((a, b), holds, others)):
            for order in campaign.tested[self.test].orders:
                at = {role: number for number, role in enumerate(order)}
                if first | then <= at.keys() and max(at[role] for role in first) < min(at[role] for role in then):
                    rollouts.append(self._rollout(values, order, tuple(r for r in order if r in first | then)))
                    break
        return rollouts

    def _rollout(self, values: tuple[Value, Value], order: Order, shown: Order) -> Rollout:
        """Try one until it fails where the plain rolling restart passes."""
        campaign, (base, other) = self.campaign, values
        show, runs, safe = campaign.space[self.name].show, 0, True
        case = Case(test=self.test, parameter=self.name, base=base, other=other, who=">".join(order), order=order)
        for seed in self._seeds("rollout", ROLL_SEEDS):
            runs += 1
            plain = campaign.spec(self.test, self.state.given | {self.name: {"*": base}}, seed, order)
            change = campaign.spec_of(self.test, order, [case], seed, self.state.given)
            if not self._pass([change]) and self._pass([plain]):
                safe = False
                break
        return Rollout(values=(show(base), show(other)), order=list(shown), safe=safe, runs=runs)


def sides(case: Case, roles: Sequence[str], places: Sequence[Place]) -> tuple[str, str]:
    """Who holds `other` and who `base`, among the nodes that read the parameter: a role's name or nodes' names."""
    reading = [place for place in places if place.role in roles]
    number = {place.node: int(place.node.rpartition("-")[2]) for place in reading}

    def holds(place: Place) -> bool:
        half = f"{place.role}:{'odd' if number[place.node] % 2 else 'even'}"
        return bool({place.role, place.node, half}.intersection(case.who.split("+")))

    return _name([p for p in reading if holds(p)], reading), _name([p for p in reading if not holds(p)], reading)


def _name(nodes: list[Place], reading: list[Place]) -> str:
    roles = sorted({place.role for place in nodes})
    whole = all(place in nodes for place in reading if place.role in roles)
    return "+".join(roles) if whole else "+".join(place.node for place in nodes)
