"""How many runs two other procedures would have needed for the same verdicts, replayed from those verdicts.

`one_by_one` runs every case alone and stops at a parameter's first failure. `zebraconf` is the recursion and the rounds
of ZebraConf (sections 3.1 and 3.2 of ../shared/research/zebraconf.md): pools of at most 100, both halves of a failing
pool, two controls for a single case that fails, then rounds of three runs until seven mixed runs have failed in a row.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import comb, log2

from zebra.campaign.plan import Case

POOL_MAX = 100
ROUNDS = 7


def one_by_one(cases: Mapping[str, Sequence[Case]], fails: Callable[[Case], bool], invalid: Callable[[Case], bool],
               confirm_runs: int) -> int:  # fmt: skip
    """Runs if each case were a run of its own; one that fails costs two controls, an unsafe one `confirm_runs` more."""
    runs = 0
    for own in cases.values():
        for case in own:
            runs += 1
            if invalid(case):
                runs += 2
            elif fails(case):
                runs += 2 + confirm_runs
                break
    return runs


def zebraconf(pools: Sequence[Sequence[Case]], fails: Callable[[Case], bool], invalid: Callable[[Case], bool]) -> int:
    """Runs of ZebraConf's procedure over the same pools; a confirmed parameter is withheld at once."""
    found: set[str] = set()

    def search(pool: Sequence[Case]) -> int:
        pool = [case for case in pool if case.parameter not in found]
        if not pool:
            return 0
        if not any(fails(case) or invalid(case) for case in pool):
            return 1
        if len(pool) > 1:
            middle = (len(pool) + 1) // 2
            return 1 + search(pool[:middle]) + search(pool[middle:])
        if invalid(pool[0]):
            return 3
        found.add(pool[0].parameter)
        return 3 + 3 * ROUNDS

    return sum(search(pool[start : start + POOL_MAX]) for pool in pools for start in range(0, len(pool), POOL_MAX))


def bound_bits(parameters: int, not_safe: int) -> float:
    """log2 of the number of ways to choose the parameters that are not safe: no search needs fewer runs on average."""
    return log2(comb(parameters, not_safe))
