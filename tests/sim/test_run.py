"""One run: what it can come to, and that its token brings it back."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import zebra
from zebra import Cluster, Configure, Event, Inject, Outcome, RunSpec, Schedule, Target, Topology, invariant, run
from zebra.errors import ConfigError, Hang, InvariantViolated, TargetError, ZebraError
from zebra.events import History
from zebra.plugins import within_budget
from zebra.spec import decode_token
from zebra.testing import EchoClient, EchoConfig, EchoServer, echo, echo_everywhere


def go(scenario: Any, *, target: Target = echo, invariants: Any = (), **spec: Any) -> Outcome:
    return run(scenario, RunSpec(target=target.name, **spec), target=target, invariants=invariants)


def made(server: type = EchoServer, **more: Any) -> Target:
    """The echo target with something replaced."""
    settings = {"topology": Topology(counts={"server": 2}), **more}
    return Target(name="echo", config=EchoConfig, roles={"server": server}, client=EchoClient, **settings)


class Frail(EchoServer):
    """Dies of the text "die"."""

    async def run(self) -> None:
        self.dead = asyncio.Event()
        life = asyncio.create_task(super().run())
        await self.dead.wait()
        life.cancel()
        raise ZeroDivisionError("the text was too much")

    def say(self, say: Any, caller: Any) -> Any:
        if say.text == "die":
            self.dead.set()
        return super().say(say, caller)


# -- pass ----------------------------------------------------------------------------------------------------------


def test_a_run_that_goes_well_passes_and_its_history_says_everything() -> None:
    outcome = go(echo_everywhere, seed=5)
    assert (outcome.result, outcome.message, outcome.failed) == ("pass", "", False)
    outcome.raise_failure()
    events = list(outcome.history)
    assert [event.seq for event in events] == list(range(len(events)))
    assert [event.t for event in events] == sorted(event.t for event in events)
    assert events[0].kind == "run"
    assert events[0]["seed"] == 5
    assert [place["node"] for place in events[0]["places"]] == ["server-1", "server-2", "server-3", "client-1"]
    assert outcome.history.of("node.start")[0]["config"] == {"timeout_s": 1.0, "greeting": ""}
    assert events[-1].kind == "run.end"
    assert events[-1]["outcome"] == "pass"


def test_one_seed_gives_one_history_in_memory_and_on_disk(tmp_path: Any) -> None:
    first = go(echo_everywhere, seed=3)
    assert go(echo_everywhere, seed=3).history.digest() == first.history.digest()
    assert go(echo_everywhere, seed=4).history.digest() != first.history.digest()
    spec = RunSpec(target="echo", seed=3)
    stored = run(echo_everywhere, spec, target=echo, history=History(tmp_path / "history.jsonl"))
    assert stored.history.digest() == first.history.digest()


def test_reads_are_noted_when_asked_for_and_change_nothing() -> None:
    plain = go(echo_everywhere)
    noted = run(echo_everywhere, RunSpec(target="echo"), target=echo, record_reads=True)
    assert {(read.role, read.parameter) for read in noted.reads} == {
        ("client", "echo.timeout_s"),
        ("server", "echo.greeting"),
    }
    assert noted.history.digest() == plain.history.digest()


# -- fail ----------------------------------------------------------------------------------------------------------


def test_a_test_that_raises_fails_with_its_own_exception() -> None:
    async def scenario(cluster: Cluster) -> None:
        assert (await cluster.client.say("server-1", "a")).text == "b"

    outcome = go(scenario)
    assert outcome.result == "fail"
    assert outcome.message.startswith("AssertionError")
    assert outcome.violation is None
    with pytest.raises(AssertionError):
        outcome.raise_failure()


BUDGET = within_budget("test.budget", budget=1, down=("node.crash",), up=("node.ready",), what="node")


def test_a_violation_ends_the_run_at_the_event_that_broke_the_invariant() -> None:
    went_on = []

    async def scenario(cluster: Cluster) -> None:
        async with cluster.fault("host.crash", "server-1"):
            await asyncio.sleep(1.0)
            async with cluster.fault("host.crash", "server-2"):
                went_on.append("the injection itself")
                await asyncio.sleep(1.0)
                went_on.append("the test")

    outcome = go(scenario, target=made(invariants=(BUDGET,)))
    assert outcome.result == "fail"
    assert outcome.violation is not None
    assert outcome.violation.invariant == "test.budget"
    assert outcome.message == "test.budget: 2 down, budget 1: server-1, server-2"
    evidence = [event for event in outcome.history if event.seq in outcome.violation.seqs()]
    assert [(event.kind, event.node) for event in evidence] == [("node.crash", "server-1"), ("node.crash", "server-2")]
    assert outcome.duration_s == outcome.violation.t == evidence[1].t
    assert "the test" not in went_on
    assert outcome.history.of("violation")[0]["events"] == outcome.violation.seqs()
    with pytest.raises(InvariantViolated, match="budget 1") as raised:
        outcome.raise_failure()
    assert raised.value.token == outcome.spec.token()


def test_a_violation_found_by_the_clock_ends_the_run_though_nothing_happens() -> None:
    beat = zebra.eventually("test.beat", "heartbeat", within=2.5)

    async def scenario(cluster: Cluster) -> None:
        await asyncio.sleep(100.0)

    outcome = go(scenario, target=made(invariants=(beat,)))
    assert outcome.message == "test.beat: no heartbeat within 2.5 s of " + repr(next(iter(outcome.history)))
    assert outcome.duration_s == 3.0


def test_a_violation_at_the_end_counts() -> None:
    @invariant("test.said", on="op.ok")
    class Said:
        def check(self, event: Event) -> None: ...

        def end(self, now_s: float) -> str:
            return "never good enough"

    assert go(echo_everywhere, target=made(invariants=(Said,))).message == "test.said: never good enough"


@pytest.mark.parametrize("on", ["clock", "node.ready", "op.ok", "node.exit"])
def test_an_invariant_that_breaks_its_contract_is_named_and_never_green(on: str) -> None:
    @invariant("test.guilty", on=on)
    class Guilty:
        def check(self, event: Event) -> None:
            raise LookupError("my mistake")

    async def scenario(cluster: Cluster) -> None:
        await cluster.client.say("server-1", "die" if on == "node.exit" else "hello")
        await asyncio.sleep(10.0)

    outcome = go(scenario, target=made(Frail, invariants=(Guilty,)))
    assert outcome.result == "infrastructure" and outcome.violation is None
    assert outcome.message.startswith("invariant test.guilty: raised LookupError: my mistake")


# -- crash ---------------------------------------------------------------------------------------------------------


def test_a_role_that_raises_is_a_crash_of_its_node() -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.client.say("server-2", "die")
        await asyncio.sleep(60.0)

    outcome = go(scenario, target=made(Frail))
    assert outcome.result == "crash"
    assert outcome.message == "server-2: ZeroDivisionError: the text was too much"
    assert isinstance(outcome.error, ZeroDivisionError)
    assert outcome.history.of("node.exit")[0].node == "server-2"
    assert outcome.duration_s < 1.0


# -- hang ----------------------------------------------------------------------------------------------------------


def test_a_run_that_takes_too_long_is_a_hang_that_says_who_waits_where() -> None:
    async def scenario(cluster: Cluster) -> None:
        for _ in range(100):
            await asyncio.sleep(1.0)

    outcome = go(scenario, timeout_s=30.0)
    assert outcome.result == "hang"
    assert isinstance(outcome.error, Hang)
    assert outcome.duration_s == pytest.approx(30.0, abs=1.0)
    assert "server-1" in outcome.message
    assert "test: " in outcome.message


def test_a_run_in_which_nothing_can_happen_any_more_is_a_deadlock_and_told_at_once() -> None:
    async def scenario(cluster: Cluster) -> None:
        await asyncio.get_running_loop().create_future()

    outcome = go(scenario)
    assert outcome.result == "hang"
    assert type(outcome.error).__name__ == "Deadlock"
    assert "scenario" in outcome.message
    assert outcome.duration_s < 1.0
    assert outcome.wall_s < 5.0


def test_a_server_that_is_never_ready_fails_the_run_by_name() -> None:
    class Late(EchoServer):
        async def run(self) -> None:
            if self.node.name != "server-2":
                await super().run()
            await asyncio.sleep(1e6)

    outcome = go(echo_everywhere, target=made(Late, start_s=5.0))
    assert outcome.failed
    assert isinstance(outcome.error, TargetError)
    assert "server-2 was not ready 5 s after its start" in outcome.message


# -- inconclusive --------------------------------------------------------------------------------------------------


def test_what_shall_never_happen_is_shown_by_its_absence() -> None:
    never = zebra.never("test.never", "task.down")
    outcome = go(echo_everywhere, invariants=[never])
    assert outcome.result == "pass" and "test.never" in outcome.exercised


def test_an_invariant_that_was_asked_for_and_never_exercised_is_inconclusive() -> None:
    quiet = zebra.always("test.quiet", "task.down", lambda _: True)
    assert go(echo_everywhere, target=made(invariants=(quiet,))).result == "pass"
    outcome = go(echo_everywhere, invariants=[quiet])
    assert outcome.result == "inconclusive"
    assert outcome.message == "asked for but never exercised: test.quiet"
    assert outcome.unknown == ("test.quiet",)
    with pytest.raises(ZebraError, match="never exercised"):
        outcome.raise_failure()
    assert go(echo_everywhere, invariants=["general.noop"]).exercised == ("general.noop",)


def test_a_schedule_that_the_test_did_not_wait_for_is_inconclusive() -> None:
    schedule = Schedule((Inject(fault="host.crash", on=(("server-1",),), at_s=1000.0),))
    outcome = go(echo_everywhere, schedule=schedule)
    assert outcome.result == "inconclusive"
    assert "later than the end of the test" in outcome.message


# -- liveness ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["never", "raises"])
def test_no_progress_after_healing_is_a_failure(how: str) -> None:
    async def progress(cluster: Cluster) -> None:
        if how == "raises":
            raise LookupError("nobody leads")
        await asyncio.sleep(1e6)

    async def scenario(cluster: Cluster) -> None:
        await cluster.inject("host.crash", "server-1")

    outcome = go(scenario, target=made(progress=progress, settle_s=7.0))
    assert outcome.result == "fail"
    assert outcome.violation is not None
    assert outcome.violation.invariant == "zebra.progress"
    assert "no progress within 7 s of healing" in outcome.message
    assert ("LookupError: nobody leads" in outcome.message) == (how == "raises")
    assert [event.kind for event in outcome.history if event.kind in ("fault.heal", "run.healed", "violation")] == [
        "fault.heal",
        "run.healed",
        "violation",
    ]


# -- tokens --------------------------------------------------------------------------------------------------------


def test_a_token_brings_back_the_very_run() -> None:
    schedule = Schedule.parse([{"fault": "network.loss", "on": "one(server)", "settings": {"probability": "30%"}}])
    spec = RunSpec(target="echo", seed=9, schedule=schedule, assignment={"echo.greeting": {"server:odd": "oh "}},
                   topology=Topology(counts={"server": 4}), timeout_s=100.0)  # fmt: skip
    first = run(echo_everywhere, spec, target=echo)
    again, same_code = decode_token(spec.token())
    assert same_code
    assert again == spec
    assert run(echo_everywhere, again, target=echo).history.digest() == first.history.digest()


def test_a_token_too_long_for_a_line_is_written_below_the_report(tmp_path: Any) -> None:
    spec = RunSpec(target="echo", test="x" * 3000)
    command = spec.command(tmp_path)
    path = command.removeprefix("zebra replay ")
    assert path.startswith(str(tmp_path / "replays"))
    with open(path) as file:
        assert decode_token(file.read())[0] == spec
    assert RunSpec(target="echo").command(tmp_path) == f"zebra replay {RunSpec(target='echo').token()}"


# -- configuration -------------------------------------------------------------------------------------------------


def test_an_assignment_gives_each_node_its_own_configuration() -> None:
    async def scenario(cluster: Cluster) -> None:
        assert (await cluster.client.say("server-1", "you")).text == "hello you"
        assert (await cluster.client.say("server-2", "you")).text == "you"
        assert cluster.config_of("server-1").greeting == "hello "

    assert go(scenario, assignment={"echo.greeting": {"server-1": "hello "}}).result == "pass"


@pytest.mark.parametrize("how", ["restart", "reload"])
def test_a_schedule_may_change_the_configuration_of_a_node(how: Any) -> None:
    async def scenario(cluster: Cluster) -> None:
        assert (await cluster.client.say("server-2", "you")).text == "you"
        await cluster.event("node.configure", node="server-1")
        await asyncio.sleep(1.0)
        assert (await cluster.client.say("server-1", "you")).text == "hello you"

    step = Configure(node="server-1", values={"echo.greeting": "hello "}, at_s=2.0, how=how)
    outcome = go(scenario, schedule=Schedule((step,)))
    assert outcome.result == "pass", outcome.message
    changed = outcome.history.of("node.configure")[0]
    assert (changed.t, changed["config"]["greeting"]) == (2.0, "hello ")
    starts = [event["config"]["greeting"] for event in outcome.history.of("node.start") if event.node == "server-1"]
    assert starts == (["", "hello "] if how == "restart" else [""])


@pytest.mark.parametrize(
    ("values", "what"), [({"echo.gretting": "x"}, "did you mean echo.greeting"), ({"echo.timeout_s": "x"}, "timeout_s")]
)
def test_a_bad_configuration_change_fails_with_one_clear_error(values: Any, what: str) -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.configure("server-1", values)

    outcome = go(scenario)
    assert isinstance(outcome.error, ConfigError)
    assert what in outcome.message


# -- bad input -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "what"),
    [
        ({"substrate": "moon"}, "substrate 'moon' is unknown"),
        ({"variant": "bug.none"}, r"variant 'bug\.none' is unknown"),
        ({"topology": Topology(counts={"tracker": 1})}, "role 'tracker' is unknown"),
        ({"assignment": {"echo.nothing": {"*": 1}}}, r"'echo\.nothing' is unknown"),
        ({"assignment": {"echo.timeout_s": {"server-9": 1}}}, "'server-9' is neither a role nor a node"),
    ],
)
def test_bad_input_is_a_config_error_before_anything_runs(spec: Any, what: str) -> None:
    with pytest.raises(ConfigError, match=what):
        go(echo_everywhere, **spec)


def test_an_event_that_came_before_one_waited_for_it_is_found_since_another() -> None:
    async def scenario(cluster: Cluster) -> None:
        first = cluster.history.of("node.start")[0]
        second = await cluster.event("node.start", since=first)
        assert second.seq > first.seq and second.node != first.node
        with pytest.raises(TimeoutError):
            await cluster.event("node.start", since=second, node=first.node, within="1s")
        later = asyncio.ensure_future(cluster.event("node.crash", since=second))
        await asyncio.sleep(1.0)
        await cluster.inject("host.crash", "server-1")
        assert (await later).node == "server-1"

    assert go(scenario).result == "pass"


def test_an_unknown_target_is_a_config_error() -> None:
    with pytest.raises(ConfigError, match="is unknown"):
        run(echo_everywhere, RunSpec(target="nothing"))
    with pytest.raises(ConfigError, match=r"cannot import"):
        run(echo_everywhere, RunSpec(target="nowhere.at_all:TARGET"))


def test_waiting_for_what_does_not_come_is_a_timeout_that_says_what() -> None:
    async def scenario(cluster: Cluster) -> None:
        with pytest.raises(TimeoutError, match=r"an event node\.crash"):
            await cluster.event("node.crash", within="2s")
        with pytest.raises(TimeoutError, match="the condition"):
            await cluster.until(lambda: False, within=1)
        await cluster.until(lambda: True)
        assert cluster.now == pytest.approx(3.0, abs=0.1)

    assert go(scenario).result == "pass"
