"""LAD's store agrees, forgets nothing, and can be used by others: here by a target that has nothing but the store."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import zebra
from zebra import Cluster, Outcome, RunSpec, Target, Topology
from zebra.blob import Blob
from zebra.errors import Failed
from zebra.node import Node
from zebra.targets.lad.config import LadConfig
from zebra.targets.lad.log import RECORDS
from zebra.targets.lad.state import PARTS, State
from zebra.targets.lad.store import Store
from zebra.targets.lad.store_client import Session, StoreClient
from zebra.targets.lad.store_invariants import STORE_INVARIANTS, VARIANTS
from zebra.targets.lad.store_messages import (
    BadVersion,
    Changes,
    Delete,
    Entry,
    Expose,
    Gate,
    NoPath,
    NoQuorum,
    Put,
    Record,
    Stored,
    TooLarge,
    Written,
)
from zebra.testing import check_invariant, event, history

MEMBERS = ("store-1", "store-2", "store-3")


class User:
    """A client that offers what a StoreClient does."""

    def __init__(self, node: Node[LadConfig]) -> None:
        self.node = node

    async def run(self) -> None:
        self.store = StoreClient(self.node)
        await self.node.ready()
        await asyncio.Event().wait()

    async def write(self, path: str, data: Blob | bytes = b"", **how: Any) -> Written:
        async with self.node.op("write", path=path):
            return await self.store.write(path, data, **how)

    async def multi(self, *ops: Any) -> Written:
        return await self.store.multi(ops)

    async def poll(self, since: int, roots: tuple[str, ...] = (), limit: int = 10_000, max_bytes: int = 0) -> Changes:
        await self.store.latest("/")  # now the member that is asked knows our own writes
        return await self.store.poll(since, roots, limit, max_bytes)

    async def latest(self, path: str, at_least: int = 0) -> Entry | None:
        return await self.store.latest(path, at_least)

    async def value(self, path: str) -> Blob:
        entry = await self.store.latest(path)
        assert entry is not None
        return await self.store.value(entry)

    async def watch(self, path: str, since: int) -> int:
        return await self.store.watch(path, since)

    async def open_session(self, wanted_s: float) -> Session:
        return await self.store.open_session(wanted_s)

    async def at(self, member: str) -> None:
        """Read from one member only."""
        self.store.readers = [member]


async def one_more_write(cluster: Cluster) -> None:
    await cluster.client.write("/progress")


STORES = Target(
    name="stores",
    config=LadConfig,
    roles={"store": Store},
    client=User,
    topology=Topology(counts={"store": 3}, regions=2),
    invariants=STORE_INVARIANTS,
    variants=VARIANTS,
    progress=one_more_write,
)


def run(
    scenario: Any, seed: int = 0, variant: str = "", assignment: Mapping[str, Any] | None = None, stores: int = 3
) -> Outcome:
    spec = RunSpec(target="stores", seed=seed, variant=variant, assignment=dict(assignment or {}),
                   topology=STORES.topology.with_counts({"store": stores}))  # fmt: skip
    return zebra.run(scenario, spec, target=STORES)


def passes(scenario: Any, seed: int = 0, **how: Any) -> Outcome:
    outcome = run(scenario, seed, **how)
    assert outcome.result == "pass", f"seed {seed}: {outcome.message}"
    return outcome


def holds(scenario: Any, seed: int = 0, **how: Any) -> Outcome:
    """Like `passes`, but a crash that found nothing unsynced to lose is as good."""
    outcome = run(scenario, seed, **how)
    nothing_lost = outcome.result == "inconclusive" and outcome.message.startswith("no effect: disk.lose_unsynced")
    assert outcome.result == "pass" or nothing_lost, f"seed {seed}: {outcome.message}"
    return outcome


def leader(cluster: Cluster) -> str:
    return [e.node for e in cluster.history if e.kind == "store.leader"][-1]


def followers(cluster: Cluster) -> list[str]:
    return [name for name in cluster.nodes("store") if name != leader(cluster)]


# -- what it does ----------------------------------------------------------------------------------------------------


def test_versions_and_zxids_rise_by_one() -> None:
    async def scenario(cluster: Cluster) -> None:
        first = await cluster.client.write("/a", b"1", expected=0)
        second = await cluster.client.write("/a", b"2", expected=1)
        other = await cluster.client.write("/b", b"3")
        assert (first.versions, second.versions, other.versions) == ((1,), (2,), (1,))
        assert other.zxid == second.zxid + 1 == first.zxid + 2
        for expected in (0, 1, 3):
            with pytest.raises(BadVersion):
                await cluster.client.write("/a", b"", expected=expected)
        assert bytes(await cluster.client.value("/a")) == b"2"

    passes(scenario)


def test_several_paths_are_written_at_once_or_not_at_all() -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.client.write("/a", b"1")
        with pytest.raises(BadVersion):
            await cluster.client.multi(Put(path="/b", data=Blob.of(b"")), Put(path="/a", data=Blob.of(b""), expected=7))
        assert await cluster.client.latest("/b") is None
        written = await cluster.client.multi(Put(path="/b", data=Blob.of(b"")), Delete(path="/a", expected=1))
        assert written.versions == (1, 2)
        entries = (await cluster.client.poll(written.zxid - 1)).entries
        assert [(e.path, e.zxid, e.batch, e.deleted) for e in entries] == [
            ("/a", written.zxid, 2, True),
            ("/b", written.zxid, 2, False),
        ]
        with pytest.raises(NoPath):
            await cluster.client.value("/a")

    passes(scenario)


def test_staged_version_is_behind_its_gate_until_it_is_exposed() -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.client.write("/a", b"old")
        gate = Gate(percent=0, hosts=("h1",), change="c")
        staged = await cluster.client.write("/a", b"new", gate=gate)
        entry = await cluster.client.latest("/a")
        assert (entry.version, entry.gate, entry.base.version) == (2, gate, 1)
        with pytest.raises(BadVersion):
            await cluster.client.multi(Expose(path="/a", version=1))
        moved = await cluster.client.multi(Expose(path="/a", version=2))
        entry = await cluster.client.latest("/a")
        assert (entry.version, entry.gate, entry.base, entry.zxid) == (2, None, None, moved.zxid)
        assert moved.zxid > staged.zxid and moved.versions == (2,)
        with pytest.raises(BadVersion):
            await cluster.client.multi(Expose(path="/a", version=2))

    passes(scenario)


def test_value_that_is_too_long_is_refused_at_the_author() -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.client.write("/a", Blob.random(1, 5 << 20, materialise=False))
        with pytest.raises(TooLarge, match="5242881 bytes, 5242880 is the most"):
            await cluster.client.write("/a", Blob.random(1, (5 << 20) + 1, materialise=False))

    passes(scenario, assignment={"stores.value.max_bytes": {"*": "5MiB"}})


def test_value_is_refused_that_a_reader_who_polls_could_not_pass_on() -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.client.write("/a", b"x" * 2000)
        for member in cluster.nodes("store"):
            await cluster.client.at(member)
            await cluster.client.poll(0, max_bytes=1000)
        await asyncio.sleep(1.0)
        with pytest.raises(TooLarge, match="1001 bytes, 1000 is the most"):
            await cluster.client.write("/a", b"x" * 1001)
        await cluster.client.write("/a", b"x" * 1000)

    passes(scenario)


@pytest.mark.parametrize("codec", ["none", "zlib"])
@pytest.mark.parametrize("over", ["raw", "wire"])
def test_digest_covers_what_is_configured(codec: str, over: str) -> None:
    content = Blob.of(b"well, " * 1000)

    async def scenario(cluster: Cluster) -> None:
        await cluster.client.write("/a", content)
        entry = await cluster.client.latest("/a")
        assert await cluster.client.value("/a") == content
        stored = content.compress(codec)
        assert (entry.size, entry.raw_size, entry.codec) == (len(stored), 6000, codec)
        assert entry.digest == (content if over == "raw" else stored).checksum("md5") and entry.alg == "md5"

    settings = {"stores.content.codec": codec, "stores.digest.over": over, "stores.digest.algorithm": "md5"}
    passes(scenario, assignment={name: {"*": value} for name, value in settings.items()})


def test_watch_fires_once_and_misses_nothing_between_read_and_arming() -> None:
    async def scenario(cluster: Cluster) -> None:
        first = await cluster.client.write("/a", b"1")
        second = await cluster.client.write("/a", b"2")
        assert await cluster.client.watch("/a", first.zxid) == second.zxid
        waiting = asyncio.ensure_future(cluster.client.watch("/a", second.zxid))
        await asyncio.sleep(1.0)
        assert not waiting.done()
        third = await cluster.client.write("/a", b"3")
        assert await waiting == third.zxid

    passes(scenario)


def test_watch_outlives_the_member_that_it_was_set_at() -> None:
    async def scenario(cluster: Cluster) -> None:
        first = await cluster.client.write("/a", b"1")
        member = cluster.role("client-1").store.readers[0]
        waiting = asyncio.ensure_future(cluster.client.watch("/a", first.zxid))
        await asyncio.sleep(0.5)
        async with cluster.fault("host.crash", member):
            second = await cluster.client.write("/a", b"2")
            assert await waiting == second.zxid

    passes(scenario)


def test_session_is_granted_within_2_and_20_ticks_and_takes_its_paths_with_it() -> None:
    async def scenario(cluster: Cluster) -> None:
        short, long = await cluster.client.open_session(0.9), await cluster.client.open_session(60.0)
        assert (short.timeout_s, long.timeout_s) == (1.0, 10.0)
        await cluster.client.write("/mine", b"", session=short.id)
        await cluster.client.write("/yours", b"", session=long.id)
        await asyncio.sleep(5.0)
        assert not (await cluster.client.latest("/mine")).deleted
        async with cluster.fault("network.partition", "client-1"):
            await asyncio.sleep(4.0)
        assert short.lost.is_set() and not long.lost.is_set()
        assert (await cluster.client.latest("/mine")).deleted and not (await cluster.client.latest("/yours")).deleted

    passes(scenario)


def test_session_survives_a_change_of_leader() -> None:
    async def scenario(cluster: Cluster) -> None:
        session = await cluster.client.open_session(6.0)
        await cluster.client.write("/mine", b"", session=session.id)
        async with cluster.fault("host.crash", leader(cluster)):
            await asyncio.sleep(10.0)
        assert not session.lost.is_set() and not (await cluster.client.latest("/mine")).deleted

    for seed in range(4):
        passes(scenario, seed)


def test_poll_is_answered_by_any_member_also_without_a_majority() -> None:
    async def scenario(cluster: Cluster) -> None:
        written = await cluster.client.write("/a", b"1")
        await asyncio.sleep(1.0)
        async with cluster.fault("host.crash", MEMBERS[:2]):
            await cluster.client.at("store-3")
            changes = await cluster.client.poll(0)
            assert (changes.to_zxid, [e.path for e in changes.entries]) == (written.zxid, ["/a"])
            cluster.role("client-1").store.deadline_s = 3.0
            with pytest.raises(NoQuorum):
                await cluster.client.write("/a", b"2")
            cluster.role("client-1").store.deadline_s = 30.0

    passes(scenario)


# -- what it survives ------------------------------------------------------------------------------------------------


def test_member_that_was_away_catches_up_by_the_log_and_by_a_snapshot() -> None:
    async def scenario(cluster: Cluster) -> None:
        async with cluster.fault("host.crash", "store-2"):
            for number in range(30):
                await cluster.client.write(f"/a/{number % 7}", b"%d" % number)
        await cluster.client.at("store-2")
        assert bytes(await cluster.client.value("/a/1")) == b"29"
        async with cluster.fault("host.crash", "store-2"):
            writes = (cluster.client.write(f"/b/{number % 70}", b"%d" % number) for number in range(1500))
            await asyncio.gather(*writes)
        written = await cluster.client.write("/c", b"last")
        assert (await cluster.client.latest("/c", written.zxid)).version == 1
        assert len((await cluster.client.poll(0)).entries) == 78

    outcome = passes(scenario)
    assert any(e.node == "store-2" and e["zxid"] >= 1000 for e in outcome.history.of("store.load"))


def test_everything_is_there_again_after_a_restart_of_all_members() -> None:
    async def scenario(cluster: Cluster) -> None:
        session = await cluster.client.open_session(10.0)
        for number in range(11):
            writes = (cluster.client.write(f"/a/{n % 300}", b"%d" % n) for n in range(100 * number, 100 * number + 100))
            await asyncio.gather(*writes)
        await cluster.client.write("/mine", b"x", session=session.id)
        before = await cluster.client.poll(0)
        async with cluster.fault("disk.lose_unsynced", MEMBERS, torn=1.0):
            going = asyncio.ensure_future(cluster.client.write("/z", b""))
            await asyncio.sleep(0.0003)
            async with cluster.fault("host.crash", MEMBERS):
                await asyncio.sleep(0.1)
            await going
        after = await cluster.client.poll(0)
        assert {e.path: e for e in after.entries if e.path != "/z"} == {e.path: e for e in before.entries}
        assert bytes(await cluster.client.value("/a/1")) == b"901"
        assert not session.lost.is_set()

    holds(scenario)


def test_member_with_a_full_disk_takes_no_part_until_there_is_room() -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.client.write("/a", b"1")
        full = followers(cluster)[0]
        async with cluster.fault("disk.full", full):
            for number in range(20):
                await cluster.client.write("/a", b"%d" % number)
            other = next(m for m in followers(cluster) if m != full)
            async with cluster.fault("host.crash", other):
                cluster.role("client-1").store.deadline_s = 3.0
                with pytest.raises(NoQuorum):
                    await cluster.client.write("/b", b"")
                cluster.role("client-1").store.deadline_s = 30.0
        await cluster.client.write("/b", b"")

    passes(scenario)


@pytest.mark.parametrize("tick", ["0.1s", "2s"])
def test_member_with_another_tick_does_no_harm(tick: str) -> None:
    """It may take the lead over: that is how the ensemble heals itself, and nothing to complain of."""

    async def scenario(cluster: Cluster) -> None:
        for number in range(10):
            await cluster.client.write("/a", b"%d" % number)
            await asyncio.sleep(2.0)

    odd = {"stores.store.tick": {"*": "2s" if tick == "0.1s" else "0.1s", "store-2": tick}}
    for seed in range(6):
        outcome = passes(scenario, seed, assignment=odd)
        late = [e for e in outcome.history.of("store.leader") if e.t > 12]
        assert len(late) <= 1, "it heals: leaders do not change for ever"


async def stormy(cluster: Cluster) -> None:
    """Two writers that never cease, while members crash with loss of what was not synced, hang, and are cut off."""
    random, members = cluster.role("client-1").node.random, cluster.nodes("store")
    cluster.role("client-1").store.deadline_s = 4.0
    over = False

    async def writer(name: str) -> None:
        number = 0
        while not over:
            number += 1
            try:
                await cluster.client.write(f"/{name}", b"%d" % number)
            except (NoQuorum, Failed):
                pass
            await asyncio.sleep(random.random() / 5)

    writers = [asyncio.ensure_future(writer(name)) for name in "ab"]
    async with cluster.fault("disk.lose_unsynced", members, torn=0.5):
        for _ in range(6):
            who = random.choice(members)
            fault = random.choice(["host.crash", "host.pause", "network.partition"])
            async with cluster.fault(fault, who):
                await asyncio.sleep(random.random() * 5)
            await asyncio.sleep(random.random() * 3)
        async with cluster.fault("host.crash", random.choice(members)):
            await asyncio.sleep(0.1)
    over = True
    await asyncio.gather(*writers)


@pytest.mark.parametrize("stores", [3, 5])
def test_order_and_acknowledged_writes_survive_storms(stores: int) -> None:
    for seed in range(6 if stores == 3 else 2):
        holds(stormy, seed, stores=stores)


def test_one_seed_gives_one_history() -> None:
    first, second, other = (run(stormy, seed).history.digest() for seed in (1, 1, 2))
    assert first == second != other


# -- planted bugs ----------------------------------------------------------------------------------------------------


async def written_by_a_majority_of_which_one_forgets(cluster: Cluster) -> None:
    """A writes with B while C is away; B loses what it did not sync; B and C go on without A."""
    await cluster.client.write("/a", b"0")
    b, c = followers(cluster)
    async with cluster.fault("network.partition", c):
        await cluster.client.write("/a", b"1")
        async with cluster.fault("disk.lose_unsynced", b), cluster.fault("host.crash", b):
            await asyncio.sleep(0.1)
        a = leader(cluster)
        await cluster.inject("host.crash", a)
    await cluster.client.write("/b", b"2")


async def leader_alone(cluster: Cluster) -> None:
    """The leader is cut off with a writer that goes on; the others elect another one."""
    await cluster.client.write("/a", b"0")
    async with cluster.fault("network.partition", [leader(cluster), "client-1"], followers(cluster)):
        cluster.role("client-1").store.deadline_s = 1.0
        try:
            await cluster.client.write("/a", b"1")
        except NoQuorum:
            pass
        await asyncio.sleep(4.0)
    cluster.role("client-1").store.deadline_s = 30.0
    await cluster.client.write("/a", b"2")


async def leader_comes_back(cluster: Cluster) -> None:
    """A leader is cut off with a record that it could not send; another one leads before it has given up."""
    await cluster.client.write("/a", b"0")
    old, others = leader(cluster), followers(cluster)
    for member in others:
        await cluster.configure(member, {"stores.store.tick": 0.2})
    async with cluster.fault("network.partition", old, others):
        await cluster.client.write("/b", b"1")
    await asyncio.sleep(4.0)


MUTANTS = [
    ("bug.no_sync", written_by_a_majority_of_which_one_forgets, "lad.store_order"),
    ("bug.ack_before_majority", leader_alone, "lad.store_order"),
    ("bug.no_fence", leader_comes_back, "lad.store_order"),
]


@pytest.mark.parametrize(("variant", "scenario", "name"), MUTANTS, ids=[variant for variant, _, _ in MUTANTS])
def test_invariant_catches_the_bug_planted_for_it(variant: str, scenario: Any, name: str) -> None:
    slow: dict[str, Any] = {"stores.store.tick": {"*": 2.0}} if scenario is leader_comes_back else {}
    outcome = run(scenario, 1, variant=variant, assignment=slow)
    assert outcome.violation is not None and outcome.violation.invariant == name, outcome.message
    holds(scenario, 1, assignment=slow)


def test_store_order_accepts_and_refuses() -> None:
    order = STORE_INVARIANTS[0]
    good = [event("store.apply", node=n, zxid=z, term=1, of=f"{z}") for z in (1, 2) for n in ("a", "b")]
    assert check_invariant(order, history(*good, event("store.ack", node="a", zxid=2))) is None
    bad = {
        "different transactions": [*good, event("store.apply", node="c", zxid=1, term=1, of="x")],
        "carries out 4 after 2": [*good, event("store.apply", node="a", zxid=4, term=1, of="4")],
        "both elected": [event("store.leader", node=n, term=3, last=0) for n in ("a", "b")],
        "2 was acknowledged": [event("store.ack", node="a", zxid=2), event("store.leader", node="b", term=2, last=1)],
    }
    for text, events in bad.items():
        found = check_invariant(order, history(*events))
        assert found is not None and text in found.message


# -- parts -----------------------------------------------------------------------------------------------------------

PATHS = ["/a/x", "/a/y", "/b/x", "/ab"]
RECORDS_OF_SEVERAL = st.lists(st.lists(st.sampled_from(PATHS), min_size=1, max_size=3, unique=True), max_size=20)


def made(batches: list[list[str]]) -> list[Record]:
    """A record for each batch, that writes its paths; the content is the zxid."""
    return [
        Record(zxid=zxid, term=1, id=f"{zxid}", ops=tuple(
            Stored(path=path, content=Blob.of(b"%d" % zxid), raw_size=1, digest=f"{zxid}", alg="none", codec="none")
            for path in paths
        ))
        for zxid, paths in enumerate(batches, 1)
    ]  # fmt: skip


@given(RECORDS_OF_SEVERAL, st.integers(1, 4), st.booleans())
@settings(max_examples=200, deadline=None)
def test_every_page_of_a_poll_ends_at_a_state_that_there_was(
    batches: list[list[str]], limit: int, restored: bool
) -> None:
    state, maps = State(), [dict[str, int]()]
    for record in made(batches):
        state.apply(record)
        maps.append({path.name: path.latest for path in state.paths.values()})
    if restored:
        state = State.of(state.parts())
    seen, at = dict[str, int](), 0
    while at < state.zxid:
        page = state.poll(at, (), limit)
        assert page.to_zxid > at
        seen |= {entry.path: entry.version for entry in page.entries}
        at = page.to_zxid
        assert seen == maps[at]
    below = {e.path for e in state.poll(0, ("/a",), limit=10_000).entries}
    assert below == {path for path in seen if path.startswith("/a/")}


@given(RECORDS_OF_SEVERAL, st.data())
@settings(max_examples=50, deadline=None)
def test_frames_that_are_whole_are_read_and_nothing_else(batches: list[list[str]], data: st.DataObject) -> None:
    records = made(batches)
    ends = [0]
    file = Blob.of(b"")
    for record in records:
        file += RECORDS.frame(record)
        ends.append(len(file))
    assert list(RECORDS.frames(file)) == records
    cut = data.draw(st.integers(0, len(file)))
    whole = sum(end <= cut for end in ends) - 1
    assert list(RECORDS.frames(file.slice(0, cut))) == records[:whole]
    if cut < len(file):
        hurt = next(n for n, end in enumerate(ends[1:]) if cut < end)
        assert list(RECORDS.frames(file.flip(cut))) == records[:hurt]


@given(RECORDS_OF_SEVERAL)
@settings(max_examples=50, deadline=None)
def test_a_state_is_the_same_after_a_snapshot(batches: list[list[str]]) -> None:
    state = State()
    for record in made(batches):
        state.apply(record)
    file = Blob.join([PARTS.frame(part) for part in state.parts()])
    again = State.of(PARTS.frames(file))
    assert (again.paths, again.done, again.zxid) == (state.paths, state.done, state.zxid)


def test_same_request_is_carried_out_once() -> None:
    async def scenario(cluster: Cluster) -> None:
        store = cluster.role("client-1").store
        await cluster.client.write("/a", b"1")
        store.new_id = lambda: "the same"
        first = await cluster.client.write("/a", b"2")
        async with cluster.fault("host.crash", leader(cluster)):
            again = await cluster.client.write("/a", b"2")
        assert again == first
        assert (await cluster.client.latest("/a")).version == 2

    passes(scenario)
