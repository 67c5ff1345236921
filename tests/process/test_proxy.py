"""The fault proxy between two sockets: what each toxic does, while it is on and once it is gone."""

from __future__ import annotations

import asyncio
import itertools
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from random import Random
from typing import Any

import pytest

from zebra.proxy.connections import Ceiling, Hold, Limit, Slicer, SlowClose, Timeout
from zebra.proxy.proxy import Proxy
from zebra.proxy.toxics import (
    Bandwidth,
    Corrupt,
    Drop,
    Duplicate,
    Latency,
    Loss,
    Reject,
    Reorder,
    Reset,
    Toxic,
    Way,
)

SOON_S, PATIENCE_S = 0.15, 10.0
HOST = "127.0.0.1"
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Bench:
    """An echo server behind a proxy. `out` and `back` are the toxics of the two directions."""

    def __init__(self, proxy: Proxy, port: int) -> None:
        self.proxy, self.port = proxy, port
        self.out: tuple[Toxic, ...] = ()
        self.back: tuple[Toxic, ...] = ()
        self.streams: list[Streams] = []

    def set(self, *out: Toxic, back: tuple[Toxic, ...] = ()) -> None:
        self.out, self.back = out, back
        self.proxy.refresh()

    async def connect(self) -> Streams:
        self.streams.append(await asyncio.open_connection(HOST, self.port))
        return self.streams[-1]


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
        writer.write(b"the end")
    except ConnectionError:
        pass
    writer.close()


@asynccontextmanager
async def bench() -> AsyncIterator[Bench]:
    made: Bench
    proxy = Proxy(asyncio.get_running_loop(), 0, lambda source, _: made.back if source == "server" else made.out,
                  lambda address: "client")  # fmt: skip
    server = await asyncio.start_server(echo, HOST, 0)
    listener = await proxy.listen((HOST, 0), "server", (HOST, server.sockets[0].getsockname()[1]))
    made = Bench(proxy, listener.address[1])
    try:
        yield made
    finally:
        for _, writer in made.streams:
            writer.close()
        listener.close()
        server.close()
        proxy.close()
        await asyncio.sleep(0.02)


def on_bench(test: Callable[[Bench], Awaitable[None]]) -> Callable[[], None]:
    async def run() -> None:
        async with bench() as made, asyncio.timeout(20):
            await test(made)

    def sync() -> None:
        asyncio.run(run())

    sync.__name__ = test.__name__
    return sync


async def ask(streams: Streams, data: bytes = b"hello", timeout_s: float = PATIENCE_S) -> str:
    try:
        streams[1].write(data)
        async with asyncio.timeout(timeout_s):
            return (await streams[0].readexactly(len(data))).decode()
    except (OSError, asyncio.IncompleteReadError) as error:
        return type(error).__name__


@on_bench
async def test_without_toxics_all_bytes_pass_in_both_directions_and_a_half_close_is_one(bench: Bench) -> None:
    reader, writer = await bench.connect()
    data = bytes(range(256)) * 20_000

    async def send() -> None:
        writer.write(data)
        await writer.drain()
        writer.write_eof()

    sending = asyncio.create_task(send())
    assert await reader.read(-1) == data + b"the end"
    await sending
    assert not bench.proxy.connections


@on_bench
async def test_latency_applies_to_connections_that_are_on_and_ends_at_once(bench: Bench) -> None:
    streams = await bench.connect()
    assert await ask(streams) == "hello"
    slow = Latency(latency_s=0.2)
    bench.set(slow)
    begun = time.monotonic()
    assert await ask(streams) == "hello"
    assert time.monotonic() - begun >= 0.2
    assert slow.counter.hits >= 1
    bench.set(Latency(latency_s=30))
    asking = asyncio.create_task(ask(streams))
    await asyncio.sleep(0.05)
    assert not asking.done()
    bench.set()
    assert await asking == "hello"


@on_bench
async def test_a_drop_holds_back_and_loses_nothing(bench: Bench) -> None:
    streams = await bench.connect()
    assert await ask(streams) == "hello"
    cut = Drop()
    bench.set(cut)
    assert await ask(streams, b"first", SOON_S) == "TimeoutError"
    assert cut.counter.hits == 1
    bench.set()
    assert await streams[0].readexactly(5) == b"first"
    assert await ask(streams, b"second") == "second"


@on_bench
async def test_a_dropped_way_back_holds_the_answer_only(bench: Bench) -> None:
    streams = await bench.connect()
    assert await ask(streams) == "hello"
    bench.set(back=(Drop(),))
    assert await ask(streams, b"first", SOON_S) == "TimeoutError"
    bench.set()
    assert await streams[0].readexactly(5) == b"first"


@on_bench
async def test_a_full_link_stops_the_sender(bench: Bench) -> None:
    _, writer = await bench.connect()
    bench.set(Drop())

    async def send_for_ever() -> None:
        while True:
            writer.write(bytes(1 << 20))
            await writer.drain()

    with pytest.raises(TimeoutError):
        await asyncio.wait_for(send_for_ever(), 0.5)
    connection = next(iter(bench.proxy.connections))
    assert connection.forward._bytes < 3 << 20
    writer.transport.abort()


@on_bench
async def test_reject_and_reset_break_both_ends(bench: Bench) -> None:
    for toxic in (Reject(), Reset()):
        bench.set()
        streams = await bench.connect()
        assert await ask(streams) == "hello"
        bench.set(toxic)
        assert await ask(streams) == "ConnectionResetError"
        assert toxic.counter.hits == 1


@on_bench
async def test_bandwidth_is_shared_by_all_links_of_a_toxic(bench: Bench) -> None:
    one, two = await bench.connect(), await bench.connect()
    limit = Bandwidth(rate=200_000)
    bench.set(limit)
    begun = time.monotonic()
    answers = await asyncio.gather(ask(one, b"x" * 40_000), ask(two, b"y" * 40_000))
    assert list(answers) == ["x" * 40_000, "y" * 40_000]
    assert time.monotonic() - begun >= 0.38


@on_bench
async def test_loss_delays_a_stream_and_keeps_its_order(bench: Bench) -> None:
    streams = await bench.connect()
    bench.set(Slicer(size=100), Loss(probability=0.05))
    data = bytes(range(100)) * 40
    assert await ask(streams, data) == data.decode()


@on_bench
async def test_a_slicer_hands_on_pieces(bench: Bench) -> None:
    streams = await bench.connect()
    assert await ask(streams) == "hello"
    slices = Slicer(size=10, variation=3, delay_s=0.005)
    bench.set(back=(slices,))
    assert await ask(streams, b"z" * 200) == "z" * 200
    assert slices.counter.hits >= 15


@on_bench
async def test_a_limit_closes_after_so_many_bytes(bench: Bench) -> None:
    reader, writer = await bench.connect()
    bench.set(back=(Limit(size=7),))
    writer.write(b"0123456789")
    assert await reader.read(-1) == b"0123456"


@on_bench
async def test_a_timeout_says_nothing_and_closes(bench: Bench) -> None:
    reader, writer = await bench.connect()
    bench.set(Timeout(after_s=0.1))
    writer.write(b"hello")
    begun = time.monotonic()
    assert await reader.read(-1) == b""
    assert time.monotonic() - begun >= 0.09


@on_bench
async def test_slow_close_delays_only_the_end(bench: Bench) -> None:
    streams = await bench.connect()
    bench.set(SlowClose(delay_s=0.2))
    assert await ask(streams) == "hello"
    begun = time.monotonic()
    streams[1].write_eof()
    assert await streams[0].read(-1) == b"the end"
    assert time.monotonic() - begun >= 0.19


@on_bench
async def test_what_is_held_waits_in_order_with_the_end_and_goes_when_the_toxic_goes(bench: Bench) -> None:
    hold = Hold()
    bench.set(hold)
    streams = await bench.connect()
    assert await ask(streams, b"first", SOON_S) == "TimeoutError"
    streams[1].write(b" second")
    streams[1].write_eof()
    bench.set()
    assert await streams[0].read(-1) == b"first secondthe end"
    assert hold.counter.hits >= 1


@on_bench
async def test_a_hold_with_a_time_out_resets_what_waits_and_nothing_else(bench: Bench) -> None:
    bench.set(Hold(timeout_s=0.1))
    idle, streams = await bench.connect(), await bench.connect()
    begun = time.monotonic()
    assert await ask(streams) == "ConnectionResetError"
    assert time.monotonic() - begun >= 0.09
    assert await ask(idle, b"", SOON_S) == ""
    bench.set()
    assert await ask(idle) == "hello"


@on_bench
async def test_a_share_of_what_a_stream_carries_has_one_wrong_bit(bench: Bench) -> None:
    reader, writer = await bench.connect()
    corrupt = Corrupt(probability=0.5)
    bench.set(back=(corrupt,))
    wrong = 0
    for _ in range(40):
        writer.write(b"some data")
        got = await reader.readexactly(9)
        wrong += sum((a ^ b).bit_count() for a, b in zip(got, b"some data", strict=True))
    assert 5 < wrong == corrupt.counter.hits < 35


@on_bench
async def test_a_ceiling_counts_the_connections_that_there_are_and_not_those_it_refused(bench: Bench) -> None:
    first = await bench.connect()
    assert await ask(first) == "hello"
    ceiling = Ceiling(limit=2, there=lambda: [each.forward for each in bench.proxy.connections])
    bench.set(ceiling)
    assert await ask(await bench.connect()) == "hello"

    async def call() -> None:
        reader, writer = await bench.connect()
        writer.write(b"hello")
        await reader.readexactly(5)

    for _ in range(3):
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await call()
    assert ceiling.counter.hits == 3
    first[1].close()
    async with asyncio.timeout(PATIENCE_S):
        while len(bench.proxy.connections) > 1:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    assert await ask(await bench.connect()) == "hello"


@on_bench
async def test_what_happens_to_a_connection_depends_on_the_seed_alone(bench: Bench) -> None:
    async def delays(seed: int) -> list[float]:
        made: list[float] = []

        class Spy(Latency):
            def judge(self, chunk: Any, link: Any) -> float:
                made.append(super().judge(chunk, link))
                return 0.0

        bench.proxy.seed = seed
        bench.proxy._numbers.clear()
        bench.set()
        streams = await bench.connect()
        assert await ask(streams) == "hello"
        bench.set(Spy(jitter_s=1.0))
        for _ in range(5):
            assert await ask(streams) == "hello"
        return made

    first = await delays(1)
    assert first == await delays(1)
    assert first != await delays(2)


class Box(asyncio.DatagramProtocol):
    def __init__(self) -> None:
        self.got: list[bytes] = []

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self.got.append(data)


@pytest.mark.parametrize(
    ("toxics", "expected"),
    [
        ((), "0123456789"),
        ((Drop(),), ""),
        ((Reject(),), ""),
        ((Duplicate(probability=1.0),), "00112233445566778899"),
        ((Latency(latency_s=0.05), Bandwidth(rate=1e6)), "0123456789"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_datagrams(toxics: tuple[Toxic, ...], expected: str) -> None:
    assert asyncio.run(datagrams(toxics)) == expected


def test_some_datagrams_are_lost_and_some_overtaken() -> None:
    assert 2 <= len(asyncio.run(datagrams((Loss(probability=0.5),)))) <= 8
    mixed = asyncio.run(datagrams((Reorder(probability=0.5),)))
    assert mixed != "0123456789"
    assert sorted(mixed) == list("0123456789")


def test_correlated_losses_come_in_bursts() -> None:
    loss, way = Loss(probability=0.1, correlation=0.7), Way("a", "b", Random(3), lambda *_: None)
    lost = [not loss.copies([0.0], 10, way, 0.0) for _ in range(20_000)]
    after_loss = [second for first, second in itertools.pairwise(lost) if first]
    after_none = [second for first, second in itertools.pairwise(lost) if not first]
    assert 0.77 <= sum(after_loss) / len(after_loss) <= 0.83
    assert 0.09 <= sum(after_none) / len(after_none) <= 0.11


async def datagrams(toxics: tuple[Toxic, ...]) -> str:
    """Ten datagrams from node a to node b, each with its number: how they arrive."""
    loop = asyncio.get_running_loop()
    names = {"127.0.0.21": "a", "127.0.0.22": "b", "127.0.0.31": "a", "127.0.0.32": "b"}
    proxy = Proxy(loop, 5, lambda *_: toxics, names.__getitem__)
    sender, _ = await loop.create_datagram_endpoint(Box, local_addr=("127.0.0.31", 4321))
    receiver, box = await loop.create_datagram_endpoint(Box, local_addr=("127.0.0.32", 4321))
    await proxy.relay(("127.0.0.21", 4321), "a", ("127.0.0.31", 4321))
    await proxy.relay(("127.0.0.22", 4321), "b", ("127.0.0.32", 4321))
    for number in range(10):
        sender.sendto(b"%d" % number, ("127.0.0.22", 4321))
        await asyncio.sleep(0.002)
    await asyncio.sleep(0.15)
    for transport in (sender, receiver):
        transport.close()
    proxy.close()
    await asyncio.sleep(0.01)
    return b"".join(box.got).decode()


@pytest.mark.filterwarnings("error::ResourceWarning")
def test_a_proxy_that_closes_while_it_connects_leaves_no_socket_open() -> None:
    async def run() -> socket.socket:
        full = socket.create_server((HOST, 0), backlog=0)  # takes one more connection, and answers no further SYN
        waiting = [socket.socket() for _ in range(3)]
        for sock in waiting:
            sock.setblocking(False)
            sock.connect_ex(full.getsockname())
        proxy = Proxy(asyncio.get_running_loop(), 0, lambda *_: (), lambda address: "client")
        listener = await proxy.listen((HOST, 0), "server", full.getsockname())
        _, writer = await asyncio.open_connection(HOST, listener.address[1])
        while not proxy.connections:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        connecting = next(iter(proxy.connections))._connecting
        assert connecting is not None
        listener.close()
        proxy.close()
        writer.transport.abort()
        for sock in (full, *waiting):
            sock.close()
        await asyncio.sleep(0.02)
        return connecting

    assert asyncio.run(run()).fileno() == -1
