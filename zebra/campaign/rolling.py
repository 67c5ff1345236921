"""Rolling changes: all nodes agree, and change to another value one after the other while the test runs.

What stays hidden in a cluster that was mixed from the start can show here: a mixture that only arises on the way, or
state that was written under one value and is read under another. Two orders of a test's roles, one drawn and its
reverse, hold every pair of roles both ways round. What a rolling change is compared with is the same rolling restart
without a change, so that nothing is blamed on a parameter that comes of restarting. Clients are not restarted, for they
are the test's own hands; with `reload` those that can reload take part.

Source: ../shared/research/real_systems.md, "Order of change" (traps).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from random import Random
from typing import Literal

from zebra.campaign.plan import Case
from zebra.injection.schedule import Roll, Schedule
from zebra.params.parameter import Parameter, Value
from zebra.target import CLIENT, Target

How = Literal["", "restart", "reload"]
Order = tuple[str, ...]

BEARS_SEEDS = 3
"""A test bears rolling changes if it passes with plain rolling restarts on so many seeds."""

BEGINS, LASTS = 0.6, 0.4
"""A roll begins within this share of the time that the test takes by itself, and pauses between nodes make up this."""


def orders(target: Target, roles: Sequence[str], how: How, random: Random) -> list[Order]:
    """A drawn order of those roles that can be changed, and its reverse."""
    able = [role for role in sorted(roles) if role != CLIENT or (how == "reload" and hasattr(target.client, "reload"))]
    random.shuffle(able)
    return [] if not able else [tuple(able)] if len(able) == 1 else [tuple(able), tuple(able[::-1])]


def rolling_cases(
    test: str, parameter: Parameter, observed: Value, roles: Sequence[str], orders: Sequence[Order]
) -> list[Case]:
    """Every rolling change of a parameter in a test: to each other value and back, in each order of its readers."""
    if parameter.settings and observed not in parameter.settings:
        return []
    reading = [order for order in orders if set(order) & set(roles)]
    if len(set(orders[0] if orders else ()) & set(roles)) < 2:
        reading = reading[:1]
    return [
        Case(test=test, parameter=parameter.name, base=base, other=other, who=">".join(order), order=order)
        for alternative in parameter.alternatives(observed)
        for order in reading
        for base, other in ((observed, alternative), (alternative, observed))
    ]


def roll(order: Order, values: Mapping[str, Value], nodes: int, test_s: float, how: How, seed: int) -> Schedule:
    """The schedule of a rolling change over so many nodes in a test that takes `test_s` by itself; the seed draws when
    it begins and how fast it goes."""
    random = Random(f"{seed}/roll")
    at_s, lasts_s = test_s * random.uniform(0, BEGINS), test_s * random.uniform(0, LASTS)
    step = Roll(nodes=order, values=dict(values), at_s=round(at_s, 6), every_s=round(lasts_s / max(1, nodes), 6),
                how=how or "restart")  # fmt: skip
    return Schedule((step,))
