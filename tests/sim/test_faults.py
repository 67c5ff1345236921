"""Every fault: a run that shows its effect, and one where it is off."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from random import Random
from typing import Any

import pytest

from zebra import Cluster, Inject, Outcome, RunSpec, Schedule, Topology, fault, run
from zebra.errors import ConfigError, PluginError
from zebra.injection.selection import Selection
from zebra.rpc import RpcError, Unreachable
from zebra.substrate import Links
from zebra.testing import FaultCheck, check_fault, echo, echo_everywhere
from zebra.units import Seconds


def of(check: FaultCheck, kind: str, node: str = "server-1") -> int:
    """How many events of a kind a node had with the fault on."""
    return sum(event.node == node for event in check.on.history.of(kind))


def lost(check: FaultCheck) -> bool:
    """Calls that went well without the fault did not with it."""
    return check.count("op.unknown")[0] == 0 < check.count("op.unknown")[1]


def late(check: FaultCheck, by_s: float) -> bool:
    """The work was done just as well with the fault, but took so much longer."""
    done, took = check.count("op.ok"), check.seconds("op.ok")
    return done[0] == done[1] and took[1] - took[0] >= by_s


def errors(check: FaultCheck, text: str) -> bool:
    return any(text in event["why"] for event in check.on.history.of("op.unknown"))


def texts(check: FaultCheck, kind: str, which: int) -> list[str]:
    """What operations of a kind got from the first server, without the fault (0) or with it (1)."""
    run = (check.off, check.on)[which].history
    asked = {e["op"] for e in run.of("op.invoke") if e["f"] == kind and e["to"] == "server-1"}
    return [event["text"] for event in run.of("op.ok") if event["op"] in asked]


Shows = Callable[[FaultCheck], bool]
CASES: list[tuple[str, dict[str, Any], Shows]] = [
    ("host.crash", {}, lambda c: lost(c) and of(c, "node.crash") == 1 and of(c, "node.start") == 2),
    ("host.stop", {}, lambda c: lost(c) and of(c, "node.stop") == 1 and errors(c, "refused")),
    ("host.restart", {"down_s": 2}, lambda c: late(c, 1.99) and of(c, "node.start") == 2),
    ("host.pause", {}, lambda c: lost(c) and of(c, "node.resume") == 1 and of(c, "node.start") == 1),
    ("network.partition", {}, lambda c: lost(c) and errors(c, "no connection in")),
    ("network.partition", {"direction": "out"}, lambda c: lost(c) and c.count("echo.pong")[1] == 6),
    ("network.partition", {"direction": "in"}, lambda c: lost(c) and c.count("echo.pong")[1] == 6),
    ("network.partition", {"how": "reject"}, lambda c: lost(c) and errors(c, "refused")),
    ("network.latency", {"delay": "50ms"}, lambda c: late(c, 12 * 0.1)),
    ("network.latency", {"delay": 0, "jitter": "100ms"}, lambda c: late(c, 0.5)),
    ("network.bandwidth", {"rate": "1kB/s"}, lambda c: late(c, 0.5)),
    ("network.loss", {"probability": "20%"}, lambda c: c.seconds("op.ok")[1] - c.seconds("op.ok")[0] > 0.2),
    ("network.loss", {"probability": 1}, lambda c: lost(c) and c.count("echo.pong")[1] == 6),
    ("network.duplicate", {"probability": 1}, lambda c: c.count("echo.pong") == (9, 18) and late(c, -1)),
    ("network.reset", {}, lambda c: lost(c) and errors(c, "connection lost")),
    ("host.kill", {}, lambda c: lost(c) and errors(c, "refused") and of(c, "node.start") == 2),
    ("host.zombie", {"pause_s": "5s"}, lambda c: lost(c) and of(c, "node.resume") == 1),
    ("host.slow", {"cpu": 0.1}, lambda c: late(c, 0.05)),
    ("host.unfair", {"stall_s": "2ms", "every_s": "2ms"}, lambda c: late(c, 0.001)),
    ("host.file_limit", {}, lambda c: lost(c) and errors(c, "no answer")),
    ("disk.error", {}, lambda c: lost(c) and errors(c, "input/output error")),
    ("disk.error", {"of": "reads"}, lambda c: c.count("op.unknown") == (0, 3)),
    ("disk.error", {"of": "writes"}, lambda c: c.count("op.unknown") == (0, 6)),
    ("disk.read_only", {}, lambda c: c.count("op.unknown") == (0, 6) and errors(c, "read-only file system")),
    ("disk.bit_flip", {}, lambda c: texts(c, "recall", 0) == ["0", "1", "2"] != texts(c, "recall", 1)),
    ("application.exception", {}, lambda c: lost(c) and errors(c, "Injected: injected at")),
    ("application.exception", {"at": "Recall", "error": "OSError"}, lambda c: c.count("op.unknown") == (0, 3)),
    ("application.delay", {"delay": "200ms", "at": "Say"}, lambda c: late(c, 3 * 0.2)),
    ("application.thundering_herd", {"every_s": "500ms", "at": "Say"}, lambda c: late(c, 0.5)),
    ("application.wrong_answer", {"at": "Recall"}, lambda c: texts(c, "recall", 0) == ["0", "1", "2"] and late(c, -1)),
    ("application.stale_answer", {"at": "Recall"}, lambda c: texts(c, "recall", 1) == ["0", "0", "0"]),
    ("application.drop_reply", {"at": "Keep"}, lambda c: c.count("op.unknown") == (0, 6) and errors(c, "no answer")),
    ("application.repeat_request", {"at": "Keep"}, lambda c: c.hits == 6 and late(c, 0.0)),
    ("disk.slow", {"rate": "10B/s"}, lambda c: late(c, 0.5)),
    ("disk.full", {}, lambda c: lost(c) and errors(c, "no space left")),
    ("noop", {}, lambda c: c.hits == 0 and late(c, 0.0)),
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "settings", "shows"), CASES, ids=[f"{name}-{n}" for n, (name, *_) in enumerate(CASES)]
)
def test_a_fault_shows_its_effect_and_the_target_recovers(name: str, settings: dict[str, Any], shows: Shows) -> None:
    check = check_fault(name, "server-1", **settings)
    assert check.off.result == "pass", check.off.message
    assert check.on.result == "pass", check.on.message
    assert check.took_effect
    assert check.hits > 0 or name == "noop"
    assert shows(check)
    assert {event["to"] for event in check.on.history.of("op.invoke") if event["f"] == "say"} == set(echo_servers())
    assert not [e for e in check.on.history.of("op.unknown") if _to(check, e) != "server-1"], "it hit others too"


def echo_servers() -> list[str]:
    return ["server-1", "server-2", "server-3"]


def _to(check: FaultCheck, event: Any) -> str:
    return str(next(e["to"] for e in check.on.history.of("op.invoke") if e["op"] == event["op"]))


def test_the_same_seed_gives_the_same_run_and_another_seed_another() -> None:
    digests = [
        check_fault("network.loss", "one(server)", seed=seed, probability=0.3).on.history.digest() for seed in (1, 1, 2)
    ]
    assert digests[0] == digests[1] != digests[2]


# -- faults that need their own scenario --------------------------------------------------------------------------


def go(scenario: Any, **spec: Any) -> Outcome:
    return run(scenario, RunSpec(target="echo", **spec), target=echo)


async def recall(cluster: Cluster) -> str:
    """What the server kept; the first call after its crash may find a connection that is no more."""
    while True:
        try:
            return str((await cluster.client.recall("server-1", "file")).text)
        except Unreachable:
            pass


def passes(scenario: Any, **spec: Any) -> Outcome:
    outcome = go(scenario, **spec)
    assert outcome.result == "pass", outcome.explain()
    return outcome


@pytest.mark.parametrize(("lossy", "kept"), [(True, "1"), (False, "2")])
def test_a_crash_loses_what_was_not_synced_only_while_the_disk_does(lossy: bool, kept: str) -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.client.keep("server-1", "file", "1", sync=True)
        await cluster.client.keep("server-1", "file", "2", sync=False)
        if lossy:
            await cluster.inject("disk.lose_unsynced", "server-1")
        async with cluster.fault("host.crash", "server-1"):
            pass
        assert await recall(cluster) == kept

    passes(scenario)


def test_a_torn_write_keeps_a_part() -> None:
    found = set()

    async def scenario(cluster: Cluster) -> None:
        await cluster.client.keep("server-1", "file", "0123456789", sync=False)
        async with cluster.fault("disk.lose_unsynced", "server-1", torn=1.0), cluster.fault("host.crash", "server-1"):
            pass
        found.add(await recall(cluster))

    for seed in range(6):
        passes(scenario, seed=seed)
    assert len(found) > 2
    assert all("0123456789".startswith(text) for text in found)


@pytest.mark.parametrize("by", ["-1h", "3s"])
def test_a_clock_is_off_while_the_fault_is_on_and_right_again_after(by: str) -> None:
    async def scenario(cluster: Cluster) -> None:
        async def skew_s() -> float:
            first, second = await cluster.client.say("server-1"), await cluster.client.say("server-2")
            return float(round(first.time_s - second.time_s))

        assert await skew_s() == 0
        async with cluster.fault("clock.offset", "server-1", by=by):
            assert await skew_s() == (3 if by == "3s" else -3600)
        assert await skew_s() == 0

    passes(scenario)


def test_reordered_datagrams_overtake_each_other() -> None:
    def numbers(reordering: bool) -> list[int]:
        async def scenario(cluster: Cluster) -> None:
            if reordering:
                await cluster.inject("network.reorder", "server-1", probability=0.5)
            for n in range(50):
                await cluster.client.ping("server-1", n)
                await asyncio.sleep(50e-6)
            await asyncio.sleep(1.0)

        return [
            event["n"]
            for event in passes(scenario, topology=Topology(counts={"server": 1}, jitter=0.0)).history.of("echo.pong")
        ]

    assert numbers(reordering=False) == list(range(50))
    assert sorted(numbers(reordering=True)) == list(range(50))
    assert numbers(reordering=True) != list(range(50))


def test_a_flapping_link_is_cut_and_rejoined_while_the_test_goes_on() -> None:
    answers: list[bool] = []

    async def scenario(cluster: Cluster) -> None:
        async with cluster.fault("network.flapping", "server-1", down_s=2, up_s=2, times=2) as flapping:
            for n in range(100):
                before = cluster.history.of("echo.pong")
                await cluster.client.ping("server-1", n)
                await asyncio.sleep(0.1)
                answers.append(len(cluster.history.of("echo.pong")) > len(before))
            await flapping.finished()
        assert (await cluster.client.say("server-1")).text == "hello"

    outcome = passes(scenario)
    changes = [b for a, b in zip([True, *answers], answers, strict=False) if a != b]
    assert changes == [False, True, False, True]
    parts = [event["fault"] for event in outcome.history.of("fault.inject", "fault.heal")]
    assert parts == ["network.flapping"] + ["network.partition"] * 4 + ["network.flapping"]


def test_a_composite_that_is_healed_early_leaves_nothing_behind() -> None:
    async def scenario(cluster: Cluster) -> None:
        async with cluster.fault("network.flapping", "server-1", down_s=5, up_s=5, times=9):
            await asyncio.sleep(1.0)
            await cluster.client.ping("server-1", 1)
        before = cluster.now
        await cluster.client.say("server-1")
        await asyncio.sleep(60.0)
        assert cluster.now - before < 61.0

    assert len(passes(scenario).history.of("fault.inject")) == 2


# -- groups ------------------------------------------------------------------------------------------------------


def test_several_groups_are_cut_from_each_other_and_from_nobody_else() -> None:
    async def scenario(cluster: Cluster) -> None:
        async with cluster.fault("network.partition", "server-1", ["server-2", "client-1"]):
            await cluster.client.say("server-2")
            await cluster.client.say("server-3")
            with pytest.raises(RpcError):
                await cluster.client.say("server-1")

    passes(scenario)


def test_a_bandwidth_limit_is_shared_by_all_who_talk_to_the_node() -> None:
    def took_s(*on: str) -> float:
        async def scenario(cluster: Cluster) -> None:
            text = "x" * 10_000
            async with cluster.fault("network.bandwidth", *on, rate="100kB/s"):
                await asyncio.gather(*(cluster.client.keep(server, "f", text) for server in ("server-1", "server-2")))

        return passes(scenario, assignment={"echo.timeout_s": {"*": 60.0}}).history.of("op.ok")[1].t

    assert 0.2 < took_s("server-1") < 0.25  # in and out in turn, each 10 kB at 100 kB/s
    assert 0.2 < took_s(["server-1", "server-2"]) < 0.25  # type: ignore[arg-type]
    assert 0.3 < took_s("client-1") < 0.45


# -- composition, healing, and no effect ---------------------------------------------------------------------------


def test_two_faults_on_one_link_add_up_and_removing_one_leaves_the_other() -> None:
    async def scenario(cluster: Cluster) -> None:
        async def round_trip_s() -> float:
            before = cluster.now
            await cluster.client.say("server-1")
            return cluster.now - before

        await round_trip_s()
        first = await cluster.inject("network.latency", "server-1", delay="100ms")
        second = await cluster.inject("network.latency", "client-1", delay="30ms")
        assert await round_trip_s() == pytest.approx(0.26, abs=0.01)
        await cluster.heal(first)
        assert await round_trip_s() == pytest.approx(0.06, abs=0.01)
        await cluster.heal(second)
        assert await round_trip_s() < 0.01

    passes(scenario)


def test_a_node_stays_down_until_the_last_fault_that_holds_it_is_healed() -> None:
    async def scenario(cluster: Cluster) -> None:
        first = await cluster.inject("host.crash", "server-1")
        second = await cluster.inject("host.stop", ["server-1", "server-2"])
        await cluster.heal(first)
        assert cluster.up("server") == ("server-3",)
        await cluster.heal(second)
        assert cluster.up("server") == ("server-1", "server-2", "server-3")

    passes(scenario)


def test_a_host_fault_hits_all_that_share_the_host() -> None:
    async def scenario(cluster: Cluster) -> None:
        async with cluster.fault("host.crash", "server-1"):
            assert cluster.up("server") == ("server-3",)

    passes(scenario, topology=Topology(counts={"server": 3}, per_host={"server": 2}))


def test_hits_are_counted_and_recorded_when_a_fault_is_healed() -> None:
    async def scenario(cluster: Cluster) -> None:
        async with cluster.fault("network.latency", "server-1", delay="1ms"):
            for n in range(5):
                await cluster.client.ping("server-1", n)
                await asyncio.sleep(0.1)

    heal = passes(scenario).history.of("fault.heal")[0]
    assert (heal["hits"], heal["took_effect"]) == (10, True)


@pytest.mark.parametrize(
    ("name", "on", "settings"),
    [
        ("network.latency", "server-3", {"delay": "1s"}),
        ("network.duplicate", "server-1", {"probability": 1}),
        ("network.loss", "server-1", {"probability": 0}),
        ("disk.lose_unsynced", "server-1", {}),
        ("disk.full", "server-1", {"capacity_bytes": "1GB"}),
        ("disk.slow", "server-1", {"rate": "9GB/s"}),
        ("clock.offset", "server-3", {"by": "1s"}),
        ("clock.freeze", "server-3", {}),
        ("clock.jump", "server-1", {"by": "1s", "every_s": "0.1ms"}),
        ("disk.error", "server-1", {"of": "reads"}),
        ("disk.bit_flip", "server-1", {}),
        ("disk.torn_write", "server-1", {}),
        ("disk.read_only", "server-2", {}),
        ("host.file_limit", "server-1", {"spare": 9}),
        ("host.memory", "server-1", {"spare_bytes": "1MiB"}),
        ("host.slow", "server-3", {}),
        ("application.leak", "server-1", {}),
        ("application.exception", "server-1", {"at": "Recall"}),
        ("application.exception", "server-1", {"at": "echo.nowhere"}),
        ("application.stale_answer", "server-1", {}),
        ("application.stale_push", "server-1", {}),
        ("application.buggify", "server-1", {}),
        ("network.partition", "*", {}),
        ("network.partition", "server-3", {"connections": "new"}),
        ("network.corruption", "server-1", {"probability": 0}),
        ("network.slow_close", "server-1", {"delay": "1s"}),
        ("network.slicing", "server-1", {"piece_bytes": "1MB", "apart": "1s"}),
        ("network.data_limit", "server-1", {"limit_bytes": "1GB"}),
        ("network.timeout", "server-3", {"after": "1s"}),
        ("network.blackhole", "server-3", {}),
        ("network.connection_limit", "server-1", {"limit": 9}),
        ("network.dns_failure", "server-3", {}),
        ("network.stale_names", "server-1", {"direction": "out"}),
    ],
)
def test_a_fault_without_effect_makes_the_run_inconclusive(name: str, on: str, settings: dict[str, Any]) -> None:
    async def scenario(cluster: Cluster) -> None:
        async with cluster.fault(name, on, **settings):
            await cluster.client.keep("server-1", "file", "text")

    outcome = go(scenario)
    assert outcome.result == "inconclusive"
    assert outcome.message.startswith(f"no effect: {name} on ")


def test_a_fault_left_on_is_healed_before_progress_is_demanded() -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.inject("host.crash", "server-1")
        await cluster.inject("network.partition", "server-2", how="reject")
        with pytest.raises(RpcError):
            await cluster.client.say("server-2")

    kinds = [event.kind for event in passes(scenario).history.of("fault.inject", "fault.heal", "run.healed")]
    assert kinds == ["fault.inject"] * 2 + ["fault.heal"] * 2 + ["run.healed"]


# -- faults of other people ----------------------------------------------------------------------------------------


@fault("test.slow_probe", level="network", needs=Links)
class SlowProbe:
    """Takes effect, as its probe says, `after_s` later."""

    after_s: Seconds

    async def inject(self, on: Selection, links: Links) -> dict[str, float]:
        return {"since": asyncio.get_running_loop().time()}

    async def probe(self, on: Selection, links: Links) -> bool:
        await asyncio.sleep(self.after_s)
        return True


@fault("test.guilty", level="network", needs=Links)
class Guilty:
    """Breaks its contract."""

    where: str

    async def inject(self, on: Selection, links: Links) -> None:
        if self.where == "inject":
            await links.add(on.pairs(), speed=3)  # type: ignore[call-arg]

    async def probe(self, on: Selection, links: Links) -> bool:
        return self.where != "probe" or bool(1 / 0)


@fault("test.rolling", level="cluster")
class Rolling:
    """Restart the selected nodes one after the other; `wrong` gives something that is no schedule."""

    wrong: bool = False

    def expand(self, on: Selection, random: Random) -> Schedule:
        steps = tuple(Inject(fault="host.restart", on=((node,),), at_s=float(n)) for n, node in enumerate(on.nodes))
        return steps if self.wrong else Schedule(steps)  # type: ignore[return-value]


def test_a_probe_is_asked_until_the_fault_is_healed() -> None:
    async def scenario(cluster: Cluster) -> None:
        async with cluster.fault("test.slow_probe", "server-1", after_s="2s"):
            await asyncio.sleep(3.0)

    passes(scenario)
    assert check_fault("test.slow_probe", "server-1", after_s=0).on.result == "pass"


@pytest.mark.parametrize("where", ["inject", "probe"])
def test_a_fault_that_breaks_its_contract_is_named(where: str) -> None:
    async def scenario(cluster: Cluster) -> None:
        with pytest.raises(PluginError, match=r"test\.guilty") as raised:
            async with cluster.fault("test.guilty", "server-1", where=where):
                pass
        assert raised.value.member == "test.guilty"

    assert go(scenario).result != "pass"


def test_a_composite_carries_out_its_schedule_and_may_be_waited_for() -> None:
    async def scenario(cluster: Cluster) -> None:
        rolling = await cluster.inject("test.rolling", "all(server)")
        await rolling.finished()
        assert [event.node for event in cluster.history.of("node.crash")] == ["server-1", "server-2", "server-3"]
        assert rolling.hits == 3
        assert rolling.took_effect

    passes(scenario)


def test_a_composite_that_gives_no_schedule_is_named() -> None:
    async def scenario(cluster: Cluster) -> None:
        with pytest.raises(PluginError, match="expand returned tuple, not a Schedule"):
            await cluster.inject("test.rolling", "server-1", wrong=True)

    assert go(scenario).result == "inconclusive"


# -- schedules -----------------------------------------------------------------------------------------------------


def test_a_schedule_injects_and_heals_at_its_times() -> None:
    schedule = Schedule.parse([
        {"fault": "host.crash", "on": "server-1", "at": "1s", "for": "2s"},
        {"fault": "network.latency", "on": "server-2", "at": "500ms", "settings": {"delay": "10ms"}},
    ])  # fmt: skip

    async def scenario(cluster: Cluster) -> None:
        await asyncio.sleep(4.0)
        await cluster.client.say("server-2")

    events = passes(scenario, schedule=schedule).history.of("fault.inject", "fault.heal")
    assert [(round(e.t, 2), e.kind, e["fault"]) for e in events[:3]] == [
        (0.5, "fault.inject", "network.latency"),
        (1.0, "fault.inject", "host.crash"),
        (3.0, "fault.heal", "host.crash"),
    ]


def test_a_run_can_leave_faults_out_wherever_they_are_injected() -> None:
    schedule = Schedule((Inject(fault="host.crash", on=(("server-2",),), at_s=0.1),))

    async def scenario(cluster: Cluster) -> None:
        async with cluster.fault("host.crash", "server-1"), cluster.fault("network.flapping", "server-3"):
            await cluster.client.say("server-1")
            await asyncio.sleep(0.2)
            await cluster.client.say("server-3")

    left_out = ("host.crash", "network.partition")
    events = passes(scenario, schedule=schedule, without_faults=left_out).history.of("fault.inject", "fault.heal")
    assert {event["fault"] for event in events} == {"network.flapping"}


def test_a_restart_that_the_end_of_the_test_cuts_short_leaves_the_node_up() -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.event("node.crash", node="server-1")

    schedule = Schedule((Inject(fault="host.restart", on=(("server-1",),), at_s=0.1, settings={"down_s": 60}),))
    outcome = go(scenario, schedule=schedule)
    assert outcome.result in ("pass", "inconclusive"), outcome.message
    assert [event.node for event in outcome.history.of("node.start")].count("server-1") == 2


def test_a_bad_selection_in_a_schedule_fails_the_run_with_one_clear_error() -> None:
    schedule = Schedule((Inject(fault="host.crash", on=(("peer-9",),)),))
    outcome = go(echo_everywhere, schedule=schedule)
    assert outcome.result == "fail"
    assert isinstance(outcome.error, ConfigError)
    assert "names no node" in outcome.message


@pytest.mark.parametrize("settings", [{"delay": "soon"}, {}, {"delay": 1, "colour": "red"}])
def test_bad_settings_reach_the_author_as_they_are(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"network\.latency"):
        check_fault("network.latency", "server-1", **settings)
