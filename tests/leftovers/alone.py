"""Kill sessions that inject and heal one thing, or a few in each other, without end: a session for each kill."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from random import Random
from typing import Any

from tests.leftovers.kills import Sample
from tests.leftovers.victim import Say, Session, Way
from zebra.cluster import Cluster
from zebra.errors import ConfigError


async def nested(cluster: Cluster, samples: list[Sample], random: Random, say: Say) -> None:
    """Inject samples one after the other and heal them in reverse order, without end; says each beginning."""

    async def nest(rest: list[Sample]) -> None:
        if rest:
            async with cluster.fault(rest[0].fault, "server-1", **rest[0].settings):
                await nest(rest[1:])

    while True:
        say("begin")
        try:
            await nest(samples)
        except ConfigError:
            say("refused")


def somewhere(session: Session, random: Random) -> None:
    """Wait until a random moment between the second and the fourth beginning."""
    marks = []
    for number in range(random.choice((2, 3))):
        session.hears("begin", number + 1)
        marks.append(time.monotonic())
    session.wait(random.uniform(0, 1.1 * (marks[-1] - marks[-2])))


def play(cases: Iterable[list[Sample]], substrate: str, way: Way, kills: int, seed: int) -> Iterator[dict[str, Any]]:
    """A row per case that the substrate does not refuse: how many kills, after how many nothing was left, the slowest
    end in seconds, what was left."""
    for case in cases:
        name = " + ".join(sample.name for sample in case)
        random = Random(f"{seed}/{name}/{way}")
        ends = []
        for _ in range(kills):
            with Session(nested, case, substrate, random.random()) as session:
                somewhere(session, random)
                ends.append(session.kill(way))
            if "refused" in session.said:
                break
        else:
            yield {
                "case": name, "substrate": substrate, "way": way, "kills": kills, "sessions": kills,
                "clean": sum(not left for left, _ in ends), "slowest_s": round(max(took_s for _, took_s in ends), 3),
                "left": [each for left, _ in ends for each in left],
            }  # fmt: skip
