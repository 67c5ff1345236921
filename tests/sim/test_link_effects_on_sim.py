"""Every effect of links and names, in simulation."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests import link_effects
from tests.cases import at
from zebra import Blob, Cluster, RunSpec, Target, Topology, run
from zebra.errors import ConfigError


@pytest.mark.parametrize("case", link_effects.CASES, ids=lambda case: case.__name__)
def test_an_effect_shows_and_is_healed(case: Any) -> None:
    link_effects.check(case, "sim")


def test_an_effect_has_the_same_history_from_the_same_seed() -> None:
    def history() -> list[Any]:
        spec = RunSpec(target="links", substrate="sim", seed=7)
        outcome = run(everything_at_once, spec, target=link_effects.TARGET)
        return [(event.t, event.kind, dict(event.fields)) for event in outcome.history]

    assert history() == history()


async def everything_at_once(cluster: Cluster) -> None:
    links = cluster._running.capabilities["links"]
    for arguments in ({"corrupt": 0.3}, {"slice_bytes": 7, "slice_s": 0.01}, {"close_s": 0.1}, {"limit_bytes": 400}):
        await links.add(link_effects.A_TO_B, **arguments)
    for number in range(10):
        await at(cluster, link_effects.A, "connect", link_effects.B)
        for each in range(number):
            await at(cluster, link_effects.A, "send", b"text %d" % each * 10)
    await link_effects.until_ended(cluster, 2)
    cluster._running.log.emit("", "test.seen", seen=repr(await link_effects.seen(cluster)))


@pytest.mark.parametrize(
    ("name", "settings", "why"),
    [
        ("network.timeout", {"after": 0}, "after is 0, expected more than 0; network.blackhole never closes"),
        ("network.slicing", {"piece_bytes": 0}, "piece_bytes is 0, expected more than 0"),
        ("network.slow_close", {"delay": 0}, "delay is 0, expected more than 0"),
        ("network.connection_limit", {"limit": -1}, "limit: -1 is out of range"),
        ("network.partition_ring", {}, "3 nodes are selected, it needs 4 at least"),
        ("network.partition", {"connections": "old"}, "connections"),
    ],
)
def test_bad_settings_are_refused_in_one_line(name: str, settings: dict[str, Any], why: str) -> None:
    async def scenario(cluster: Cluster) -> None:
        with pytest.raises(ConfigError, match=why):
            await cluster.inject(name, ["peer-1", "peer-2", "peer-3"], **settings)

    spec = RunSpec(target="links", substrate="sim")
    assert run(scenario, spec, target=link_effects.TARGET).result in ("pass", "inconclusive")


# -- blobs, which are one message each -----------------------------------------------------------------------------

SIZE = 5_000_000
BLOB = Blob.random(1, SIZE, materialise=False)


class Keeper(asyncio.Protocol):
    """Keeps blobs and the end of the stream, with the time at which they came."""

    def __init__(self) -> None:
        self.came: list[tuple[float, Blob | str]] = []

    def _note(self, what: Blob | str) -> None:
        self.came.append((asyncio.get_running_loop().time(), what))

    def blob_received(self, blob: Blob) -> None:
        self._note(blob)

    def eof_received(self) -> None:
        self._note("end")

    def connection_lost(self, error: Exception | None) -> None:
        self._note(type(error).__name__)


class Host(link_effects.Peer):
    """Takes blobs at a port of its own, and sends them."""

    async def run(self) -> None:
        self.keeper = Keeper()
        await asyncio.get_running_loop().create_server(lambda: self.keeper, None, 10)
        await super().run()

    async def blob(self, to: str) -> Keeper:
        """What this end of the new connection sees of it."""
        transport, protocol = await asyncio.get_running_loop().create_connection(Keeper, to, 10)
        transport.write_blob(BLOB)  # type: ignore[attr-defined]
        return protocol


def blobs(**arguments: Any) -> tuple[list[tuple[float, Blob | str]], Keeper, int]:
    """What comes of a blob under an effect: at the receiver, with the seconds that it took; at the sender; the hits."""
    made: list[Any] = []

    async def scenario(cluster: Cluster) -> None:
        links = cluster._running.capabilities["links"]
        effect = await links.add(link_effects.A_TO_B, **arguments)
        began_s = asyncio.get_running_loop().time()
        sender = await at(cluster, link_effects.A, "blob", link_effects.B)
        await asyncio.sleep(20.0)
        came = cluster._running.role(link_effects.B).keeper.came
        made.extend([[(at_s - began_s, what) for at_s, what in came], sender, effect.hits])

    target = Target(name="links", config=link_effects.Config, roles={"peer": Host}, client=link_effects.Peer,
                    topology=Topology(counts={"peer": 2}, jitter=0.0))  # fmt: skip
    run(scenario, RunSpec(target="links", substrate="sim"), target=target).raise_failure()
    return made[0], made[1], made[2]


def test_a_corrupted_blob_has_one_byte_that_is_wrong() -> None:
    [(_, blob)], _, hits = blobs(corrupt=1.0)
    assert isinstance(blob, Blob)
    assert (len(blob), hits) == (SIZE, 1)
    assert blob != BLOB

    def same(begin: int, end: int) -> bool:
        return blob.slice(begin, end) == BLOB.slice(begin, end)

    begin, end = 0, SIZE
    while end - begin > 1:  # all wrong bytes are in between
        middle = (begin + end) // 2
        assert same(begin, middle) != same(middle, end), "one half is right"
        begin, end = (middle, end) if same(begin, middle) else (begin, middle)
    assert blob.flip(begin) == BLOB


def test_a_blob_beyond_a_limit_does_not_come_and_the_stream_ends() -> None:
    came, sender, hits = blobs(limit_bytes=SIZE - 1)
    assert [what for _, what in came] == ["end", "NoneType"]
    assert [what for _, what in sender.came] == ["ConnectionResetError"]
    assert hits == 1
    came, sender, hits = blobs(limit_bytes=SIZE + 1)
    assert [what for _, what in came] == [BLOB]
    assert (sender.came, hits) == ([], 0)


def test_a_sliced_blob_comes_whole_with_its_last_piece() -> None:
    [(free_s, _)], _, _ = blobs(latency_s=0.0)
    [(sliced_s, blob)], _, hits = blobs(slice_bytes=100_000, slice_s=0.1)
    assert blob == BLOB
    assert sliced_s - free_s == pytest.approx(0.1 * SIZE / 100_000, rel=0.1)
    assert SIZE / 100_000 - 6 <= hits <= SIZE / 100_000 + 6, "each segment of it is cut by itself"


def test_a_held_blob_goes_on_or_is_reset() -> None:
    came, sender, hits = blobs(hold=True, timeout_s=3.0)
    assert [(round(at_s), what) for at_s, what in came] == [(3, "ConnectionResetError")]
    assert [what for _, what in sender.came] == ["ConnectionResetError"]
    assert hits > 2
