"""What every substrate must do alike, as scenarios for one small target. Each substrate's tests run them all.

Sources: asyncio's documentation; RFC 9293 (TCP) for half-close, reset and refusal; ../shared/design.md section 7.
"""

from __future__ import annotations

import asyncio
import socket
import time
from typing import Any

import msgspec
import pytest

from tests.cases import PATIENCE_S, SOON_S, Cases, at
from zebra import Cluster, Node, RunSpec, Target, Topology, run
from zebra.errors import NodeDown

PORT, CLOSED_PORT = 9, 10


class Config(msgspec.Struct, frozen=True, kw_only=True):
    word: str = "one"


class Server:
    """Serves streams and datagrams on PORT; the first line of a connection says how."""

    def __init__(self, node: Node[Config]) -> None:
        self.node = node

    async def run(self) -> None:
        self.server = await asyncio.start_server(self.serve, None, PORT)
        loop = asyncio.get_running_loop()
        await loop.create_datagram_endpoint(lambda: _Echo(), local_addr=("0.0.0.0", PORT))
        await self.node.ready()
        await asyncio.Event().wait()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            how = (await reader.readline()).strip()
            if how == b"echo":
                while line := await reader.readline():
                    writer.write(line)
                    await writer.drain()
            elif how == b"all":  # answers only once the other side has ended
                data = await reader.read()
                writer.write(b"%d bytes" % len(data))
            elif how == b"who":
                writer.write(writer.get_extra_info("peername")[0].encode())
            elif how == b"silent":
                await reader.read()
        except ConnectionError as error:
            self.node.emit("server.lost", why=type(error).__name__)
        writer.close()

    async def close_server(self) -> None:
        self.server.close()

    async def keep(self, name: str, text: str) -> None:
        await self.node.disk.write(name, text.encode())

    async def recall(self, name: str) -> str:
        try:
            return bytes(await self.node.disk.read(name)).decode()
        except FileNotFoundError:
            return ""

    async def clocks(self) -> tuple[float, float, float]:
        return self.node.clock.time(), time.time(), self.node.clock.monotonic()

    async def say(self, number: int) -> int:
        for each in range(number):
            self.node.emit("server.said", number=each)
        return self.node.incarnation

    async def word(self) -> str:
        return self.node.config.word

    async def fail(self) -> None:
        raise LookupError("as planned")


class _Echo(asyncio.DatagramProtocol):
    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self.transport.sendto(data, addr)


class _Box(asyncio.DatagramProtocol):
    def __init__(self) -> None:
        self.first: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    def datagram_received(self, data: bytes, addr: Any) -> None:
        if not self.first.done():
            self.first.set_result(data)


class Client:
    """Says what became of what it tried: a text, or the name of the exception."""

    def __init__(self, node: Node[Config]) -> None:
        self.node, self.open = node, dict[str, tuple[asyncio.StreamReader, asyncio.StreamWriter]]()
        self.writers: list[asyncio.StreamWriter] = []
        self.sizes: list[int] = []

    async def connect(self, to: str, port: int = PORT, how: str = "echo", timeout_s: float = PATIENCE_S) -> str:
        try:
            async with asyncio.timeout(timeout_s):
                self.open[to] = await asyncio.open_connection(to, port)
        except OSError as error:
            return type(error).__name__
        self.writers.append(self.open[to][1])
        self.open[to][1].write(how.encode() + b"\n")
        return "connected"

    async def ask(self, to: str, text: str = "hello", timeout_s: float = PATIENCE_S) -> str:
        reader, writer = self.open[to]
        try:
            writer.write(text.encode() + b"\n")
            async with asyncio.timeout(timeout_s):
                return (await reader.readline()).decode().strip() or "end"
        except OSError as error:
            return type(error).__name__

    async def listen(self, to: str, timeout_s: float) -> str:
        """What comes without a question."""
        try:
            async with asyncio.timeout(timeout_s):
                return (await self.open[to][0].readline()).decode().strip() or "end"
        except OSError as error:
            return type(error).__name__

    async def order(self, to: str, count: int) -> bool:
        reader, writer = await asyncio.open_connection(to, PORT)
        lines = [b"%d %s\n" % (number, b"x" * (number * 37 % 5000)) for number in range(count)]
        writer.write(b"echo\n")

        async def write() -> None:
            for line in lines:
                writer.write(line)
                await writer.drain()

        async with asyncio.TaskGroup() as group:
            group.create_task(write())
            back = [await reader.readline() for _ in lines]
        writer.close()
        return back == lines

    async def half_close(self, to: str, size: int) -> str:
        reader, writer = await asyncio.open_connection(to, PORT)
        writer.write(b"all\n" + b"x" * size)
        writer.write_eof()
        answer = await reader.read()
        writer.close()
        return answer.decode()

    async def who(self, to: str) -> tuple[str, str, str]:
        """Whom the server sees, this node's address, the server's address as seen from here."""
        reader, writer = await asyncio.open_connection(to, PORT)
        writer.write(b"who\n")
        seen = (await reader.read()).decode()
        peer = writer.get_extra_info("peername")[0]
        writer.close()
        return seen, writer.get_extra_info("sockname")[0], peer

    async def resolve(self, name: str) -> str:
        try:
            found = await asyncio.get_running_loop().getaddrinfo(name, PORT, type=socket.SOCK_STREAM)
        except socket.gaierror:
            return "unknown"
        return str(found[0][4][0])

    async def datagram(self, to: str, timeout_s: float = PATIENCE_S) -> str:
        loop = asyncio.get_running_loop()
        transport, box = await loop.create_datagram_endpoint(_Box, local_addr=("0.0.0.0", 0))
        transport.sendto(b"hello", (to, PORT))
        try:
            async with asyncio.timeout(timeout_s):
                return (await box.first).decode()
        except TimeoutError:
            return "lost"
        finally:
            transport.close()

    async def burst(self, to: str, count: int) -> None:
        """Send datagrams of 1, 2 … bytes; of what size they come back is in `came`."""
        sizes = self.sizes

        class Sizes(asyncio.DatagramProtocol):
            def datagram_received(self, data: bytes, addr: Any) -> None:
                sizes.append(len(data))

        transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(Sizes, local_addr=("0.0.0.0", 0))
        for size in range(1, count + 1):
            transport.sendto(b"x" * size, (to, PORT))

    async def came(self) -> list[int]:
        return self.sizes


TARGET = Target(name="conformance", config=Config, roles={"server": Server}, client=Client,
                topology=Topology(counts={"server": 2}))  # fmt: skip

CASES = Cases()
case = CASES.add


def check(scenario: Any, substrate: str) -> None:
    """Run a case; raises what went wrong."""
    run(scenario, RunSpec(target="conformance", substrate=substrate, timeout_s=60), target=TARGET).raise_failure()


# -- connections -------------------------------------------------------------------------------------------------


@case
async def one_connection_keeps_the_order_and_every_byte(cluster: Cluster) -> None:
    assert await cluster.client.order("server-1", 300)


@case
async def a_half_close_lets_the_other_side_answer(cluster: Cluster) -> None:
    assert await cluster.client.half_close("server-1", 200_000) == "200000 bytes"


@case
async def a_port_nobody_listens_on_refuses(cluster: Cluster) -> None:
    assert await cluster.client.connect("server-1", CLOSED_PORT) == "ConnectionRefusedError"


@case
async def a_server_that_closed_refuses_what_is_new_and_keeps_what_is_old(cluster: Cluster) -> None:
    assert await cluster.client.connect("server-1") == "connected"
    assert await cluster.client.ask("server-1") == "hello"
    await at(cluster, "server-1", "close_server")
    await asyncio.sleep(0.1)
    assert await cluster.client.ask("server-1") == "hello"
    assert await cluster.client.connect("server-1") == "ConnectionRefusedError"


@case
async def a_silent_server_is_a_timeout(cluster: Cluster) -> None:
    await cluster.client.connect("server-1", PORT, "silent")
    assert await cluster.client.ask("server-1", timeout_s=SOON_S) == "TimeoutError"


@case
async def nodes_find_each_other_by_name_and_address(cluster: Cluster) -> None:
    one, two = await cluster.client.resolve("server-1"), await cluster.client.resolve("server-2")
    assert one != two
    assert one.count(".") == 3
    assert await cluster.client.resolve("server-9") == "unknown"
    seen, mine, peer = await cluster.client.who("server-1")
    assert peer == one
    assert seen == mine
    assert seen not in (one, two)


@case
async def datagrams_go_by_name_and_come_back(cluster: Cluster) -> None:
    assert await cluster.client.datagram("server-1") == "hello"


@case
async def a_reset_breaks_the_connection_for_both(cluster: Cluster) -> None:
    await cluster.client.connect("server-1")
    assert await cluster.client.ask("server-1") == "hello"
    async with cluster.fault("network.reset", "server-1"):
        assert await cluster.client.ask("server-1") == "ConnectionResetError"
        await cluster.until(lambda: bool(cluster.history.of("server.lost")))
    await cluster.settled()
    [reset] = cluster.history.of("link.effect")
    assert (reset["what"], reset["over"], reset["bytes"]) == ("reset", "stream", len("hello\n"))
    assert (reset["source"], reset["target"], reset.node) == ("client-1", "server-1", "")


@case
async def each_datagram_that_is_lost_is_told(cluster: Cluster) -> None:
    sent = set(range(1, 61))

    def lost() -> set[int]:
        return {event["bytes"] for event in cluster.history.of("link.effect")}

    async with cluster.fault("network.loss", "server-1", probability=0.3) as fault, asyncio.timeout(10):
        await cluster.client.burst("server-1", len(sent))
        while sent - lost() - set(await cluster.client.came()):  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    told = cluster.history.of("link.effect")
    assert sorted(await cluster.client.came()) == sorted(sent - lost())
    assert 5 < len(told) == fault.hits < 55
    assert [event["number"] for event in told] == list(range(1, len(told) + 1))
    for event in told:
        assert {event["source"], event["target"]} == {"client-1", "server-1"}
        assert (event["fault"], event["what"], event["over"], event.node) == (fault.id, "loss", "datagram", "")


# -- partitions --------------------------------------------------------------------------------------------------


@case
async def a_dropped_link_stalls_what_is_on_and_what_is_new_and_both_go_on_when_healed(cluster: Cluster) -> None:
    await cluster.client.connect("server-1")
    assert await cluster.client.ask("server-1", "before") == "before"
    async with cluster.fault("network.partition", "server-1"):
        assert await cluster.client.ask("server-1", "during", SOON_S) == "TimeoutError"
        assert await cluster.client.datagram("server-1", SOON_S) == "lost"
    assert await cluster.client.listen("server-1", PATIENCE_S) == "during"
    assert await cluster.client.ask("server-1", "after") == "after"
    async with cluster.fault("network.partition", "server-1"):
        assert await cluster.client.connect("server-1", timeout_s=SOON_S) == "TimeoutError"
        assert await cluster.client.connect("server-2") == "connected"
        assert await cluster.client.ask("server-2") == "hello"
    assert await cluster.client.connect("server-1") == "connected"


@case
async def a_link_dropped_one_way_loses_only_that_way(cluster: Cluster) -> None:
    await cluster.client.connect("server-1")
    assert await cluster.client.ask("server-1") == "hello"
    async with cluster.fault("network.partition", "server-1", direction="out"):
        assert await cluster.client.ask("server-1", "question", SOON_S) == "TimeoutError"
        assert await cluster.client.connect("server-1", timeout_s=SOON_S) == "TimeoutError"
    await cluster.client.connect("server-1")
    assert await cluster.client.ask("server-1") == "hello"


@case
async def a_rejecting_link_resets_what_is_on_and_refuses_what_is_new(cluster: Cluster) -> None:
    await cluster.client.connect("server-1")
    assert await cluster.client.ask("server-1") == "hello"
    async with cluster.fault("network.partition", "server-1", how="reject"):
        assert await cluster.client.ask("server-1") == "ConnectionResetError"
        assert await cluster.client.connect("server-1") == "ConnectionRefusedError"
    assert await cluster.client.connect("server-1") == "connected"


@case
async def latency_comes_and_goes_while_a_connection_lasts(cluster: Cluster) -> None:
    await cluster.client.connect("server-1")
    assert await cluster.client.ask("server-1") == "hello"
    async with cluster.fault("network.latency", "server-1", delay="120ms"):
        begun = cluster.now
        assert await cluster.client.ask("server-1") == "hello"
        assert cluster.now - begun >= 0.24
    begun = cluster.now
    for _ in range(5):
        assert await cluster.client.ask("server-1") == "hello"
    assert cluster.now - begun < 5 * 0.24


# -- processes ---------------------------------------------------------------------------------------------------


@case
async def a_paused_node_keeps_its_connections_and_answers_later(cluster: Cluster) -> None:
    await cluster.client.connect("server-1")
    assert await cluster.client.ask("server-1") == "hello"
    async with cluster.fault("host.pause", "server-1"):
        assert "server-1" in cluster.up()
        assert await cluster.client.ask("server-1", "during", SOON_S) == "TimeoutError"
    assert await cluster.client.listen("server-1", PATIENCE_S) == "during"


@case
async def a_node_that_starts_while_it_is_paused_comes_up_and_is_paused(cluster: Cluster) -> None:
    async with cluster.fault("host.pause", "server-1"):
        async with cluster.fault("host.crash", "server-1"):
            pass
        assert "server-1" in cluster.up()
        await cluster.client.connect("server-1")
        assert await cluster.client.ask("server-1", "during", SOON_S) == "TimeoutError"
    assert await cluster.client.listen("server-1", PATIENCE_S) == "during"
    assert await at(cluster, "server-1", "say", 0) == 2


@case
async def a_crash_is_silent_and_its_connections_are_reset_once_it_is_back(cluster: Cluster) -> None:
    await cluster.client.connect("server-1")
    assert await cluster.client.ask("server-1") == "hello"
    await at(cluster, "server-1", "keep", "file", "content")
    async with cluster.fault("host.crash", "server-1"):
        assert "server-1" not in cluster.up()
        assert await cluster.client.ask("server-1", "during", SOON_S) == "TimeoutError"
        assert await cluster.client.connect("server-2") == "connected"
    assert await cluster.client.ask("server-1") == "ConnectionResetError"
    assert await at(cluster, "server-1", "recall", "file") == "content"
    assert await at(cluster, "server-1", "say", 0) == 2


@case
async def a_planned_stop_ends_connections_and_refuses(cluster: Cluster) -> None:
    await cluster.client.connect("server-1")
    assert await cluster.client.ask("server-1") == "hello"
    async with cluster.fault("host.stop", "server-1"):
        assert await cluster.client.ask("server-1") in ("end", "ConnectionResetError", "BrokenPipeError")
        assert await cluster.client.connect("server-1") == "ConnectionRefusedError"
    assert await cluster.client.connect("server-1") == "connected"


@case
async def a_restart_keeps_the_disk_and_may_change_the_configuration(cluster: Cluster) -> None:
    await at(cluster, "server-1", "keep", "a file/with @ odd#name", "content")
    await cluster.configure("server-1", {"conformance.word": "two"})
    assert await at(cluster, "server-1", "recall", "a file/with @ odd#name") == "content"
    assert await at(cluster, "server-1", "recall", "another") == ""
    assert await at(cluster, "server-1", "word") == "two"
    assert await at(cluster, "server-2", "word") == "one"


@case
async def a_crash_loses_what_was_not_synced_only_under_that_fault(cluster: Cluster) -> None:
    await at(cluster, "server-1", "keep", "file", "content")
    async with cluster.fault("disk.lose_unsynced", "server-1"), cluster.fault("host.crash", "server-1"):
        pass
    assert await at(cluster, "server-1", "recall", "file") == ""


@case
async def a_call_to_a_node_that_is_down_says_so_and_errors_come_back_as_they_are(cluster: Cluster) -> None:
    with pytest.raises(LookupError, match="as planned"):
        await at(cluster, "server-1", "fail")
    async with cluster.fault("host.crash", "server-1"):
        with pytest.raises(NodeDown):
            await at(cluster, "server-1", "word")


# -- clocks and events -------------------------------------------------------------------------------------------


@case
async def a_clock_offset_moves_the_wall_clock_of_one_node_alone(cluster: Cluster) -> None:
    wall, module, monotonic = await at(cluster, "server-1", "clocks")
    async with cluster.fault("clock.offset", "server-1", by="1000s"):
        skewed, module_skewed, monotonic_then = await at(cluster, "server-1", "clocks")
        assert 999 < skewed - wall < 1005
        assert 999 < module_skewed - module < 1005
        assert 0 <= monotonic_then - monotonic < 5
        assert (await at(cluster, "server-2", "clocks"))[0] - wall < 5
    assert (await at(cluster, "server-1", "clocks"))[0] - wall < 5


@case
async def all_that_was_emitted_before_a_crash_is_known_in_order(cluster: Cluster) -> None:
    await at(cluster, "server-1", "say", 200)
    async with cluster.fault("host.crash", "server-1"):
        await cluster.settled()
        events = list(cluster.history)
        said = [event for event in events if event.kind == "server.said"]
        crash = next(event for event in events if event.kind == "node.crash")
        assert [event["number"] for event in said] == list(range(200))
        assert said[-1].seq < crash.seq
        assert [event.t for event in events] == sorted(event.t for event in events)
