"""What is the substrate docker's own: images, networks, what the engine sees, and how nodes begin and end."""

from __future__ import annotations

import asyncio
import dataclasses
import io
import os
import signal
import socket
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

import zebra
from tests.docker import engines
from zebra import Cluster, Outcome, RunSpec, Target, Topology, run
from zebra.errors import ConfigError
from zebra.substrate.docker import SUBSTRATE, route
from zebra.substrate.docker.engine import EngineSocket, socket_path
from zebra.substrate.docker.filesystem import empty_layer, outermost, source_root
from zebra.testing import EchoClient, EchoConfig, EchoServer

pytestmark = engines.needs_engine

TARGET = Target(name="echo", config=EchoConfig, roles={"server": EchoServer}, client=EchoClient,
                topology=Topology(counts={"server": 1}))  # fmt: skip


def on_docker(scenario: Any, target: Target = TARGET, **spec: Any) -> Outcome:
    return run(
        scenario, RunSpec(test="test", target=target.name, substrate="docker", timeout_s=60, **spec), target=target
    )


async def talk(cluster: Cluster) -> None:
    for server in cluster.nodes("server"):
        assert (await cluster.client.say(server, "hello")).text == "hello"


def containers(cluster: Cluster) -> dict[str, dict[str, Any]]:
    """What the engine says of the run's containers, by node."""
    session = cluster._running.ground.directory.parent.name  # type: ignore[attr-defined]
    run_name = cluster._running.ground.directory.name  # type: ignore[attr-defined]
    names = {node: f"{session}-{run_name}-{node}" for node in cluster.nodes("server")}
    return {node: engines.ask("GET", f"/containers/{name}/json")[1] for node, name in names.items()}


# -- images and what they hold -----------------------------------------------------------------------------------


def test_a_role_that_no_other_process_can_import_is_refused_in_one_line() -> None:
    class Local(EchoServer):
        pass

    target = dataclasses.replace(TARGET, roles={"server": Local})
    with pytest.raises(
        ConfigError, match=r"role server is .*<locals>.Local, which no other process can import: define"
    ):
        on_docker(talk, target)


def test_an_image_that_is_not_there_is_refused_in_one_line() -> None:
    with pytest.raises(ConfigError, match="image zebra-test-none:1 is not on this machine, get it with `docker pull`"):
        on_docker(talk, dataclasses.replace(TARGET, images={"server": "zebra-test-none:1"}))


def test_the_option_names_an_image_and_a_session_without_it_does_not_begin(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--pyargs", "zebra.targets.owl"]
    options = ["--zebra-substrate=docker", "--zebra-docker-image=zebra-test-none:1"]
    result = subprocess.run([*command, *options], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == pytest.ExitCode.USAGE_ERROR
    assert "zebra: substrate docker is not available here: image zebra-test-none:1 is not on" in result.stderr


def test_an_image_without_python_is_refused_in_one_line() -> None:
    with engines.empty_image("zebra-test-empty:1") as image:
        outcome = on_docker(talk, dataclasses.replace(TARGET, images={"server": image}))
    assert outcome.result == "infrastructure"
    assert "python3" in outcome.message and "\n" not in outcome.message


@pytest.fixture(scope="module")
def python_image() -> Iterator[str]:
    """An image that has this Python, msgspec and zebra, and nothing else of this machine."""
    home, version = Path(sys.base_prefix), f"python{sys.version_info.major}.{sys.version_info.minor}"
    skip = {"test", "idlelib", "tkinter", "ensurepip", "lib2to3", "site-packages", "turtledemo", "pydoc_data"}
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        with tarfile.open(fileobj=io.BytesIO(empty_layer())) as links:
            for link in links:
                tar.addfile(link)
        binary = Path(os.path.realpath(sys.executable))
        tar.add(binary, str(binary)[1:])
        library = home / "lib" / version
        for entry in library.iterdir():
            if entry.name not in skip and not entry.name.startswith("config-"):
                tar.add(entry, str(entry)[1:], filter=lambda t: None if t.name.endswith("/test") else t)
        for package in (Path(msgspec.__file__).parent, Path(zebra.__file__).parent):
            inside = str(library / "site-packages" / package.name)[1:]
            for file in package.rglob("*.py*"):
                if "toxiproxy" not in file.parts:
                    tar.add(file, f"{inside}/{file.relative_to(package)}")
            for file in package.glob("*.so"):
                tar.add(file, f"{inside}/{file.name}")
        modules = [
            str(path) for path in (*library.glob("lib-dynload/*.so"), *Path(msgspec.__file__).parent.glob("*.so"))
        ]
        said = subprocess.run(["ldd", str(binary), *modules], capture_output=True, text=True, check=False).stdout
        wanted = {
            word for line in said.splitlines() for word in line.split() if word.startswith("/") and ":" not in word
        }
        for path in sorted(wanted):
            real = os.path.realpath(os.path.dirname(path)) + "/" + os.path.basename(path)
            tar.add(os.path.realpath(path), real[1:])
        python = tarfile.TarInfo("usr/bin/python3")
        python.type, python.linkname = tarfile.SYMTYPE, str(binary)
        tar.addfile(python)
    engine = EngineSocket(socket_path())
    path = "/images/create?fromSrc=-&repo=zebra-test-python&tag=1"
    status, answer = engine.ask("POST", path, archive.getvalue(), "application/x-tar")
    engine.close()
    assert status == 200, answer
    yield "zebra-test-python:1"
    engines.ask("DELETE", "/images/zebra-test-python:1?force=true")


def test_nodes_run_in_an_image_of_the_users(python_image: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = {}

    async def look(cluster: Cluster) -> None:
        await talk(cluster)
        seen.update(containers(cluster)["server-1"])

    monkeypatch.setenv("ZEBRA_DOCKER_IMAGE", python_image)
    on_docker(look).raise_failure()
    assert seen["Config"]["Image"] == python_image
    assert [mount["RW"] for mount in seen["Mounts"] if mount["Type"] == "bind"] == [True]


class Lost(EchoServer):
    """A role of this file, which the image does not have."""


def test_what_an_image_cannot_import_is_refused_in_one_line(python_image: str) -> None:
    outcome = on_docker(talk, dataclasses.replace(TARGET, roles={"server": Lost}, images={"server": python_image}))
    assert outcome.result == "crash"
    assert "server-1 cannot run: its role" in outcome.message
    assert "cannot be imported in its container (No module named" in outcome.message and "\n" not in outcome.message


def test_roles_of_a_test_file_run_where_nothing_is_installed() -> None:
    on_docker(talk, dataclasses.replace(TARGET, roles={"server": Lost})).raise_failure()


def test_only_the_outermost_directories_are_mounted() -> None:
    assert outermost(["/a/b/c", "/a/b", "/a/bc", "/a/b/", "/d"]) == ["/a/b", "/a/bc", "/d"]
    assert source_root(Lost) == str(Path(__file__).parents[Lost.__module__.count(".")])
    assert source_root(str) == ""


# -- networks ----------------------------------------------------------------------------------------------------


class Prober(EchoServer):
    """Says what becomes of a connection to an address that is no node's name."""

    async def probe(self, address: str, port: int) -> str:
        try:
            await asyncio.to_thread(socket.create_connection, (address, port), 1.0)
        except OSError as error:
            return type(error).__name__
        return "connected"


def test_each_datacenter_has_a_network_and_nodes_reach_each_other_through_the_proxy_alone() -> None:
    target = dataclasses.replace(TARGET, roles={"server": Prober}, topology=Topology(counts={"server": 3}, dcs=2))
    seen: dict[str, dict[str, Any]] = {}

    async def scenario(cluster: Cluster) -> None:
        await talk(cluster)
        seen.update(containers(cluster))
        addresses = {
            node: next(iter(found["NetworkSettings"]["Networks"].values()))["IPAddress"] for node, found in seen.items()
        }
        for other in ("server-2", "server-3"):
            assert await cluster._running.call("server-1", "probe", addresses[other], 7000) == "TimeoutError"

    on_docker(scenario, target).raise_failure()
    networks = {node: list(found["NetworkSettings"]["Networks"]) for node, found in seen.items()}
    assert networks["server-1"] == networks["server-3"] != networks["server-2"]
    for found in seen.values():
        assert found["Config"]["Labels"]["zebra.session"].startswith("zebra-")
        assert found["Config"]["Labels"]["zebra.run"].startswith("run-")


def test_who_may_not_make_a_route_lets_a_container_make_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def adopt(*_: Any) -> None:
        raise PermissionError

    adopt.__module__ = route.__name__
    monkeypatch.setattr("zebra.substrate.docker.running.adopt", adopt)
    on_docker(talk).raise_failure()


def test_a_session_whose_directory_has_a_long_name_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from zebra.injection import warden

    long = tmp_path / ("x" * 120)
    long.mkdir()
    monkeypatch.setenv("TMPDIR", str(long))
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.setattr(warden, "_current", None)
    on_docker(talk).raise_failure()
    monkeypatch.setattr("tempfile.tempdir", None)


# -- how nodes end -----------------------------------------------------------------------------------------------


def signalled(number: signal.Signals) -> tuple[Outcome, list[str]]:
    """What becomes of a run whose server somebody else sends a signal, by the engine."""

    async def scenario(cluster: Cluster) -> None:
        await talk(cluster)
        container = containers(cluster)["server-1"]["Id"]
        assert engines.ask("POST", f"/containers/{container}/kill?signal={number.name}")[0] == 204
        await cluster.event("node.exit", within=10)

    outcome = on_docker(scenario)
    return outcome, [str(event["error"]) for event in outcome.history.of("node.exit")]


def test_a_container_that_somebody_kills_is_a_crash_that_says_so() -> None:
    outcome, errors = signalled(signal.SIGKILL)
    assert outcome.result == "crash"
    assert "server-1 ended unexpectedly (killed by SIGKILL)" in outcome.message
    assert len(errors) == 1


def test_a_container_that_is_asked_to_stop_does() -> None:
    outcome, errors = signalled(signal.SIGTERM)
    assert outcome.result == "pass", outcome.message
    assert errors == [""]


class Leaver(EchoServer):
    """Leaves by itself."""

    async def leave(self, status: int) -> None:
        asyncio.get_running_loop().call_soon(os._exit, status)


def test_an_exit_status_is_told() -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster._running.call("server-1", "leave", 3)
        await cluster.event("node.exit", within=10)

    outcome = on_docker(scenario, dataclasses.replace(TARGET, roles={"server": Leaver}))
    assert outcome.result == "crash"
    assert "server-1 ended unexpectedly (exit status 3)" in outcome.message


class Printer(EchoServer):
    """Says what it does."""

    async def run(self) -> None:
        print(f"{self.node.name} begins", flush=True)
        await super().run()


def test_what_a_node_prints_is_kept_when_the_run_fails(tmp_path: Path) -> None:
    async def scenario(cluster: Cluster) -> None:
        raise AssertionError("as planned")

    spec = RunSpec(test="test", target="echo", substrate="docker", timeout_s=60)
    outcome = run(
        scenario, spec, target=dataclasses.replace(TARGET, roles={"server": Printer}), output=tmp_path / "out"
    )
    assert outcome.result == "fail"
    assert [path.read_text() for path in (tmp_path / "out").glob("server-1.stdout")] == ["server-1 begins\n"]


def test_a_machine_without_an_engine_says_why(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none")
    assert "no engine answers" in SUBSTRATE.unavailable()
    monkeypatch.setenv("DOCKER_HOST", "tcp://127.0.0.1:1")
    assert "the engine must be on this machine" in SUBSTRATE.unavailable()
    with pytest.raises(ConfigError, match="substrate docker is not available here"):
        on_docker(talk)
