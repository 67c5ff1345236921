"""How many runs pooled searches need to find the unsafe parameters of synthetic tests, side by side in one accounting.

    python benchmarks/pools.py [--campaigns 1000] [--quick] [--json]

A problem has n parameters of which k are unsafe: a run that mixes an unsafe one fails with probability q, any run fails
by itself with probability f, all values are valid. Every run counts: `pre` (the test as it is), `pooled` (the search),
`control` (all nodes alike), `confirm` (rounds of suspects). zebra is told neither k nor q nor f: it has one prior for
all problems, printed below the table. Told are Hwang's scheme k, or 2k, Dorfman's the best pool size for k, and
Ba-ZebraConf's q, f and k / n. ZebraConf's recursion and rounds (which confirm for the classical schemes too) and
Ba-ZebraConf's halving are as in ../shared/research/zebraconf.md, sections 3 and 6.2; the bounds as in section 7.1.
Means over campaigns, ± the standard error.
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
    """A round on one fresh seed: each suspect alone and, where that failed and still needs them, both controls.

    The first round has the seed of the pre-run, which thereby is its control on the usual values.
    """
    first = not problem.runs["confirm"]
    failed = [item for item in suspects if problem.fails([item], "confirm")]
    for item in suspects:
        search.took([item], item in failed)
    if need := [item for item in failed if search.needs_controls(item)]:
        base = not first and problem.alike_fails()
        alike = problem.alike_fails()
        if not first:
            search.was_alike((), base)
        search.was_alike(need, alike)
        for item in need:
            search.hits[item] += not (alike or base)
    for item in suspects:
        search.judge(item)


# -- the others ------------------------------------------------------------------------------------------------------

ROUNDS, ROUNDS_MAX, DIFFERENCE = 7, 20, 12


def hypothesis(problem: Problem, item: int) -> bool:
    """ZebraConf's decision on a parameter that failed alone: both controls, then rounds of three runs."""
    if problem.alike_fails() or problem.alike_fails():
        return False
    mixed = alike = rounds = 0
    while rounds < ROUNDS_MAX:
        rounds += 1
        mixed += problem.fails([item], "confirm")
        both = [problem.fails((), "confirm"), problem.fails((), "confirm")]
        alike += any(both)
        if mixed >= ROUNDS and not alike:
            return True
        if (rounds >= ROUNDS and not mixed) or alike >= ROUNDS:
            return False
    return mixed - alike >= DIFFERENCE


def zebraconf(problem: Problem) -> set[int]:
    """Pools of at most 100, both halves of one that failed, and its rounds for what fails alone."""
    problem.fails((), "pre")

    def search(pool: Sequence[int]) -> set[int]:
        if not problem.fails(pool, "pooled"):
            return set()
        if len(pool) == 1:
            return {pool[0]} if hypothesis(problem, pool[0]) else set()
        half = (len(pool) + 1) // 2
        return search(pool[:half]) | search(pool[half:])

    return set().union(*(search(range(start, min(start + 100, problem.n))) for start in range(0, problem.n, 100)))


def decided(problem: Problem, suspects: Sequence[int]) -> set[int]:
    """Those suspects that ZebraConf's rounds confirm."""
    return {item for item in suspects if hypothesis(problem, item)}


def alone(problem: Problem) -> set[int]:
    """Every parameter in a run of its own."""
    problem.fails((), "pre")
    return decided(problem, [item for item in range(problem.n) if problem.fails([item], "pooled")])


def dorfman(problem: Problem) -> set[int]:
    """Pools of the size that is best for k, each member alone where one fails."""
    problem.fails((), "pre")
    share = max(problem.k, 1) / problem.n
    size = min(range(2, problem.n + 1), key=lambda s: 1 / s + 1 - (1 - share) ** s)
    suspects: list[int] = []
    for start in range(0, problem.n, size):
        pool = range(start, min(start + size, problem.n))
        if problem.fails(pool, "pooled"):
            suspects += [item for item in pool if problem.fails([item], "pooled")]
    return decided(problem, suspects)


def hwang(problem: Problem, factor: int = 1) -> set[int]:
    """Hwang's generalised binary splitting, told that `factor` k are unsafe."""
    problem.fails((), "pre")
    left, expected, suspects = list(range(problem.n)), factor * problem.k, list[int]()
    while left and expected > 0:
        if len(left) <= 2 * expected - 2:
            return decided(problem, suspects + [item for item in left if problem.fails([item], "pooled")])
        size = max(1, 2 ** int(math.log2((len(left) - expected + 1) / expected)))
        group, rest = left[:size], left[size:]
        if not problem.fails(group, "pooled"):
            left = rest
            continue
        while len(group) > 1:
            half = group[: len(group) // 2]
            if problem.fails(half, "pooled"):
                rest = group[len(half) :] + rest
                group = half
            else:
                group = group[len(half) :]
        suspects.append(group[0])
        left, expected = rest, expected - 1
    return decided(problem, suspects)


LATTICE = 12


def halving(problem: Problem) -> set[int]:
    """Ba-ZebraConf: independent lattices of 12, in each the pool whose chance to be all safe is nearest to one half,
    grown by rising risk, until each parameter is below 0.001 or above 0.999; two controls for each one found."""
    problem.fails((), "pre")
    found: set[int] = set()
    risk = problem.k / problem.n
    for start in range(0, problem.n, LATTICE):
        items = list(range(start, min(start + LATTICE, problem.n)))
        states = np.arange(1 << len(items))
        bits = (states[:, None] >> np.arange(len(items))) & 1
        weight = np.prod(np.where(bits, risk, 1 - risk), axis=1)
        for _ in range(100):
            marginal = weight @ bits
            doubtful = [i for i in np.argsort(marginal, kind="stable") if 0.001 <= marginal[i] <= 0.999]
            if not doubtful:
                break
            pools = [doubtful[:m] for m in range(1, len(doubtful) + 1)] + [[i] for i in doubtful]
            clear = [float(weight @ (bits[:, pool].sum(axis=1) == 0)) for pool in pools]
            pool = pools[int(np.argmin(np.abs(np.array(clear) - 0.5)))]
            passes = (1 - problem.f) * (1 - problem.q) ** bits[:, pool].sum(axis=1)
            weight *= 1 - passes if problem.fails([items[i] for i in pool], "pooled") else passes
            weight /= weight.sum()
        found |= {items[i] for i in np.flatnonzero(weight @ bits > 0.999)}
    return {item for item in found if not (problem.alike_fails() or problem.alike_fails())}


SCHEMES: dict[str, Scheme] = {
    "zebra": zebra, "zebra, 4 at a time": partial(zebra, workers=4), "ZebraConf": zebraconf, "one by one": alone,
    "Dorfman": dorfman, "Hwang, told k": hwang, "Hwang, told 2k": partial(hwang, factor=2),
    "Ba-ZebraConf, told q and f": halving,
}  # fmt: skip


# -- measurement -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Bar:
    """`what` of zebra must be at most, or at least, `limit` on this problem."""

    what: str
    limit: float
    at_least: bool = False


@dataclass(frozen=True)
class Setting:
    """A kind of problem; `flaky` draws f evenly from 0 to `f`. `share` of the campaigns asked for are played."""

    n: int
    k: int
    q: float
    f: float
    bars: tuple[Bar, ...] = ()
    flaky: bool = False
    share: float = 1.0
    others: bool = True

    @property
    def name(self) -> str:
        return f"n={self.n} k={self.k} q={self.q:g} f={'0-' if self.flaky else ''}{self.f:g}"


RECALL_99, RECALL_97, NO_LIES = Bar("recall", 0.99, True), Bar("recall", 0.97, True), Bar("false", ERROR_RATE)
SETTINGS = (
    Setting(60, 3, 1.0, 0.0, (Bar("all", 26.0), RECALL_99)),
    Setting(200, 8, 1.0, 0.0, (Bar("pooled", 52.0), RECALL_99), share=0.5),
    Setting(60, 3, 0.9, 0.01, (Bar("all", 36.0), RECALL_99)),
    Setting(60, 3, 0.5, 0.05, (RECALL_97,), share=0.5),
    Setting(60, 3, 0.9, 0.1, (NO_LIES,), flaky=True, others=False),
    Setting(60, 0, 0.9, 0.1, (NO_LIES,), others=False),
)


def play(setting: Setting, scheme: str, seed: int) -> dict[str, float]:
    """One campaign: its runs by purpose, and how right it was."""
    random = Random(f"{setting.name}/{seed}")
    f = random.uniform(0, setting.f) if setting.flaky else setting.f
    problem = Problem(setting.n, setting.k, setting.q, f, random)
    found = SCHEMES[scheme](problem)
    wrong, missed = len(found - problem.bad), len(problem.bad - found)
    return {**problem.runs, "all": sum(problem.runs.values()), "recall": 1 - missed / max(setting.k, 1),
            "false": wrong / max(len(found), 1)}  # fmt: skip


def measure(setting: Setting, scheme: str, campaigns: int, each: Callable[..., Any] = map) -> dict[str, Any]:
    """Means over the campaigns, and the standard errors of those; `each` plays them, as `map` does."""
    games = list(each(partial(play, setting, scheme), range(campaigns)))
    found: dict[str, Any] = {"problem": setting.name, "scheme": scheme, "campaigns": campaigns}
    for key in games[0]:
        values = np.array([game[key] for game in games])
        found[key] = round(float(values.mean()), 4)
        found[f"{key}_error"] = round(float(values.std() / math.sqrt(campaigns)), 4)
    return found


def bounds(setting: Setting) -> str:
    """What no search can do without: zebraconf.md section 7.1."""
    bits = math.log2(math.comb(setting.n, setting.k))
    line = f"log2 C({setting.n},{setting.k}) = {bits:.1f} bits"
    if setting.f and setting.k and not setting.flaky:
        extreme = 1 - (1 - setting.f) * (1 - setting.q) ** setting.k
        line += f", {bits / capacity(setting.f, extreme):.1f} runs over so noisy a channel"
    return line


def capacity(low: float, high: float) -> float:
    """Bits per run of a channel that fails with `low` or with `high`, whichever is sent."""
    sent = np.linspace(0, 1, 2001)
    fails = low + sent * (high - low)

    def entropy(p: Any) -> Any:
        p = np.clip(p, 1e-12, 1 - 1e-12)
        return -(p * np.log2(p) + (1 - p) * np.log2(1 - p))

    return float(np.max(entropy(fails) - (1 - sent) * entropy(low) - sent * entropy(high)))


def missed_bars(rows: Sequence[dict[str, Any]], errors: float = 0.0) -> list[str]:
    """The bars that zebra misses, by more than so many standard errors."""
    lines = []
    for setting in SETTINGS:
        for row in rows:
            if row["problem"] == setting.name and row["scheme"] == "zebra":
                for bar in setting.bars:
                    value, slack = row[bar.what], errors * row[f"{bar.what}_error"]
                    if (value + slack < bar.limit) if bar.at_least else (value - slack > bar.limit):
                        lines.append(f"{setting.name}: {bar.what} {value}, bar {bar.limit}")
    return lines


def table(setting: Setting, rows: Sequence[dict[str, Any]]) -> str:
    """The rows of one problem as Markdown."""
    bars = ", ".join(f"{bar.what} {'>=' if bar.at_least else '<='} {bar.limit:g}" for bar in setting.bars)
    lines = [f"{setting.name} ({bounds(setting)}); bars for zebra: {bars}", ""]
    lines += ["| scheme | all runs | pooled | control | confirm | recall | false of reported | campaigns |"]
    lines += ["|---|---|---|---|---|---|---|---|"]
    lines += [
        f"| {row['scheme']} | {row['all']:.1f} ± {row['all_error']:.1f} | {row['pooled']:.1f} | {row['control']:.1f} | "
        f"{row['confirm']:.1f} | {row['recall']:.3f} | {row['false']:.4f} | {row['campaigns']} |"
        for row in rows
    ]
    return "\n".join([*lines, ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--campaigns", type=int, default=1000, help="campaigns per problem and scheme")
    parser.add_argument("--quick", action="store_true", help="zebra alone, 40 campaigns")
    parser.add_argument("--workers", type=int, default=2, help="processes")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    campaigns = 40 if options.quick else options.campaigns
    rows: list[dict[str, Any]] = []
    with ProcessPoolExecutor(options.workers) as pool:
        for setting in SETTINGS:
            before = len(rows)
            for scheme in SCHEMES:
                if scheme == "zebra" or (setting.others and not options.quick):
                    count = max(2, round(campaigns * (setting.share if scheme.startswith("zebra") else 1)))
                    rows.append(measure(setting, scheme, count, partial(pool.map, chunksize=5)))
            if not options.json:
                print(table(setting, rows[before:]), flush=True)
    end = f"prior of zebra in all of them: {PRIOR}\nstated error rate: {ERROR_RATE:g}"
    print(json.dumps({"rows": rows, "missed": missed_bars(rows)}, indent=2) if options.json else end)
    if missed := missed_bars(rows):
        print("missed: " + "; ".join(missed), file=sys.stderr)
        raise SystemExit(1)


if __name__ == "__main__":
    main()
