"""Simulated processes, disks and clocks: what crashing, stopping, pausing and skewing does, and what it must not do."""

from __future__ import annotations

import asyncio
import gc
import sys
import time
import weakref
from collections.abc import Callable
from typing import Any

import pytest

import zebra
from tests.sim.lab import Config, Host, hosts
from zebra import Blob, Outcome, RunSpec, Target, Topology
from zebra.errors import NodeDown
from zebra.substrate.sim.machine import EPOCH_S

TARGET = hosts(2)


def play(scenario: Any, **spec: Any) -> Outcome:
    return zebra.run(scenario, RunSpec(target="lab", **spec), target=TARGET)


def run(scenario: Any, **spec: Any) -> Outcome:
    outcome = play(scenario, **spec)
    outcome.raise_failure()
    return outcome


async def on(cluster: Any, host: str, work: Callable[..., Any], *args: Any) -> Any:
    return await cluster._running.call(host, "go", work, *args)


def capability(cluster: Any, name: str) -> Any:
    return cluster._running.capabilities[name]


# -- crashing ------------------------------------------------------------------------------------------------


def test_no_finally_of_a_crashed_process_has_an_effect_outside() -> None:
    ran: list[str] = []

    async def stubborn(node: Any) -> None:
        async def later() -> None:
            node.emit("lab.late")

        try:
            await asyncio.sleep(1000)
        finally:
            ran.append("finally")
            node.emit("lab.finally")
            writer.write(b"from the grave")
            writer.close()
            asyncio.get_running_loop().call_later(1.0, node.emit, "lab.timer")
            task = asyncio.create_task(later())
            ran.append(task.get_name())
            await node.disk.write("grave", b"x")
            node.emit("lab.after")

    async def serve(node: Any) -> None:
        async def handler(reader: Any, stream: Any) -> None:
            node.emit("lab.got", size=len(await reader.read(100)))

        await asyncio.start_server(handler, None, 9)

    writer: Any = None

    async def scenario(cluster: Any) -> None:
        nonlocal writer
        await on(cluster, "host-2", serve)

        async def dial(node: Any) -> Any:
            return await asyncio.open_connection("host-2", 9)

        reader, writer = await on(cluster, "host-1", dial)
        calling = asyncio.create_task(on(cluster, "host-1", stubborn))
        await asyncio.sleep(1.0)
        async with cluster.fault("host.crash", "host-1"):
            with pytest.raises(NodeDown):
                await calling
            await asyncio.sleep(100.0)
        assert cluster.role("host-1").node.disk.names() == []
        assert reader is not None

    outcome = run(scenario)
    assert ran[0] == "finally"
    assert [event.kind for event in outcome.history if event.kind.startswith("lab.")] == []


def test_a_crash_ends_even_coroutines_that_will_not_end() -> None:
    class Grip:
        async def __aenter__(self) -> None: ...

        async def __aexit__(self, *error: object) -> None:
            for _ in range(5):
                try:
                    await asyncio.sleep(1)
                except BaseException:
                    continue

    async def gripping(node: Any) -> None:
        async with Grip(), asyncio.TaskGroup() as group, asyncio.timeout(50):
            group.create_task(asyncio.sleep(1000))
            await asyncio.sleep(1000)

    async def scenario(cluster: Any) -> None:
        calling = asyncio.create_task(on(cluster, "host-1", gripping))
        await asyncio.sleep(1.0)
        async with cluster.fault("host.crash", "host-1"):
            with pytest.raises(NodeDown):
                await calling

    run(scenario)


def test_a_crashed_process_and_its_connections_are_not_kept_in_memory() -> None:
    class Load:
        pass

    kept: list[weakref.ref[Load]] = []

    async def hold(node: Any) -> None:
        load = Load()
        kept.append(weakref.ref(load))
        reader, writer = await asyncio.open_connection("host-2", 9)
        writer.load = load  # type: ignore[attr-defined]
        await reader.read()

    async def serve(node: Any) -> None:
        await asyncio.start_server(lambda reader, writer: node.__dict__.setdefault("kept", []).append(writer), None, 9)

    async def scenario(cluster: Any) -> None:
        await on(cluster, "host-2", serve)
        for _ in range(5):
            task = asyncio.create_task(on(cluster, "host-1", hold))
            await asyncio.sleep(1.0)
            async with cluster.fault("host.crash", "host-1"):
                with pytest.raises(NodeDown):
                    await task
            del task
        gc.collect()
        assert [ref() for ref in kept] == [None] * 5

    run(scenario)


def test_a_planned_stop_gives_run_its_grace_and_no_more() -> None:
    async def scenario(cluster: Any) -> None:
        before = cluster.now
        effect = await capability(cluster, "processes").add(["host-1"], down="stop", grace_s=2.0)
        assert cluster.now - before == pytest.approx(2.0)
        assert not cluster.history.of("node.stop")[0]["in_time"]
        await capability(cluster, "processes").remove(effect)

    class Slow(Host):
        async def run(self) -> None:
            await self.node.ready()
            try:
                await asyncio.sleep(1000)
            finally:
                await asyncio.sleep(5)

    target = Target(name="lab", config=Config, roles={"host": Slow}, topology=Topology(counts={"host": 1}))
    zebra.run(scenario, RunSpec(target="lab"), target=target).raise_failure()


def test_a_role_that_exits_takes_down_its_node_and_not_the_run() -> None:
    class Leaver(Host):
        async def run(self) -> None:
            await self.node.ready()
            await asyncio.sleep(1.0)
            sys.exit(3)

    async def scenario(cluster: Any) -> None:
        await asyncio.sleep(5.0)

    target = Target(name="lab", config=Config, roles={"host": Leaver}, topology=Topology(counts={"host": 1}))
    outcome = zebra.run(scenario, RunSpec(target="lab"), target=target)
    assert outcome.result == "crash"
    assert "sys.exit(3)" in outcome.message


# -- pausing -------------------------------------------------------------------------------------------------


def test_timers_of_a_paused_process_wait_and_fire_at_once_when_it_goes_on() -> None:
    async def tick(node: Any) -> None:
        for _ in range(6):
            await asyncio.sleep(1.0)
            node.emit("lab.tick")

    async def name(node: Any) -> str:
        return str(node.name)

    async def scenario(cluster: Any) -> None:
        ticking = asyncio.create_task(on(cluster, "host-1", tick))
        other = asyncio.create_task(on(cluster, "host-2", tick))
        await asyncio.sleep(2.5)
        effect = await capability(cluster, "processes").add(["host-1"], down="pause")
        waiting = asyncio.create_task(on(cluster, "host-1", name))
        await asyncio.sleep(7.0)
        assert not waiting.done()
        await capability(cluster, "processes").remove(effect)
        assert await waiting == "host-1"
        await ticking
        await other
        times = {
            host: [round(event.t, 6) for event in cluster.history.of("lab.tick") if event.node == host]
            for host in ("host-1", "host-2")
        }
        start = times["host-2"][0] - 1.0
        assert [round(when - start, 3) for when in times["host-1"]] == [1.0, 2.0, 9.5, 10.5, 11.5, 12.5]
        assert [round(when - start, 3) for when in times["host-2"]] == [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]

    run(scenario)


def test_a_node_sees_its_own_tasks_its_name_and_its_own_error_handler() -> None:
    async def look(node: Any, handled: list[str]) -> Any:
        import os
        import socket

        loop = asyncio.get_running_loop()
        loop.set_exception_handler(
            lambda _, context: handled.append(f"{node.name} {type(context['exception']).__name__}")
        )
        loop.call_later(1.0, int, "not a number")
        await asyncio.sleep(2.0)
        mine = {task.get_name() for task in asyncio.all_tasks()}
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
        return socket.gethostname(), os.getpid(), mine

    async def scenario(cluster: Any) -> None:
        handled: list[str] = []
        both = await asyncio.gather(*(on(cluster, host, look, handled) for host in ("host-1", "host-2")))
        assert [(name, pid) for name, pid, _ in both] == [("host-1", 1001), ("host-2", 1001)]
        assert all(task.startswith(name) for name, _, tasks in both for task in tasks)
        assert handled == ["host-1 ValueError", "host-2 ValueError"]

    outcome = play(scenario)
    assert outcome.result == "pass", outcome.message


# -- disks ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lossy", "torn", "log", "plain"), [(False, 0.0, 300, True), (True, 0.0, 100, False), (True, 1.0, None, None)]
)
def test_what_was_not_synced_survives_a_process_but_not_the_loss_of_its_cache(
    lossy: bool, torn: float, log: int | None, plain: bool | None
) -> None:
    async def fill(node: Any) -> None:
        await node.disk.append("log", Blob.random(1, 100, materialise=False))
        await node.disk.sync("log")
        await asyncio.gather(
            *(node.disk.append("log", Blob.random(1, 200, materialise=False).slice(at, at + 50)) for at in (100, 150))
        )
        await node.disk.append("log", bytes(100))
        await node.disk.write("plain", b"never synced")
        await node.disk.write("gone", b"removed")
        await node.disk.sync("gone")
        await node.disk.remove("gone")

    async def scenario(cluster: Any) -> None:
        await on(cluster, "host-1", fill)
        disk = cluster.role("host-1").node.disk
        assert disk.names() == ["log", "plain"]
        effect = await capability(cluster, "disks").add(["host-1"], lose_unsynced=True, torn=torn) if lossy else None
        async with cluster.fault("host.crash", "host-1"):
            pass

        async def check(node: Any) -> None:
            content = await node.disk.read("log")
            assert len(content) == log if log is not None else 100 <= len(content) <= 300
            whole = min(len(content), 200)
            assert content.slice(0, whole) == Blob.random(1, 200, materialise=False).slice(0, whole)
            assert plain is None or ("plain" in node.disk.names()) == plain
            assert "gone" not in node.disk.names()
            with pytest.raises(FileNotFoundError):
                await node.disk.read("gone")
            with pytest.raises(FileNotFoundError):
                await node.disk.sync("gone")

        await on(cluster, "host-1", check)
        assert effect is None or effect.hits == 2

    for seed in range(3):
        run(scenario, seed=seed)


def test_a_disk_is_as_fast_and_as_large_as_its_limits_say() -> None:
    async def scenario(cluster: Any) -> None:
        async def timed(node: Any, size: int) -> float:
            began = node.clock.monotonic()
            await node.disk.write("file", Blob.random(1, size, materialise=False))
            return float(node.clock.monotonic() - began)

        assert await on(cluster, "host-1", timed, 2_000_000_000) == pytest.approx(1.0, rel=0.01)
        slow = await capability(cluster, "disks").add(["host-1"], rate=1e6)
        assert await on(cluster, "host-1", timed, 10_000_000) == pytest.approx(10.0, rel=0.01)
        full = await capability(cluster, "disks").add(["host-1"], capacity_bytes=1000)
        with pytest.raises(OSError, match="no space left"):
            await on(cluster, "host-1", timed, 2000)
        await capability(cluster, "disks").remove(full)
        assert await on(cluster, "host-2", timed, 2_000_000_000) == pytest.approx(1.0, rel=0.01)
        assert slow.hits > 0
        assert full.hits == 1

    run(scenario)


# -- clocks --------------------------------------------------------------------------------------------------


def test_each_node_has_a_wall_clock_of_its_own_and_all_ways_to_it_agree() -> None:
    async def scenario(cluster: Any) -> None:
        async def read(node: Any) -> tuple[float, ...]:
            days = time.mktime(time.localtime()) - time.mktime(time.localtime(time.time()))
            return (
                node.clock.time(),
                time.time(),
                time.time_ns() / 1e9,
                time.clock_gettime(time.CLOCK_REALTIME),
                days,
                time.monotonic(),
            )

        assert time.time() == EPOCH_S + cluster.now
        effect = await capability(cluster, "clocks").add(["host-1"], offset_s=-3600.0)
        skewed, right = await on(cluster, "host-1", read), await on(cluster, "host-2", read)
        assert skewed[:4] == pytest.approx([EPOCH_S + cluster.now - 3600.0] * 4, abs=1e-6)
        assert right[:4] == pytest.approx([EPOCH_S + cluster.now] * 4, abs=1e-6)
        assert skewed[4] == right[4] == 0.0
        assert skewed[5] == right[5]
        await capability(cluster, "clocks").remove(effect)
        assert effect.hits >= 4
        assert (await on(cluster, "host-1", read))[0] == pytest.approx(EPOCH_S + cluster.now)

    run(scenario)


def test_nothing_of_a_run_is_left_in_memory_when_it_is_over() -> None:
    kept: list[weakref.ref[Any]] = []

    async def scenario(cluster: Any) -> None:
        async def serve(node: Any) -> Any:
            return await asyncio.start_server(lambda reader, writer: None, None, 9)

        await on(cluster, "host-1", serve)
        stream = await on(cluster, "host-2", dial)
        cluster.role("host-2").stream = stream
        kept.extend(
            map(weakref.ref, (asyncio.get_running_loop(), cluster.role("host-1"), stream[1].transport.get_protocol()))
        )

    async def dial(node: Any) -> Any:
        return await asyncio.open_connection("host-1", 9)

    outcomes = [run(scenario) for _ in range(3)]
    del scenario
    gc.collect()
    assert [ref() for ref in kept] == [None] * 9
    assert all(outcome.history for outcome in outcomes)
