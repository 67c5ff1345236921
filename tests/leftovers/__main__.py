"""Kill zebra at random moments of injecting and healing, again and again, and see that nothing stays behind.

    python -m tests.leftovers [--substrate process] [--kills 20] [--way zebra|warden|both] [--only WORD]
                              [--alone | --faults | --triples N] [--jobs N] [--seed 0] [--json]

For every kind of effect of every capability that the substrate offers: a session in a process of its own injects and
heals it without end; it is killed (-9) at a random moment of that, and its warden has to undo all. The second way kills
the warden first, then zebra, and then calls what `zebra clean` calls. A session has all kinds at once (see
`together`), with `--alone` one kind each. `--faults` takes every fault of the catalogue once, `--triples` so many
random three kinds in each other. Kinds alone and triples play `--jobs` sessions at a time, as they mostly wait. A
killer is the reaper of orphans, so whatever is left of a session is its child: that is how it is seen, beside
directories, control groups and what engines hold.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from random import Random
from typing import Any

from tests.leftovers import alone, kills, together
from tests.leftovers.kills import Sample
from tests.leftovers.victim import Way
from zebra.run import find_substrate

WAYS: tuple[Way, ...] = ("zebra", "warden")


def rows(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    offered: Any = find_substrate(options.substrate)
    samples = kills.faults() if options.faults else kills.effects(offered.capabilities)
    samples = [sample for sample in samples if options.only in sample.name]
    for way in WAYS if options.way == "both" else (options.way,):
        if options.triples:
            cases = list(kills.triples(samples, options.triples, Random(options.seed)))
            yield from at_a_time(options.jobs, cases, options.substrate, way, 1, options.seed)
        elif options.alone:
            cases = [[sample] for sample in samples]
            yield from at_a_time(options.jobs, cases, options.substrate, way, options.kills, options.seed)
        elif options.faults:
            yield from together.faults(samples, options.substrate, way, options.seed)
        else:
            yield from together.effects(samples, options.substrate, way, options.kills, options.seed)


def at_a_time(jobs: int, cases: list[list[Sample]], *how: Any) -> Iterator[dict[str, Any]]:
    """The rows of `alone.play` for some cases, so many of them at a time, each in a killer's process of its own."""
    with ProcessPoolExecutor(jobs) as killers:
        for found in killers.map(_play, ((case, how) for case in cases)):
            yield from found


def _play(what: tuple[list[Sample], tuple[Any, ...]]) -> list[dict[str, Any]]:
    case, how = what
    return list(alone.play([case], *how))


def main() -> int:
    parser = argparse.ArgumentParser(
        "tests.leftovers", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--substrate", default="process")
    parser.add_argument("--kills", type=int, default=20, help="per kind and way; default %(default)s")
    parser.add_argument("--way", choices=(*WAYS, "both"), default="both", help="whom to kill; default %(default)s")
    parser.add_argument("--only", default="", help="only kinds whose names have this in them")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--alone", action="store_true", help="a session for each kill of each kind")
    how.add_argument("--faults", action="store_true", help="every fault of the catalogue, a kill each")
    how.add_argument("--triples", type=int, default=0, help="so many random three at a time, a kill each")
    parser.add_argument("--jobs", type=int, default=2 * (os.cpu_count() or 1), help="default %(default)s")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    found, bad = [], 0
    for row in rows(options):
        found.append(row)
        bad += row["clean"] < row["kills"] or not row["kills"]
        if not options.json:
            moments = " ".join(f"{row[name]:3} {name}" for name in ("inject", "heal", "on") if row.get(name))
            line = f"{row['case']:60} {row['way']:7} {row['clean']:3}/{row['kills']:<3} {moments}"
            print(f"{line} slowest {row['slowest_s']:.3f} s", *row["left"][:3], flush=True)
    if options.json:
        print(json.dumps(found, indent=1))
    return 1 if bad or not found else 0


if __name__ == "__main__":
    sys.exit(main())
