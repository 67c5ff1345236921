"""The target `nats`: its schema against the server installed here, its oracle, and planted faults that it must see."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import nats
import nats.errors
import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg

from tests.projects import decide
from zebra.cluster import Cluster
from zebra.events import Event
from zebra.params import Assignment
from zebra.params.parameter import Value
from zebra.run import Scenario, run
from zebra.spec import RunSpec
from zebra.target import find_target
from zebra.targets.nats import invariants, monitor
from zebra.targets.nats.api import CALL_S, ask, quiet
from zebra.targets.nats.contents import differences, held_by, published, stored
from zebra.targets.nats.invariants import CONVERGE_S, Healthy, NoLostMessage, SameMessages, SameStreams
from zebra.targets.nats.space import NatsConfig, differing, schema, server_path, set_by, unavailable
from zebra.targets.nats.test_nats import test_every_server_holds_the_same_streams as whole_scenario
from zebra.targets.valkey import certificates
from zebra.testing import check_invariant, event, history

pytestmark = pytest.mark.skipif(bool(unavailable()), reason=unavailable() or "there is a server")

STREAM = "file-server-2"


def spec(assignment: Assignment | None = None, variant: str = "") -> RunSpec:
    """A run of the target."""
    return RunSpec(test="test", substrate="process", target="nats", assignment=assignment or {}, variant=variant)


# -- the schema --------------------------------------------------------------------------------------------------


def test_every_value_of_the_schema_is_taken_by_the_server(tmp_path: Path) -> None:
    """One file with all first alternatives, and one for each that is left: the server reads them without complaint."""
    space = find_target("nats").space
    alternatives = {name: space[f"nats.{name}"].alternatives() for name in schema()}
    together = {name: values[0] for name, values in alternatives.items() if values and ".tls." not in name}
    rest = [{name: value} for name, values in alternatives.items() for value in values[1:]]
    for number, values in enumerate([together, *rest]):
        config = space.replace(NatsConfig(), {f"nats.{name}": value for name, value in values.items()})
        file = tmp_path / f"{number}.conf"
        file.write_text(json.dumps(set_by(config, tmp_path)))
        done = subprocess.run([server_path(), "-t", "-c", str(file)], capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{values}: {done.stderr}"
    assert len(together) >= 60 and len(rest) >= 10


def test_what_the_schema_says_is_refused_the_server_refuses_so(tmp_path: Path) -> None:
    certificates.make(tmp_path)
    refused = {name: entry for name, entry in schema().items() if entry.refused}
    assert refused.keys() == {"cluster.tls.cert_file", "cluster.tls.key_file"}
    for name, entry in refused.items():
        config = find_target("nats").space.replace(NatsConfig(), {f"nats.{name}": entry.values[0]})
        (tmp_path / "refused.conf").write_text(json.dumps(set_by(config, tmp_path)))
        command = [server_path(), "-t", "-c", str(tmp_path / "refused.conf")]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode and entry.refused in done.stdout + done.stderr


def test_the_defaults_of_the_schema_are_those_that_a_server_shows_without_them(tmp_path: Path) -> None:
    own = {name for name, entry in schema().items() if entry.own}
    cluster = {"name": "zebra", "listen": "127.9.9.9:6222", "routes": ["nats-route://127.9.9.9:6223"]}
    with running(tmp_path, {"cluster": cluster}) as varz:
        assert differing(NatsConfig(), varz).keys() <= own
        odd = find_target("nats").space.replace(NatsConfig(), {"nats.ping_max": 8, "nats.max_payload": "4MiB"})
        assert {"ping_max", "max_payload"} <= differing(odd, varz).keys(), "what was not set is not shown"


@contextmanager
def running(directory: Path, settings: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """A server by itself, without zebra: what it says of itself."""
    conf = {"listen": "127.9.9.9:4222", "http": "127.9.9.9:8222", "server_name": "alone",
            "jetstream": {"store_dir": str(directory)}, **settings}  # fmt: skip
    (directory / "alone.conf").write_text(json.dumps(conf))
    process = subprocess.Popen([server_path(), "-c", str(directory / "alone.conf")], stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        assert any("Server is ready" in line for line in process.stderr)
        yield asyncio.run(monitor.ask("127.9.9.9", 8222, "/varz"))
    finally:
        process.kill()
        process.communicate()


def test_what_nobody_can_vary_says_why() -> None:
    space = find_target("nats").space
    assert sum(bool(parameter.alternatives()) for parameter in space.values()) >= 75
    for name, why in (("listen", "reserved"), ("gateway", "another topology"), ("lame_duck_duration", "30 seconds")):
        assert not space[f"nats.{name}"].alternatives() and why in space[f"nats.{name}"].why


# -- the oracle --------------------------------------------------------------------------------------------------


def jsz(**streams: dict[str, Any]) -> dict[str, Any]:
    """A server's page, of streams by name."""
    details = [{"name": name, "state": {"messages": 2, "first_seq": 1, "last_seq": 2}, "config": {"num_replicas": 3},
                **more} for name, more in streams.items()]  # fmt: skip
    return {"account_details": [{"stream_detail": details}]}


def test_servers_are_compared_by_streams_settings_counts_and_consumers() -> None:
    reader = {"name": "r", "delivered": {"stream_seq": 2}, "ack_floor": {"stream_seq": 1}}
    mine = held_by(jsz(a={"consumer_detail": [reader]}, b={}))
    assert differences(mine, mine) == []
    behind = {**reader, "ack_floor": {"stream_seq": 0}}
    fewer = {"state": {"messages": 1, "first_seq": 1, "last_seq": 1}, "config": {"num_replicas": 1}}
    theirs = held_by(jsz(a={"consumer_detail": [behind]}, c={}))
    assert differences(mine, theirs) == [
        "lacks 1 streams (b)", "has besides 1 streams (c)",
        "has another consumers of 1 streams (a: {'r': (2, 0)} instead of {'r': (2, 1)})",
    ]  # fmt: skip
    lines = differences(mine, held_by(jsz(a={"consumer_detail": [reader]}, b=fewer)))
    assert [line.split(" of ")[0] for line in lines] == [
        "has another config", "has another messages", "has another last_seq",
    ]  # fmt: skip


def test_a_checksum_tells_data_and_subject_from_headers_and_time() -> None:
    message = {"subject": "a.1", "time": "t"}
    assert stored(message, b"x").split()[0] == published("a.1", b"x")
    for other in ({"subject": "a.2", "time": "t"}, {"subject": "a.1", "time": "u"}, {**message, "hdrs": "h"}):
        assert stored(other, b"x") != stored(message, b"x")


def acknowledged(number: int, *checksums: str, seq: int) -> list[Event]:
    named: dict[str, Any] = {"node": "client-1", "op": number, "f": "publish"}
    return [event("op.invoke", stream="s", checksums=list(checksums), **named), event("op.ok", seq=seq, **named)]


def held(on: str, **messages: str) -> Event:
    return event("nats.held", node="client-1", on=on, stream="s", messages={k[1:]: v for k, v in messages.items()})


def test_an_acknowledged_message_must_stay_where_it_was_put() -> None:
    given = [*acknowledged(1, "aa", seq=1), *acknowledged(2, "bb", "cc", seq=3)]
    assert check_invariant(NoLostMessage, history(*given, held("x", _1="aa 0", _2="bb 0", _3="cc 0"))) is None
    gone = check_invariant(NoLostMessage, history(*given, held("x", _1="aa 0", _2="bb 0")))
    moved = check_invariant(NoLostMessage, history(*given, held("x", _1="aa 0", _2="cc 0", _3="bb 0")))
    assert gone is not None and gone.message == "x lacks 1 acknowledged messages of s (3)"
    assert moved is not None and "lacks 2" in moved.message


def test_a_message_is_the_same_on_every_server() -> None:
    assert check_invariant(SameMessages, history(held("x", _1="aa 0"), held("y", _1="aa 0", _2="bb 0"))) is None
    found = check_invariant(SameMessages, history(held("x", _1="aa 0"), held("y", _1="aa 1")))
    assert found is not None and found.message == "s message 1: x held aa 0, y holds aa 1"


def leads(leader: str, term: int) -> Event:
    return event("nats.leads", node="client-1", group="_meta_", term=term, leader=leader)


def test_two_leaders_of_one_term_are_a_violation() -> None:
    assert check_invariant(invariants.ONE_LEADER, history(leads("x", 1), leads("y", 2), leads("x", 3))) is None
    found = check_invariant(invariants.ONE_LEADER, history(leads("x", 1), leads("y", 1)))
    assert found is not None and found.message == "_meta_ in term 1: both x and y"


def test_the_invariants_accept_what_is_alike_and_name_who_is_not() -> None:
    assert check_invariant(SameStreams, history(event("nats.compared", phase="p", differs={}))) is None
    assert check_invariant(Healthy, history(event("nats.health", phase="p", problems={}))) is None
    odd = check_invariant(SameStreams, history(event("nats.compared", phase="p", differs={"server-2": ["lacks"]})))
    ill = check_invariant(Healthy, history(event("nats.health", phase="p", problems={"server-1": "has no route"})))
    assert odd is not None and odd.message == "after p: server-2 lacks"
    assert ill is not None and ill.message == "after p: server-1 has no route"


def test_servers_must_be_alike_within_the_bound_of_the_last_healing() -> None:
    def compared(t: float, **differs: list[str]) -> Event:
        return event("nats.compared", t=t, phase="p", differs=differs)

    healed, late = event("run.healed", t=10.0), compared(11.0 + CONVERGE_S)
    assert check_invariant(invariants.CONVERGES, history(healed, compared(12.0))) is None
    assert check_invariant(invariants.CONVERGES, history(healed, compared(12.0, server=["lacks"]), late)) is not None


# -- planted: each must be seen by the whole scenario, or by one that brings it out --------------------------------


async def all_lose_power(cluster: Cluster) -> None:
    """All servers crash at the same time; what they hold is read before and after, and once more is written."""
    await cluster.client.know({node: cluster.config_of(node) for node in cluster.nodes()})
    await cluster.client.compare("start")
    for phase in ("the first life", "the second life"):
        await cluster.client.create()
        for _ in range(5):
            await cluster.client.write(STREAM, "server-1")
        await cluster.client.read_everywhere(phase)
        async with cluster.fault("host.crash", cluster.nodes("server")):
            pass
        await cluster.client.compare(f"{phase}, with a blackout")
        await cluster.client.read_everywhere(f"{phase}, with a blackout")


@pytest.mark.parametrize(
    ("variant", "scenario", "factory", "says"),
    [
        ("bug.no_routes", whole_scenario, Healthy, r"after start: server-\d "),
        ("bug.one_replica", whole_scenario, SameStreams, "after streams were made: server-"),
        ("bug.ephemeral_disk", all_lose_power, NoLostMessage, rf"server-\d lacks 5 acknowledged messages of {STREAM}"),
        ("bug.ephemeral_disk", all_lose_power, SameMessages, rf"{STREAM} message \d: "),
    ],
)
def test_a_planted_bug_is_seen(variant: str, scenario: Scenario, factory: Any, says: str) -> None:
    """Each by the invariant that is there for it, alone."""
    outcome = run(scenario, spec(variant=variant), target=replace(find_target("nats"), invariants=(factory,)))
    assert outcome.violation is not None and re.match(says, outcome.violation.message), outcome.explain()


def test_a_blackout_loses_nothing_where_disks_stay() -> None:
    outcome = run(all_lose_power, spec())
    assert outcome.result == "pass", outcome.explain()


# -- findings ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "share", "result"),
    [
        ("nats.cluster.name", {"server:odd": "other"}, "fail"),
        ("nats.cluster.name", {"*": "other"}, "pass"),
        ("nats.cluster.pool_size", {"server-1": 12}, "fail"),
        ("nats.route_login", {"server:odd": "off"}, "pass"),
    ],
)
def test_a_mixed_cluster_shows_what_one_that_agrees_does_not(name: str, share: dict[str, Value], result: str) -> None:
    outcome = run(whole_scenario, spec({name: share}))
    assert outcome.result == result, outcome.explain()


@contextmanager
def routed(directory: Path, sizes: tuple[int, int]) -> Iterator[tuple[str, str]]:
    """Two servers of a cluster, without zebra, with pools of such sizes between them: where clients find them."""
    hosts = ("127.9.9.10", "127.9.9.11")
    with ExitStack() as stack:
        for host, other, size in zip(hosts, reversed(hosts), sizes, strict=True):
            conf = {"listen": f"{host}:4222", "http": f"{host}:8222", "server_name": host,
                    "cluster": {"name": "c", "listen": f"{host}:6222", "routes": [f"nats-route://{other}:6222"],
                                "pool_size": size}}  # fmt: skip
            file = directory / f"{host}.conf"
            file.write_text(json.dumps(conf))
            process = stack.enter_context(subprocess.Popen([server_path(), "-c", str(file)], stderr=subprocess.DEVNULL))
            stack.callback(process.kill)
        yield hosts


async def asked_in_vain(hosts: tuple[str, str], most: int) -> int:
    """How many of so many requests to a service at the other server, each answered to a new inbox, are not answered.

    Ends with the first.
    """

    async def connected(host: str) -> Client:
        async with asyncio.timeout(20):
            while True:
                try:
                    return await nats.connect(f"nats://{host}:4222", allow_reconnect=False, error_cb=quiet)
                except (OSError, nats.errors.Error):
                    await asyncio.sleep(0.05)

    asking, answering = [await connected(host) for host in hosts]

    async def answer(message: Msg) -> None:
        await message.respond(message.data)

    try:
        await answering.subscribe("service", cb=answer)
        await answering.flush()
        await ask(asking, "service", b"is there a route?")
        for _ in range(most):
            inbox = await asking.subscribe(asking.new_inbox())
            await asking.publish("service", b"", reply=inbox.subject)
            try:
                await inbox.next_msg(timeout=CALL_S)
            except nats.errors.TimeoutError:
                return 1
        return 0
    finally:
        await asking.close()
        await answering.close()


@pytest.mark.parametrize(("sizes", "most", "in_vain"), [((3, 3), 500, 0), ((12, 3), 10_000, 1), ((3, 12), 10_000, 1)])
def test_without_zebra_too_requests_are_not_answered_where_pools_of_routes_differ(
    sizes: tuple[int, int], most: int, in_vain: int, tmp_path: Path
) -> None:
    with routed(tmp_path, sizes) as hosts:
        assert asyncio.run(asked_in_vain(hosts, most)) == in_vain


CAMPAIGN = """
import dataclasses
import msgspec, pytest
from typing import Annotated, get_type_hints
from zebra.params import Param
from zebra.target import find_target

target = find_target("nats")
hints = get_type_hints(target.config, include_extras=True)
fields = msgspec.structs.fields(target.config)
held = [(f.name, Annotated[hints[f.name].__origin__, Param(why="held")], f.default) for f in fields]
Config = msgspec.defstruct("Config", held, frozen=True, kw_only=True, module=__name__,
                           rename={f.name: f.encode_name for f in fields})

@pytest.mark.zebra(dataclasses.replace(target, config=Config, accepted=None), timeout="60s")
async def test_few(cluster):
    await cluster.client.know({node: cluster.config_of(node) for node in cluster.nodes()})
    await cluster.client.compare("start")
"""
"""A profile alone and the first phase of the scenario: `requires` looks at all of a space, run by run."""


@pytest.mark.skipif(bool(certificates.missing()), reason=certificates.missing() or "there is openssl")
def test_a_campaign_finds_the_encryption_of_routes_unsafe_in_both_directions(tmp_path: Path) -> None:
    (tmp_path / "test_few.py").write_text(CAMPAIGN)
    result, done = decide(tmp_path, "--zebra-workers=6", "--zebra-params=nats.route_tls", "test_few.py")
    [found] = result.parameters
    assert found.verdict == "unsafe" and found.values == ["on", "off"] and found.direction == "both", done.stdout
    assert result.reads_unseen and found.evidence is not None and found.evidence.replay.startswith("zebra1.")
