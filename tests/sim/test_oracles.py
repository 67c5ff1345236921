"""What makes a run fail that asserts nothing: error lines, what a stopped node leaves behind, slowness."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from zebra import Cluster, Outcome, RunSpec, Target, Topology, run
from zebra.errors import ConfigError
from zebra.testing import EchoClient, EchoConfig, EchoServer, echo, echo_everywhere

LOG = logging.getLogger("tests.oracles")


class Talker(EchoServer):
    """Says what the text asks for in one way or another."""

    def say(self, say: Any, caller: Any) -> Any:
        if say.text == "log":
            LOG.error("the disk is gone")
        elif say.text == "raise":
            asyncio.get_running_loop().call_soon(self.fail)
        return super().say(say, caller)

    def fail(self) -> None:
        raise OSError("the disk is gone")


class Careless(EchoServer):
    """Starts a task for `greeting` and never ends it, or ends it without waiting."""

    async def run(self) -> None:
        self.ticking = asyncio.create_task(self.tick()) if self.node.config.greeting else None
        try:
            await super().run()
        finally:
            if self.ticking is not None and self.node.config.greeting == "tidy":
                self.ticking.cancel()

    async def tick(self) -> None:
        await asyncio.Event().wait()


def made(server: type, **more: Any) -> Target:
    return Target(name="echo", config=EchoConfig, roles={"server": server}, client=EchoClient,
                  topology=Topology(counts={"server": 2}), **more)  # fmt: skip


def talk(text: str, **more: Any) -> Outcome:
    async def scenario(cluster: Cluster) -> None:
        await cluster.client.say("server-2", text)
        LOG.error("the disk is gone, says the test")
        await asyncio.sleep(0.1)

    target = made(Talker)
    return run(scenario, RunSpec(target="echo"), target=target, **more)


# -- error lines --------------------------------------------------------------------------------------------------


def test_a_node_that_logs_what_a_pattern_calls_an_error_fails_the_run() -> None:
    outcome = talk("log", errors=["nothing", r"ERROR .*disk is \w+"])
    assert (outcome.result, outcome.violation and outcome.violation.invariant) == ("fail", "zebra.errors")
    assert "server-2 logged 'ERROR tests.oracles: the disk is gone'" in outcome.message


def test_an_exception_in_a_nodes_loop_is_an_error_line_too() -> None:
    outcome = talk("raise", errors=["OSError: the disk"])
    assert outcome.result == "fail" and "server-2 left" in outcome.message


@pytest.mark.parametrize("text", ["log", "raise"])
def test_what_no_pattern_matches_and_what_the_test_logs_is_no_error(text: str) -> None:
    assert talk(text).result == talk(text, errors=["disk is full"]).result == "pass"
    assert talk("hello", errors=["disk is gone"]).result == "pass"


def test_patterns_of_the_target_count_and_no_handler_stays() -> None:
    handlers = list(logging.getLogger().handlers)
    outcome = run(echo_everywhere, RunSpec(target="echo"), target=made(EchoServer, errors=("never said",)))
    assert outcome.result == "pass" and logging.getLogger().handlers == handlers


@pytest.mark.parametrize("patterns", [["("], "text", [3]])
def test_what_is_no_pattern_is_refused_in_one_line(patterns: Any) -> None:
    with pytest.raises(ConfigError, match=r"^errors: .* (is not a|expected a list of) regular expression"):
        run(echo_everywhere, RunSpec(target="echo"), target=echo, errors=patterns)


# -- what stays behind --------------------------------------------------------------------------------------------


def leave(greeting: str, leaks: bool = True) -> Outcome:
    spec = RunSpec(target="echo", assignment={"echo.greeting": {"server-2": greeting}})
    return run(echo_everywhere, spec, target=made(Careless), leaks=leaks)


def test_a_task_that_outlives_its_stopped_node_is_a_leak() -> None:
    outcome = leave("hello")
    assert (outcome.result, outcome.violation and outcome.violation.invariant) == ("fail", "zebra.leaks")
    assert outcome.message.endswith("server-2 left behind when it was stopped: task Careless.tick")


@pytest.mark.parametrize("greeting", ["", "tidy"])
def test_nodes_that_end_what_they_began_leave_nothing(greeting: str) -> None:
    assert leave(greeting).result == "pass"


def test_leaks_are_looked_for_only_where_somebody_asks() -> None:
    assert leave("hello", leaks=False).result == "pass"


def test_a_leak_at_a_restart_in_the_middle_counts_too() -> None:
    async def restart(cluster: Cluster) -> None:
        await cluster.configure("server-2", {"echo.greeting": ""})

    spec = RunSpec(target="echo", assignment={"echo.greeting": {"server-2": "hello"}})
    outcome = run(restart, spec, target=made(Careless, leaks=True))
    assert outcome.result == "fail" and "server-2 left behind" in outcome.message


# -- slowness -----------------------------------------------------------------------------------------------------


def test_a_run_is_slow_beyond_the_limit_in_its_spec() -> None:
    free = run(echo_everywhere, RunSpec(target="echo"), target=echo)
    limit_s = free.duration_s
    assert run(echo_everywhere, RunSpec(target="echo", slow_s=limit_s * 1.01), target=echo).result == "pass"
    slow = run(echo_everywhere, RunSpec(target="echo", slow_s=limit_s * 0.99), target=echo)
    assert slow.result == "slow" and slow.failed and "at most were expected" in slow.message and slow.replay
