"""The blast radius: what a run spares, and how many nodes its faults may hit at once."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from zebra import Cluster, Inject, Outcome, RunSpec, Schedule, Target, Topology, run
from zebra.errors import ConfigError
from zebra.injection.limits import Limits
from zebra.testing import EchoClient, EchoConfig, EchoServer

TARGET = Target(
    name="limits", config=EchoConfig, roles={"server": EchoServer}, client=EchoClient,
    topology=Topology(counts={"server": 4}, racks=2, per_host={"server": 2}),
    selectors={"odd": lambda cluster: ["server-1", "server-3"]},
)  # fmt: skip


def outcome_of(faults: list[tuple[str, Any, dict[str, Any]]], steps: tuple[Inject, ...] = (), **limits: Any) -> Outcome:
    """A run in which faults are injected one after the other, while those before stay on."""

    async def scenario(cluster: Cluster) -> None:
        for name, on, settings in faults:
            await cluster.inject(name, *([on] if isinstance(on, str) else on), **settings)
        for server in ("server-1", "server-2", "server-3", "server-4"):
            try:
                await cluster.client.say(server, "hello")
            except Exception:
                pass
        await asyncio.sleep(3)

    spec = RunSpec(test="limits", target="", schedule=Schedule(steps), limits=Limits(**limits))
    return run(scenario, spec, target=TARGET)


SLOW = {"delay": "1ms"}
Faults = list[tuple[str, Any, dict[str, Any]]]


@pytest.mark.parametrize(
    ("faults", "limits", "says"),
    [
        ([("network.latency", "server-1", SLOW)], {"spare": ("server-1",)}, "hit server-1, and this run spares"),
        ([("network.latency", "one(odd)", SLOW)], {"spare": ("all(odd)",)}, "which"),
        ([("host.crash", "server-1", {})], {"spare": ("server-2",)}, "it would hit server-2"),
        ([("network.latency", "*", SLOW)], {"spare": ("client-1",)}, "it would hit client-1"),
        ([("network.latency", ["server-1", "server-3"], SLOW)], {"at_once": 1}, "2 nodes would be hit at once"),
        ([("network.latency", "server-1", SLOW), ("host.crash", "server-3", {})], {"at_once": 2},
         "3 nodes would be hit at once, 1 of them already, at most 2"),
        ([("cluster.rolling_restart", "all(server)", {})], {"spare": ("server-4",)}, "it would hit server-4"),
        ([("cluster.loss", "all(server)", {})], {"at_once": 3}, "4 nodes would be hit at once"),
        ([("cluster.flapping", "server-1", {})], {"at_once": 1}, "host.crash at 0 s is refused: 2 nodes"),
    ],
)  # fmt: skip
def test_a_fault_outside_of_the_limits_is_refused_before_anything_happens(
    faults: list[tuple[str, Any, dict[str, Any]]], limits: dict[str, Any], says: str
) -> None:
    outcome = outcome_of(faults, **limits)
    assert outcome.result == "fail" and isinstance(outcome.error, ConfigError), outcome.explain()
    assert "refused" in outcome.message and (says in outcome.message or says == "which")
    acted = [event["fault"] for event in outcome.history.of("fault.inject")]
    allowed = [name for name, *_ in faults[:-1]]
    assert [name for name in acted if not name.startswith("cluster.")] == allowed
    assert not outcome.history.of("node.crash")


def test_what_the_limits_allow_is_injected() -> None:
    within: list[tuple[str, Any, dict[str, Any]]] = [
        ("network.latency", "server-1", SLOW),
        ("cluster.rolling_restart", "server-3", {"down_s": 0.1}),
    ]
    outcome = outcome_of(within, spare=("server-2",), at_once=3)
    assert outcome.result == "pass", outcome.explain()
    one_by_one: list[tuple[str, Any, dict[str, Any]]] = [
        ("cluster.rolling_restart", ["server-1", "server-3"], {"down_s": 0.2, "pause_s": 0.2})
    ]
    assert outcome_of(one_by_one, at_once=2).result == "pass", "never more than a host at a time"


@pytest.mark.parametrize(("for_s", "fits"), [(1.0, True), (None, False)])
def test_a_schedule_is_refused_as_a_whole(for_s: float | None, fits: bool) -> None:
    steps = tuple(
        Inject(fault="network.latency", on=((f"server-{n}",),), at_s=float(n - 1), for_s=for_s, settings=SLOW)
        for n in (1, 2)
    )
    outcome = outcome_of([], steps, at_once=1)
    assert bool(outcome.history.of("fault.inject")) == fits
    assert fits or "schedule, network.latency at 1 s is refused: 2 nodes" in outcome.message


def test_limits_of_a_session_and_of_a_test_hold_together() -> None:
    both = Limits.parse("server-1, all(odd)", "5") & Limits.parse(["server-1", "rack(a)"], 3)
    assert both == Limits(spare=("server-1", "all(odd)", "rack(a)"), at_once=3)
    assert (Limits() & Limits.parse("", "")) == Limits() and not Limits()


@pytest.mark.parametrize(
    ("spare", "at_once", "says"),
    [("one(server)", 0, "drawn by lot"), ("a b", 0, "selection 'a b' is not"), (7, 0, "7 is not a selection"),
     ("", "many", "'many' is not a number"), ("", -1, "-1 is not a number")],
)  # fmt: skip
def test_limits_that_make_no_sense_are_refused(spare: Any, at_once: Any, says: str) -> None:
    with pytest.raises(ConfigError, match=says.replace("(", r"\(")):
        Limits.parse(spare, at_once)


def test_what_a_fault_hits_is_noted_with_its_state() -> None:
    outcome = outcome_of([("host.crash", "server-1", {}), ("network.latency", "*", SLOW)])
    first, second = [event["states"] for event in outcome.history.of("fault.inject")]
    assert first == {"server-1": ["up", "odd"]}
    assert second == {"server-1": ["down", "odd"], "server-2": ["down"], "server-3": ["up", "odd"], "server-4": ["up"],
                      "client-1": ["up"]}  # fmt: skip
