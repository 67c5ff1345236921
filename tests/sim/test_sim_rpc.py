"""zebra's RPC, on the simulated network and on real sockets: the same cases on both."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable
from types import SimpleNamespace
from typing import Any

import pytest

import zebra
from tests.sim.lab import Config, Host, play
from zebra import Blob, RunSpec, Target, Topology
from zebra.rpc import Caller, Message, RemoteError, Request, Rpc, RpcError, RpcTimeout, Unreachable, Wire


class Refused(RpcError):
    """The wire declares it."""


class Add(Request["Sum"], frozen=True, kw_only=True, tag="add"):
    a: int
    b: int
    after_s: float = 0.0


class Sum(Message, frozen=True, kw_only=True, tag="sum"):
    value: int
    by: str = ""


class Fail(Request["Sum"], frozen=True, kw_only=True, tag="fail"):
    declared: bool


class Count(Request["Sum"], frozen=True, kw_only=True, tag="count"):
    to: int
    pad: bytes = b""


class Store(Request["Stored"], frozen=True, kw_only=True, tag="store"):
    data: Blob
    more: Blob
    text: str = ""


class Stored(Message, frozen=True, kw_only=True, tag="stored"):
    both: Blob
    text: str


class Note(Message, frozen=True, kw_only=True, tag="note"):
    text: str


class Unserved(Request["Sum"], frozen=True, kw_only=True, tag="unserved"):
    pass


VOCABULARY = (Add, Sum, Fail, Count, Store, Stored, Note, Unserved)


class Service:
    """What the tests call."""

    def __init__(self, node: Any, wire: Wire) -> None:
        self.rpc, self.cancelled, self.notes = Rpc(node, wire), 0, list[tuple[str, Caller]]()

    async def start(self) -> None:
        handlers: dict[Any, Any] = {Add: self.add, Fail: self.fail, Count: self.count, Store: self.store}
        await self.rpc.serve(handlers, {Note: lambda note, caller: self.notes.append((note.text, caller))})

    async def add(self, add: Add, caller: Caller) -> Sum:
        try:
            await asyncio.sleep(add.after_s)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return Sum(value=add.a + add.b, by=caller.name)

    def fail(self, fail: Fail, caller: Caller) -> Sum:
        raise Refused("not today") if fail.declared else KeyError("secret")

    async def count(self, count: Count, caller: Caller) -> AsyncIterator[Sum]:
        try:
            for value in range(count.to):
                yield Sum(value=value)
                if value % 100 == 99:
                    await asyncio.sleep(0)
        finally:
            self.cancelled += 1

    def store(self, store: Store, caller: Caller) -> Stored:
        return Stored(both=store.data + store.more, text=store.text)


Body = Callable[[Any, Service, str, Callable[[int], Any]], Any]


async def _with_service(node: Any, host: str, port: int, body: Body, large: Callable[[int], Any]) -> None:
    wire = Wire(*VOCABULARY, port=port, errors=(Refused,))
    service = Service(node, wire)
    await service.start()
    client = Rpc(node, wire)
    try:
        await body(client, service, host, large)
    finally:
        await client.close()
        await service.rpc.close()
        await asyncio.sleep(0.02)


def on_sim(body: Body) -> None:
    def large(size: int) -> Blob:
        return Blob.random(7, size, materialise=False)

    play(lambda node: _with_service(node, node.name, 7000, body, large)).raise_failure()


def on_sockets(body: Body) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    node: Any = SimpleNamespace(name="client-1", incarnation=1, sites=None)

    def large(size: int) -> Blob:
        return Blob.random(7, size, materialise=True)

    asyncio.run(_with_service(node, "127.0.0.1", port, body, large))


both = pytest.mark.parametrize("run", [on_sim, on_sockets])


@both
def test_calls_are_answered_and_many_share_one_connection(run: Any) -> None:
    async def body(client: Rpc, service: Service, host: str, large: Any) -> None:
        answers = await asyncio.gather(*(client.call(host, Add(a=n, b=1), timeout_s=5.0) for n in range(100)))
        assert [answer.value for answer in answers] == list(range(1, 101))
        assert {answer.by for answer in answers} == {"client-1"}
        assert len(service.rpc.connections) == 1

    run(body)


@both
def test_errors_come_back_as_their_types(run: Any) -> None:
    async def body(client: Rpc, service: Service, host: str, large: Any) -> None:
        with pytest.raises(Refused, match="not today"):
            await client.call(host, Fail(declared=True), timeout_s=5.0)
        with pytest.raises(RemoteError, match="KeyError: 'secret'"):
            await client.call(host, Fail(declared=False), timeout_s=5.0)
        with pytest.raises(RemoteError, match="Unserved is not served here"):
            await client.call(host, Unserved(), timeout_s=5.0)

    run(body)


@both
def test_a_late_answer_is_a_timeout_that_leaves_other_calls_alone(run: Any) -> None:
    async def body(client: Rpc, service: Service, host: str, large: Any) -> None:
        slow = asyncio.ensure_future(client.call(host, Add(a=1, b=2, after_s=0.3), timeout_s=5.0))
        await asyncio.sleep(0.01)
        with pytest.raises(RpcTimeout, match=r"no answer to Add in 0\.05 s"):
            await client.call(host, Add(a=1, b=1, after_s=10.0), timeout_s=0.05)
        assert (await slow).value == 3
        await asyncio.sleep(0.05)
        assert service.cancelled == 1
        assert (await client.call(host, Add(a=2, b=2), timeout_s=5.0)).value == 4

    run(body)


@both
def test_a_cancelled_call_cancels_its_handler(run: Any) -> None:
    async def body(client: Rpc, service: Service, host: str, large: Any) -> None:
        call = asyncio.ensure_future(client.call(host, Add(a=1, b=2, after_s=10.0), timeout_s=20.0))
        await asyncio.sleep(0.05)
        call.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await call
        await asyncio.sleep(0.05)
        assert service.cancelled == 1

    run(body)


@both
def test_streams_give_every_item_in_order_and_stop_when_left(run: Any) -> None:
    async def body(client: Rpc, service: Service, host: str, large: Any) -> None:
        got = []
        async with await client.stream(host, Count(to=2000), timeout_s=5.0) as stream:
            while (item := await stream.receive(timeout_s=5.0)) is not None:
                got.append(item.value)
        assert got == list(range(2000))
        async with await client.stream(host, Count(to=10**9), timeout_s=5.0) as stream:
            first = await stream.receive(timeout_s=5.0)
            assert first is not None
            assert first.value == 0
        await asyncio.sleep(0.05)
        assert service.cancelled == 2

    run(body)


@both
def test_blobs_travel_beside_their_message(run: Any) -> None:
    async def body(client: Rpc, service: Service, host: str, large: Any) -> None:
        whole = large(5_000_000)
        parts = whole.slice(0, 3_000_000), whole.slice(3_000_000, 5_000_000)
        sent = [client.call(host, Store(data=parts[0], more=parts[1], text=str(n)), timeout_s=30.0) for n in range(3)]
        empty = client.call(host, Store(data=Blob.of(b""), more=Blob.of(b"x")), timeout_s=30.0)
        *stored, nearly_empty = await asyncio.gather(*sent, empty)
        assert [(answer.both == whole, answer.text) for answer in stored] == [(True, "0"), (True, "1"), (True, "2")]
        assert nearly_empty.both == Blob.of(b"x")

    run(body)


@both
def test_a_frame_that_arrives_in_pieces_is_put_together(run: Any) -> None:
    async def body(client: Rpc, service: Service, host: str, large: Any) -> None:
        many = [Count(to=1, pad=bytes(700_000)), Count(to=2), Count(to=3, pad=bytes(1_300_000))]
        wire, got = client.wire, 0
        reader, writer = await asyncio.open_connection(host, wire.port)
        data = b"".join(wire.pack(0, number, request)[0] for number, request in enumerate(many))
        for at in range(0, len(data), 99_991):
            writer.write(data[at : at + 99_991])
            await writer.drain()
            if at < 300_000:
                await asyncio.sleep(0.002)
        for _ in range(1 + 2 + 3 + 3):
            size = int.from_bytes((await reader.readexactly(8))[:4], "big")
            frame = wire.unpack(await reader.readexactly(size), [])
            got += frame.kind == 2
        assert got == 6
        writer.close()

    run(body)


@both
@pytest.mark.parametrize(
    "garbage", [b"GET / HTTP/1.1\r\n\r\n", b"\0\0\0\x05\0\0\0\0hello", b"\0\0\0\0\xff\xff\xff\xff"]
)
def test_garbage_ends_the_connection_it_came_on_and_nothing_else(run: Any, garbage: bytes) -> None:
    async def body(client: Rpc, service: Service, host: str, large: Any) -> None:
        reader, writer = await asyncio.open_connection(host, client.wire.port)
        writer.write(garbage)
        with contextlib.suppress(ConnectionResetError):
            assert await reader.read() == b""
        writer.close()
        assert (await client.call(host, Add(a=1, b=1), timeout_s=5.0)).value == 2

    run(body)


@both
def test_casts_arrive_with_their_caller(run: Any) -> None:
    async def body(client: Rpc, service: Service, host: str, large: Any) -> None:
        service.rpc.cast(host, Note(text="hear, hear"))
        for _ in range(100):
            if service.notes:
                break
            await asyncio.sleep(0.005)
        assert service.notes == [("hear, hear", Caller("client-1", 1))]
        with pytest.raises(RuntimeError, match="casts need"):
            client.cast(host, Note(text="no"))

    run(body)


@both
def test_nobody_there_is_unreachable_and_a_broken_connection_fails_its_calls(run: Any) -> None:
    async def body(client: Rpc, service: Service, host: str, large: Any) -> None:
        call = asyncio.ensure_future(client.call(host, Add(a=1, b=2, after_s=10.0), timeout_s=20.0))
        await asyncio.sleep(0.05)
        await service.rpc.close()
        with pytest.raises(Unreachable, match="connection lost"):
            await call
        with pytest.raises(Unreachable):
            await client.call(host, Add(a=1, b=2), timeout_s=5.0)

    run(body)


def test_a_call_that_times_out_while_connecting_leaves_no_error_behind() -> None:
    """And the dead peer's connection is given up, so that the next call finds its next life."""

    class Server:
        def __init__(self, node: Any) -> None:
            self.service = Service(node, Wire(*VOCABULARY, port=7000))
            self.node = node

        async def run(self) -> None:
            await self.service.start()
            await self.node.ready()
            await asyncio.Event().wait()

    target = Target(
        name="rpc",
        config=Config,
        roles={"server": Server},
        client=Host,
        topology=Topology(counts={"server": 1}),
    )

    async def scenario(cluster: Any) -> None:
        async def work(node: Any) -> None:
            client = node.rpc = getattr(node, "rpc", None) or Rpc(node, Wire(*VOCABULARY, port=7000))
            try:
                await client.call("server-1", Add(a=1, b=1), timeout_s=0.5)
            except RpcTimeout as error:
                node.emit("lab.timeout", error=str(error))
            else:
                node.emit("lab.answer")

        async with cluster.fault("host.crash", "server-1"):
            await cluster.client.go(work)
        await asyncio.sleep(10.0)
        await cluster.client.go(work)
        async with cluster.fault("host.crash", "server-1"):
            await cluster.client.go(work)
        await cluster.client.go(work)

    outcome = zebra.run(scenario, RunSpec(target="rpc"), target=target)
    outcome.raise_failure()
    kinds = [event.kind for event in outcome.history if event.kind in ("error", "lab.timeout", "lab.answer")]
    assert kinds == ["lab.timeout", "lab.answer", "lab.timeout", "lab.answer"]
