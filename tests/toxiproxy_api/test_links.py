"""`--zebra-toxiproxy`: what links suffer is done by a Toxiproxy server, ours and, where there is one, a real one."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests import link_effects
from tests.cases import SOON_S, at
from tests.link_effects import A, B, seen, until_ended, until_got
from zebra import Cluster, RunSpec, Target, Topology, run
from zebra.errors import ConfigError, ExitCode, Infrastructure
from zebra.injection.ledger import outstanding
from zebra.injection.warden import warden
from zebra.substrate.process import SUBSTRATE
from zebra.substrate.process.remote import LACKS
from zebra.substrate.process.toxiproxy import PREFIX, TOXIPROXY, reap, server_at

pytestmark = pytest.mark.skipif(bool(SUBSTRATE.unavailable()), reason=SUBSTRATE.unavailable())
ROOT = Path(__file__).parents[2]


class Peer(link_effects.Peer):
    """Without a datagram port: Toxiproxy carries none."""

    async def run(self) -> None:
        self.server = await asyncio.start_server(self.serve, None, link_effects.PORT)
        await self.node.ready()
        await asyncio.Event().wait()


@pytest.fixture(params=["api", "real"])
def server(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    found = request.getfixturevalue(request.param)
    for name in names(found):  # other tests of the session share the real one
        found.ok("DELETE", f"/proxies/{name}")
    monkeypatch.setenv(TOXIPROXY, f"http://127.0.0.1:{found.port}")
    return found


@pytest.fixture
def ours(api: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv(TOXIPROXY, f"http://127.0.0.1:{api.port}")
    return api


def passes(scenario: Any, role: type = Peer) -> Any:
    target = Target(name="links", config=link_effects.Config, roles={"peer": role}, client=role,
                    topology=Topology(counts={"peer": 3}))  # fmt: skip
    outcome = run(scenario, RunSpec(target="links", substrate="process", timeout_s=60), target=target)
    outcome.raise_failure()
    return outcome


def names(server: Any) -> list[str]:
    return sorted(server.ok("GET", "/proxies"))


async def fresh(cluster: Cluster) -> None:
    """A new connection from A to B, and something that came through it."""
    before = len((await seen(cluster))[0])
    assert await at(cluster, A, "connect", B) == "connected"
    await at(cluster, A, "send", b"fresh")
    await until_got(cluster, before + 5)


# -- what the server does ----------------------------------------------------------------------------------------


def test_each_pair_has_a_proxy_on_the_server_while_the_run_lasts(server: Any) -> None:
    before = names(server)

    async def scenario(cluster: Cluster) -> None:
        await fresh(cluster)
        await fresh(cluster)
        await at(cluster, B, "connect", A)
        made = [server.ok("GET", "/proxies")[name] for name in names(server) if name not in before]
        assert len(made) == 2
        assert all(each["name"].startswith(PREFIX) and each["enabled"] for each in made)
        assert {each["listen"].split(".")[0] for each in made} == {"127"}

    passes(scenario)
    assert names(server) == before


def test_latency_comes_and_goes_on_a_connection_that_is_open(server: Any) -> None:
    async def scenario(cluster: Cluster) -> None:
        await fresh(cluster)
        async with cluster.fault("network.latency", B, delay="250ms", jitter="50ms") as latency:
            began_s = cluster.now
            await at(cluster, A, "send", b"late")
            await until_got(cluster, 9)
            assert cluster.now - began_s >= 0.24
            assert latency.hits == 1
            [toxics] = [each["toxics"] for each in server.ok("GET", "/proxies").values()]
            assert sorted((each["stream"], each["attributes"]["latency"]) for each in toxics) == [
                ("downstream", 275), ("upstream", 275)
            ]  # fmt: skip
        assert [each["toxics"] for each in server.ok("GET", "/proxies").values()] == [[]]
        took_s = []
        for number in range(10, 15):
            began_s = cluster.now
            await at(cluster, A, "send", b"x")
            await until_got(cluster, number)
            took_s.append(cluster.now - began_s)
        assert min(took_s) < 0.24

    passes(scenario)


def test_a_new_pair_is_under_the_faults_that_are_on(server: Any) -> None:
    async def scenario(cluster: Cluster) -> None:
        async with cluster.fault("network.latency", B, delay="300ms") as latency:
            began_s = cluster.now
            await fresh(cluster)
            assert cluster.now - began_s >= 0.29
        assert latency.hits == 1

    passes(scenario)


def test_a_blackhole_passes_nothing_and_a_timeout_closes(server: Any) -> None:
    async def scenario(cluster: Cluster) -> None:
        async with cluster.fault("network.blackhole", B):
            assert await at(cluster, A, "connect", B) == "connected"
            await at(cluster, A, "send", b"lost")
            assert await at(cluster, A, "ending", SOON_S) == "TimeoutError"
        assert await at(cluster, A, "ending") in ("end", "ConnectionResetError")
        assert (await seen(cluster))[0] == b""
        async with cluster.fault("network.timeout", B, after="200ms"):
            assert await at(cluster, A, "connect", B) == "connected"
            await at(cluster, A, "send", b"lost")
            assert await at(cluster, A, "ending") in ("end", "ConnectionResetError")
        await fresh(cluster)
        assert (await seen(cluster))[0] == b"fresh"

    passes(scenario)


def test_a_partition_that_rejects_takes_links_down_and_up(server: Any) -> None:
    async def scenario(cluster: Cluster) -> None:
        await fresh(cluster)
        async with cluster.fault("network.partition", B, how="reject"):
            assert await at(cluster, A, "ending") in ("end", "ConnectionResetError")
            assert await at(cluster, A, "connect", B) == "ConnectionRefusedError"
            assert await at(cluster, A, "connect", "peer-3") == "connected"
        await fresh(cluster)

    passes(scenario)


def test_resets_limits_slices_and_slow_closes(server: Any) -> None:
    async def scenario(cluster: Cluster) -> None:
        async with cluster.fault("network.data_limit", B, limit_bytes=10) as limit:
            await at(cluster, A, "connect", B)
            await at(cluster, A, "send", b"0123456789abc")
            await until_ended(cluster)
            assert (await seen(cluster))[0] == b"0123456789"
            assert limit.hits == 1
        async with cluster.fault("network.slow_close", B, delay="400ms"):
            await at(cluster, A, "connect", B)
            await at(cluster, A, "send", b"last", True)
            [_, (_, ended_s)] = await until_ended(cluster, 2)
            assert ended_s - (await seen(cluster))[1][-1][1] >= 0.39
        async with cluster.fault("network.slicing", B, piece_bytes=10, apart="20ms") as slices:
            await at(cluster, A, "connect", B)
            began_s = cluster.now
            await at(cluster, A, "send", b"x" * 100)
            await until_got(cluster, 114)
            assert cluster.now - began_s >= 0.02 * 9 * 0.9
            assert slices.hits == 1
        async with cluster.fault("network.reset", B):
            await at(cluster, A, "connect", B)
            await at(cluster, A, "send", b"hello")
            assert await at(cluster, A, "ending") in ("end", "ConnectionResetError")
        await fresh(cluster)

    passes(scenario)


def test_a_crash_is_silent_and_the_node_comes_back(server: Any) -> None:
    async def scenario(cluster: Cluster) -> None:
        await fresh(cluster)
        async with cluster.fault("host.crash", B):
            assert await at(cluster, A, "connect", B, SOON_S) == "TimeoutError"
        await fresh(cluster)

    passes(scenario)


def test_a_server_that_goes_away_makes_the_run_one_that_says_nothing(
    serve: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ExitStack() as stack:
        api = stack.enter_context(serve())
        monkeypatch.setenv(TOXIPROXY, f"http://127.0.0.1:{api.port}")

        async def scenario(cluster: Cluster) -> None:
            await fresh(cluster)
            await asyncio.to_thread(stack.close)
            assert await at(cluster, A, "ending") in ("end", "ConnectionResetError")
            await cluster.inject("network.latency", B, delay="10ms")

        with pytest.raises(Infrastructure, match=r"^toxiproxy at http://127\.0\.0\.1:\d+: .*refused"):
            passes(scenario)
    assert not [entry for entry in outstanding(warden().ledger.path) if entry["kind"] == "proxy"], "gone with it"


# -- hits, and what cannot be had --------------------------------------------------------------------------------


def test_a_toxic_that_nothing_passed_is_never_hit(ours: Any) -> None:
    cases: list[tuple[str, dict[str, Any]]] = [
        ("network.slicing", {"piece_bytes": 1000}), ("network.data_limit", {"limit_bytes": 1000}),
        ("network.slow_close", {"delay": "1s"}), ("network.partition", {"how": "reject"}),
    ]  # fmt: skip

    async def scenario(cluster: Cluster) -> None:
        await fresh(cluster)
        for name, settings in cases[:3]:
            fault = await cluster.inject(name, B, **settings)
            await at(cluster, A, "send", b"short")
            await until_got(cluster, 10)
            await cluster.heal(fault)
            assert (name, fault.hits, fault.took_effect) == (name, 0, False)
        idle = await cluster.inject("network.latency", "peer-3", delay="1s")
        await cluster.heal(idle)
        assert not idle.took_effect

    with pytest.raises(Exception, match="no effect: "):
        passes(scenario)


@pytest.mark.parametrize(
    ("name", "settings", "why"),
    [
        ("network.partition", {}, "how=reject can be had"),
        ("network.partition", {"how": "reject", "direction": "in"}, "takes a proxy down both ways"),
        ("network.partition", {"how": "reject", "connections": "new"}, "down with all its connections"),
        ("network.loss", {"probability": 0.1}, "no toxic that loses packets"),
        ("network.duplicate", {"probability": 0.1}, "no datagrams"),
        ("network.reorder", {"probability": 0.1}, "no datagrams"),
        ("network.corruption", {"probability": 0.1}, "no toxic that changes data"),
        ("network.connection_limit", {"limit": 1}, "no limit of connections"),
        ("network.bandwidth", {"rate": "1MB/s"}, "one connection's"),
        ("network.reset", {"probability": 0.5}, "resets connections, not at messages"),
        ("network.latency", {"delay": "10us"}, "counts in whole milliseconds"),
    ],
)
def test_what_the_server_lacks_is_refused_in_one_line(ours: Any, name: str, settings: dict[str, Any], why: str) -> None:
    async def scenario(cluster: Cluster) -> None:
        with pytest.raises(ConfigError, match=f"^toxiproxy .*{why}") as raised:
            await cluster.inject(name, B, **settings)
        assert "\n" not in str(raised.value)

    with pytest.raises(Exception, match="no effect: "):
        passes(scenario)


def test_a_target_with_datagrams_is_refused_as_faults_would_not_hit_them(ours: Any) -> None:
    async def scenario(cluster: Cluster) -> None:
        with pytest.raises(ConfigError, match="carries no datagrams, which peer-"):
            await cluster.inject("network.latency", B, delay="10ms")

    with pytest.raises(Exception, match="no effect: "):
        passes(scenario, link_effects.Peer)


def test_every_argument_is_done_or_refused() -> None:
    from zebra.doctor import arguments_of

    done = {"reject", "latency_s", "jitter_s", "after_s", "reset", "hold", "timeout_s", "close_s", "slice_bytes",
            "slice_s", "limit_bytes", "on"}  # fmt: skip
    assert done | LACKS.keys() == set(arguments_of("links"))


# -- the option --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("127.0.0.1:8474", "is no URL of a server"), ("http://127.0.0.1", "is no URL of a server"),
        ("https://127.0.0.1:8474", "is no URL of a server"), ("http://127.0.0.1:99999", "is no URL of a server"),
        ("http://192.0.2.1:8474", "is not on this machine's loopback"),
        ("http://example.com:8474", "is not on this machine's loopback"),
    ],
)  # fmt: skip
def test_a_url_that_cannot_be_used_is_refused(url: str, why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        server_at(url)


def test_nobody_or_somebody_else_at_the_url_is_refused() -> None:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        sock.listen()
        port = sock.getsockname()[1]
    with pytest.raises(ConfigError, match="nobody answers at"):
        server_at(f"http://127.0.0.1:{port}")


TEST = """
import pytest
from tests import link_effects
from tests.cases import at
from tests.toxiproxy_api.test_links import Peer
from zebra import Target, Topology

TARGET = Target(name="links", config=link_effects.Config, roles={"peer": Peer}, client=Peer,
                topology=Topology(counts={"peer": 2}))

@pytest.mark.zebra(TARGET)
async def test_it(cluster):
    async with cluster.fault("network.latency", "peer-2", delay="200ms"):
        began_s = cluster.now
        await at(cluster, "peer-1", "connect", "peer-2")
        await at(cluster, "peer-1", "send", b"hello")
        await link_effects.until_got(cluster, 5, "peer-2")
        assert cluster.now - began_s >= 0.19
"""


LOSSY = TEST.replace('"network.latency", "peer-2", delay="200ms"', '"network.loss", "peer-2", probability=0.5')


def python_here(directory: Path, *arguments: str, test: str = TEST) -> subprocess.CompletedProcess[str]:
    (directory / "test_it.py").write_text(test)
    environment = {key: value for key, value in os.environ.items() if key != TOXIPROXY}
    environment["PYTHONPATH"] = str(ROOT)
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=directory, capture_output=True, text=True, env=environment)


def pytest_here(directory: Path, *options: str) -> subprocess.CompletedProcess[str]:
    plugins = ["-p", "zebra", "-p", "no:cacheprovider"]
    return python_here(directory, "-m", "pytest", *plugins, "-q", "--rootdir", str(directory), *options)


def test_a_whole_session_uses_the_server(tmp_path: Path, server: Any) -> None:
    url = f"http://127.0.0.1:{server.port}"
    made = server.ok("POST", "/proxies", {"name": "theirs", "listen": "127.0.0.1:0", "upstream": "127.0.0.1:1"})
    done = pytest_here(tmp_path, "--zebra-substrate=process", f"--zebra-toxiproxy={url}")
    assert done.returncode == 0, done.stdout
    assert "none left" in done.stdout
    assert server.ok("GET", "/proxies") == {"theirs": made}
    server.ok("DELETE", "/proxies/theirs")
    history = (tmp_path / "zebra-report" / "history.jsonl").read_text()
    assert '"took_effect":true' in history.replace(" ", "")


def test_the_option_is_refused_in_one_line_where_it_cannot_be_used(tmp_path: Path, api: Any) -> None:
    for options, why in (
        ([f"--zebra-toxiproxy=http://127.0.0.1:{api.port}"], "it needs the substrate process, this is sim"),
        (["--zebra-toxiproxy=http://10.0.0.1:8474", "--zebra-substrate=process"], "is not on this machine's loopback"),
    ):
        done = pytest_here(tmp_path, *options)
        assert done.returncode == 4
        assert why in done.stderr
        assert "Traceback" not in done.stderr


def test_a_token_is_replayed_over_the_server(tmp_path: Path, server: Any, api: Any) -> None:
    def replay(substrate: str, url: str, test: str = TEST) -> subprocess.CompletedProcess[str]:
        spec = RunSpec(target="links", test="test_it.py::test_it", substrate=substrate)
        return python_here(tmp_path, "-m", "zebra.cli", "replay", spec.token(), "--toxiproxy", url, test=test)

    done = replay("process", f"http://127.0.0.1:{server.port}")
    assert done.returncode == ExitCode.INCONCLUSIVE, done.stdout
    assert "did not fail this time" in done.stdout
    lossy = replay("process", f"http://127.0.0.1:{server.port}", LOSSY)
    assert LACKS["loss"] in lossy.stdout, "only such a server lacks it"
    refused = replay("sim", f"http://127.0.0.1:{api.port}")
    assert refused.returncode == ExitCode.USAGE
    assert refused.stderr == "zebra: --toxiproxy: it needs the substrate process, this is sim\n"


# -- nothing left behind -----------------------------------------------------------------------------------------


SESSION = """
import asyncio, os, sys
sys.path.insert(0, sys.argv[1])
from tests import link_effects
from tests.cases import at
from tests.toxiproxy_api.test_links import Peer
from zebra import RunSpec, Target, Topology, run
from zebra.injection.warden import warden

async def scenario(cluster):
    await cluster.inject("network.latency", "peer-2", delay="10ms")
    await at(cluster, "peer-1", "connect", "peer-2")
    print(warden().directory, flush=True)
    await asyncio.Event().wait()

target = Target(name="links", config=link_effects.Config, roles={"peer": Peer}, client=Peer,
                topology=Topology(counts={"peer": 2}))
run(scenario, RunSpec(target="links", substrate="process", timeout_s=60), target=target)
"""


def test_after_kill_9_the_warden_deletes_the_sessions_proxies_and_no_others(server: Any, tmp_path: Path) -> None:
    server.ok("POST", "/proxies", {"name": "theirs", "listen": "127.0.0.1:0", "upstream": "127.0.0.1:1"})
    script = tmp_path / "session.py"
    script.write_text(SESSION)
    session = subprocess.Popen([sys.executable, str(script), str(ROOT)], stdout=subprocess.PIPE, text=True)
    try:
        assert session.stdout is not None
        directory = Path(session.stdout.readline().strip())
        held = [entry for entry in outstanding(directory / "ledger") if entry["kind"] == "proxy"]
        assert [entry["name"] for entry in held] == [name for name in names(server) if name != "theirs"] != []
        assert all(entry["name"].startswith(directory.name) for entry in held)
    finally:
        session.kill()
        session.wait()
        assert session.stdout is not None
        session.stdout.close()
    until_s = time.monotonic() + 10
    while names(server) != ["theirs"] and time.monotonic() < until_s:
        time.sleep(0.01)
    assert names(server) == ["theirs"]
    while directory.exists() and time.monotonic() < until_s:
        time.sleep(0.01)
    assert not directory.exists()
    assert reap(held), "again, and of what is gone"
    server.ok("DELETE", "/proxies/theirs")


def test_a_reaper_leaves_what_has_not_our_mark_and_takes_a_server_that_is_gone_for_done(api: Any) -> None:
    api.ok("POST", "/proxies", {"name": "theirs", "listen": "127.0.0.1:0", "upstream": "127.0.0.1:1"})
    entry = {"id": "proxy theirs", "kind": "proxy", "url": f"http://127.0.0.1:{api.port}", "name": "theirs"}
    assert not reap([entry])
    assert names(api) == ["theirs"]
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]
    assert reap([{**entry, "name": "zebra-1-x", "url": f"http://127.0.0.1:{port}"}])
    for damaged in ({}, {"url": 7}, {"url": "http://192.0.2.1:80"}, {"url": "http://127.0.0.1"}, {"name": None}):
        assert not reap([{"id": "x", "kind": "proxy", "name": "zebra-1-x", **damaged}])
