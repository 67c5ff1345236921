"""Unmodified aiohttp, server and client, as the roles of a target."""

from __future__ import annotations

import asyncio
import io
from typing import Any

import msgspec
import pytest

import zebra
from zebra import RunSpec, Target, Topology
from zebra.errors import ZebraError

aiohttp = pytest.importorskip("aiohttp")
from aiohttp import web  # noqa: E402


class Config(msgspec.Struct, frozen=True, kw_only=True):
    port: int = 8080


class Server:
    def __init__(self, node: Any) -> None:
        self.node = node

    async def run(self) -> None:
        app = web.Application(client_max_size=2**24)
        app.router.add_get("/hello", self.hello)
        app.router.add_get("/big", self.big)
        app.router.add_get("/slow", self.slow)
        app.router.add_get("/ws", self.socket)
        app.router.add_post("/size", self.size)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "0.0.0.0", self.node.config.port).start()
        await self.node.ready()
        try:
            await asyncio.Event().wait()
        finally:
            await runner.cleanup()

    async def hello(self, request: web.Request) -> web.Response:
        self.node.emit("http.served", path=request.path, agent=request.headers["User-Agent"].split("/")[0])
        return web.json_response({"from": self.node.name})

    async def big(self, request: web.Request) -> web.Response:
        return web.Response(body=b"b" * 2**20)

    async def slow(self, request: web.Request) -> web.Response:
        await asyncio.sleep(60)
        return web.Response(text="late")

    async def size(self, request: web.Request) -> web.Response:
        return web.json_response(len(await request.read()))

    async def socket(self, request: web.Request) -> web.WebSocketResponse:
        ws = web.WebSocketResponse()
        await ws.prepare(request)
        async for message in ws:
            await ws.send_str(message.data.upper())
        return ws


class Client:
    def __init__(self, node: Any) -> None:
        self.node = node

    async def run(self) -> None:
        self.session = aiohttp.ClientSession()
        await self.node.ready()
        try:
            await asyncio.Event().wait()
        finally:
            await self.session.close()

    async def get(self, path: str, to: str = "server-1", port: int = 8080, timeout_s: float = 5.0) -> Any:
        limit = aiohttp.ClientTimeout(total=timeout_s)
        async with self.session.get(f"http://{to}:{port}{path}", timeout=limit) as response:
            self.node.emit("http.answer", status=response.status, date=response.headers["Date"])
            return await response.read()

    async def post(self, size: int) -> Any:
        async with self.session.post("http://server-1:8080/size", data=io.BytesIO(b"p" * size)) as response:
            return await response.json()

    async def form(self, size: int) -> Any:
        data = aiohttp.FormData({"name": "zebra"})
        data.add_field("file", io.BytesIO(b"f" * size), filename="file.bin")
        async with self.session.post("http://server-1:8080/size", data=data) as response:
            return await response.json()

    async def talk(self, *words: str) -> list[str]:
        async with self.session.ws_connect("http://server-1:8080/ws") as ws:
            answers = []
            for word in words:
                await ws.send_str(word)
                answers.append((await ws.receive()).data)
            return answers


TARGET = Target(
    name="http", config=Config, roles={"server": Server}, client=Client, topology=Topology(counts={"server": 2})
)


def outcome(scenario: Any, seed: int = 0) -> zebra.Outcome:
    found = zebra.run(scenario, RunSpec(target="http", seed=seed), target=TARGET)
    found.raise_failure()
    return found


def test_requests_uploads_and_web_sockets_work_unmodified() -> None:
    async def scenario(cluster: Any) -> None:
        assert await cluster.client.get("/hello") == b'{"from": "server-1"}'
        assert await cluster.client.get("/hello", to="server-2") == b'{"from": "server-2"}'
        assert await cluster.client.get("/big") == b"b" * 2**20
        assert await cluster.client.post(3_000_000) == 3_000_000
        assert await cluster.client.form(10_000) > 10_000
        assert await cluster.client.talk("zebra", "x" * 100_000) == ["ZEBRA", "X" * 100_000]

    history = outcome(scenario).history
    assert history.of("http.answer")[0]["date"] == "Thu, 01 Jan 2026 00:00:00 GMT"


def test_a_client_timeout_and_a_refused_connection_are_aiohttps_own_errors() -> None:
    async def scenario(cluster: Any) -> None:
        with pytest.raises(TimeoutError):
            await cluster.client.get("/slow", timeout_s=2.0)
        assert 2.0 <= cluster.now < 2.1
        with pytest.raises(aiohttp.ClientConnectorError):
            await cluster.client.get("/hello", port=9)
        with pytest.raises(aiohttp.ClientConnectorDNSError):
            await cluster.client.get("/hello", to="nobody")

    outcome(scenario)


def test_requests_stall_in_a_partition_and_pass_after_it_heals() -> None:
    async def scenario(cluster: Any) -> None:
        await cluster.client.get("/hello")
        pairs = zebra.substrate.Pairs(
            [(frozenset({"client-1"}), frozenset({"server-1"})), (frozenset({"server-1"}), frozenset({"client-1"}))]
        )
        links = cluster._running.capabilities["links"]
        effect = await links.add(pairs, drop=True)
        with pytest.raises(TimeoutError):
            await cluster.client.get("/hello", timeout_s=3.0)
        assert await cluster.client.get("/hello", to="server-2")
        waiting = asyncio.create_task(cluster.client.get("/hello", timeout_s=60.0))
        await asyncio.sleep(5.0)
        assert not waiting.done()
        await links.remove(effect)
        assert await waiting == b'{"from": "server-1"}'
        assert effect.hits > 3

    outcome(scenario)


def test_a_restarted_server_answers_a_client_that_held_a_connection() -> None:
    async def scenario(cluster: Any) -> None:
        await cluster.client.get("/hello")
        async with cluster.fault("host.crash", "server-1"):
            with pytest.raises((TimeoutError, aiohttp.ClientError)):
                await cluster.client.get("/hello", timeout_s=1.0)
        assert await cluster.client.get("/hello", timeout_s=10.0)

    outcome(scenario)


def test_aiohttp_histories_repeat_and_differ_by_seed() -> None:
    async def scenario(cluster: Any) -> None:
        await asyncio.gather(*(cluster.client.get("/hello", to=f"server-{1 + n % 2}") for n in range(20)))
        await cluster.client.form(100)
        await cluster.client.talk("a", "b")

    first, second, other = outcome(scenario), outcome(scenario), outcome(scenario, seed=1)
    assert first.history.digest() == second.history.digest() != other.history.digest()


def test_tls_is_refused_in_words() -> None:
    async def through_client(cluster: Any) -> None:
        client = cluster.role("client-1")

        async def secure(path: str) -> None:
            await client.session.get(f"https://server-1:8080{path}")

        client.secure = secure
        with pytest.raises(ZebraError, match="TLS is not simulated"):
            await cluster.client.secure("/hello")

    outcome(through_client)
