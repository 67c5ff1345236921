"""Node context: through tasks, threads, executors and processes; and nothing is patched when no agent is on."""

from __future__ import annotations

import asyncio
import multiprocessing.process
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from zebra import agent
from zebra.agent import context
from zebra.agent.adapters.environ import Environ
from zebra.agent.agent import Agent
from zebra.errors import ConfigError
from zebra.spec import RunSpec

PATCHED = (
    (threading.Thread, "start"),
    (ThreadPoolExecutor, "submit"),
    (subprocess.Popen, "__init__"),
    (multiprocessing.process.BaseProcess, "start"),
    (type(os.environ), "__getitem__"),
)
ORIGINALS = [vars(owner)[name] for owner, name in PATCHED]
ADAPTER = Environ("app", {"ZEBRA_TEST_SIZE": 1})


@pytest.fixture
def running() -> Iterator[Agent]:
    found = Agent(ADAPTER)
    found.start()
    try:
        with found.run(RunSpec(target="app"), record=True):
            yield found
    finally:
        found.stop()


def who() -> str:
    """The name of whoever runs."""
    found = context.owner()
    return "" if found is None else found.name


# -- nothing without an agent ------------------------------------------------------------------------------------


def test_nothing_is_patched_unless_an_agent_is_on() -> None:
    def patched() -> list[bool]:
        return [vars(owner)[name] is not kept for (owner, name), kept in zip(PATCHED, ORIGINALS, strict=True)]

    assert not any(patched())
    found = Agent(ADAPTER)
    assert not any(patched())
    found.start()
    assert all(patched())
    found.stop()
    assert not any(patched())


def test_the_plugin_does_not_import_the_agent() -> None:
    script = "import sys, zebra.plugin; print([m for m in sys.modules if m.startswith('zebra.agent')])"
    assert show([sys.executable, "-c", script]) == "[]"


def test_marks_in_a_program_import_nothing_of_the_engine() -> None:
    script = "import sys; from zebra import agent; agent.node('a').__enter__(); print('msgspec' in sys.modules)"
    assert show([sys.executable, "-c", script]) == "False"


def test_a_mark_without_an_agent_does_nothing() -> None:
    conf = object()
    with agent.node("worker") as me:
        assert (me.name, me.receive(conf), who()) == ("", conf, "")


def test_a_second_agent_is_refused(running: Agent) -> None:
    with pytest.raises(ConfigError, match="another agent is on"):
        Agent(ADAPTER).start()


def test_what_fails_to_install_leaves_nothing_behind() -> None:
    class Broken(Environ):
        def install(self, agent: Agent) -> None:
            super().install(agent)
            raise OSError("no")

    with pytest.raises(OSError, match="no"):
        Agent(Broken("app", {"X": 1})).start()
    assert context.active is None
    assert [vars(owner)[name] for owner, name in PATCHED] == ORIGINALS


# -- who runs ----------------------------------------------------------------------------------------------------


def test_nodes_are_numbered_per_role_and_nest(running: Agent) -> None:
    with agent.node("worker") as first:
        with agent.node("client"):
            assert who() == "client-1"
        assert who() == first.name == "worker-1"
    with agent.node("worker"):
        assert who() == "worker-2"
    assert who() == "test"


def test_the_decorator_begins_a_node_with_each_call(running: Agent) -> None:
    @agent.node("worker")
    def start() -> str:
        return who()

    @agent.node("client")
    async def connect() -> str:
        await asyncio.sleep(0)
        return who()

    assert [start(), start(), asyncio.run(connect()), who()] == ["worker-1", "worker-2", "client-1", "test"]


async def everywhere() -> list[str]:
    """Who runs in all that one can start from a coroutine."""
    seen: list[str] = []
    loop, called = asyncio.get_running_loop(), asyncio.Event()

    async def task() -> str:
        return who()

    def in_loop() -> None:
        seen.append(who())
        called.set()

    def in_thread() -> None:
        seen.append(who())
        inner = threading.Thread(target=lambda: seen.append(who()))
        inner.start()
        inner.join()
        loop.call_soon_threadsafe(in_loop)

    seen.append(await asyncio.create_task(task()))
    seen.append(await loop.run_in_executor(None, who))
    seen.append(await asyncio.to_thread(who))
    thread = threading.Thread(target=in_thread)
    thread.start()
    await called.wait()
    thread.join()
    return seen


def test_tasks_threads_and_executors_are_the_node_that_started_them(running: Agent) -> None:
    async def both() -> list[list[str]]:
        found = []
        for _ in range(2):
            with agent.node("worker"):
                found.append(asyncio.create_task(everywhere()))
        return [await task for task in found]

    assert asyncio.run(both()) == [["worker-1"] * 6, ["worker-2"] * 6]


def test_a_server_answers_as_the_node_that_listens(running: Agent) -> None:
    """The handler of a connection runs as the server, not as the client that connects from the same process."""

    async def main() -> bytes:
        async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(who().encode())
            writer.close()

        with agent.node("server"):
            server = await asyncio.start_server(answer, "127.0.0.1", 0)
        async with server:
            with agent.node("client"):
                reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
                said = await reader.read()
                writer.close()
                return said

    assert asyncio.run(main()) == b"server-1"


def test_jobs_of_a_shared_pool_are_those_who_submitted_them(running: Agent) -> None:
    with ThreadPoolExecutor(1) as pool:
        names = []
        for role in ("worker", "client"):
            with agent.node(role):
                names.append(pool.submit(who).result())
        names.append(pool.submit(who).result())
    assert names == ["worker-1", "client-1", "test"]


def test_a_thread_that_nobody_known_started_is_uncertain() -> None:
    asked, said = threading.Event(), list[str]()

    def wait_and_say() -> None:
        asked.wait()
        said.append(who())

    thread = threading.Thread(target=wait_and_say)
    thread.start()
    found = Agent(ADAPTER)
    found.start()
    try:
        with found.run(RunSpec(target="app"), record=True):
            asked.set()
            thread.join()
    finally:
        found.stop()
    assert said == ["?"]


# -- processes ---------------------------------------------------------------------------------------------------

SHOW = "import os; print(os.environ.get('ZEBRA_NODE'), os.path.exists(os.environ.get('ZEBRA_RUN', '')))"


def show(command: list[str]) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def test_a_process_inherits_the_identity_of_the_node_that_started_it(running: Agent) -> None:
    assert show([sys.executable, "-c", SHOW]) == "None False"
    with agent.node("worker"):
        assert show([sys.executable, "-c", SHOW]) == "worker-1 True"
        given = subprocess.run([sys.executable, "-c", SHOW], env={"A": "b"}, capture_output=True, text=True, check=True)
        assert given.stdout.strip() == "worker-1 True"
    assert "ZEBRA_NODE" not in os.environ


def test_asyncios_processes_inherit_it_too(running: Agent) -> None:
    async def main() -> bytes:
        with agent.node("worker"):
            process = await asyncio.create_subprocess_exec(sys.executable, "-c", SHOW, stdout=subprocess.PIPE)
            return (await process.communicate())[0].strip()

    assert asyncio.run(main()) == b"worker-1 True"


def _say(queue: multiprocessing.SimpleQueue[str]) -> None:
    queue.put(os.environ.get("ZEBRA_NODE", ""))


@pytest.mark.parametrize("method", ["spawn", "fork"])
def test_multiprocessing_inherits_it_too(running: Agent, method: str) -> None:
    made: Any = multiprocessing.get_context(method)
    queue = made.SimpleQueue()
    with agent.node("worker"):
        process = made.Process(target=_say, args=(queue,))
        process.start()
    assert queue.get() == "worker-1"
    process.join()
    assert "ZEBRA_NODE" not in os.environ


PROGRAM = """
import os, sys
sys.path.insert(0, {folder!r})
from zebra import agent
print(agent.join(), os.environ["ZEBRA_TEST_SIZE"])
"""


def test_a_process_that_joins_reads_its_nodes_values_and_tells_what_it_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = "from zebra.agent.adapters.environ import Environ\nADAPTER = Environ('app', {'ZEBRA_TEST_SIZE': 1})\n"
    (tmp_path / "its_adapter.py").write_text(module)
    program = tmp_path / "program.py"
    program.write_text(PROGRAM.format(folder=str(tmp_path)))
    monkeypatch.setenv("ZEBRA_TEST_SIZE", "1")
    spec = RunSpec(target="its_adapter:ADAPTER", assignment={"app.ZEBRA_TEST_SIZE": {"*": 1, "worker:even": 2}})
    found = Agent(ADAPTER)
    found.start()
    try:
        with found.run(spec, record=True):
            said = []
            for _ in range(2):
                with agent.node("worker"):
                    said.append(show([sys.executable, str(program)]))
        left = found.directory
    finally:
        found.stop()
    assert said == ["worker-1 1", "worker-2 2"]
    assert {(r.node, r.value, Path(r.site.partition(":")[0]).name) for r in found.reads} == {
        ("worker-1", 1, "program.py"), ("worker-2", 2, "program.py")}  # fmt: skip
    assert left is not None and not left.exists()


def test_joining_without_being_started_by_a_node_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("ZEBRA_NODE", raising=False)
    assert agent.join() == ""
    monkeypatch.setenv("ZEBRA_NODE", "worker-1")
    monkeypatch.setenv("ZEBRA_RUN", str(tmp_path / "gone.json"))
    with pytest.raises(ConfigError, match=r"gone\.json: not the RunSpec"):
        agent.join()
