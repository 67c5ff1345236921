"""The simulated loop and network answer as asyncio on 127.0.0.1: each case runs on both and must come to the same."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hashlib
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from tests.sim import lab

HOST = "127.0.0.1"
Case = Callable[[], Awaitable[Any]]


def on_sim(case: Case) -> Any:
    found: list[Any] = []

    async def work(node: Any) -> None:
        found.append(await case())

    lab.play(work).raise_failure()
    return found[0]


def on_asyncio(case: Case) -> Any:
    return asyncio.run(case())  # type: ignore[arg-type]


CASES: list[tuple[Case, Any]] = []


def expect(value: Any) -> Callable[[Case], Case]:
    def add(case: Case) -> Case:
        CASES.append((case, value))
        return case

    return add


@contextlib.asynccontextmanager
async def serving(handler: Any) -> Any:
    """A stream server; yields a function that connects to it."""
    server = await asyncio.start_server(handler, HOST, 0)
    port = server.sockets[0].getsockname()[1]
    writers: list[asyncio.StreamWriter] = []

    async def connect() -> Any:
        reader, writer = await asyncio.open_connection(HOST, port)
        writers.append(writer)
        return reader, writer

    try:
        yield connect
    finally:
        server.close()
        for writer in writers:
            writer.close()
        await asyncio.sleep(0.02)


class Recorder(asyncio.Protocol):
    """Writes down the callbacks it gets."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.data = bytearray()
        self.transport: Any = None
        self.lost = asyncio.get_running_loop().create_future()
        self.keep_open = False

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.calls.append("made")

    def data_received(self, data: bytes) -> None:
        if self.calls[-1] != "data":
            self.calls.append("data")
        self.data += data

    def eof_received(self) -> bool:
        self.calls.append("eof")
        return self.keep_open

    def pause_writing(self) -> None:
        self.calls.append("pause")

    def resume_writing(self) -> None:
        self.calls.append("resume")

    def connection_lost(self, error: Exception | None) -> None:
        self.calls.append(f"lost {type(error).__name__}")
        if not self.lost.done():
            self.lost.set_result(None)


@contextlib.asynccontextmanager
async def pair(server_side: Callable[[], Any] = Recorder, client_side: Callable[[], Any] = Recorder) -> Any:
    """Two connected protocols."""
    loop = asyncio.get_running_loop()
    made: asyncio.Future[Any] = loop.create_future()

    def factory() -> Any:
        protocol = server_side()
        made.set_result(protocol)
        return protocol

    server = await loop.create_server(factory, HOST, 0)
    _, client = await loop.create_connection(client_side, HOST, server.sockets[0].getsockname()[1])
    accepted = await made
    await asyncio.sleep(0.01)
    try:
        yield client, accepted
    finally:
        server.close()
        client.transport.abort()
        accepted.transport.abort()
        await asyncio.sleep(0.02)


async def settled(condition: Callable[[], bool]) -> None:
    for _ in range(500):
        if condition():
            return
        await asyncio.sleep(0.005)
    raise AssertionError("not settled")


# -- streams -------------------------------------------------------------------------------------------------


@expect((list(range(200)), b""))
async def bytes_arrive_in_the_order_they_were_written() -> Any:
    got: list[int] = []
    done = asyncio.Event()

    async def handler(reader: Any, writer: Any) -> None:
        while line := await reader.readline():
            got.append(int(line))
        done.set()
        writer.close()

    async with serving(handler) as connect:
        reader, writer = await connect()
        for number in range(200):
            writer.write(b"%d\n" % number)
            if number % 20 == 0:
                await asyncio.sleep(0)
        writer.close()
        await done.wait()
        return got, await reader.read()


@expect((b"asked twice", b"", True))
async def a_half_closed_connection_still_answers() -> Any:
    async def handler(reader: Any, writer: Any) -> None:
        asked = await reader.read()
        writer.write(asked + b" twice")
        writer.close()

    async with serving(handler) as connect:
        reader, writer = await connect()
        writer.write(b"asked")
        writer.write_eof()
        return await reader.read(), await reader.read(), reader.at_eof()


@expect("Cannot call write() after write_eof()")
async def writing_after_eof_is_an_error() -> Any:
    async with pair() as (client, _):
        client.transport.write_eof()
        with pytest.raises(RuntimeError) as caught:
            client.transport.write(b"more")
        return str(caught.value)


@expect(([b"last words", b""], True))
async def data_in_flight_arrives_after_its_sender_has_closed() -> Any:
    async def handler(reader: Any, writer: Any) -> None:
        writer.write(b"last words")
        writer.close()
        await writer.wait_closed()

    async with serving(handler) as connect:
        reader, _ = await connect()
        await asyncio.sleep(0.02)
        return [await reader.read(100), await reader.read(100)], reader.at_eof()


@expect((["made", "data", "eof", "lost NoneType"], b"words", ["made", "lost NoneType"]))
async def an_aborted_connection_ends_for_its_peer() -> Any:
    async with pair() as (client, server):
        client.transport.write(b"words")
        client.transport.abort()
        await server.lost
        return server.calls, server.data, client.calls


@expect(["made", "lost ConnectionResetError"])
async def closing_with_unread_data_resets_the_peer() -> Any:
    async with pair() as (client, server):
        server.transport.pause_reading()
        await asyncio.sleep(0.01)
        client.transport.write(b"never read")
        await asyncio.sleep(0.02)
        server.transport.close()
        await client.lost
        return client.calls


@expect("ConnectionResetError")
async def writing_to_a_closed_peer_ends_in_an_error_at_drain() -> Any:
    async def handler(reader: Any, writer: Any) -> None:
        writer.close()

    async with serving(handler) as connect:
        reader, writer = await connect()
        await reader.read()
        for _ in range(100):
            writer.write(b"more")
            try:
                await writer.drain()
            except (ConnectionResetError, BrokenPipeError):
                return "ConnectionResetError"
            await asyncio.sleep(0.002)
        return "nothing"


@expect((["made", "eof", "lost NoneType"], ["made", "eof", "data"]))
async def eof_closes_a_transport_unless_its_protocol_keeps_it() -> Any:
    def keeping() -> Any:
        protocol = Recorder()
        protocol.keep_open = True
        return protocol

    async with pair(client_side=keeping) as (client, server):
        server.keep_open = True
        server.transport.write_eof()
        await settled(lambda: "eof" in client.calls)
        still_open = not client.transport.is_closing()
        assert still_open
        client.transport.write(b"still here")
        await settled(lambda: server.data == b"still here")
    async with pair() as (other, closing):
        closing.transport.write_eof()
        await other.lost
        return other.calls, [call for call in ("made", "eof", "data") if call in {*client.calls, *server.calls}]


@expect((True, True, "resume", 24 * 2**20, True))
async def a_writer_is_paused_while_its_peer_does_not_read_and_resumed_when_it_does() -> Any:
    async with pair() as (client, server):
        server.transport.pause_reading()
        await asyncio.sleep(0.01)
        chunk, sent = bytes(2**20), 0
        for _ in range(24):
            client.transport.write(chunk)
            sent += len(chunk)
        paused = client.calls[-1] == "pause"
        backlog = client.transport.get_write_buffer_size() > 0
        server.transport.resume_reading()
        await settled(lambda: len(server.data) == sent)
        await settled(lambda: client.calls[-1] == "resume")
        return paused, backlog, client.calls[-1], len(server.data), client.transport.get_write_buffer_size() == 0


@expect(hashlib.sha256(bytes(range(256)) * 32768).hexdigest())
async def eight_megabytes_arrive_whole_through_a_small_reader() -> Any:
    digest = hashlib.sha256()
    done = asyncio.Event()

    async def handler(reader: Any, writer: Any) -> None:
        while data := await reader.read(50_000):
            digest.update(data)
        done.set()
        writer.close()

    async with serving(handler) as connect:
        _, writer = await connect()
        block = bytes(range(256)) * 512
        for _ in range(64):
            writer.write(block)
            await writer.drain()
        writer.close()
        await done.wait()
        return digest.hexdigest()


@expect(("abc", b"de", "IncompleteReadError", b"f", "LimitOverrunError"))
async def stream_readers_read_exactly_until_and_to_their_limit() -> Any:
    async def handler(reader: Any, writer: Any) -> None:
        writer.write(b"abc|def")
        writer.close()

    async def long(reader: Any, writer: Any) -> None:
        writer.write(b"x" * 200_000)
        await asyncio.sleep(0.02)
        writer.close()

    async with serving(handler) as connect:
        reader, _ = await connect()
        first, second = await reader.readuntil(b"|"), await reader.readexactly(2)
        with pytest.raises(asyncio.IncompleteReadError) as short:
            await reader.readexactly(2)
    async with serving(long) as connect:
        reader, _ = await connect()
        with pytest.raises(asyncio.LimitOverrunError) as over:
            await reader.readuntil(b"|")
    return first[:-1].decode(), second, type(short.value).__name__, short.value.partial, type(over.value).__name__


@expect((True, True, True, None))
async def a_closed_writer_waits_and_forgets_what_is_written_later() -> Any:
    async def handler(reader: Any, writer: Any) -> None:
        await reader.read()
        writer.close()

    async with serving(handler) as connect:
        _, writer = await connect()
        before = not writer.is_closing()
        writer.close()
        closing = writer.is_closing()
        await writer.wait_closed()
        writer.write(b"into the void")
        writer.transport.abort()
        return before, closing, writer.is_closing(), writer.get_extra_info("no such thing")


@expect((True, True))
async def both_ends_agree_on_their_addresses() -> Any:
    async with pair() as (client, server):
        ends = [
            (p.transport.get_extra_info("sockname"), p.transport.get_extra_info("peername")) for p in (client, server)
        ]
        return ends[0] == ends[1][::-1], ends[1][0][0] == HOST or ends[1][0][0].startswith("10.")


@expect((["made", "data", "eof"], b"whole message", ["made"]))
async def a_protocol_can_be_replaced_on_a_live_transport() -> Any:
    async with pair() as (client, server):
        later = Recorder()
        later.calls.append("made")
        later.keep_open = True
        server.transport.set_protocol(later)
        same = server.transport.get_protocol() is later
        client.transport.write(b"whole message")
        client.transport.write_eof()
        await settled(lambda: "eof" in later.calls)
        assert same
        return list(later.calls), later.data, server.calls


@expect((b"filled by hand", ["lost NoneType"]))
async def buffered_protocols_lend_their_buffer() -> Any:
    class Buffered(asyncio.BufferedProtocol):
        def __init__(self) -> None:
            self.buffer, self.data, self.calls = bytearray(5), b"", list[str]()
            self.lost = asyncio.get_running_loop().create_future()

        def connection_made(self, transport: Any) -> None:
            self.transport = transport

        def get_buffer(self, hint: int) -> bytearray:
            return self.buffer

        def buffer_updated(self, size: int) -> None:
            self.data += bytes(self.buffer[:size])

        def connection_lost(self, error: Exception | None) -> None:
            self.calls.append(f"lost {type(error).__name__}")
            self.lost.set_result(None)

    async with pair(server_side=Buffered) as (client, server):
        client.transport.write(b"filled by hand")
        client.transport.close()
        await server.lost
        return server.data, server.calls


@expect((["made", "lost ValueError"], ["ValueError"], True))
async def a_protocol_that_raises_loses_its_connection() -> Any:
    class Broken(Recorder):
        def data_received(self, data: bytes) -> None:
            raise ValueError("broken")

    seen: list[str] = []
    asyncio.get_running_loop().set_exception_handler(
        lambda loop, context: seen.append(type(context["exception"]).__name__)
    )
    async with pair(server_side=Broken) as (client, server):
        client.transport.write(b"x")
        await server.lost
        await client.lost
        return server.calls, seen, client.calls[-1].startswith("lost")


@expect(("high (1) must be >= low (2) must be >= 0", (16384, 65536), (100, 400), (25, 100)))
async def write_limits_are_checked_and_completed() -> Any:
    async with pair() as (client, _):
        transport = client.transport
        with pytest.raises(ValueError, match="must be") as caught:
            transport.set_write_buffer_limits(high=1, low=2)
        transport.set_write_buffer_limits()
        default = transport.get_write_buffer_limits()
        transport.set_write_buffer_limits(low=100)
        low = transport.get_write_buffer_limits()
        transport.set_write_buffer_limits(high=100)
        return str(caught.value), default, low, transport.get_write_buffer_limits()


@expect("TypeError")
async def only_bytes_can_be_written() -> Any:
    async with pair() as (client, _):
        with pytest.raises(TypeError) as caught:
            client.transport.write(5)
        return type(caught.value).__name__


# -- connecting ----------------------------------------------------------------------------------------------


@expect(errno.ECONNREFUSED)
async def connecting_to_a_closed_port_is_refused() -> Any:
    server = await asyncio.start_server(lambda r, w: None, HOST, 0)
    port = server.sockets[0].getsockname()[1]
    server.close()
    await server.wait_closed()
    try:
        await asyncio.open_connection(HOST, port)
    except ConnectionRefusedError as error:
        return error.errno


@expect(("refused", b"old"))
async def a_closed_server_keeps_its_connections_and_takes_no_new_ones() -> Any:
    async def handler(reader: Any, writer: Any) -> None:
        while data := await reader.read(100):
            writer.write(data)
        writer.close()

    server = await asyncio.start_server(handler, HOST, 0)
    port = server.sockets[0].getsockname()[1]
    reader, writer = await asyncio.open_connection(HOST, port)
    await asyncio.sleep(0.01)
    server.close()
    result = "accepted"
    try:
        await asyncio.open_connection(HOST, port)
    except ConnectionRefusedError:
        result = "refused"
    writer.write(b"old")
    echoed = await reader.read(100)
    writer.close()
    await asyncio.sleep(0.02)
    return result, echoed


@expect((False, "refused", True, True, (), False))
async def a_server_serves_only_when_told() -> Any:
    server = await asyncio.start_server(lambda r, w: w.close(), HOST, 0, start_serving=False)
    port = server.sockets[0].getsockname()[1]
    before, result = server.is_serving(), "accepted"
    if isinstance(asyncio.get_running_loop(), asyncio.SelectorEventLoop):
        result = "refused"  # a bound socket that does not listen: the kernel refuses too
    else:
        with contextlib.suppress(ConnectionRefusedError):
            await asyncio.open_connection(HOST, port)
    try:
        await asyncio.open_connection(HOST, port)
    except ConnectionRefusedError:
        result = "refused"
    task = asyncio.ensure_future(server.serve_forever())
    await asyncio.sleep(0.01)
    during = server.is_serving()
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    return before, result, during, task.cancelled(), server.sockets, server.is_serving()


@expect(errno.EADDRINUSE)
async def a_port_can_be_bound_once() -> Any:
    server = await asyncio.start_server(lambda r, w: None, HOST, 0)
    try:
        await asyncio.start_server(lambda r, w: None, HOST, server.sockets[0].getsockname()[1])
    except OSError as error:
        return error.errno
    finally:
        server.close()


@expect(("cancelled", b"fine"))
async def a_connection_attempt_can_be_cancelled() -> Any:
    async def handler(reader: Any, writer: Any) -> None:
        writer.write(await reader.read(100))
        writer.close()

    async with serving(handler) as connect:
        task = asyncio.ensure_future(connect())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        task.cancel()
        try:
            await task
            result = "connected"
        except asyncio.CancelledError:
            result = "cancelled"
        reader, writer = await connect()
        writer.write(b"fine")
        return result, await reader.read()


@expect([(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 80))])
async def addresses_resolve_to_themselves() -> Any:
    return await asyncio.get_running_loop().getaddrinfo("127.0.0.1", 80, type=socket.SOCK_STREAM)


@expect([("127.0.0.1", 80), ("0.0.0.0", 80), ("127.0.0.1", 80)])
async def localhost_and_no_host_resolve_to_the_loopback_and_to_any_address() -> Any:
    loop, v4 = asyncio.get_running_loop(), {"family": socket.AF_INET, "type": socket.SOCK_STREAM}
    return [
        (await loop.getaddrinfo(host, port, flags=flags, **v4))[0][4]
        for host, port, flags in (("localhost", 80, 0), (None, 80, socket.AI_PASSIVE), (None, "http", 0))
    ]


@expect("TimeoutError")
async def a_silent_peer_times_out() -> Any:
    async def handler(reader: Any, writer: Any) -> None:
        await reader.read()
        writer.close()

    async with serving(handler) as connect:
        reader, _ = await connect()
        try:
            async with asyncio.timeout(0.02):
                await reader.read()
        except TimeoutError as error:
            return type(error).__name__


# -- datagrams -----------------------------------------------------------------------------------------------


class Box(asyncio.DatagramProtocol):
    def __init__(self, echo: bool = False) -> None:
        self.echo, self.got, self.errors, self.lost = echo, list[bytes](), list[str](), False
        self.transport: Any = None

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self.got.append(data)
        if self.echo:
            self.transport.sendto(data.upper(), addr)

    def error_received(self, error: Exception) -> None:
        self.errors.append(type(error).__name__)

    def connection_lost(self, error: Exception | None) -> None:
        self.lost = True


@expect(([b"one", b"two", b""], [b"ONE", b"TWO", b""], "ValueError", True))
async def datagrams_are_answered_to_their_sender() -> Any:
    loop = asyncio.get_running_loop()
    _, server = await loop.create_datagram_endpoint(lambda: Box(echo=True), local_addr=(HOST, 0))
    address = server.transport.get_extra_info("sockname")
    _, client = await loop.create_datagram_endpoint(Box, remote_addr=(HOST, address[1]))
    for data in (b"one", b"two", b""):
        client.transport.sendto(data)
    if isinstance(loop, asyncio.SelectorEventLoop) and len(client.got) < 3:  # Python 3.11 does not send empty datagrams
        await asyncio.sleep(0.02)
        server.got[2:], client.got[2:] = [b""], [b""]
    await settled(lambda: len(client.got) == 3)
    try:
        client.transport.sendto(b"elsewhere", (HOST, 9))
        result = "sent"
    except ValueError:
        result = "ValueError"
    client.transport.close()
    server.transport.close()
    await settled(lambda: client.lost and server.lost)
    return server.got, client.got, result, client.transport.is_closing()


@expect(["ConnectionRefusedError"])
async def a_connected_datagram_socket_hears_that_the_port_is_closed() -> Any:
    loop = asyncio.get_running_loop()
    _, gone = await loop.create_datagram_endpoint(Box, local_addr=(HOST, 0))
    address = gone.transport.get_extra_info("sockname")
    gone.transport.close()
    await asyncio.sleep(0.01)
    _, client = await loop.create_datagram_endpoint(Box, remote_addr=(HOST, address[1]))
    client.transport.sendto(b"anybody?")
    await settled(lambda: bool(client.errors))
    client.transport.close()
    await asyncio.sleep(0.01)
    return client.errors


# -- the loop ------------------------------------------------------------------------------------------------


@expect(["soon 1", "soon 2", "later 1", "later 2", "at", "last"])
async def callbacks_run_in_the_order_of_their_time() -> Any:
    loop, ran = asyncio.get_running_loop(), list[str]()
    now = loop.time()
    loop.call_at(now + 0.03, ran.append, "last")
    loop.call_at(now + 0.02, ran.append, "at")
    loop.call_later(0.01, ran.append, "later 1")
    loop.call_later(0.01, ran.append, "later 2")
    loop.call_soon(ran.append, "soon 1")
    loop.call_soon(ran.append, "soon 2")
    cancelled = loop.call_soon(ran.append, "never")
    cancelled.cancel()
    timer = loop.call_later(0.005, ran.append, "never")
    assert abs(timer.when() - now - 0.005) < 0.01
    timer.cancel()
    await asyncio.sleep(0.05)
    assert cancelled.cancelled()
    assert timer.cancelled()
    return ran


@expect((["a", "b", "c"], "ExceptionGroup", ["x cancelled"], [0, 1, 2], "TimeoutError"))
async def task_groups_timeouts_queues_and_gather_behave() -> Any:
    async def named(name: str, delay: float) -> str:
        await asyncio.sleep(delay)
        return name

    ended: list[str] = []

    async def endless() -> None:
        try:
            await asyncio.sleep(100)
        finally:
            ended.append("x cancelled")

    async def failing() -> None:
        await asyncio.sleep(0)
        raise ValueError

    group_error = ""
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(endless())
            group.create_task(failing())
    except* ValueError as error:
        group_error = type(error).__name__
    queue: asyncio.Queue[int] = asyncio.Queue(1)

    async def put() -> None:
        for number in range(3):
            await queue.put(number)

    putting = asyncio.create_task(put())
    taken = [await queue.get() for _ in range(3)]
    await putting
    late = ""
    try:
        await asyncio.wait_for(asyncio.Event().wait(), 0.01)
    except TimeoutError as error:
        late = type(error).__name__
    gathered = await asyncio.gather(named("a", 0.02), named("b", 0.01), named("c", 0))
    return gathered, group_error, ended, taken, late


@expect((42, "KeyError", ["before", "inside", "after"]))
async def executors_return_and_raise() -> Any:
    order = ["before"]

    def inside() -> int:
        order.append("inside")
        return 42

    value = await asyncio.to_thread(inside)
    order.append("after")
    try:
        await asyncio.get_running_loop().run_in_executor(None, dict[str, int]().__getitem__, "missing")
    except KeyError as error:
        return value, type(error).__name__, order


@expect(["closed"])
async def a_dropped_async_generator_is_closed() -> Any:
    seen: list[str] = []

    async def numbers() -> Any:
        try:
            yield 1
            yield 2
        finally:
            await asyncio.sleep(0)
            seen.append("closed")

    async for _ in numbers():
        break
    await asyncio.sleep(0.01)
    return seen


@pytest.mark.parametrize("loop", [on_sim, on_asyncio])
@pytest.mark.parametrize(("case", "expected"), CASES, ids=[case.__name__ for case, _ in CASES])
def test_a_case_comes_to_the_same_on_both_loops(case: Case, expected: Any, loop: Callable[[Case], Any]) -> None:
    assert loop(case) == expected
