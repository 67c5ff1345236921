"""Faults of whole parts of a cluster: whom they hit and when, on a cluster of two datacenters."""

from __future__ import annotations

import asyncio
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zebra import Cluster, Outcome, RunSpec, Target, Topology, run
from zebra.errors import ConfigError
from zebra.injection.fault import make
from zebra.injection.schedule import Inject, Schedule
from zebra.injection.selection import Selection, resolve
from zebra.rpc import RpcError
from zebra.testing import EchoClient, EchoConfig, EchoServer


class Server(EchoServer):
    """Asks, as it starts, which version of its code it is."""

    async def run(self) -> None:
        self.node.emit("server.version", other=self.node.variant("other"))
        await super().run()


TARGET = Target(
    name="parts", config=EchoConfig, roles={"server": Server}, client=EchoClient, variants=("other",),
    topology=Topology(counts={"server": 8}, regions=2, dcs=1, racks=2),
)  # fmt: skip
PLACES = TARGET.topology.places()
SERVERS = [place.node for place in PLACES if place.role == "server"]


async def answers(cluster: Cluster, server: str) -> bool:
    try:
        return bool(await cluster.client.say(server, "hello"))
    except (RpcError, OSError):
        return False


def hit(name: str, on: str, for_s: float, seed: int = 0, **settings: Any) -> Outcome:
    """A run in which a fault is on for so long while everybody is asked all the time, and answers afterwards."""

    async def ask(cluster: Cluster, server: str) -> None:
        while True:
            await answers(cluster, server)
            await asyncio.sleep(0.05)

    async def scenario(cluster: Cluster) -> None:
        asking = [asyncio.create_task(ask(cluster, server)) for server in SERVERS]
        async with cluster.fault(name, on, **settings):
            await asyncio.sleep(for_s)
        for task in asking:
            task.cancel()
        await asyncio.wait(asking)
        for server in SERVERS:
            assert await answers(cluster, server) or await answers(cluster, server), "also on a new connection"

    outcome = run(scenario, RunSpec(test="parts", target="", seed=seed), target=TARGET)
    assert outcome.result == "pass", outcome.explain()
    return outcome


def when(outcome: Outcome, kind: str) -> dict[str, list[float]]:
    """At which times nodes had an event of a kind, from the fault's injection on."""
    first = outcome.history.of("fault.inject")[0]
    found: dict[str, list[float]] = {}
    for event in outcome.history.of(kind):
        if event.seq > first.seq:
            found.setdefault(event.node, []).append(event.t - first.t)
    return found


def of(level: str, name: str) -> set[str]:
    return {place.node for place in PLACES if place.role == "server" and getattr(place, level) == name}


@pytest.mark.parametrize(("level", "function"), [("rack", "rack"), ("dc", "dc"), ("region", "region")])
def test_a_place_is_lost_as_a_whole_and_comes_back(level: str, function: str) -> None:
    name = getattr(next(place for place in PLACES if place.node == "server-3"), level)
    outcome = hit("cluster.loss", f"{function}({name})", 2.0)
    down = when(outcome, "node.crash")
    assert set(down) & set(SERVERS) == of(level, name) and set(when(outcome, "node.start")) == set(down)
    assert {t for times in down.values() for t in times} == {0.0}


def test_a_loss_by_plan_and_by_cut_are_told_from_a_crash() -> None:
    name = next(place for place in PLACES if place.node == "server-3").rack
    planned, cut = (hit("cluster.loss", f"rack({name})", 7.0, how=how) for how in ("stop", "cut"))
    assert set(when(planned, "node.stop")) == of("rack", name) and not when(planned, "node.crash")
    assert not when(cut, "node.crash") and not when(cut, "node.stop")
    assert [e["fault"] for e in cut.history.of("fault.inject")] == ["cluster.loss", "network.partition"]


def test_a_power_domain_fails_together_and_not_at_the_same_moment() -> None:
    racks = set()
    for seed in range(6):
        down = when(hit("cluster.power_domain", "all(server)", 1.0, seed, within_s=0.2), "node.crash")
        rack = {place.rack for place in PLACES if place.node in down}
        assert len(rack) == 1 and set(down) == of("rack", next(iter(rack)))
        times = sorted(t for own in down.values() for t in own)
        assert times[0] == 0 and len(set(times)) == len(times) and times[-1] <= 0.2
        racks |= rack
    assert len(racks) > 1, "the seed decides which"


@pytest.mark.parametrize(("share", "count"), [(0.01, 1), (0.25, 2), (1.0, 8)])
def test_capacity_is_lost_by_share(share: float, count: int) -> None:
    chosen = [frozenset(when(hit("cluster.capacity_loss", "all(server)", 1.0, seed, share=share), "node.crash"))
              for seed in range(4)]  # fmt: skip
    assert {len(each) for each in chosen} == {count}
    assert len(set(chosen)) > 1 or count == 8


def test_a_control_plane_that_nobody_reaches_lives_and_knows_its_own() -> None:
    async def scenario(cluster: Cluster) -> None:
        async with cluster.fault("cluster.control_outage", "server-1", "server-2"):
            assert [await answers(cluster, server) for server in SERVERS[:3]] == [False, False, True]

    outcome = run(scenario, RunSpec(test="parts", target=""), target=TARGET)
    assert outcome.result == "pass", outcome.explain()
    assert not when(outcome, "node.crash") and not when(outcome, "node.stop")


def test_a_drain_takes_one_after_the_other_with_notice() -> None:
    outcome = hit("cluster.drain", "all(server)", 9.0, pause_s="1s", grace_s="0.5s")
    stops, starts = when(outcome, "node.stopping"), when(outcome, "node.start")
    assert [round(stops[node][0], 6) for node in SERVERS] == list(range(8))
    assert all(len(starts[node]) == 1 and starts[node][0] >= 9.0 for node in SERVERS), "down until healed"


@pytest.mark.parametrize(("batch", "planned"), [(1, True), (3, False)])
def test_a_rolling_restart_takes_a_batch_at_a_time(batch: int, planned: bool) -> None:
    outcome = hit("cluster.rolling_restart", "all(server)", 20.0, batch=batch, planned=planned)
    down = when(outcome, "node.stopping" if planned else "node.crash")
    assert [round(down[node][0], 6) for node in SERVERS] == [float(n // batch) for n in range(8)]
    held = 0
    for event in outcome.history:
        held += event.kind in ("node.stopping", "node.crash")
        held -= event.kind == "node.start" and event["incarnation"] > 1
        assert held <= batch


def test_mixed_versions_run_side_by_side() -> None:
    outcome = hit("cluster.mixed_versions", "all(server)", 3.0, variant="other", share=0.5)
    (part,) = [e for e in outcome.history.of("fault.inject") if e["fault"] == "application.bad_version"]
    other = {event.node for event in outcome.history.of("server.version") if event["other"]}
    assert len(other) == 4 and other == set(part["on"])


def test_flapping_nodes_go_and_come() -> None:
    down = when(hit("cluster.flapping", "server-2", 6.0, times=3, down_s=0.5, up_s=1.0), "node.crash")
    assert set(down) == {"server-2"} and len(down["server-2"]) == 3


def expanded(name: str, seed: int, **settings: Any) -> Schedule:
    on: Selection = resolve([["all(server)"]], PLACES, Random(seed), lambda _: True, {})
    schedule: Schedule = make(name, settings).expand(on, Random(seed))
    return schedule


@given(st.integers(0, 1000), st.floats(0.1, 5.0))
def test_a_swizzle_cuts_everybody_off_once_and_brings_all_back_in_time(seed: int, over_s: float) -> None:
    steps = [step for step in expanded("cluster.swizzle", seed, over_s=over_s).steps if isinstance(step, Inject)]
    assert sorted(step.on[0][0] for step in steps) == sorted(SERVERS)
    back = {step.on[0][0]: step.at_s + (step.for_s or 0) for step in steps}
    assert min(step.at_s for step in steps) == 0 and max(step.at_s for step in steps) <= over_s
    assert all(over_s - 1e-9 <= t <= 2 * over_s + 1e-9 for t in back.values())


def test_a_swizzle_ends_in_an_order_of_its_own() -> None:
    steps = [step for step in expanded("cluster.swizzle", 3).steps if isinstance(step, Inject)]
    gone = [step.on[0][0] for step in sorted(steps, key=lambda s: s.at_s)]
    back = [step.on[0][0] for step in sorted(steps, key=lambda s: s.at_s + (s.for_s or 0))]
    assert gone != back and gone != SERVERS
    assert set(when(hit("cluster.swizzle", "all(server)", 5.0, how="crash"), "node.start")) == set(SERVERS)


KINDS: list[dict[str, Any]] = [
    {"fault": "network.loss", "settings": {"probability": 0.5}},
    {"fault": "host.crash", "on": "one(server)", "for": "500ms"},
    {"fault": "network.latency", "settings": {"delay": "20ms"}, "for": "1s"},
    {"fault": "host.pause", "on": ["server-1", "server-2"]},
]


@given(st.integers(0, 1000), st.integers(1, 4), st.integers(1, 4), st.floats(0, 1))
def test_a_storm_leaves_its_quiet_time_quiet(seed: int, rounds: int, at_once: int, swarm: float) -> None:
    settings = {"faults": KINDS, "rounds": rounds, "at_once": at_once, "round_s": 1.5, "quiet_s": 2.5, "swarm": swarm}
    steps = [step for step in expanded("cluster.storm", seed, **settings).steps if isinstance(step, Inject)]
    offered = max(1, round(swarm * len(KINDS)))
    assert len({step.fault for step in steps}) <= offered
    assert len(steps) == rounds * min(at_once, offered)
    for step in steps:
        assert step.for_s is not None
        begin, end = step.at_s % 4.0, step.at_s % 4.0 + step.for_s
        assert 0 <= begin <= end <= 1.5 + 1e-9, "nothing is on in the last 2.5 s of each 4 s"


def test_a_storm_is_another_for_each_seed_and_leaves_a_cluster_that_works() -> None:
    kinds = set()
    for seed in range(5):
        outcome = hit("cluster.storm", "all(server)", 12.0, seed, faults=KINDS, rounds=2, at_once=2)
        kinds.add(frozenset(e["fault"] for e in outcome.history.of("fault.inject")))
        assert len(outcome.history.of("fault.heal")) == len(outcome.history.of("fault.inject"))
    assert len(kinds) > 1


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"faults": []}, "faults is empty"),
        ({"faults": [{"fault": "host.crash", "at": "1s"}]}, "step 1 has `at`"),
        ({"faults": [{"fault": "host.nap"}]}, "step 1: fault 'host.nap' is unknown"),
        ({"faults": [{"fault": "host.crash", "for": "9s"}]}, "longer than round_s (2 s)"),
        ({"faults": "host.crash"}, "faults: 'host.crash'"),
    ],
)
def test_a_storm_says_what_is_wrong_with_it(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says.replace("(", r"\(").replace(")", r"\)")):
        make("cluster.storm", settings)
