"""What pass and fail of pooled runs say about which items are bad: an exact posterior, kept sparse.

It knows items, pools and outcomes, nothing of tests or values. The model is a noisy-or: a run fails by itself with
probability f, and every bad item in its pool makes it fail with that item's own probability q:

    P(pass | pool) = (1 - f) * product over the bad items of the pool of (1 - q)

Nothing of this is told. The share of bad items has a Beta prior, f lies on a grid, q of a bad item on one of three
levels, and levels are shared: the more bad items have shown themselves every time, the likelier the next one does
(a Polya urn). Items that were in the same runs, and had the same odds before, form a *cell*; a *state* says how many
items of each cell are bad, and on which level. The posterior is a list of states with exact weights, every outcome
re-weighting all of them. States that together weigh next to nothing are dropped, and `lost` adds up what they weighed;
one that was dropped too early comes back when it fits again, as a neighbour of a likely state.
Items that no run had are not in any state: their share is integrated out.

Source: ../shared/research/zebraconf.md, sections 6.3 (the model), 7.3 (why no loopy propagation), 9.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise, product
from typing import Any

for _library in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_library, "1")  # our matrices are small: threads that wait for a busy core cost tenfold

import numpy as np  # noqa: E402

Array = np.ndarray[Any, np.dtype[Any]]

STATES_MAX = 1000
DROPPED = 1e-7
"""Of the total weight, what may be dropped at a time."""

EXPANDED_MAX = 60_000
"""States to look at when untested items come in: with more, fewer bad ones among them are thought of."""

JOINED_RISK, JOINED_RATIO, JOINED_ERROR = 0.2, 1.5, 5e-4
"""Cells of such low risk per item, that differ by such a factor, are joined if so much of the weight moves at most."""

VARIED, COMPLETED = 60, 20
"""So many likely states are tried with a bad item less, and of these and them so many with one more."""

UNVARIED = 1e-2
"""Weight that may have been dropped before likely states are varied: what was dropped early may fit again later."""

NOISY_F, NOISY_Q, SURPRISING = 0.02, 0.9, 0.03
"""That shows itself by a test that seems flaky beyond this, by bad items that seem to show themselves less often, or by
an outcome that was less likely."""

BAD_MAX = 120
"""Bad items that a state may have."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prior:
    """What is believed of a test before its first run.

    The share of bad items is Beta(1, `clean`); `q` are the levels of manifestation, `q_weights` how likely each is, and
    `urn` how many items found on one level outweigh that; `f` and `f_weights` are the grid of flake rates.
    """

    clean: float = 20.0
    q: tuple[float, ...] = (0.999, 0.85, 0.5)
    q_weights: tuple[float, ...] = (0.73, 0.15, 0.12)
    urn: float = 0.48
    f: tuple[float, ...] = (0.0002, 0.003, 0.015, 0.05, 0.11, 0.25)
    f_weights: tuple[float, ...] = (0.55, 0.2, 0.1, 0.08, 0.05, 0.02)
    shares: int = 16

    def share_grid(self) -> Array:
        """Shares of bad items of equal prior weight: quantiles of Beta(1, clean)."""
        return 1 - (1 - (np.arange(self.shares) + 0.5) / self.shares) ** (1 / self.clean)

    def __str__(self) -> str:
        levels = ", ".join(f"{q:g}: {w:g}" for q, w in zip(self.q, self.q_weights, strict=True))
        flakes = ", ".join(f"{f:g}: {w:g}" for f, w in zip(self.f, self.f_weights, strict=True))
        return f"share of bad items Beta(1, {self.clean:g}); q {{{levels}}}, urn {self.urn:g}; f {{{flakes}}}"


PRIOR = Prior()


@cache
def _log_factorials(count: int) -> Array:
    found: Array = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, count + 1)))])
    return found


@cache
def _compositions(total: int, levels: int) -> Array:
    """All ways to have at most `total` bad items on so many levels, a row each; the first row is all zeros."""
    rows = [row for row in product(range(total + 1), repeat=levels) if sum(row) <= total]
    return np.array(sorted(rows, key=sum), dtype=np.int8)


class Posterior:
    """Belief about `count` items. `odds[i]` multiplies the prior odds of item i; equal odds make larger cells."""

    def __init__(self, count: int, prior: Prior = PRIOR, odds: Sequence[float] | None = None) -> None:
        self.count, self.prior = count, prior
        self.odds = np.ones(count) if odds is None else np.asarray(odds, dtype=float)
        self.cells: list[list[int]] = []
        self.cell_of = np.full(count, -1)
        self.runs = 0
        self.lost = 0.0
        self._history = np.zeros((0, count))
        """A row per run: which items it had."""
        self._failed = np.zeros(0, dtype=bool)
        levels = len(prior.q)
        self.log_miss = np.log1p(-np.asarray(prior.q))
        self._urn = prior.urn * np.asarray(prior.q_weights) / sum(prior.q_weights)
        self._share = prior.share_grid()
        self._log_share = np.full(prior.shares, -np.log(prior.shares))
        """Log weight of each share of bad items were no tested item bad: prior times the tested items' part of it."""
        self.counts = np.zeros((1, 0, levels), dtype=np.int8)
        self.totals = np.zeros((1, levels), dtype=np.int16)
        self._ways = np.zeros(1)
        """Log of the number of item sets that a state stands for, times their odds."""
        weights = np.asarray(prior.f_weights) / sum(prior.f_weights)
        self._log_f = np.log(weights)[None, :]
        """Log of prior of each f times the likelihood of all outcomes, per state."""
        self.log_pass = np.log1p(-np.asarray(prior.f))
        self._reweigh()

    # -- weights ---------------------------------------------------------------------------------------------

    def _log_count(self) -> Array:
        """Log prior that just these k tested items are bad and the other tested ones not, for every k."""
        odds = np.log(self._share) - np.log1p(-self._share)
        table = self._log_share[None, :] + np.arange(BAD_MAX + 1)[:, None] * odds[None, :]
        found: Array = np.logaddexp.reduce(table, axis=1)
        return found

    def _log_levels(self, totals: Array) -> Array:
        """Log of the urn's probability of these levels, in any one order."""
        tables = []
        for weight in self._urn:
            tables.append(np.concatenate([[0.0], np.cumsum(np.log(weight + np.arange(BAD_MAX)))]))
        whole = np.concatenate([[0.0], np.cumsum(np.log(self._urn.sum() + np.arange(BAD_MAX)))])
        found: Array = -whole[totals.sum(axis=-1)]
        for level, table in enumerate(tables):
            found += table[totals[..., level]]
        return found

    def _reweigh(self) -> None:
        """Weights of all states anew, the least ones dropped."""
        log_prior = self._ways + self._log_levels(self.totals) + self._log_count()[self.totals.sum(axis=1)]
        joint = log_prior[:, None] + self._log_f
        log_weight = np.logaddexp.reduce(joint, axis=1)
        weight = np.exp(log_weight - log_weight.max())
        weight /= weight.sum()
        order = np.argsort(-weight, kind="stable")
        behind = 1 - np.cumsum(weight[order])
        keep = min(int(np.searchsorted(-behind, -DROPPED)) + 1, STATES_MAX)
        if keep < len(order):
            self.lost += float(behind[keep - 1])
        kept = order[:keep]
        self._take(kept)
        self.weight: Array = weight[kept] / weight[kept].sum()
        joint = joint[kept]
        self.f_given: Array = np.exp(joint - np.logaddexp.reduce(joint, axis=1)[:, None])

    def _take(self, rows: Array) -> None:
        self.counts, self.totals = self.counts[rows], self.totals[rows]
        self._ways, self._log_f = self._ways[rows], self._log_f[rows]

    # -- evidence --------------------------------------------------------------------------------------------

    def observe(self, pool: Collection[int], failed: bool) -> None:
        """A run with these items has passed or failed; an empty pool is a run that none of them can have failed."""
        self.isolate(pool)
        self.runs += 1
        log_pass = self.log_miss_of(self.inside(pool))[:, None] + self.log_pass[None, :]
        outcome = np.log(-np.expm1(log_pass)) if failed else log_pass
        chance = float(self.weight @ (self.f_given * np.exp(outcome)).sum(axis=1))
        self._log_f = self._log_f + outcome
        row = np.zeros((1, self.count))
        row[0, list(pool)] = 1
        self._history, self._failed = np.concatenate([self._history, row]), np.append(self._failed, failed)
        self._reweigh()
        if self.lost > UNVARIED and (chance < SURPRISING or self.flake() > NOISY_F or self.manifestation() < NOISY_Q):
            self._vary()
        self._join_alike()

    def inside(self, pool: Collection[int]) -> list[int]:
        """The cells of a pool, which must have been isolated."""
        return sorted({int(self.cell_of[item]) for item in pool})

    def log_miss_of(self, cells: Sequence[int]) -> Array:
        """For each state the log of the chance that no bad item of these cells makes a run fail."""
        found: Array = self.counts[:, cells, :].sum(axis=1) @ self.log_miss
        return found

    def isolate(self, pool: Collection[int]) -> None:
        """Split cells so that each lies wholly inside or outside of the pool; nothing is learned by that."""
        chosen = set(pool)
        for cell in {int(self.cell_of[item]) for item in chosen} - {-1}:
            inside = [item for item in self.cells[cell] if item in chosen]
            if len(inside) < len(self.cells[cell]):
                self._split(cell, inside)
        fresh = [item for item in pool if self.cell_of[item] < 0]
        for odds in sorted({float(self.odds[item]) for item in fresh}):
            self._add([item for item in fresh if self.odds[item] == odds], odds)

    def _add(self, items: list[int], odds: float) -> None:
        """Untested items of equal odds become a cell."""
        size, levels = len(items), self.totals.shape[1]
        factorials = _log_factorials(self.count + 1)
        self._log_share = self._log_share - size * np.log1p((odds - 1) * self._share) + size * np.log1p(-self._share)
        most = min(size, 12)
        while most > 4 and len(_compositions(most, levels)) * len(self._ways) > EXPANDED_MAX:
            most -= 1
        ways = _compositions(most, levels)
        bad = ways.sum(axis=1)
        log_ways = factorials[size] - factorials[ways].sum(axis=1) - factorials[size - bad] + bad * np.log(odds)
        self._expand(np.repeat(np.arange(len(self._ways)), len(ways)), np.tile(ways, (len(self._ways), 1)),
                     np.tile(log_ways, len(self._ways)))  # fmt: skip
        self.cell_of[items] = len(self.cells)
        self.cells.append(list(items))
        self._reweigh()

    def _expand(self, rows: Array, added: Array, log_ways: Array) -> None:
        """States that follow `rows` with one more cell that holds `added` bad items; hopeless ones never get built."""
        totals = self.totals[rows] + added
        fits = totals.sum(axis=1) <= BAD_MAX
        rows, added, log_ways, totals = rows[fits], added[fits], log_ways[fits], totals[fits]
        log_weight = (
            self._ways[rows] + log_ways + self._log_levels(totals) + self._log_count()[totals.sum(axis=1)]
            + np.logaddexp.reduce(self._log_f, axis=1)[rows]
        )  # fmt: skip
        good = log_weight > log_weight.max() + np.log(DROPPED / 1e3)
        if good.sum() > 2 * STATES_MAX:
            good = log_weight >= np.partition(log_weight, -2 * STATES_MAX)[-2 * STATES_MAX]
        rows, added, log_ways, totals = rows[good], added[good], log_ways[good], totals[good]
        self._take(rows)
        self.counts = np.concatenate([self.counts, added[:, None, :].astype(np.int8)], axis=1)
        self.totals, self._ways = totals, self._ways + log_ways

    def _split(self, cell: int, inside: list[int]) -> None:
        """Move some items of a cell to a cell of their own."""
        size, part = len(self.cells[cell]), len(inside)
        factorials = _log_factorials(self.count + 1)

        def ways(number: int, bad: Array) -> Array:
            total = bad.sum(axis=-1)
            found: Array = np.where(
                total > number, -np.inf, factorials[number] - factorials[bad].sum(axis=-1)
                - factorials[np.maximum(number - total, 0)]
            )  # fmt: skip
            return found

        rows, moved, log_ways = [], [], []
        vectors, which = np.unique(self.counts[:, cell, :], axis=0, return_inverse=True)
        for index, vector in enumerate(vectors):
            own = np.flatnonzero(which.ravel() == index)
            parts = np.array(list(product(*(range(int(bad) + 1) for bad in vector))), dtype=np.int8)
            log_part = ways(part, parts) + ways(size - part, vector - parts) - ways(size, vector)
            parts, log_part = parts[np.isfinite(log_part)], log_part[np.isfinite(log_part)]
            rows.append(np.repeat(own, len(parts)))
            moved.append(np.tile(parts, (len(own), 1)))
            log_ways.append(np.tile(log_part, len(own)))
        self._move(cell, np.concatenate(rows), np.concatenate(moved), np.concatenate(log_ways))
        chosen = set(inside)
        self.cells[cell] = [item for item in self.cells[cell] if item not in chosen]
        self.cell_of[inside] = len(self.cells)
        self.cells.append(list(inside))
        self._reweigh()

    def _move(self, cell: int, rows: Array, moved: Array, log_ways: Array) -> None:
        log_weight = np.log(self.weight)[rows] + log_ways
        good = log_weight > log_weight.max() + np.log(DROPPED / 1e3)
        if good.sum() > 2 * STATES_MAX:
            good = log_weight >= np.partition(log_weight, -2 * STATES_MAX)[-2 * STATES_MAX]
        rows, moved, log_ways = rows[good], moved[good], log_ways[good]
        self._take(rows)
        self._ways = self._ways + log_ways
        self.counts[:, cell, :] -= moved.astype(np.int8)
        self.counts = np.concatenate([self.counts, moved[:, None, :].astype(np.int8)], axis=1)

    # -- states that were dropped too early --------------------------------------------------------------------

    def _vary(self) -> None:
        """Add the likely ones of those states that differ from likely states in one bad item, or two."""
        cells, levels = len(self.cells), self.totals.shape[1]
        width = cells * levels
        size = np.array([len(items) for items in self.cells])
        share = np.stack([self._history[:, items].mean(axis=1) for items in self.cells])
        miss = np.log1p(-np.asarray(self.prior.q)[None, :, None] * share[:, None, :]).reshape(width, -1)
        step = np.eye(width, dtype=np.int64)

        def fresh(counts: Array, known: Array) -> Array:
            """Those of these states that may be, each once, and none that is known."""
            bad = counts.reshape(-1, cells, levels).sum(axis=2)
            counts = counts[(counts >= 0).all(axis=1) & (bad <= size).all(axis=1) & (bad.sum(axis=1) <= BAD_MAX)]
            both = np.concatenate([known, counts])
            first = np.unique(both @ hashes, return_index=True)[1]
            found: Array = both[first[first >= len(known)]]
            return found

        hashes = self._hash(self.counts)
        own = self.counts.reshape(-1, width).astype(np.int64)
        top = own[np.argsort(-self.weight, kind="stable")[:VARIED]]
        less = fresh((top[:, None, :] - step).reshape(-1, width), own)
        best = np.concatenate([top, less])
        best = best[np.argsort(-self._weights_of(best, miss)[0], kind="stable")[:COMPLETED]]
        new = np.concatenate([less, fresh((best[:, None, :] + step).reshape(-1, width), np.concatenate([own, less]))])
        log_weight, ways, log_f = self._weights_of(new, miss)
        log_prior = self._ways + self._log_levels(self.totals) + self._log_count()[self.totals.sum(axis=1)]
        good = log_weight > (log_prior + np.logaddexp.reduce(self._log_f, axis=1)).max() + np.log(DROPPED)
        if not good.any():
            return
        counts = new[good].reshape(-1, cells, levels).astype(np.int8)
        self.counts = np.concatenate([self.counts, counts])
        self.totals = np.concatenate([self.totals, counts.sum(axis=1).astype(np.int16)])
        self._ways = np.concatenate([self._ways, ways[good]])
        self._log_f = np.concatenate([self._log_f, log_f[good]])
        self._reweigh()

    def _weights_of(self, states: Array, miss: Array) -> tuple[Array, Array, Array]:
        """Of states, a row of bad items per cell and level each: log weight, `_ways` and `_log_f`, from all runs."""
        counts = states.reshape(len(states), len(self.cells), self.totals.shape[1])
        totals = counts.sum(axis=1)
        factorials = _log_factorials(self.count + 1)
        size, odds = np.array([len(items) for items in self.cells]), [self.odds[items[0]] for items in self.cells]
        bad = counts.sum(axis=2)
        ways = (factorials[size] - factorials[counts].sum(axis=2) - factorials[size - bad] + bad * np.log(odds)).sum(
            axis=1
        )
        missed = states @ miss
        weights = np.asarray(self.prior.f_weights) / sum(self.prior.f_weights)
        log_f = np.empty((len(states), len(weights)))
        for number, log_pass in enumerate(self.log_pass):
            passes = missed + log_pass
            log_f[:, number] = passes[:, ~self._failed].sum(axis=1)
            log_f[:, number] += np.log(-np.expm1(passes[:, self._failed])).sum(axis=1)
        log_f += np.log(weights)
        log_prior = ways + self._log_levels(totals) + self._log_count()[totals.sum(axis=1)]
        return log_prior + np.logaddexp.reduce(log_f, axis=1), ways, log_f

    # -- cells that may be forgotten -------------------------------------------------------------------------

    def _join_alike(self) -> None:
        """Join cells whose items the runs so far have not told apart, or no longer: the rest of a failed pool, once the
        failure is explained by others, is as good as untested. Beliefs about all other cells stay what they are."""
        while True:
            risk = np.einsum("s,scl->c", self.weight, self.counts) / [len(items) for items in self.cells]
            order = [int(cell) for cell in np.argsort(risk, kind="stable") if risk[cell] < JOINED_RISK]
            for a, b in pairwise(order):
                near = risk[b] < JOINED_RATIO * risk[a] + JOINED_ERROR
                same = self.odds[self.cells[a][0]] == self.odds[self.cells[b][0]]
                if near and same and self._join(a, b):
                    break
            else:
                return

    def _join(self, a: int, b: int) -> bool:
        """Join two cells unless that shifts more than a little of the weight between states."""
        joined = self.counts.astype(np.int64)
        joined[:, a] += joined[:, b]
        joined[:, b] = 0
        _, first, which = np.unique(joined.reshape(len(joined), -1) @ self._hash(joined), return_index=True,
                                    return_inverse=True)  # fmt: skip
        factorials = _log_factorials(self.count + 1)
        sizes = len(self.cells[a]), len(self.cells[b])

        def ways(size: int, bad: Array) -> Array:
            total = bad.sum(axis=1)
            found: Array = factorials[size] - factorials[bad].sum(axis=1) - factorials[size - total]
            return found

        apart = ways(sizes[0], self.counts[:, a]) + ways(sizes[1], self.counts[:, b])
        whole = ways(sum(sizes), joined[:, a])
        group = np.bincount(which.ravel(), self.weight)
        expected = group[which.ravel()] * np.exp(apart - whole)
        missing = 1 - expected.sum()
        if 0.5 * (np.abs(self.weight - expected).sum() + missing) > JOINED_ERROR:
            return False
        mass = self._ways[:, None] + self._log_f
        top = mass.max()
        summed = np.zeros((len(first), mass.shape[1]))
        np.add.at(summed, which.ravel(), np.exp(mass - top))
        self._take(first)
        self._ways = self._ways - apart[first] + whole[first]
        self._log_f = np.log(np.maximum(summed, 1e-300)) + top - self._ways[:, None]
        self.counts = np.delete(joined[first], b, axis=1).astype(np.int8)
        self.cells[a] += self.cells[b]
        del self.cells[b]
        for cell, items in enumerate(self.cells):
            self.cell_of[items] = cell
        self._reweigh()
        return True

    @staticmethod
    def _hash(counts: Array) -> Array:
        """Odd numbers that turn the counts of a state into one number."""
        random = np.random.default_rng(0)
        found: Array = random.integers(1, 1 << 62, counts.shape[1] * counts.shape[2]) | 1
        return found

    # -- what is believed ------------------------------------------------------------------------------------

    def risks(self) -> Array:
        """For each item the probability that it is bad."""
        found = np.empty(self.count)
        if self.cells:
            expected = np.einsum("s,scl->c", self.weight, self.counts)
            for cell, items in enumerate(self.cells):
                found[items] = expected[cell] / max(len(items), 1)
        fresh = np.flatnonzero(self.cell_of < 0)
        if len(fresh):
            shares = self.weight @ self.share_given()[self.totals.sum(axis=1)]
            odds = self.odds[fresh][:, None]
            found[fresh] = (odds * self._share / (1 + (odds - 1) * self._share)) @ shares
        return found

    def share_given(self) -> Array:
        """For every number of bad items among the tested the posterior of the share of bad items, a row each."""
        odds = np.log(self._share) - np.log1p(-self._share)
        table = self._log_share[None, :] + np.arange(BAD_MAX + 1)[:, None] * odds[None, :]
        found: Array = np.exp(table - np.logaddexp.reduce(table, axis=1)[:, None])
        return found

    def none_bad(self, order: Iterable[int]) -> Array:
        """For every number k of bad items among the tested, and every m, the chance that the first m untested items
        of `order` hold no bad one: shape (k, m + 1)."""
        odds = self.odds[list(order)][:, None]
        clean = np.log1p(-self._share) - np.log1p((odds - 1) * self._share)
        running = np.concatenate([np.zeros((1, len(self._share))), np.cumsum(clean, axis=0)])
        found: Array = self.share_given() @ np.exp(running).T
        return found

    def passes(self, pool: Collection[int]) -> float:
        """The chance that a run of a pool passes."""
        self.isolate(pool)
        steady = self.f_given @ np.exp(self.log_pass)
        return float(self.weight @ (steady * np.exp(self.log_miss_of(self.inside(pool)))))

    def none_bad_in(self, pool: Collection[int]) -> float:
        """The chance that no item of a pool is bad, but for bad ones that rarely show, on the last level."""
        self.isolate(pool)
        return float(self.weight @ (self.counts[:, self.inside(pool), :-1].sum(axis=(1, 2)) == 0))

    def flake(self) -> float:
        """The expected flake rate."""
        return float(self.weight @ (self.f_given @ np.asarray(self.prior.f)))

    def manifestation_given(self, totals: Array) -> Array:
        """The chance that one more bad item makes a run fail, for these numbers of bad items on each level."""
        urn = self._urn + totals
        found: Array = urn @ np.asarray(self.prior.q) / urn.sum(axis=1)
        return found

    def manifestation(self) -> float:
        """The expected chance that one more bad item makes a run fail."""
        return float(self.weight @ self.manifestation_given(self.totals))
