"""What nodes write is kept and shown when a run fails, and never when it passes."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any

import msgspec
import pytest

from zebra import Cluster, Event, Node, Param, RunSpec, Target, Topology, invariant, run
from zebra.outcome import Outcome
from zebra.substrate.process import SUBSTRATE
from zebra.substrate.process.running import OUTPUT_BYTES_MAX

pytestmark = pytest.mark.skipif(bool(SUBSTRATE.unavailable()), reason=SUBSTRATE.unavailable())

TESTS = """
import pytest
from test_output import target

@pytest.mark.zebra(target("chatty"))
async def test_that_passes(cluster):
    await cluster.client.tell("speaker-1", "nobody reads this")

@pytest.mark.parametrize("word", ["a/b"])
@pytest.mark.zebra(target("chatty"))
async def test_that_fails(cluster, word):
    await cluster.client.tell("speaker-2", *("line %d" % number for number in range(9)))
    assert cluster.config.word == word
"""


class Config(msgspec.Struct, frozen=True, kw_only=True):
    word: Annotated[str, Param("other", "third")] = "one"


class Speaker:
    """Writes what it is told to stdout, and the last of it to stderr."""

    def __init__(self, node: Node[Config]) -> None:
        self.node = node

    async def run(self) -> None:
        await asyncio.start_server(self.serve, None, 9)
        await self.node.ready()
        await asyncio.Event().wait()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        text = (await reader.read()).decode()
        print(text)
        print(text.rpartition("\n")[2].upper(), file=sys.stderr)
        self.node.emit("spoken", word=self.node.config.word, of="speaker-1")
        writer.write(self.node.config.word.encode())
        writer.close()


class Client:
    def __init__(self, node: Node[Config]) -> None:
        self.node = node

    async def tell(self, name: str, *lines: str) -> str:
        reader, writer = await asyncio.open_connection(name, 9)
        writer.write("\n".join(lines).encode())
        writer.write_eof()
        said = await reader.read()
        writer.close()
        return said.decode()


@invariant("chatty.silence", on="spoken")
class Silence:
    """Nobody speaks."""

    def check(self, event: Event) -> str:
        return "somebody spoke"


def target(name: str, **more: Any) -> Target:
    return Target(name=name, config=Config, roles={"speaker": Speaker}, client=Client,
                  topology=Topology(counts={"speaker": 3}), **more)  # fmt: skip


def go(scenario: Any, output: Path, timeout_s: float = 30.0, **more: Any) -> Outcome:
    spec = RunSpec(target="chatty", substrate="process", timeout_s=timeout_s)
    return run(scenario, spec, target=target("chatty", **more), output=output)


def test_of_a_plain_failure_all_that_wrote_are_shown_by_a_few_lines_and_kept_whole(tmp_path: Path) -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.client.tell("speaker-1", "one", "two", "three", "four", "five", "six")
        await cluster.client.tell("speaker-2", "seven")
        raise AssertionError("as planned")

    outcome = go(scenario, tmp_path / "kept")
    assert set(outcome.outputs) == {"speaker-1", "speaker-2"}
    assert outcome.outputs["speaker-1"].splitlines() == [
        "stdout: three", "stdout: four", "stdout: five", "stdout: six", "stderr: SIX",
    ]  # fmt: skip
    assert outcome.output == tmp_path / "kept"
    assert f"output of all nodes: {tmp_path / 'kept'}" in outcome.explain()
    kept = {path.name: path.read_text() for path in outcome.output.iterdir()}
    assert kept == {
        "speaker-1.stdout": "one\ntwo\nthree\nfour\nfive\nsix\n", "speaker-1.stderr": "SIX\n",
        "speaker-2.stdout": "seven\n", "speaker-2.stderr": "SEVEN\n",
    }  # fmt: skip


def test_of_a_violation_the_nodes_that_its_evidence_names_are_shown(tmp_path: Path) -> None:
    async def scenario(cluster: Cluster) -> None:
        for node in ("speaker-1", "speaker-2", "speaker-3"):
            await cluster.client.tell(node, f"I am {node}")
        await asyncio.sleep(20)

    outcome = go(scenario, tmp_path / "kept", invariants=(Silence,))
    assert outcome.violation is not None
    assert outcome.outputs == {"speaker-1": "stdout: I am speaker-1\nstderr: I AM SPEAKER-1"}


def test_of_a_hang_the_output_is_kept_and_only_the_end_of_what_is_too_long(tmp_path: Path) -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.client.tell("speaker-1", *("x" * 1023 for _ in range(1500)), "the end")
        await asyncio.sleep(20)

    outcome = go(scenario, tmp_path / "kept", timeout_s=1.0)
    assert outcome.result == "hang"
    kept = (tmp_path / "kept" / "speaker-1.stdout").read_bytes()
    assert OUTPUT_BYTES_MAX - 1024 < len(kept) <= OUTPUT_BYTES_MAX
    assert kept.startswith(b"x" * 1023 + b"\n")
    assert kept.endswith(b"\nthe end\n")
    assert "the end" in outcome.outputs["speaker-1"]


def test_of_a_run_that_passes_nothing_is_kept(tmp_path: Path) -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.client.tell("speaker-1", "hello")

    outcome = go(scenario, tmp_path / "kept")
    assert outcome.result == "pass", outcome.explain()
    assert not outcome.outputs and outcome.output is None and not (tmp_path / "kept").exists()


def pytest_in(folder: Path, text: str, *options: str) -> tuple[str, list[str]]:
    """What a session prints, and the files below its folder of outputs."""
    (folder / "test_it.py").write_text(text)
    plain = [sys.executable, "-m", "pytest", "-p", "zebra", "-p", "no:cacheprovider", "test_it.py"]
    environment = {**os.environ, "PYTHONPATH": os.path.dirname(__file__)}
    command = [*plain, "--zebra-substrate=process", *options]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    kept = folder / "zebra-report" / "output"
    return done.stdout + done.stderr, sorted(str(path.relative_to(kept)) for path in kept.rglob("*.std*"))


@pytest.mark.parametrize("workers", ["", "-n2"])
def test_a_session_keeps_the_output_of_failed_tests_and_says_where(tmp_path: Path, workers: str) -> None:
    stale = tmp_path / "zebra-report" / "output" / "stale"
    stale.mkdir(parents=True)
    (stale / "node.stdout").touch()
    if workers:
        pytest.importorskip("xdist")
    said, kept = pytest_in(tmp_path, TESTS, *filter(None, [workers]))
    assert "1 failed, 1 passed" in said
    name = "test_it.py_test_that_fails_a_b_"
    assert kept == [f"{name}/speaker-2.stderr", f"{name}/speaker-2.stdout"]
    assert f"output of all nodes: zebra-report/output/{name}" in said
    assert "stdout: line 8" in said and "stdout: line 1\n" not in said


CAMPAIGN = """
import pytest
from test_output import target

@pytest.mark.zebra(target("chatty"), speaker=2)
async def test_words(cluster):
    words = {await cluster.client.tell(node, "hello") for node in ("speaker-1", "speaker-2")}
    assert len(words) == 1
"""


def test_a_campaign_keeps_the_output_of_runs_that_are_evidence_alone(tmp_path: Path) -> None:
    said, kept = pytest_in(tmp_path, CAMPAIGN, "--zebra-campaign")
    assert "unsafe and not accepted: chatty.word" in said
    files = [f"chatty.word/speaker-{number}.{stream}" for number in (1, 2) for stream in ("stderr", "stdout")]
    assert kept == files
    assert "output of all nodes in the failing run of chatty.word: zebra-report/output/chatty.word" in said
    assert (tmp_path / "zebra-report" / "output" / kept[-1]).read_text() == "hello\n"
