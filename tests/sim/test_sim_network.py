"""What faults do to simulated streams and datagrams, and how long bytes take."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import msgspec
import pytest

import zebra
from tests.sim.lab import hosts
from zebra import Blob, RunSpec
from zebra.substrate import Pairs
from zebra.substrate.decisions import RECORDED_MAX
from zebra.substrate.sim.stream import GIVE_UP_S, WINDOW

TARGET = hosts(3, jitter=0.0)


class Lab:
    """The cluster of a test, with short words for what these tests do."""

    def __init__(self, cluster: Any) -> None:
        self.cluster, self.running = cluster, cluster._running
        self.links, self.processes = self.running.capabilities["links"], self.running.capabilities["processes"]

    @property
    def now(self) -> float:
        return float(self.cluster.now)

    async def on(self, host: str, work: Callable[..., Any], *args: Any) -> Any:
        return await self.running.call(host, "go", work, *args)

    def start(self, host: str, work: Callable[..., Any], *args: Any) -> asyncio.Task[Any]:
        return asyncio.create_task(self.on(host, work, *args))

    def one_way(self, source: str, target: str) -> Pairs:
        return Pairs([(frozenset({source}), frozenset({target}))])

    def both_ways(self, a: str, b: str) -> Pairs:
        return Pairs([(frozenset({a}), frozenset({b})), (frozenset({b}), frozenset({a}))])


def run(scenario: Callable[[Lab], Any], seed: int = 0, **shape: Any) -> zebra.Outcome:
    async def main(cluster: Any) -> None:
        await scenario(Lab(cluster))

    topology = msgspec.structs.replace(TARGET.topology, **shape)
    outcome = zebra.run(main, RunSpec(target="lab", seed=seed, topology=topology, timeout_s=5_000.0), target=TARGET)
    outcome.raise_failure()
    return outcome


async def echo(node: Any, port: int = 7) -> Any:
    async def handler(reader: Any, writer: Any) -> None:
        try:
            while data := await reader.read(65536):
                writer.write(data)
                node.emit("lab.echo", size=len(data))
        except OSError as error:
            node.emit("lab.error", error=type(error).__name__)
        writer.close()

    return await asyncio.start_server(handler, None, port)


async def dial(node: Any, to: str, port: int = 7) -> Any:
    stream = await asyncio.open_connection(to, port)
    node.__dict__.setdefault("kept", []).append(stream)  # a writer that is dropped open warns, here as anywhere
    return stream


async def ask(node: Any, stream: Any, text: bytes = b"hello") -> bytes:
    reader, writer = stream
    writer.write(text)
    return await reader.readexactly(len(text))  # type: ignore[no-any-return]


async def read(node: Any, stream: Any) -> bytes:
    return await stream[0].read(65536)  # type: ignore[no-any-return]


# -- partitions ----------------------------------------------------------------------------------------------


def test_a_dropped_path_stalls_a_stream_until_a_retransmission_after_it_heals() -> None:
    async def scenario(lab: Lab) -> None:
        await lab.on("host-1", echo)
        stream = await lab.on("host-2", dial, "host-1")
        effect = await lab.links.add(lab.both_ways("host-1", "host-2"), drop=True)
        began, asking = lab.now, lab.start("host-2", ask, stream)
        await asyncio.sleep(1.0)
        assert not asking.done()
        await lab.links.remove(effect)
        assert await asking == b"hello"
        assert lab.now - began == pytest.approx(0.2 + 0.4 + 0.8, abs=0.01)
        assert effect.hits == 3

    run(scenario)


@pytest.mark.parametrize(("source", "target", "arrives"), [("host-2", "host-1", 0), ("host-1", "host-2", 1)])
def test_a_path_dropped_one_way_loses_only_that_way(source: str, target: str, arrives: int) -> None:
    async def scenario(lab: Lab) -> None:
        await lab.on("host-1", echo)
        stream = await lab.on("host-2", dial, "host-1")
        effect = await lab.links.add(lab.one_way(source, target), drop=True)
        asking = lab.start("host-2", ask, stream)
        await asyncio.sleep(5.0)
        assert not asking.done()
        assert len(lab.cluster.history.of("lab.echo")) == arrives
        assert effect.hits > 0
        await lab.links.remove(effect)
        assert await asking == b"hello"
        assert len(lab.cluster.history.of("lab.echo")) == 1

    run(scenario)


def test_messages_of_a_stalled_stream_keep_their_order_and_none_is_lost() -> None:
    async def scenario(lab: Lab) -> None:
        await lab.on("host-1", echo)
        stream = await lab.on("host-2", dial, "host-1")

        async def count(node: Any) -> bytes:
            for number in range(200):
                stream[1].write(b"%03d" % number)
                await asyncio.sleep(0.05)
            return await stream[0].readexactly(600)  # type: ignore[no-any-return]

        counting = lab.start("host-2", count)
        for _ in range(4):
            effect = await lab.links.add(lab.both_ways("host-1", "host-2"), drop=True, loss=0.0)
            await asyncio.sleep(0.7)
            await lab.links.remove(effect)
            await asyncio.sleep(0.9)
        assert await counting == b"".join(b"%03d" % number for number in range(200))

    run(scenario)


def test_a_partition_that_never_heals_times_the_connection_out() -> None:
    async def scenario(lab: Lab) -> None:
        await lab.on("host-1", echo)
        stream = await lab.on("host-2", dial, "host-1")
        await lab.links.add(lab.both_ways("host-1", "host-2"), drop=True)
        with pytest.raises(TimeoutError):
            await lab.on("host-2", ask, stream)
        assert GIVE_UP_S < lab.now < GIVE_UP_S + 121

    run(scenario)


def test_connecting_over_a_dropped_path_times_out_after_127_seconds() -> None:
    async def scenario(lab: Lab) -> None:
        await lab.on("host-1", echo)
        await lab.links.add(lab.one_way("host-1", "host-2"), drop=True)
        with pytest.raises(TimeoutError) as caught:
            await lab.on("host-2", dial, "host-1")
        assert caught.value.errno == errno.ETIMEDOUT
        assert lab.now == pytest.approx(127.0, abs=0.1)
        assert await lab.on("host-3", dial, "host-1")

    run(scenario)


def test_a_rejecting_path_refuses_connections_and_resets_streams() -> None:
    async def scenario(lab: Lab) -> None:
        await lab.on("host-1", echo)
        stream = await lab.on("host-2", dial, "host-1")
        effect = await lab.links.add(lab.both_ways("host-1", "host-2"), reject=True)
        with pytest.raises(ConnectionRefusedError):
            await lab.on("host-2", dial, "host-1")
        with pytest.raises(ConnectionResetError):
            await lab.on("host-2", ask, stream)
        assert effect.hits == 2

    run(scenario)


def test_a_loss_on_a_stream_costs_a_retransmission() -> None:
    async def scenario(lab: Lab) -> None:
        await lab.on("host-1", echo)
        stream = await lab.on("host-2", dial, "host-1")
        effect = await lab.links.add(lab.one_way("host-2", "host-1"), loss=0.3)
        began, slow = lab.now, 0
        for _ in range(200):
            before = lab.now
            assert await lab.on("host-2", ask, stream) == b"hello"
            slow += lab.now - before > 0.19
        assert effect.hits == pytest.approx(200 * 0.3 / 0.7, rel=0.3)
        assert slow == pytest.approx(60, rel=0.3)
        assert lab.now - began > 60 * 0.2
        told = lab.cluster.history.of("link.effect")
        assert len(told) == effect.hits
        assert {(e["what"], e["over"], e["source"], e["bytes"]) for e in told} == {("loss", "stream", "host-2", 5)}

    run(scenario)


def test_data_of_a_closed_stream_still_arrives_after_a_partition() -> None:
    async def scenario(lab: Lab) -> None:
        await lab.on("host-1", echo)
        stream = await lab.on("host-2", dial, "host-1")

        async def leave(node: Any) -> None:
            stream[1].write(b"goodbye")
            stream[1].close()
            await stream[1].wait_closed()

        effect = await lab.links.add(lab.both_ways("host-1", "host-2"), drop=True)
        await lab.on("host-2", leave)
        await asyncio.sleep(1.0)
        assert not lab.cluster.history.of("lab.echo")
        await lab.links.remove(effect)
        assert (await lab.cluster.event("lab.echo"))["size"] == 7

    run(scenario)


# -- hosts that go away ------------------------------------------------------------------------------------------


def test_a_silent_peer_of_a_crashed_host_hears_nothing_until_it_sends_to_the_restarted_one() -> None:
    async def scenario(lab: Lab) -> None:
        await lab.on("host-1", echo)
        stream = await lab.on("host-2", dial, "host-1")
        assert await lab.on("host-2", ask, stream) == b"hello"
        effect = await lab.processes.add(["host-1"], down="crash")
        listening = lab.start("host-2", read, stream)
        await asyncio.sleep(300.0)
        await lab.processes.remove(effect)
        await asyncio.sleep(300.0)
        assert not listening.done()

        async def send(node: Any) -> None:
            stream[1].write(b"are you there?")

        began = lab.now
        await lab.on("host-2", send)
        with pytest.raises(ConnectionResetError):
            await listening
        assert lab.now - began < 0.01

    run(scenario)


def test_who_sends_to_a_crashed_host_waits_and_is_reset_by_its_next_life() -> None:
    async def scenario(lab: Lab) -> None:
        await lab.on("host-1", echo)
        stream = await lab.on("host-2", dial, "host-1")
        effect = await lab.processes.add(["host-1"], down="crash")
        asking = lab.start("host-2", ask, stream)
        await asyncio.sleep(2.0)
        assert not asking.done()
        await lab.processes.remove(effect)
        with pytest.raises(ConnectionResetError):
            await asking
        assert 2.0 < lab.now < 5.0

    run(scenario)


def test_a_process_that_stops_says_goodbye_to_its_peers() -> None:
    async def scenario(lab: Lab) -> None:
        await lab.on("host-1", echo)
        stream = await lab.on("host-2", dial, "host-1")
        await lab.processes.add(["host-1"], down="stop")
        assert await lab.on("host-2", read, stream) == b""
        with pytest.raises(ConnectionRefusedError):
            await lab.on("host-2", dial, "host-1")

    run(scenario)


def test_a_paused_host_accepts_and_buffers_and_answers_when_it_goes_on() -> None:
    async def scenario(lab: Lab) -> None:
        await lab.on("host-1", echo)
        effect = await lab.processes.add(["host-1"], down="pause")
        stream = await lab.on("host-2", dial, "host-1")
        asking = lab.start("host-2", ask, stream)
        await asyncio.sleep(10.0)
        assert not asking.done()
        await lab.processes.remove(effect)
        assert await asking == b"hello"
        assert lab.now == pytest.approx(10.0, abs=0.01)

    run(scenario)


def test_a_paused_writer_is_not_resumed_while_its_process_is_paused() -> None:
    """Its peer reads meanwhile; nothing may run in the paused process, `resume_writing` included."""

    async def scenario(lab: Lab) -> None:
        async def slow(node: Any) -> None:
            async def handler(reader: Any, writer: Any) -> None:
                await asyncio.sleep(2.0)
                while await reader.read(2**20):
                    pass

            await asyncio.start_server(handler, None, 9)

        async def fill(node: Any) -> None:
            _, writer = await dial(node, "host-1", 9)
            for _ in range(3 * WINDOW // 2**20):
                writer.write(bytes(2**20))
            await writer.drain()
            node.emit("lab.drained")

        await lab.on("host-1", slow)
        filling = lab.start("host-2", fill)
        await asyncio.sleep(1.0)
        effect = await lab.processes.add(["host-2"], down="pause")
        await asyncio.sleep(9.0)
        assert not lab.cluster.history.of("lab.drained")
        await lab.processes.remove(effect)
        await filling
        assert lab.cluster.history.of("lab.drained")[0].t == pytest.approx(10.0, abs=0.01)

    run(scenario)


# -- time on the wire ----------------------------------------------------------------------------------------------


class Sink(asyncio.Protocol):
    """Counts blobs and bytes, and when they came."""

    def __init__(self, arrivals: list[tuple[float, int]]) -> None:
        self.arrivals = arrivals

    def data_received(self, data: bytes) -> None:
        self.arrivals.append((asyncio.get_running_loop().time(), len(data)))

    def blob_received(self, blob: Blob) -> None:
        self.arrivals.append((asyncio.get_running_loop().time(), len(blob)))


async def sink(node: Any, port: int = 9) -> list[tuple[float, int]]:
    arrivals: list[tuple[float, int]] = []
    await asyncio.get_running_loop().create_server(lambda: Sink(arrivals), None, port)
    return arrivals


async def send_blob(node: Any, to: str, size: int) -> Any:
    transport, _ = await asyncio.get_running_loop().create_connection(asyncio.Protocol, to, 9)
    transport.write_blob(Blob.random(1, size, materialise=False))  # type: ignore[attr-defined]
    return transport


@pytest.mark.parametrize(("rate", "expected_s"), [(0.0, 0.08), (1e7, 10.0), (1e6, 100.0)])
def test_a_hundred_megabytes_take_their_time_on_the_card_and_on_a_limited_link(rate: float, expected_s: float) -> None:
    async def scenario(lab: Lab) -> None:
        arrivals = await lab.on("host-1", sink)
        if rate:
            effect = await lab.links.add(lab.one_way("host-2", "host-1"), rate=rate, on=frozenset({"host-1", "host-2"}))
        began = lab.now
        await lab.on("host-2", send_blob, "host-1", 100_000_000)
        await asyncio.sleep(expected_s * 2)
        assert [size for _, size in arrivals] == [100_000_000]
        assert arrivals[0][0] - began == pytest.approx(expected_s, rel=0.02)
        assert not rate or effect.hits > 10

    run(scenario)


@pytest.mark.parametrize("shared", ["sender", "receiver"])
def test_two_flows_share_a_network_card_fairly(shared: str) -> None:
    async def scenario(lab: Lab) -> None:
        ends = (
            [("host-2", "host-1"), ("host-2", "host-3")]
            if shared == "sender"
            else [("host-2", "host-1"), ("host-3", "host-1")]
        )
        arrivals = {host: await lab.on(host, sink) for host in {target for _, target in ends}}
        began = lab.now
        for source, target in ends:
            await lab.on(source, send_blob, target, 100_000_000)
        await asyncio.sleep(1.0)
        took = [when - began for times in arrivals.values() for when, _ in times]
        assert len(took) == 2
        assert min(took) == pytest.approx(0.16, rel=0.10)
        assert max(took) == pytest.approx(0.16, rel=0.02)

    run(scenario)


def test_a_small_message_slips_between_the_packets_of_a_long_one() -> None:
    async def scenario(lab: Lab) -> None:
        await lab.on("host-3", echo)
        await lab.on("host-1", sink)
        stream = await lab.on("host-2", dial, "host-3")
        await lab.on("host-2", send_blob, "host-1", 1_000_000_000)
        began = lab.now
        assert await lab.on("host-2", ask, stream) == b"hello"
        assert lab.now - began < 0.005

    run(scenario)


def test_a_partition_stops_a_long_message_half_way() -> None:
    async def scenario(lab: Lab) -> None:
        arrivals = await lab.on("host-1", sink)
        await lab.on("host-2", send_blob, "host-1", 1_000_000_000)
        await asyncio.sleep(0.4)
        effect = await lab.links.add(lab.both_ways("host-1", "host-2"), drop=True)
        await asyncio.sleep(10.0)
        assert arrivals == []
        await lab.links.remove(effect)
        await asyncio.sleep(20.0)
        assert [size for _, size in arrivals] == [1_000_000_000]

    run(scenario)


def test_latency_follows_the_topology_and_its_effects_add_up() -> None:
    async def scenario(lab: Lab) -> None:
        for host in ("host-1", "host-2"):
            await lab.on(host, echo)

        async def trip(to: str) -> float:
            stream = await lab.on("host-3", dial, to)
            before = lab.now
            await lab.on("host-3", ask, stream)
            return lab.now - before

        racks = {place.node: place.rack for place in lab.cluster.places}
        assert racks["host-1"] == racks["host-3"] != racks["host-2"]
        assert await trip("host-1") == pytest.approx(2 * 60e-6, rel=0.01)
        assert await trip("host-2") == pytest.approx(2 * 150e-6, rel=0.01)
        await lab.on("host-3", echo)
        assert await trip("host-3") == pytest.approx(2 * 20e-6, rel=0.01)
        for latency_s in (0.01, 0.02):
            await lab.links.add(lab.one_way("host-3", "host-2"), latency_s=latency_s)
        assert await trip("host-2") == pytest.approx(0.03 + 2 * 150e-6, rel=0.01)
        assert await trip("host-1") == pytest.approx(2 * 60e-6, rel=0.01)

    run(scenario)


def test_hosts_of_two_regions_are_far_apart() -> None:
    async def scenario(lab: Lab) -> None:
        await lab.on("host-2", echo)
        stream = await lab.on("host-1", dial, "host-2")
        before = lab.now
        await lab.on("host-1", ask, stream)
        assert lab.now - before == pytest.approx(0.06, rel=0.01)

    run(scenario, regions=2)


# -- datagrams -----------------------------------------------------------------------------------------------


class Numbers(asyncio.DatagramProtocol):
    def __init__(self) -> None:
        self.got: list[int] = []

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self.got.append(int(data))


@pytest.mark.parametrize(
    ("settings", "lost", "extra", "overtaken"),
    [
        ({}, 0.0, 0.0, 0.0),
        ({"loss": 0.2}, 0.2, 0.0, 0.0),
        ({"duplicate": 0.1, "after_s": 0.001}, 0.0, 0.1, 0.1),
        ({"reorder": 0.1}, 0.0, 0.0, 0.1),
    ],
)
def test_datagrams_are_lost_doubled_and_overtaken_as_often_as_asked(
    settings: dict[str, float], lost: float, extra: float, overtaken: float
) -> None:
    count = 5000

    async def scenario(lab: Lab) -> None:
        async def receive(node: Any) -> list[int]:
            _, protocol = await asyncio.get_running_loop().create_datagram_endpoint(Numbers, local_addr=("0.0.0.0", 9))
            return protocol.got

        async def send(node: Any) -> None:
            transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(Numbers, local_addr=("0.0.0.0", 0))
            for number in range(count):
                transport.sendto(b"%d" % number, ("host-1", 9))
                await asyncio.sleep(20e-6)

        got = await lab.on("host-1", receive)
        effect = await lab.links.add(lab.one_way("host-2", "host-1"), **settings)
        await lab.on("host-2", send)
        await asyncio.sleep(1.0)
        unique = set(got)
        late = sum(1 for a, b in pairwise(got) if b < a)
        assert 1 - len(unique) / count == pytest.approx(lost, rel=0.15)
        assert len(got) / len(unique) - 1 == pytest.approx(extra, rel=0.15)
        assert late / count == pytest.approx(overtaken, rel=0.25)
        told = [(event["what"], event["over"]) for event in lab.cluster.history.of("link.effect")]
        kind = next(iter(settings), "")
        assert told == [(kind, "datagram")] * min(effect.hits, RECORDED_MAX)

    run(scenario, jitter=0.2)


def test_a_datagram_reaches_whoever_has_the_port_when_it_arrives() -> None:
    async def scenario(lab: Lab) -> None:
        async def receive(node: Any) -> Numbers:
            _, protocol = await asyncio.get_running_loop().create_datagram_endpoint(Numbers, local_addr=("0.0.0.0", 9))
            return protocol

        async def send(node: Any) -> None:
            transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(Numbers, local_addr=("0.0.0.0", 0))
            transport.sendto(b"1", ("host-1", 9))

        first = await lab.on("host-1", receive)
        await lab.links.add(lab.one_way("host-2", "host-1"), latency_s=5.0)
        await lab.on("host-2", send)
        effect = await lab.processes.add(["host-1"], down="crash")
        await lab.processes.remove(effect)
        second = await lab.on("host-1", receive)
        await asyncio.sleep(6.0)
        assert (first.got, second.got) == ([], [1])

    run(scenario)


def test_a_server_on_the_loopback_is_not_seen_from_other_hosts() -> None:
    async def scenario(lab: Lab) -> None:
        async def local(node: Any) -> Any:
            await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", 9)
            return await dial(node, "localhost", 9)

        assert await lab.on("host-1", local)
        with pytest.raises(ConnectionRefusedError):
            await lab.on("host-2", dial, "host-1", 9)

        async def foreign(node: Any) -> None:
            await asyncio.start_server(lambda reader, writer: writer.close(), "host-3", 9)

        with pytest.raises(OSError, match="another node's address"):
            await lab.on("host-1", foreign)

    run(scenario)
