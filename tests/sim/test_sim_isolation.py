"""The determinism contract: what a run may not notice, what it may not reach, and what is as before when it is over."""

from __future__ import annotations

import _socket
import _thread
import asyncio
import gc
import os
import random
import socket
import subprocess
import sys
import threading
import time
import uuid
import weakref
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

import zebra
from tests.sim import lab
from zebra import Outcome, RunSpec
from zebra.determinism import Interpreter, check_determinism
from zebra.errors import Deadlock, Escape, NondeterminismError
from zebra.substrate.sim.isolation import GARBAGE, RUNS, OrderedSet
from zebra.substrate.sim.loop import Livelock, SimLoop
from zebra.substrate.sim.machine import EPOCH_S

MODULE = """
import asyncio, gc, os, random, secrets, time, uuid, weakref
import msgspec
from zebra import Target, Topology

class Config(msgspec.Struct, frozen=True, kw_only=True):
    unused: int = 0

class Host:
    def __init__(self, node):
        self.node = node

    async def mix(self):
        node = self.node
        async def work(n):
            await asyncio.sleep((n * 7919) % 5 / 10)
            node.emit("mix.done", n=n)
            return n
        for n in range(20):
            node.emit("mix.random", n=[random.random(), random.randrange(1000), node.random.random(), str(uuid.uuid4()),
                      str(uuid.uuid1()), os.urandom(4).hex(), secrets.token_hex(4),
                      random.Random().random(), time.time(), time.monotonic(), os.getpid()])
        done, pending = await asyncio.wait([work_task(work, n) for n in range(10)], timeout=0.25)
        node.emit("mix.wait", done=[t.result() for t in done], pending=len(pending))
        done, _ = await asyncio.wait(pending)
        node.emit("mix.wait", done=[t.result() for t in done])
        futures = [asyncio.get_running_loop().create_future() for _ in range(10)]
        for n, future in enumerate(futures):
            asyncio.get_running_loop().call_later(0.1, future.set_result, n)
        done, _ = await asyncio.wait(futures)
        done |= {asyncio.ensure_future(work(99))}
        node.emit("mix.futures", done=[f.result() for f in done if f.done()])
        for first in asyncio.as_completed([work(n) for n in range(10)]):
            node.emit("mix.completed", n=await first)
        async def cancelled(n):
            try:
                await asyncio.sleep(100)
            finally:
                node.emit("mix.cancelled", n=n, task=asyncio.current_task().get_name())
        async def fail():
            await asyncio.sleep(0.1)
            raise ValueError
        try:
            async with asyncio.TaskGroup() as group:
                for n in range(10):
                    group.create_task(cancelled(n))
                group.create_task(fail())
        except* ValueError:
            node.emit("mix.aborted")
        for task in {asyncio.create_task(work(n)) for n in range(10)}:
            node.emit("mix.task", name=task.get_name())
            await task
        class Loop:
            pass
        for n in range(5):
            loop = Loop()
            loop.self = loop
            weakref.finalize(loop, node.emit, "mix.collected", n=n)
        for n in range(25):
            await asyncio.gather(*(asyncio.sleep(0) for _ in range(1000)))
        node.emit("mix.end", tasks=[t.get_name() for t in asyncio.all_tasks()])

def work_task(work, n):
    return asyncio.create_task(work(n))

TARGET = Target(name="mix", config=Config, roles={"host": Host}, topology=Topology(counts={"host": 3}))

async def mix(cluster):
    await asyncio.gather(*(cluster._running.call(node, "mix") for node in cluster.nodes("host")))

async def planted(cluster):
    for word in {"one", "two", "three", "four", "five", "six", "seven"}:
        cluster._running.log.emit("", "planted.word", word=word)
        await asyncio.sleep(0.1)

ran = []

async def counting(cluster):
    ran.append(1)
    cluster._running.log.emit("", "planted.count", n=len(ran))
"""


@pytest.fixture
def mixed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module with scenarios, importable here and by children."""
    name = f"zebra_mix_{os.getpid()}"
    (tmp_path / f"{name}.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    return name


def test_histories_do_not_depend_on_hash_seed_imports_or_allocations(mixed: str) -> None:
    pytest.importorskip("aiohttp")
    spec = RunSpec(target=f"{mixed}:TARGET", test=f"{mixed}:mix")
    others = (
        Interpreter(hash_seed=1),
        Interpreter(hash_seed=2, imports=("pytest", "zebra.plugin"), objects=10_000),
        Interpreter(hash_seed=0, imports=("aiohttp", "numpy"), objects=77),
    )
    kinds = [event.kind for event in check_determinism(spec, others)]
    assert kinds.count("mix.collected") >= 12
    assert kinds.count("mix.end") == 3
    assert "error" not in kinds


def test_another_seed_gives_another_history(mixed: str) -> None:
    module = import_module(mixed)
    histories = [zebra.run(module.mix, RunSpec(target=f"{mixed}:TARGET", seed=seed)).history for seed in (7, 8)]
    drawn, other = ([event["n"] for event in history.of("mix.random")] for history in histories)
    assert len(drawn) == len(other) == 60
    assert drawn != other


def test_a_set_of_strings_is_detected_and_the_events_are_shown(mixed: str) -> None:
    spec = RunSpec(target=f"{mixed}:TARGET", test=f"{mixed}:planted")
    with pytest.raises(NondeterminismError, match="one seed gave two histories") as caught:
        check_determinism(spec, (Interpreter(hash_seed=1), Interpreter(hash_seed=2)))
    assert caught.value.first is not None
    assert caught.value.second is not None
    assert "planted.word" in caught.value.first
    assert "planted.word" in caught.value.second
    assert caught.value.first != caught.value.second


def test_state_left_by_an_earlier_run_is_detected_in_one_process(mixed: str) -> None:
    spec = RunSpec(target=f"{mixed}:TARGET", test=f"{mixed}:counting")
    with pytest.raises(NondeterminismError) as caught:
        check_determinism(spec, ())
    assert "n=1" in str(caught.value.first)
    assert "n=2" in str(caught.value.second)


# -- doors that are shut -----------------------------------------------------------------------------------------


def play(work: Any) -> Outcome:
    return lab.play(lambda node: work())


def blocking_queue() -> None:
    import queue

    queue.Queue[int]().get(timeout=1.0)


def pool() -> None:
    from concurrent.futures import ThreadPoolExecutor

    ThreadPoolExecutor().submit(int)


DOORS = {
    "time.sleep": lambda: time.sleep(0.0),
    "a thread": lambda: threading.Thread(target=int).start(),
    "a low-level thread": lambda: _thread.start_new_thread(int, ()),
    "a thread pool": pool,
    "a wait for another thread": blocking_queue,
    "subprocess": lambda: subprocess.run(["true"], check=True),
    "os.system": lambda: os.system("true"),
    "fork": os.fork,
    "a C-level socket": lambda: _socket.socket(),
    "a socket pair": socket.socketpair,
    "a blocking connect": lambda: socket.create_connection(("127.0.0.1", 9)),
    "a blocking listen": lambda: socket.socket().listen(),
    "a real name server": lambda: _socket.getaddrinfo("localhost", 80),
    "another event loop": asyncio.new_event_loop,
    "stopping everybody's loop": lambda: asyncio.get_running_loop().stop(),
    "a file descriptor": lambda: asyncio.get_running_loop().add_reader(0, int),
}


@pytest.mark.parametrize("door", DOORS.values(), ids=DOORS.keys())
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_run_cannot_leave_by(door: Any) -> None:
    async def inside() -> None:
        with pytest.raises(Escape, match=r"simulat") as caught:
            door()
        assert any(entry.path == Path(__file__) for entry in caught.traceback)

    outcome = play(inside)
    assert outcome.result == "pass", outcome.message


def test_an_escape_in_a_callback_ends_the_run() -> None:
    async def inside() -> None:
        asyncio.get_running_loop().call_soon(time.sleep, 1)
        await asyncio.sleep(1)

    with pytest.raises(Escape, match=r"use asyncio\.sleep"):
        play(inside)


def state_of_the_world() -> dict[str, Any]:
    return {
        "time": [getattr(time, name) for name in dir(time) if callable(getattr(time, name))],
        "random": [getattr(random, name) for name in dir(random) if name.islower() and not name.startswith("__")],
        "others": [
            os.urandom,
            os.getpid,
            uuid.getnode,
            socket.socket,
            socket.getaddrinfo,
            socket.socketpair,
            asyncio.all_tasks,
            threading.Thread.start,
        ],
        "classes": [random.Random.seed, threading.Condition.wait, getattr(asyncio.tasks, "set", None)],
        "uuid": [uuid._generate_time_safe, _thread.start_new_thread],  # type: ignore[attr-defined]
    }


@pytest.mark.parametrize("ending", ["pass", "exception", "keyboard", "deadlock", "exit"])
def test_everything_is_as_it_was_however_a_run_ends(ending: str) -> None:
    async def inside() -> None:
        if ending == "exception":
            raise ValueError
        if ending == "keyboard":
            raise KeyboardInterrupt
        if ending == "exit":
            asyncio.get_running_loop().call_soon(sys.exit, 3)
        if ending in ("deadlock", "exit"):
            await asyncio.get_running_loop().create_future()

    before, hooks, generator = state_of_the_world(), sys.get_asyncgen_hooks(), random.getstate()
    try:
        play(inside)
    except (KeyboardInterrupt, SystemExit):
        assert ending in ("keyboard", "exit")
    assert state_of_the_world() == before
    assert sys.get_asyncgen_hooks() == hooks
    assert random.getstate() == generator
    assert gc.isenabled()
    assert gc.get_freeze_count() == 0
    time.sleep(0)
    with socket.socket() as real:
        assert real.fileno() >= 0
    thread = threading.Thread(target=int)
    thread.start()
    thread.join()
    assert abs(time.time() - EPOCH_S) > 1e6
    assert asyncio.run(asyncio.sleep(0, "works")) == "works"


def test_what_runs_leave_behind_is_collected_although_pythons_collector_rests() -> None:
    """Each outcome is garbage in a circle once it is dropped: without that, one megabyte a run is never freed."""

    class Mark:
        pass

    async def inside() -> None:
        mark = Mark()
        mark.itself = mark  # type: ignore[attr-defined]
        mark.ballast = [[] for _ in range(GARBAGE // 5)]  # type: ignore[attr-defined]
        marks.append(weakref.ref(mark))
        kept.append(mark)

    marks: list[weakref.ref[Mark]] = []
    kept: list[Mark] = []
    for _ in range(4 * RUNS):
        play(inside)
        kept.clear()  # after the run, as somebody does who looks at its outcome
    assert sum(mark() is not None for mark in marks) < 2 * RUNS


def test_other_threads_stay_in_the_real_world() -> None:
    seen: dict[str, Any] = {}
    go, done = _thread.allocate_lock(), _thread.allocate_lock()
    go.acquire()
    done.acquire()

    def real() -> None:
        go.acquire()
        seen["time"], seen["random"] = time.time(), os.urandom(8)
        time.sleep(0.001)
        with socket.socket() as sock:
            seen["fd"] = sock.fileno()
        inner = threading.Thread(target=seen.setdefault, args=("inner", True))
        inner.start()
        inner.join()
        done.release()

    thread = threading.Thread(target=real)
    thread.start()

    async def inside() -> None:
        go.release()
        done.acquire()
        seen["simulated"] = time.time()

    assert play(inside).result == "pass"
    thread.join()
    assert seen["time"] - seen["simulated"] > 1e6 or seen["simulated"] - seen["time"] > 1e6
    assert seen["fd"] >= 0
    assert seen["inner"]


def test_one_process_holds_one_simulation_at_a_time() -> None:
    async def inside() -> None:
        with pytest.raises(RuntimeError, match="one at a time"):
            play(inside)

    assert play(inside).result == "pass"

    async def in_asyncio() -> None:
        with pytest.raises(RuntimeError, match="inside another event loop"):
            play(inside)

    asyncio.run(in_asyncio())


# -- when nothing goes on ------------------------------------------------------------------------------------


def test_a_deadlock_names_every_task_and_the_line_that_it_waits_at() -> None:
    async def forgotten() -> None:
        await asyncio.Event().wait()  # the line

    async def inside() -> None:
        asyncio.current_task().set_name("the waiter")  # type: ignore[union-attr]
        asyncio.get_running_loop().call_later(500.0, int).cancel()
        await forgotten()

    outcome = play(inside)
    line = next(
        number for number, text in enumerate(Path(__file__).read_text().splitlines(), 1) if text.endswith("# the line")
    )
    assert isinstance(outcome.error, Deadlock)
    assert "nothing can run and no timer is set" in outcome.message
    assert f"client-1: the waiter waits in {forgotten.__qualname__} ({__file__}:{line})" in outcome.message
    assert outcome.duration_s < 1.0


@pytest.mark.parametrize("how", ["tasks", "timers", "executor"])
def test_a_livelock_is_noticed_though_something_always_runs(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SimLoop, "livelock_steps", 30_000)
    monkeypatch.setattr(SimLoop, "gc_steps", 10_000)

    async def inside() -> None:
        loop = asyncio.get_running_loop()

        def again() -> None:
            loop.call_later(0.0, again)

        if how == "timers":
            again()
            await loop.create_future()
        while True:
            await (asyncio.sleep(0) if how == "tasks" else asyncio.to_thread(int))

    outcome = play(inside)
    assert outcome.result == "hang"
    assert isinstance(outcome.error, Livelock)
    assert "without time moving on" in outcome.message


# -- parts -------------------------------------------------------------------------------------------------------


def test_an_ordered_set_keeps_the_order_of_insertion_through_every_change() -> None:
    found = OrderedSet("hello world")
    assert "".join(found) == "helo wrd"
    found |= set("h") | {"!"}
    found -= set("o w")
    found.add("z")
    found.discard("missing")
    found.remove("e")
    found.update(iter("ab"), "c")
    assert "".join(found) == "hlrd!zabc"
    found &= set("hlzabc")
    found.symmetric_difference_update("hx")
    assert "".join(found) == "lzabcx"
    assert found.pop() == "l"
    assert "".join(found.copy()) == "zabcx"
    assert len(found) == 5
    assert found == set("abcxz")
    found.clear()
    assert list(found) == []
    with pytest.raises(KeyError):
        found.pop()
