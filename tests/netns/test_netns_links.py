"""What each argument of `Links.add` does to real traffic between network namespaces, and that its hits are counted."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests import conformance, link_effects
from tests.cases import SOON_S
from tests.link_effects import added
from zebra import Cluster, RunSpec, run
from zebra.doctor import arguments_of
from zebra.errors import ConfigError
from zebra.substrate import Pairs
from zebra.substrate.netns import SUBSTRATE
from zebra.substrate.netns.probe import lacks

pytestmark = pytest.mark.skipif(bool(SUBSTRATE.unavailable()), reason=SUBSTRATE.unavailable())


CLIENT, SERVER, OTHER = "client-1", "server-1", "server-2"
ALL = frozenset({CLIENT, SERVER, OTHER})

no_wire = pytest.mark.skipif("latency_s" in lacks(), reason=lacks().get("latency_s", ""))
no_rate = pytest.mark.skipif("rate" in lacks(), reason=lacks().get("rate", ""))


def one_way(source: str, target: str) -> Pairs:
    return Pairs([(frozenset({source}), frozenset({target}))])


def both_ways(node: str, others: frozenset[str] = ALL) -> Pairs:
    return Pairs([(frozenset({node}), others), (others, frozenset({node}))])


async def came(cluster: Cluster, count: int, timeout_s: float = 5.0) -> list[int]:
    """The sizes of the datagrams that came back, once there are so many."""
    loop = asyncio.get_running_loop()
    until_s = loop.time() + timeout_s
    while len(found := list(await cluster.client.came())) < count and loop.time() < until_s:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    return found


# -- partitions --------------------------------------------------------------------------------------------------


def test_a_drop_stalls_an_open_connection_loses_datagrams_and_counts_each_packet() -> None:
    async def scenario(cluster: Cluster) -> None:
        client = cluster.client
        await client.connect(SERVER)
        assert await client.ask(SERVER, "before") == "before"
        async with added(cluster, one_way(CLIENT, SERVER), drop=True) as effect:
            await client.burst(SERVER, 7)
            assert await came(cluster, 1, SOON_S) == []
            assert effect.hits == 7
            assert await client.ask(SERVER, "during", SOON_S) == "TimeoutError"
            assert effect.hits > 7
            assert await client.connect(OTHER) == "connected"
            assert await client.ask(OTHER) == "hello"
        hits = effect.hits
        assert await client.listen(SERVER, 10) == "during"
        assert effect.hits == hits, "a removed effect counts no more"

    conformance.check(scenario, "netns")


def test_a_drop_of_one_direction_lets_the_other_pass() -> None:
    async def scenario(cluster: Cluster) -> None:
        async with added(cluster, one_way(SERVER, CLIENT), drop=True) as effect:
            await cluster.client.burst(SERVER, 5)
            assert await came(cluster, 1, SOON_S) == []
            assert effect.hits == 5, "all five arrived, and were answered"

    conformance.check(scenario, "netns")


def test_a_reject_resets_open_connections_refuses_new_ones_and_loses_datagrams() -> None:
    async def scenario(cluster: Cluster) -> None:
        client = cluster.client
        await client.connect(SERVER)
        assert await client.ask(SERVER) == "hello"
        async with added(cluster, one_way(CLIENT, SERVER), reject=True) as effect:
            assert await client.ask(SERVER) == "ConnectionResetError"
            assert effect.hits == 1
            assert await client.connect(SERVER) == "ConnectionRefusedError"
            assert effect.hits == 2
            assert await client.datagram(SERVER, SOON_S) == "lost"
            assert effect.hits == 3
        assert await client.connect(SERVER) == "connected"

    conformance.check(scenario, "netns")


@pytest.mark.parametrize("substrate", ["sim", "process", "netns"])
@pytest.mark.parametrize("how", ["drop", "reject"])
def test_only_new_connections_are_hit_when_asked_so(how: str, substrate: str) -> None:
    async def scenario(cluster: Cluster) -> None:
        client = cluster.client
        await client.connect(SERVER)
        assert await client.ask(SERVER, "before") == "before"
        async with added(cluster, one_way(CLIENT, SERVER), new_only=True, **{how: True}) as effect:
            assert await client.ask(SERVER, "during") == "during"
            assert await client.datagram(SERVER) == "hello"
            assert effect.hits == 0
            wanted = {"drop": "TimeoutError", "reject": "ConnectionRefusedError"}[how]
            async with asyncio.timeout(10):
                assert await client.connect(OTHER) == "connected"
            assert await client.connect(SERVER, timeout_s=SOON_S) == wanted
            assert effect.hits >= 1
        async with added(cluster, one_way(SERVER, CLIENT), new_only=True, **{how: True}) as effect:
            assert await client.connect(SERVER) == "connected", "the answer to a new connection is none"
            assert await client.ask(SERVER) == "hello"
            assert effect.hits == 0

    conformance.check(scenario, substrate)


def test_effects_add_up_and_the_last_one_to_go_sets_the_link_free() -> None:
    async def scenario(cluster: Cluster) -> None:
        async with added(cluster, both_ways(SERVER), drop=True) as wide:
            async with added(cluster, one_way(CLIENT, SERVER), drop=True) as narrow:
                assert await cluster.client.datagram(SERVER, SOON_S) == "lost"
                assert (wide.hits, narrow.hits) == (1, 1)
            assert await cluster.client.datagram(SERVER, SOON_S) == "lost"
            assert (wide.hits, narrow.hits) == (2, 1)
        assert await cluster.client.datagram(SERVER) == "hello"

    conformance.check(scenario, "netns")


# -- loss --------------------------------------------------------------------------------------------------------


def test_a_stream_under_loss_keeps_every_byte_and_each_loss_is_told() -> None:
    async def scenario(cluster: Cluster) -> None:
        async with added(cluster, both_ways(SERVER), loss=0.1) as effect:
            assert await cluster.client.order(SERVER, 200)
        await cluster.settled()
        told = cluster.history.of("link.effect")
        assert len(told) == effect.hits > 0
        assert {event["over"] for event in told} <= {"stream", "connect"}
        assert {event["what"] for event in told} == {"loss"}

    conformance.check(scenario, "netns")


# -- rates -------------------------------------------------------------------------------------------------------


@no_rate
@pytest.mark.parametrize("way", ["out", "in", "pair"])
def test_a_rate_holds_for_a_stream_in_the_direction_that_was_asked_for(way: str) -> None:
    rate, size = 400_000, 400_000
    nodes = {"out": frozenset({CLIENT}), "in": frozenset({SERVER}), "pair": frozenset[str]()}[way]

    async def scenario(cluster: Cluster) -> None:
        async def seconds(to: str) -> float:
            begun_s = cluster.now
            assert await cluster.client.half_close(to, size) == f"{size} bytes"
            return cluster.now - begun_s

        async with added(cluster, one_way(CLIENT, SERVER), rate=rate, on=nodes) as effect:
            assert await seconds(SERVER) >= 0.8 * size / rate
            hits = effect.hits
            assert hits >= size // 65536, "one packet may hold so many bytes until the limit cuts it"
            await seconds(OTHER)
            assert effect.hits == hits, "the other link has nothing to do with it"
        free_s = min([await seconds(SERVER) for _ in range(3)])
        assert free_s < 0.8 * size / rate

    conformance.check(scenario, "netns")


@no_rate
def test_all_links_of_a_node_share_one_rate_for_each_direction() -> None:
    rate, size = 400_000, 200_000

    async def scenario(cluster: Cluster) -> None:
        async with added(cluster, both_ways(CLIENT), rate=rate, on=frozenset({CLIENT})):
            begun_s = cluster.now
            both = [cluster.client.half_close(to, size) for to in (SERVER, OTHER)]
            assert await asyncio.gather(*both) == [f"{size} bytes"] * 2
            assert cluster.now - begun_s >= 0.8 * 2 * size / rate

    conformance.check(scenario, "netns")


@no_rate
def test_a_rate_holds_back_datagrams_and_comes_back_with_a_node_that_had_lost_its_power() -> None:
    async def scenario(cluster: Cluster) -> None:
        async with added(cluster, both_ways(SERVER), rate=20_000, on=frozenset({SERVER})) as effect:
            async with cluster.fault("host.crash", SERVER):
                pass
            begun_s, count = cluster.now, 150
            await cluster.client.burst(SERVER, count)
            sizes = await came(cluster, count, 10)
            assert sorted(sizes) == list(range(1, count + 1))
            passed = sum(sizes) + 42 * count - 4000  # with headers, less what may leave at once
            assert cluster.now - begun_s >= 0.7 * passed / 20_000
            assert effect.hits == 2 * count

    conformance.check(scenario, "netns")


@no_rate
def test_of_two_rates_the_tighter_one_holds() -> None:
    size = 100_000

    async def scenario(cluster: Cluster) -> None:
        async with added(cluster, both_ways(SERVER), rate=1e8, on=frozenset({SERVER})) as loose:
            async with added(cluster, one_way(CLIENT, SERVER), rate=200_000, on=frozenset({SERVER})) as tight:
                begun_s = cluster.now
                assert await cluster.client.half_close(SERVER, size) == f"{size} bytes"
                assert cluster.now - begun_s >= 0.8 * size / 200_000
            assert loose.hits and tight.hits

    conformance.check(scenario, "netns")


# -- the wire ----------------------------------------------------------------------------------------------------


@no_wire
def test_nothing_passes_through_userspace_but_what_an_effect_sends_there() -> None:
    async def scenario(cluster: Cluster) -> None:
        wire = cluster._running.capabilities["links"]._wire
        assert await cluster.client.half_close(SERVER, 1_000_000) == "1000000 bytes"
        async with added(cluster, both_ways(SERVER), drop=True, new_only=True, loss=0.001, rate=1e9):
            assert await cluster.client.half_close(OTHER, 1_000_000) == "1000000 bytes"
            assert await cluster.client.datagram(SERVER) == "hello"
        assert wire.packets == 0
        async with added(cluster, both_ways(SERVER), latency_s=0.001) as effect:
            assert await cluster.client.half_close(SERVER, 1_000_000) == "1000000 bytes"
            assert await cluster.client.half_close(OTHER, 1_000_000) == "1000000 bytes"
        passed = wire.packets
        assert passed == effect.hits > 10
        assert await cluster.client.half_close(SERVER, 1_000_000) == "1000000 bytes"
        assert wire.packets - passed <= 2, "what was under way when the effect went"

    conformance.check(scenario, "netns")


@no_wire
def test_latency_and_jitter_hold_for_datagrams_and_for_connections_that_were_open() -> None:
    async def scenario(cluster: Cluster) -> None:
        client = cluster.client
        await client.connect(SERVER)
        assert await client.ask(SERVER) == "hello"
        async with added(cluster, both_ways(SERVER), latency_s=0.1, jitter_s=0.05) as effect:
            for ask in (client.datagram, client.ask):
                begun_s = cluster.now
                assert await ask(SERVER) == "hello"
                assert cluster.now - begun_s >= 0.2
            hits = effect.hits
            assert await client.datagram(OTHER) == "hello"
            assert effect.hits == hits, "the other link has nothing to do with it"
            assert await client.order(SERVER, 100), "a stream keeps its order"
        assert effect.hits >= 4

    conformance.check(scenario, "netns")


@no_wire
def test_what_waits_on_a_slow_link_goes_when_the_effect_goes() -> None:
    async def scenario(cluster: Cluster) -> None:
        async with added(cluster, one_way(CLIENT, SERVER), latency_s=60.0):
            await cluster.client.burst(SERVER, 3)
            assert await came(cluster, 1, SOON_S) == []
        assert await came(cluster, 3) == [1, 2, 3]

    conformance.check(scenario, "netns")


@no_wire
def test_datagrams_are_doubled_and_streams_show_nothing_of_it() -> None:
    async def scenario(cluster: Cluster) -> None:
        async with added(cluster, one_way(CLIENT, SERVER), duplicate=1.0, after_s=0.05) as effect:
            await cluster.client.burst(SERVER, 20)
            assert sorted(await came(cluster, 40)) == sorted([*range(1, 21), *range(1, 21)])
            assert await cluster.client.order(SERVER, 50)
            assert effect.hits == 20
        await cluster.settled()
        told = cluster.history.of("link.effect")
        assert [(event["what"], event["over"], event["bytes"]) for event in told] == [
            ("duplicate", "datagram", size) for size in range(1, 21)
        ]

    conformance.check(scenario, "netns")


@no_wire
def test_some_datagrams_are_overtaken_and_none_is_lost() -> None:
    async def scenario(cluster: Cluster) -> None:
        async with added(cluster, one_way(CLIENT, SERVER), reorder=0.5) as effect:
            await cluster.client.burst(SERVER, 40)
            sizes = await came(cluster, 40)
        assert sizes != sorted(sizes) == list(range(1, 41))
        assert 0 < effect.hits < 40

    conformance.check(scenario, "netns")


@no_wire
def test_a_reset_reaches_both_ends_although_only_one_sends() -> None:
    async def scenario(cluster: Cluster) -> None:
        client = cluster.client
        await client.connect(SERVER)
        assert await client.ask(SERVER) == "hello"
        async with added(cluster, one_way(CLIENT, SERVER), reset=1.0) as effect:
            assert await client.ask(SERVER) == "ConnectionResetError"
            await cluster.until(lambda: bool(cluster.history.of("server.lost")))
            assert effect.hits == 1

    conformance.check(scenario, "netns")


def test_what_the_kernel_has_no_means_for_is_refused_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    missing = {"latency_s": "no tun", "rate": "no buckets", "loss": "no dice"}
    for module in ("zebra.substrate.netns.links", "zebra.substrate.netns"):
        monkeypatch.setattr(f"{module}.lacks", lambda: missing)
    wanted: dict[str, dict[str, Any]] = {
        "network.latency": {"delay": "1ms"}, "network.reset": {}, "network.duplicate": {"probability": 0.5},
        "network.bandwidth": {"rate": "1MB/s"}, "network.loss": {"probability": 0.5},
        "network.corruption": {"probability": 0.5}, "network.blackhole": {}, "network.timeout": {"after": "1s"},
        "network.slow_close": {"delay": "1s"}, "network.slicing": {"piece_bytes": 9},
        "network.data_limit": {"limit_bytes": 9}, "network.connection_limit": {"limit": 9},
    }  # fmt: skip

    async def scenario(cluster: Cluster) -> None:
        for fault, settings in wanted.items():
            with pytest.raises(ConfigError, match=r"^substrate netns: \w+ is not available here: no \w+$"):
                await cluster.inject(fault, SERVER, **settings)
        async with added(cluster, both_ways(SERVER), drop=True):
            assert await cluster.client.datagram(SERVER, SOON_S) == "lost"

    spec = RunSpec(target="conformance", substrate="netns", timeout_s=60)
    outcome = run(scenario, spec, target=conformance.TARGET)
    assert outcome.result in ("pass", "inconclusive"), outcome.explain()
    assert SUBSTRATE.refused["links.rate"] == "no buckets"
    assert {name: why for name, why in SUBSTRATE.refused.items() if why == "no tun"}.keys() == {
        f"links.{what}"
        for what in ("latency_s", "jitter_s", "duplicate", "reorder", "reset", "corrupt", "hold", "timeout_s",
                     "close_s", "slice_bytes", "slice_s", "limit_bytes", "connections")
    }  # fmt: skip


def test_each_argument_has_its_test() -> None:
    shown = {
        "drop": test_a_drop_stalls_an_open_connection_loses_datagrams_and_counts_each_packet,
        "reject": test_a_reject_resets_open_connections_refuses_new_ones_and_loses_datagrams,
        "new_only": test_only_new_connections_are_hit_when_asked_so,
        "loss": test_a_stream_under_loss_keeps_every_byte_and_each_loss_is_told,
        "rate": test_a_rate_holds_for_a_stream_in_the_direction_that_was_asked_for,
        "on": test_all_links_of_a_node_share_one_rate_for_each_direction,
        "latency_s": test_latency_and_jitter_hold_for_datagrams_and_for_connections_that_were_open,
        "jitter_s": test_latency_and_jitter_hold_for_datagrams_and_for_connections_that_were_open,
        "duplicate": test_datagrams_are_doubled_and_streams_show_nothing_of_it,
        "after_s": test_datagrams_are_doubled_and_streams_show_nothing_of_it,
        "reorder": test_some_datagrams_are_overtaken_and_none_is_lost,
        "reset": test_a_reset_reaches_both_ends_although_only_one_sends,
        "corrupt": link_effects.corruption_turns_over_one_bit_of_a_stream_and_the_rest_arrives,
        "hold": link_effects.a_blackhole_takes_connections_and_keeps_what_is_sent_until_it_is_healed,
        "timeout_s": link_effects.a_timeout_lets_connections_open_and_resets_them_once_something_was_held,
        "close_s": link_effects.a_slow_close_delays_the_end_and_nothing_before,
        "slice_bytes": link_effects.a_sliced_stream_comes_in_pieces_with_time_between,
        "slice_s": link_effects.a_sliced_stream_comes_in_pieces_with_time_between,
        "limit_bytes": link_effects.a_data_limit_cuts_a_connection_off_in_the_midst_of_a_message,
        "connections": link_effects.a_limit_of_connections_refuses_those_beyond_it_until_one_has_closed,
    }
    assert set(shown) | {name.partition(".")[2] for name in SUBSTRATE.refused} >= set(arguments_of("links"))
