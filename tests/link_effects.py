"""Every effect of links and names, seen in real traffic: while it is on, and gone when it is healed.

The scenarios run on each substrate; `raise_failure` also refuses a run in which a fault was not hit.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import msgspec

from tests.cases import PATIENCE_S, SOON_S, Cases, at
from zebra import Cluster, Node, RunSpec, Target, Topology, run
from zebra.substrate import Effect, Pairs

PORT = 9


class Config(msgspec.Struct, frozen=True, kw_only=True):
    unused: int = 0


class Peer:
    """Keeps what comes, with when it came, and opens connections to others."""

    def __init__(self, node: Node[Config]) -> None:
        self.node = node
        self.got = bytearray()
        self.pieces: list[tuple[int, float]] = []
        self.ends: list[tuple[str, float]] = []
        self.datagrams: list[bytes] = []
        self.open: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def run(self) -> None:
        self.server = await asyncio.start_server(self.serve, None, PORT)
        endpoint = asyncio.get_running_loop().create_datagram_endpoint
        self.box, _ = await endpoint(lambda: _Box(self.datagrams), local_addr=("0.0.0.0", PORT))
        await self.node.ready()
        await asyncio.Event().wait()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        now = asyncio.get_running_loop().time
        try:
            while data := await reader.read(1 << 16):
                self.got += data
                self.pieces.append((len(data), now()))
            self.ends.append(("end", now()))
        except ConnectionError as error:
            self.ends.append((type(error).__name__, now()))
        writer.close()

    async def seen(self) -> tuple[bytes, list[tuple[int, float]], list[tuple[str, float]], list[bytes]]:
        """All that came, in pieces of which sizes and when, how connections ended and when, and datagrams."""
        return bytes(self.got), self.pieces, self.ends, self.datagrams

    async def connect(self, to: str, timeout_s: float = PATIENCE_S) -> str:
        try:
            async with asyncio.timeout(timeout_s):
                self.open.append(await asyncio.open_connection(to, PORT))
        except OSError as error:
            return type(error).__name__
        return "connected"

    async def send(self, data: bytes, end: bool = False) -> float:
        """By the last connection; when."""
        sent_s = asyncio.get_running_loop().time()
        self.open[-1][1].write(data)
        if end:
            self.open[-1][1].write_eof()
        return sent_s

    async def ending(self, timeout_s: float = PATIENCE_S) -> str:
        """How the last connection ends."""
        try:
            async with asyncio.timeout(timeout_s):
                return (await self.open[-1][0].read()).decode() or "end"
        except OSError as error:
            return type(error).__name__

    async def hang_up(self) -> None:
        self.open.pop()[1].close()

    async def datagram(self, to: str, data: bytes) -> None:
        self.box.sendto(data, (to, PORT))

    async def resolve(self, name: str) -> str:
        try:
            found = await asyncio.get_running_loop().getaddrinfo(name, PORT, type=socket.SOCK_STREAM)
        except socket.gaierror:
            return "unknown"
        return str(found[0][4][0])


class _Box(asyncio.DatagramProtocol):
    def __init__(self, into: list[bytes]) -> None:
        self.into = into

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self.into.append(data)


TARGET = Target(name="links", config=Config, roles={"peer": Peer}, client=Peer, topology=Topology(counts={"peer": 5}))

CASES, REAL_CASES = Cases(), Cases()
case, real = CASES.add, REAL_CASES.add
"""The second is for substrates where what is under way may be held: in simulation its time of arrival is decided."""

A, B, C = "peer-1", "peer-2", "peer-3"
PEERS = tuple(f"peer-{number}" for number in range(1, 6))
A_TO_B = Pairs([(frozenset({A}), frozenset({B}))])


def check(scenario: Any, substrate: str, *, peers: int = 5, timeout_s: float = 60) -> None:
    """Run a case; raises what went wrong."""
    spec = RunSpec(target="links", substrate=substrate, timeout_s=timeout_s, topology=Topology(counts={"peer": peers}))
    run(scenario, spec, target=TARGET).raise_failure()


@asynccontextmanager
async def added(cluster: Cluster, pairs: Pairs = A_TO_B, **arguments: Any) -> AsyncIterator[Effect]:
    """An effect on the links, by default those from A to B alone."""
    links = cluster._running.capabilities["links"]
    effect = await links.add(pairs, **arguments)
    try:
        yield effect
    finally:
        await links.remove(effect)


async def seen(cluster: Cluster, node: str = B) -> tuple[bytes, list[Any], list[Any], list[bytes]]:
    found: tuple[bytes, list[Any], list[Any], list[bytes]] = await at(cluster, node, "seen")
    return found


async def until(condition: Callable[[], Awaitable[Any]]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not await condition():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def until_got(cluster: Cluster, size: int, node: str = B) -> bytes:
    """What has come to a node, once it is so much."""

    async def enough() -> bool:
        return len((await seen(cluster, node))[0]) >= size

    await until(enough)
    return (await seen(cluster, node))[0]


async def until_ended(cluster: Cluster, count: int = 1, node: str = B) -> list[Any]:
    async def enough() -> bool:
        return len((await seen(cluster, node))[2]) >= count

    await until(enough)
    return (await seen(cluster, node))[2]


def wrong_bits(one: bytes, other: bytes) -> int:
    assert len(one) == len(other)
    return sum((a ^ b).bit_count() for a, b in zip(one, other, strict=True))


# -- what data suffers -------------------------------------------------------------------------------------------


@case
async def corruption_turns_over_one_bit_of_a_stream_and_the_rest_arrives(cluster: Cluster) -> None:
    await at(cluster, A, "connect", B)
    text = b"something that is longer than one word"
    async with added(cluster, corrupt=1.0) as effect:
        await at(cluster, A, "send", text)
        assert wrong_bits(await until_got(cluster, len(text)), text) == 1
        assert effect.hits == 1
        await at(cluster, B, "connect", C)
        await at(cluster, B, "send", text)
        assert await until_got(cluster, len(text), C) == text, "the other link has nothing to do with it"
        assert effect.hits == 1
    await at(cluster, A, "send", text)
    assert (await until_got(cluster, 2 * len(text)))[len(text) :] == text
    await cluster._running.settled()
    [told] = cluster.history.of("link.effect")
    assert (told["what"], told["over"], told["bytes"]) == ("corrupt", "stream", len(text))
    assert (told["source"], told["target"]) == (A, B)


@case
async def corruption_of_a_stream_in_large_writes(cluster: Cluster) -> None:
    await at(cluster, A, "connect", B)
    text = bytes(range(256)) * 4000
    async with added(cluster, corrupt=1.0) as effect:
        await at(cluster, A, "send", text)
        assert 1 <= wrong_bits(await until_got(cluster, len(text)), text) <= effect.hits
    await at(cluster, A, "send", text)
    assert (await until_got(cluster, 2 * len(text)))[len(text) :] == text


@case
async def corruption_turns_over_one_bit_of_a_share_of_the_datagrams(cluster: Cluster) -> None:
    sent = [b"datagram %02d" % number for number in range(40)]

    async def come(count: int) -> list[bytes]:
        async def enough() -> bool:
            return len((await seen(cluster))[3]) >= count

        await until(enough)
        return (await seen(cluster))[3]

    async with cluster.fault("network.corruption", B, probability=0.5) as fault:
        for number, each in enumerate(sent, 1):
            await at(cluster, A, "datagram", B, each)
            await come(number)
        wrong = [wrong_bits(a, b) for a, b in zip(await come(len(sent)), sent, strict=True)]
        assert set(wrong) == {0, 1}
        assert sum(wrong) == fault.hits
    await at(cluster, A, "datagram", B, b"clean")
    assert (await come(len(sent) + 1))[-1] == b"clean"


@case
async def a_sliced_stream_comes_in_pieces_with_time_between(cluster: Cluster) -> None:
    await at(cluster, A, "connect", B)
    text = bytes(range(200))
    async with added(cluster, slice_bytes=20, slice_s=0.03) as effect:
        await at(cluster, A, "send", text[:20])
        assert await until_got(cluster, 20) == text[:20]
        assert effect.hits == 0, "it need not be cut"
        await asyncio.sleep(0.05)
        await at(cluster, A, "send", text)
        assert (await until_got(cluster, 220))[20:] == text
        assert effect.hits >= 9
        _, pieces, _, _ = await seen(cluster)
        assert all(size % 20 == 0 for size, _ in pieces)
        assert pieces[-1][1] - pieces[1][1] >= 0.03 * 8 * 0.9
    await at(cluster, A, "send", text)
    assert (await until_got(cluster, 420))[220:] == text
    assert (await seen(cluster))[1][-1][0] == 200


# -- how connections end -----------------------------------------------------------------------------------------


@case
async def a_slow_close_delays_the_end_and_nothing_before(cluster: Cluster) -> None:
    async with cluster.fault("network.slow_close", B, delay="400ms") as fault:
        await at(cluster, A, "connect", B)
        sent_s = await at(cluster, A, "send", b"last words", True)
        [(how, ended_s)] = await until_ended(cluster)
        got, pieces, _, _ = await seen(cluster)
        assert (got, how) == (b"last words", "end")
        assert ended_s - sent_s >= 0.39
        assert ended_s - pieces[-1][1] >= 0.1, "which a busy reader saw late"
        assert await at(cluster, A, "ending") == "end", "the other direction is closed slowly too"
        assert fault.hits == 2
    took_s = []
    for number in range(2, 7):
        await at(cluster, A, "connect", B)
        await at(cluster, A, "send", b"more", True)
        ended_s = (await until_ended(cluster, number))[-1][1]
        took_s.append(ended_s - (await seen(cluster))[1][-1][1])
    assert min(took_s) < 0.39


@real
async def an_end_that_waits_comes_when_the_slow_close_is_healed(cluster: Cluster) -> None:
    await at(cluster, A, "connect", B)
    async with added(cluster, close_s=60.0) as effect:
        await at(cluster, A, "send", b"more", True)
        await until_got(cluster, len(b"more"))

        async def hit() -> bool:
            return effect.hits == 1

        await until(hit)
        assert (await seen(cluster))[2] == []
    await until_ended(cluster)


@case
async def a_data_limit_cuts_a_connection_off_in_the_midst_of_a_message(cluster: Cluster) -> None:
    text = b"0123456789" * 5
    await at(cluster, A, "connect", B)
    await at(cluster, A, "send", text)
    await until_got(cluster, 50)
    async with added(cluster, limit_bytes=72) as effect:
        await at(cluster, A, "send", text)
        await until_got(cluster, 100)
        assert effect.hits == 0
        await at(cluster, A, "send", text)
        assert [how for how, _ in await until_ended(cluster)] == ["end"]
        assert (await seen(cluster))[0] == (text * 3)[:122], "72 bytes since the limit was set"
        assert await at(cluster, A, "ending") in ("end", "ConnectionResetError")
        assert effect.hits == 1
    async with cluster.fault("network.data_limit", B, limit_bytes=10):
        await at(cluster, A, "connect", B)
        await at(cluster, A, "send", b"x" * 100_000)
        assert [how for how, _ in await until_ended(cluster, 2)] == ["end", "end"]
        assert len((await seen(cluster))[0]) == 122 + 10
    await at(cluster, A, "connect", B)
    await at(cluster, A, "send", text)
    await until_got(cluster, 132 + 50)


@case
async def a_timeout_lets_connections_open_and_resets_them_once_something_was_held(cluster: Cluster) -> None:
    async with cluster.fault("network.timeout", B, after="300ms"):
        assert await at(cluster, A, "connect", B) == "connected"
        assert await at(cluster, A, "ending", SOON_S) == "TimeoutError", "nothing was sent yet"
        begun_s = cluster.now
        await at(cluster, A, "send", b"hello")
        assert await at(cluster, A, "ending") == "ConnectionResetError"
        assert cluster.now - begun_s >= 0.29
        assert [how for how, _ in await until_ended(cluster)] == ["ConnectionResetError"]
        assert (await seen(cluster))[0] == b""
    assert await at(cluster, A, "connect", B) == "connected"
    await at(cluster, A, "send", b"hello")
    assert await until_got(cluster, 5) == b"hello"


@case
async def what_a_timeout_held_when_it_was_healed_goes_on_and_is_not_reset(cluster: Cluster) -> None:
    await at(cluster, A, "connect", B)
    async with added(cluster, hold=True, timeout_s=0.5) as effect:
        await at(cluster, A, "send", b"hello")

        async def hit() -> bool:
            return effect.hits > 0

        await until(hit)
    assert await until_got(cluster, 5) == b"hello"
    await asyncio.sleep(0.6)
    await at(cluster, A, "send", b" again")
    assert await until_got(cluster, 11) == b"hello again"


@case
async def a_blackhole_takes_connections_and_keeps_what_is_sent_until_it_is_healed(cluster: Cluster) -> None:
    await at(cluster, A, "connect", B)
    async with cluster.fault("network.blackhole", B):
        await at(cluster, A, "send", b"old")
        await at(cluster, A, "datagram", B, b"lost")
        assert await at(cluster, A, "connect", B, PATIENCE_S) == "connected"
        await at(cluster, A, "send", b"new", True)
        assert await at(cluster, A, "ending", SOON_S) == "TimeoutError"
        assert (await seen(cluster))[0] == b""
    assert sorted(await until_got(cluster, 6)) == sorted(b"oldnew")
    await until_ended(cluster)
    await at(cluster, A, "datagram", B, b"found")

    async def came() -> bool:
        return bool((await seen(cluster))[3])

    await until(came)
    assert (await seen(cluster))[3] == [b"found"]


# -- which connections there are ---------------------------------------------------------------------------------


@case
async def a_limit_of_connections_refuses_those_beyond_it_until_one_has_closed(cluster: Cluster) -> None:
    assert await at(cluster, A, "connect", B) == "connected"
    async with cluster.fault("network.connection_limit", B, limit=2) as fault:
        assert await at(cluster, C, "connect", B) == "connected"
        assert fault.hits == 0
        assert await at(cluster, C, "connect", B) == "ConnectionRefusedError"
        assert await at(cluster, A, "connect", B) == "ConnectionRefusedError"
        assert fault.hits == 2
        assert await at(cluster, B, "connect", C) == "connected", "what the node opens itself is free"
        assert await at(cluster, A, "connect", C) == "connected"
        await at(cluster, C, "hang_up")

        async def connects() -> bool:
            return bool(await at(cluster, C, "connect", B) == "connected")

        await until(connects)
        assert await at(cluster, A, "connect", B) == "ConnectionRefusedError"
    for _ in range(3):
        assert await at(cluster, A, "connect", B) == "connected"


@case
async def a_partition_of_new_connections_leaves_open_ones_alone(cluster: Cluster) -> None:
    await at(cluster, A, "connect", B)
    async with cluster.fault("network.partition", B, connections="new", how="reject"):
        await at(cluster, A, "send", b"old")
        assert await until_got(cluster, 3) == b"old"
        assert await at(cluster, A, "connect", B) == "ConnectionRefusedError"
    assert await at(cluster, A, "connect", B) == "connected"


async def reached(cluster: Cluster) -> dict[str, set[str]]:
    """Whom each of the peers can open a connection to."""
    found: dict[str, set[str]] = {}
    for one in PEERS:
        for other in PEERS:
            if one != other and await at(cluster, one, "connect", other) == "connected":
                found.setdefault(one, set()).add(other)
    for one, others in found.items():
        assert all(one in found.get(other, ()) for other in others), "both ways"
    return found


async def shape(cluster: Cluster, name: str) -> dict[str, set[str]]:
    """Whom each peer reaches under a partition; all are whole again after it, and the client always was."""
    async with cluster.fault(name, "all(peer)", how="reject"):
        found = await reached(cluster)
        for peer in PEERS:
            assert await at(cluster, "client-1", "connect", peer) == "connected"
    assert all(len(others) == 4 for others in (await reached(cluster)).values())
    return found


@case
async def a_ring_lets_each_node_see_its_two_neighbours(cluster: Cluster) -> None:
    found = await shape(cluster, "network.partition_ring")
    assert [len(found[peer]) for peer in PEERS] == [2] * 5
    at_node, way = PEERS[0], [PEERS[0]]
    while (after := next((each for each in sorted(found[at_node]) if each not in way), "")) != "":
        way.append(after)
        at_node = after
    assert len(way) == 5, "one ring, not two"


@case
async def a_bridge_sees_both_halves_that_do_not_see_each_other(cluster: Cluster) -> None:
    found = await shape(cluster, "network.partition_bridge")
    [bridge] = [peer for peer in PEERS if len(found[peer]) == 4]
    halves = {frozenset(others - {bridge} | {peer}) for peer, others in found.items() if peer != bridge}
    assert sorted(map(len, halves)) == [2, 2]


@case
async def a_majority_is_cut_from_the_rest(cluster: Cluster) -> None:
    found = await shape(cluster, "network.partition_majority")
    sides = {frozenset(others | {peer}) for peer, others in found.items()}
    assert sorted(map(len, sides)) == [2, 3]


@case
async def one_node_is_cut_from_the_others(cluster: Cluster) -> None:
    found = await shape(cluster, "network.partition_one")
    assert sorted(len(found.get(peer, ())) for peer in PEERS) == [0, 3, 3, 3, 3]


# -- names -------------------------------------------------------------------------------------------------------


@case
async def a_name_that_does_not_resolve_is_unknown_to_all_others_until_it_is_healed(cluster: Cluster) -> None:
    known = await at(cluster, A, "resolve", B)
    assert await at(cluster, A, "connect", B) == "connected"
    async with cluster.fault("network.dns_failure", B) as fault:
        assert await at(cluster, A, "resolve", B) == "unknown"
        assert await at(cluster, A, "connect", B) == "gaierror"
        await at(cluster, A, "datagram", B, b"lost")
        await at(cluster, A, "send", b"open")
        assert await until_got(cluster, 4) == b"open", "a connection that was open goes on"
        assert await at(cluster, A, "connect", known) == "connected", "who knows the address needs no name"
        assert await at(cluster, B, "resolve", B) != "unknown"
        assert await at(cluster, B, "resolve", A) != "unknown"
        assert await at(cluster, A, "resolve", C) != "unknown"
    assert fault.hits == 3
    assert await at(cluster, A, "resolve", B) == known
    assert await at(cluster, A, "connect", B) == "connected"
    assert (await seen(cluster))[3] == []


@case
async def a_node_that_cannot_look_up_knows_nobody_and_is_known(cluster: Cluster) -> None:
    async with cluster.fault("network.dns_failure", B, direction="out"):
        assert await at(cluster, B, "resolve", A) == "unknown"
        assert await at(cluster, B, "resolve", C) == "unknown"
        assert await at(cluster, A, "connect", B) == "connected"
    assert await at(cluster, B, "connect", A) == "connected"


@case
async def a_stale_name_leads_to_where_nobody_is(cluster: Cluster) -> None:
    known = {peer: await at(cluster, A, "resolve", peer) for peer in PEERS[1:]}
    async with cluster.fault("network.stale_names", B) as fault:
        assert await at(cluster, A, "resolve", B) not in ("unknown", *known.values())
        assert await at(cluster, A, "connect", B, SOON_S) == "TimeoutError"
        await at(cluster, A, "datagram", B, b"lost")
        assert await at(cluster, A, "connect", C) == "connected"
        assert await at(cluster, A, "connect", known[B]) == "connected"
    assert fault.hits == 3
    assert await at(cluster, A, "resolve", B) == known[B]
    assert await at(cluster, A, "connect", B) == "connected"
    assert (await seen(cluster))[3] == []


@case
async def effects_of_several_kinds_on_one_link_add_up(cluster: Cluster) -> None:
    await at(cluster, A, "connect", B)
    text = b"0123456789" * 4
    async with (
        added(cluster, slice_bytes=10, slice_s=0.01) as slicing,
        added(cluster, corrupt=1.0) as corruption,
        added(cluster, latency_s=0.1) as latency,
        added(cluster, close_s=0.2) as closing,
    ):
        begun_s = cluster.now
        await at(cluster, A, "send", text, True)
        [(how, _)] = await until_ended(cluster)
        got, _, _, _ = await seen(cluster)
        assert how == "end"
        assert cluster.now - begun_s >= 0.3
        assert 1 <= wrong_bits(got, text) <= 4
        assert all(effect.hits for effect in (slicing, corruption, latency, closing))
