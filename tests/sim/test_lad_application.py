"""Faults of the application at LAD: a configuration push that is corrupted or doubled on its way, and bad versions."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

import zebra
from zebra import Cluster, Outcome, RunSpec
from zebra.params.assignment import parse
from zebra.targets.lad import TARGET
from zebra.targets.lad.test_lad import CART, commit

SEEDS = range(3)


def run(scenario: Callable[[Cluster], Awaitable[None]], seed: int) -> Outcome:
    topology = TARGET.topology.with_counts({"distributor": 1, "proxy": 4, "app": 8})
    spec = RunSpec(target="lad", topology=topology, seed=seed, assignment=parse({"lad.tree.fanout": 2}))
    return zebra.run(scenario, spec)  # type: ignore[arg-type]


async def begun(cluster: Cluster) -> None:
    await cluster.client.use(CART)
    await commit(cluster, CART)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("at", "on"), [("GetContent", "all(distributor)"), ("Read", "all(store)")])
def test_a_push_that_is_corrupted_on_its_way_is_noticed_and_got_again(at: str, on: str, seed: int) -> None:
    async def scenario(cluster: Cluster) -> None:
        await begun(cluster)
        async with cluster.fault("application.wrong_answer", on, at=at):
            await cluster.client.commit(CART, payload="2MiB")
            await cluster.until(lambda: len(cluster.history.of("content.reject")) > 0)
        await commit(cluster, CART)

    outcome = run(scenario, seed)
    assert outcome.result == "pass", outcome.explain()


@pytest.mark.parametrize("seed", SEEDS)
def test_a_version_that_does_not_verify_takes_the_corrupted_push(seed: int) -> None:
    async def scenario(cluster: Cluster) -> None:
        await begun(cluster)
        bad = cluster.fault("application.bad_version", "all(proxy)", variant="bug.no_verify")
        async with bad, cluster.fault("application.wrong_answer", "all(distributor)", at="GetContent"):
            await commit(cluster, CART, payload="2MiB")

    outcome = run(scenario, seed)
    assert outcome.violation is not None and outcome.violation.invariant == "lad.integrity", outcome.message
    hits = {event["fault"]: event["hits"] for event in outcome.history.of("fault.heal")}
    assert all(hits.values()) and len(hits) == 2


@pytest.mark.parametrize("seed", SEEDS)
def test_a_doubled_push_does_no_harm(seed: int) -> None:
    async def scenario(cluster: Cluster) -> None:
        await begun(cluster)
        async with cluster.fault("application.repeat_request", "author-1", at="Commit"):
            await cluster.client.commit(CART)
        await commit(cluster, CART)

    outcome = run(scenario, seed)
    assert outcome.result == "pass", outcome.explain()


def test_a_version_that_the_target_does_not_have_is_refused_in_a_line() -> None:
    async def scenario(cluster: Cluster) -> None:
        settings: dict[str, Any] = {"variant": "bug.nothing"}
        with pytest.raises(zebra.ConfigError, match=r"variant 'bug\.nothing' is unknown to this target, it has bug\."):
            await cluster.inject("application.bad_version", "proxy-1", **settings)

    assert run(scenario, 0).result == "inconclusive"
