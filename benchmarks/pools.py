"""How many runs pooled searches need to find the unsafe parameters of synthetic tests, side by side in one accounting.

    python benchmarks/pools.py [--campaigns 200] [--quick] [--json]

A problem has n parameters of which k are unsafe: a run that mixes an unsafe one fails with probability q, any run fails
by itself with probability f, all values are valid. Every run counts: `pre` (the test as it is), `pooled` (the search),
`control` (all nodes alike), `confirm` (rounds of mixed runs). zebra is told neither k nor q nor f: it has one prior for all
problems, printed below the table. Hwang's scheme is told the number k, or 2k; Dorfman's the best pool size for k; Ba-ZebraConf's
q, f and the prevalence. ZebraConf's recursion and rounds, Ba-ZebraConf's halving: ../shared/research/zebraconf.md, sections 3
and 6.2; the bounds: section 7.1.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from random import Random
from typing import Any

import numpy as np

from zebra.campaign.posterior import PRIOR
from zebra.campaign.search import ERROR_RATE, Search


@dataclass
class Problem:
    """A test with `n` parameters, those of `bad` unsafe; it makes runs and counts them."""

    n: int
    k: int
    q: float
    f: float
    random: Random
    runs: dict[str, int] = field(default_factory=lambda: dict.fromkeys(("pre", "pooled", "control", "confirm"), 0))

    def __post_init__(self) -> None:
        self.bad = set(self.random.sample(range(self.n), self.k))

    def fails(self, items: Sequence[int], purpose: str) -> bool:
        """A run that mixes these parameters: does it fail?"""
        self.runs[purpose] += 1
        return self.random.random() < self.f or any(i in self.bad and self.random.random() < self.q for i in items)

    def alike_fails(self) -> bool:
        """A run with one value for all nodes: does it fail?"""
        return self.fails((), "control")


Scheme = Callable[[Problem], set[int]]


# -- zebra -----------------------------------------------------------------------------------------------------------


def zebra(problem: Problem, workers: int = 1) -> set[int]:
    """The engine of campaigns: `workers` pools at a time."""
    search = Search(problem.n)
    search.was_alike((), problem.fails((), "pre"))
    everything = range(problem.n)
    search.was_alike(everything, problem.alike_fails())
    while True:
        while pools := search.pools(workers):
            for pool in pools:
                search.took(pool, problem.fails(pool, "pooled"))
        suspects = sorted(search.suspects())
        if not suspects:
            return search.unsafe
        confirm(problem, search, suspects)


def confirm(problem: Problem, search: Search, suspects: Sequence[int]) -> None:
    """A round on one fresh seed: each suspect alone and, where that failed and has no controls yet, both controls.

    The first round has the seed of the pre-run, which thereby is its control on the usual values.
    """
    failed = [item for item in suspects if problem.fails([item], "confirm")]
    for item in suspects:
        search.took([item], item in failed)
    new = [item for item in failed if not search.failures[item] or search.doubt([item])]
    if new:
        base = problem.alike_fails() if search.rounds else False
        search.rounds += 1
        if search.rounds > 1:
            search.was_alike((), base)
        alike = problem.alike_fails()
        search.was_alike(new, alike)
        for item in new:
            search.failures[item] += not (alike or base)
    for item in suspects:
        search.judge(item)
