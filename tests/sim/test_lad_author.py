"""LAD's author: what does not compile or pass goes nowhere, canaries and stages hold back what does harm."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any, Literal

import pytest

import zebra
from zebra import Cluster, Outcome, RunSpec, Target
from zebra.blob import Blob
from zebra.targets.lad import TARGET
from zebra.targets.lad.artefact import (
    BadArtefact,
    CompileError,
    Setting,
    compile_setting,
    find_fault,
    pack,
    read_setting,
    unpack,
)
from zebra.targets.lad.client import Rejected
from zebra.targets.lad.gates import is_inside, visible
from zebra.targets.lad.store_invariants import PIPELINE_INVARIANTS
from zebra.targets.lad.store_messages import Entry, Gate, Version
from zebra.testing import check_invariant, event, history

SMALL = {"distributor": 2, "proxy": 8, "app": 16}
LIVE = {"lad.apply.mode": {"*": "live"}}
X, Y = "/a/b/x", "/a/b/y"


def run(
    scenario: Any,
    seed: int = 0,
    variant: str = "",
    assignment: Mapping[str, Any] | None = None,
    target: Target = TARGET,
) -> Outcome:
    changed: dict[str, Any] = {**LIVE, **(assignment or {})}
    topology = TARGET.topology.with_counts(SMALL)
    spec = RunSpec(target="lad", topology=topology, seed=seed, variant=variant, assignment=changed)
    return zebra.run(scenario, spec, target=target)


def passes(scenario: Any, seed: int = 0, **how: Any) -> Outcome:
    outcome = run(scenario, seed, **how)
    assert outcome.result == "pass", f"seed {seed}: {outcome.message}"
    return outcome


async def versions(cluster: Cluster, path: str) -> set[int]:
    """What the apps run with."""
    return {reading.runs for reading in (await cluster.client.settings(path)).values()}


async def refused(cluster: Cluster, *paths: str, because: str, **change: Any) -> None:
    with pytest.raises(Rejected, match=because):
        await cluster.client.commit(*paths, **change)


async def in_stages(cluster: Cluster) -> None:
    """A first version for all, then one in stages."""
    await cluster.client.use(X)
    await cluster.client.commit(X, mode="on")
    await cluster.client.arrived({X: 1})
    assert await cluster.client.commit(X, mode="auto", staged=True) == (2,)
    await asyncio.sleep(6.0)
    assert await versions(cluster, X) == {2}


async def poisoned(cluster: Cluster) -> None:
    await cluster.client.use(X)
    await cluster.client.commit(X, mode="on")
    await cluster.client.arrived({X: 1})
    with suppress(Rejected):
        await cluster.client.commit(X, poison=True, staged=True)
    await asyncio.sleep(6.0)


async def as_a_group(cluster: Cluster) -> None:
    await cluster.client.use(X, Y)
    for mode in ("on", "auto", "off"):
        await cluster.client.commit(X, Y, mode=mode)
        await asyncio.sleep(2.0)


async def against_the_rules(cluster: Cluster) -> None:
    await cluster.client.use(X)
    await cluster.client.commit(X, mode="on")
    await cluster.client.arrived({X: 1})
    with suppress(Rejected):
        await cluster.client.commit(X, low=5, high=1)
    await asyncio.sleep(3.0)


def test_change_goes_to_a_canary_then_to_more_then_to_all() -> None:
    for seed in range(4):
        outcome = passes(in_stages, seed)
        steps = [(e["state"], e["percent"]) for e in outcome.history.of("change.state") if e["rev"] == 2]
        assert steps == [("VALIDATED", 0), ("CANARY", 0), ("STAGE", 10), ("STAGE", 50), ("FULL", 100)]
        canary = next(e for e in outcome.history.of("change.state") if e["state"] == "CANARY")
        first = next(e for e in outcome.history.of("applied") if e["rev"] == 2)
        assert canary["hosts"] == [first["host"]]


def test_canary_is_asked_also_where_apps_wait_for_a_restart() -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.client.use(X)
        await cluster.client.commit(X, mode="on")
        await cluster.client.arrived({X: 1})
        await refused(cluster, X, because="100% more often", poison=True, staged=True)
        await cluster.client.commit(X, mode="auto", staged=True)
        await asyncio.sleep(2.0)
        assert await versions(cluster, X) == {1, 3, 4} or await versions(cluster, X) == {1, 4}

    passes(scenario, assignment={"lad.apply.mode": {"*": "restart"}})


def test_what_does_harm_is_taken_back_at_the_canary() -> None:
    outcome = passes(poisoned)
    reached = {e["host"] for e in outcome.history.of("applied") if e["rev"] == 2}
    assert len(reached) == 1
    assert {e["rev"] for e in outcome.history.of("applied") if e["host"] in reached} >= {1, 2, 3}


def test_what_breaks_the_rules_goes_nowhere() -> None:
    async def scenario(cluster: Cluster) -> None:
        await refused(cluster, X, because="low is 5, above high, which is 1", low=5, high=1)
        await refused(cluster, X, because="mode 'loud' is not one of off, on, auto", mode="loud")
        await refused(cluster, X, because="does not compile: .* unknown field `volume`", volume=11)
        await refused(cluster, X, because="does not compile: Expected `int`", low="many")
        await refused(cluster, X, Y, because="the store refuses: .* is the most", payload="101MiB")
        await cluster.client.commit(X, mode="on", low=1, high=1)

    outcome = passes(scenario)
    assert [e["version"] for e in outcome.history.of("commit") if e["path"] in (X, Y)] == [1]


def test_validator_that_is_down_blocks_every_commit() -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.client.validator(False)
        await refused(cluster, X, because="the validator does not answer", mode="on")
        going = asyncio.ensure_future(cluster.client.commit(X, mode="on"))
        await asyncio.sleep(0.5)
        await cluster.client.validator(True)
        assert await going == (1,)

    passes(scenario)


def test_roll_back_is_a_new_version_and_skips_what_only_canaries_saw() -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.client.use(X)
        for mode in ("on", "auto"):
            await cluster.client.commit(X, mode=mode)
        await cluster.client.arrived({X: 2})
        await refused(cluster, X, because="ROLLED_BACK", poison=True, staged=True)
        assert await cluster.client.roll_back(X) == (5,)
        await cluster.client.arrived({X: 5})
        await asyncio.sleep(1.0)
        assert {reading.mode for reading in (await cluster.client.settings(X)).values()} == {"auto"}
        with pytest.raises(Rejected, match="nothing to go back to"):
            await cluster.client.roll_back(Y)

    passes(scenario)


def test_paths_of_one_change_are_exposed_and_taken_back_together() -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.client.use(X, Y)
        await cluster.client.commit(X, Y, mode="on")
        await cluster.client.arrived({X: 1, Y: 1})
        await cluster.client.commit(X, Y, mode="auto", staged=True)
        await refused(cluster, X, Y, because="ROLLED_BACK", poison=True, staged=True)
        await asyncio.sleep(6.0)
        assert await versions(cluster, X) == await versions(cluster, Y) == {2, 4} - {2}

    passes(scenario)


def test_change_that_its_author_lost_sight_of_is_rolled_back() -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.client.use(X)
        await cluster.client.commit(X, mode="on")
        await cluster.client.arrived({X: 1})
        going = asyncio.ensure_future(cluster.client.commit(X, mode="auto", staged=True))
        await cluster.event("change.state", state="STAGE")
        async with cluster.fault("host.crash", "author-1"):
            await asyncio.sleep(1.0)
        going.cancel()
        await cluster.client.arrived({X: 3})
        await asyncio.sleep(2.0)
        assert await versions(cluster, X) == {3}
        assert {reading.mode for reading in (await cluster.client.settings(X)).values()} == {"on"}

    for seed in range(3):
        passes(scenario, seed)


def test_commits_wait_out_a_short_outage_of_the_store() -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.client.commit(X, mode="on")
        stores = cluster.nodes("store")
        async with cluster.fault("network.partition", "author-1", stores):
            going = asyncio.ensure_future(cluster.client.commit(X, mode="auto"))
            await asyncio.sleep(5.0)
            assert not going.done()
        assert await going == (2,)

    passes(scenario)


def test_many_changes_go_side_by_side_and_those_of_one_path_in_turn() -> None:
    async def scenario(cluster: Cluster) -> None:
        changes = [cluster.client.commit(f"/a/b/p{number % 10}", mode="on") for number in range(60)]
        revs = [rev for (rev,) in await asyncio.gather(*changes)]
        assert sorted(revs) == sorted(list(range(1, 7)) * 10)

    passes(scenario)


@pytest.mark.parametrize("workers", [1, 8])
@pytest.mark.parametrize("duration", ["1s", "5s"])
def test_parameters_of_the_author_alone_change_no_result(workers: int, duration: str) -> None:
    passes(in_stages, assignment={"lad.compile.workers": {"*": workers}, "lad.canary.duration": {"*": duration}})


def test_apps_open_both_encodings() -> None:
    passes(in_stages, assignment={"lad.artefact.encoding": {"*": "json", "author": "binary", "app:odd": "binary"}})


# -- heterogeneous ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parameter", "values", "safe"),
    [
        ("lad.artefact.digest", ("md5", "sha256"), "safe.name_digest"),
        ("lad.selector.seed", (7, 0), "safe.seed_in_gate"),
    ],
)
def test_unsafe_parameters_of_the_pipeline(parameter: str, values: tuple[Any, Any], safe: str) -> None:
    for value in values:
        passes(in_stages, assignment={parameter: {"*": value}})
    mixed = {parameter: {"*": values[0], "author": values[1]}}
    found = [run(in_stages, seed, assignment=mixed).result for seed in range(4)]
    assert "fail" in found
    for seed in range(4):
        passes(in_stages, seed, variant=safe, assignment=mixed)


def test_old_readers_are_a_reason_to_refuse_a_new_mode_where_the_author_asks_them() -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.client.use(X)
        await refused(cluster, X, because=r"mode 'auto' is not one of off, on \(schema 1\)", mode="auto")
        await cluster.client.commit(X, mode="on")

    passes(scenario, variant="safe.least_schema", assignment={"lad.schema.rev": {"*": 2, "app:odd": 1}})


# -- planted bugs ----------------------------------------------------------------------------------------------------

MUTANTS = [
    ("bug.skip_validation", against_the_rules, "lad.validated_only"),
    ("bug.open_gate", in_stages, "lad.stage_only"),
    ("bug.full_after_bad_canary", poisoned, "lad.no_full_after_bad_canary"),
    ("bug.split_group", as_a_group, "lad.groups_together"),
]


@pytest.mark.parametrize(("variant", "scenario", "name"), MUTANTS, ids=[variant for variant, _, _ in MUTANTS])
def test_invariant_catches_the_bug_planted_for_it(variant: str, scenario: Any, name: str) -> None:
    outcome = run(scenario, variant=variant, target=replace(TARGET, invariants=PIPELINE_INVARIANTS))
    assert outcome.violation is not None and outcome.violation.invariant == name, outcome.message
    passes(scenario)


def full(t: float) -> Any:
    return event("change.state", t=t, change="c", path=X, rev=2, state="FULL")


def applied(app: str, rev: int, path: str = X, t: float | None = None, source: str = "live") -> Any:
    return event("applied", node=app, t=t, app=app, host=f"host of {app}", path=path, rev=rev, source=source)


LIFE = [event("node.start", node="a", config={"apply": {"mode": "live"}, "fallback": {"mode": "last_good"}})]
PASSED = event("validator.pass", change="c")
EXPOSED = event("change.expose", change="c", path=X, rev=2, percent=10.0, hosts=["host of a"])
TOGETHER = [
    event("change.state", t=9.0, change="c", path=path, rev=2, state="VALIDATED") for path in (X, Y)
]  # fmt: skip
RUNS_DEFAULT = event("app.runs", node="a", app="a", path=X, rev=0, source="default")
RUNS_NEW = event("app.runs", node="a", t=10.0, app="a", path=X, rev=2, source="live")
GOOD_AND_BAD: dict[str, tuple[list[Any], list[Any], str]] = {
    "lad.validated_only": ([PASSED, EXPOSED, applied("a", 2)], [EXPOSED, applied("a", 2)], "was not validated"),
    "lad.stage_only": ([EXPOSED, applied("a", 2)], [EXPOSED, applied("b", 2)], "is for host of a"),
    "lad.no_full_after_bad_canary": (
        [event("canary.verdict", change="c", ok=True), full(20.0)],
        [event("canary.verdict", change="c", ok=False), full(20.0)],
        "although its canary failed",
    ),
    "lad.groups_together": (
        [applied("a", 1, p, 1.0) for p in (X, Y)] + TOGETHER + [applied("a", 2, p, 10.0) for p in (X, Y)],
        [applied("a", 1, p, 1.0) for p in (X, Y)]
        + TOGETHER
        + [applied("a", 2, X, 10.0), RUNS_NEW, applied("a", 2, Y, 10.1)],
        f"without {Y}",
    ),
    "lad.last_good": ([*LIFE, RUNS_DEFAULT], [*LIFE, applied("a", 1), RUNS_DEFAULT], "it had 1"),
    "lad.full_in_time": (
        [*LIFE, applied("a", 1), full(10.0), applied("a", 2, X, 14.0), event("x", t=30.0)],
        [*LIFE, applied("a", 1), full(10.0), applied("a", 2, X, 16.5), event("x", t=30.0)],
        "within 5 s",
    ),
}


@pytest.mark.parametrize("factory", PIPELINE_INVARIANTS, ids=lambda factory: factory.zebra_name)
def test_invariant_accepts_and_refuses(factory: Any) -> None:
    good, bad, text = GOOD_AND_BAD[factory.zebra_name]
    assert check_invariant(factory, history(*good)) is None
    found = check_invariant(factory, history(*bad))
    assert found is not None and text in found.message


# -- parts -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["json", "binary"])
def test_artefact_is_opened_as_it_was_packed_and_not_otherwise(encoding: Literal["json", "binary"]) -> None:
    setting, payload = Setting(mode="auto", low=3), Blob.random(1, 10_000, materialise=False)
    blob = pack(setting, payload, schema=2, encoding=encoding, algorithm="sha256")
    opened = unpack(blob, "sha256")
    assert (read_setting(opened, 2), opened.payload) == (setting, payload)
    assert read_setting(opened, 1).mode == "off"
    with pytest.raises(BadArtefact, match="not the md5"):
        unpack(blob, "md5")
    for at in range(0, len(blob) - len(payload), 7):
        with pytest.raises(BadArtefact):
            assert unpack(blob.flip(at), "sha256").body != opened.body
    for size in range(0, len(blob) - len(payload), 5):
        with pytest.raises(BadArtefact):
            unpack(blob.slice(0, size), "sha256")


def test_source_is_checked() -> None:
    assert find_fault(compile_setting(b'{"mode": "auto"}'), 2) == ""
    assert "schema 1" in find_fault(compile_setting(b'{"mode": "auto"}'), 1)
    for text in (b"{", b"[]", b'{"low": "x"}', b"[" * 100_000):
        with pytest.raises(CompileError):
            compile_setting(text)


def test_gate_lets_more_hosts_in_as_the_percentage_rises() -> None:
    hosts = [f"host-{number}" for number in range(1000)]
    inside = [{h for h in hosts if is_inside(Gate(percent=p, change="c"), h, 0)} for p in (0, 10, 50, 100)]
    assert [len(each) for each in inside][::3] == [0, 1000]
    assert inside[0] <= inside[1] <= inside[2] <= inside[3]
    assert 60 <= len(inside[1]) <= 140 and 430 <= len(inside[2]) <= 570
    other = {h for h in hosts if is_inside(Gate(percent=10, change="c"), h, 7)}
    assert other != inside[1]
    assert {h for h in hosts if is_inside(Gate(percent=10, change="c", seed=0), h, 7)} == inside[1]


def test_host_sees_the_version_on_its_side_of_the_gate() -> None:
    base = Version(version=1, zxid=1)
    entry = Entry(path=X, version=2, zxid=2, gate=Gate(hosts=("h",)), base=base)
    shown = [visible(entry, host, 0) for host in ("h", "g")]
    assert shown == [entry.latest, base]
