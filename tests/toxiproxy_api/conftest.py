"""A server of the control API in this process, and what stands behind its proxies."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from zebra.faults.toxiproxy.server import Server

HOST = "127.0.0.1"


@dataclass
class Api:
    """The control API of some server."""

    port: int
    pid: int = 0

    def raw(self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> tuple[int, bytes]:
        """Status and body. What is not bytes or text is sent as JSON."""
        connection = http.client.HTTPConnection(HOST, self.port, timeout=30)
        data = body if isinstance(body, bytes | str | None) else json.dumps(body)
        try:
            connection.request(method, path, data, headers or {})
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def __call__(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
        """Status and body, parsed where it is JSON."""
        status, data = self.raw(method, path, body, headers)
        try:
            return status, json.loads(data) if data else None
        except ValueError:
            return status, data.decode()

    def ok(self, method: str, path: str, body: Any = None) -> Any:
        status, answer = self(method, path, body)
        assert status < 300, (method, path, body, status, answer)
        return answer

    def proxy(self, upstream: str, *toxics: dict[str, Any], name: str = "p", **fields: Any) -> tuple[str, int]:
        """Make a proxy anew, add toxics to it; its address."""
        self("DELETE", f"/proxies/{name}")
        made = self.ok("POST", "/proxies", {"name": name, "listen": f"{HOST}:0", "upstream": upstream, **fields})
        for toxic in toxics:
            self.ok("POST", f"/proxies/{name}/toxics", toxic)
        host, _, port = made["listen"].rpartition(":")
        return host, int(port)


@dataclass
class Upstream:
    """A listening socket whose connections the test holds itself."""

    sock: socket.socket
    stack: ExitStack
    made: list[socket.socket] = field(default_factory=list)

    @property
    def address(self) -> str:
        return f"{HOST}:{self.sock.getsockname()[1]}"

    def pair(self, address: tuple[str, int]) -> tuple[socket.socket, socket.socket]:
        """A client of a proxy, and what the upstream sees of it."""
        client = self.stack.enter_context(socket.create_connection(address, timeout=5))
        server, _ = self.sock.accept()
        server.settimeout(5)
        self.stack.enter_context(server)
        return client, server


@contextmanager
def serving(seed: int = 0) -> Iterator[Api]:
    """Our server in a thread."""
    made: Future[tuple[int, asyncio.AbstractEventLoop, asyncio.Event]] = Future()

    async def run() -> None:
        server, end = Server(seed), asyncio.Event()
        await server.begin(HOST, 0)
        made.set_result((server.address[1], asyncio.get_running_loop(), end))
        await end.wait()
        await server.close()

    thread = threading.Thread(target=asyncio.run, args=(run(),))
    thread.start()
    port, loop, end = made.result(10)
    try:
        yield Api(port)
    finally:
        loop.call_soon_threadsafe(end.set)
        thread.join(10)
        assert not thread.is_alive()


@pytest.fixture
def api() -> Iterator[Api]:
    with serving() as made:
        yield made


@pytest.fixture
def serve() -> Callable[..., Any]:
    return serving


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    with socket.create_server((HOST, 0), backlog=512) as sock, ExitStack() as stack:
        sock.settimeout(5)
        yield Upstream(sock, stack)


@pytest.fixture(scope="session")
def real() -> Iterator[Api]:
    """A real Toxiproxy server, where this machine has one."""
    path = os.environ.get("ZEBRA_TOXIPROXY") or shutil.which("toxiproxy-server")
    if path is None:
        pytest.skip("no real Toxiproxy: set ZEBRA_TOXIPROXY, or put toxiproxy-server on the PATH")
    with socket.create_server((HOST, 0)) as free:
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [path, "-host", HOST, "-port", str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    made, deadline = Api(port, process.pid), time.monotonic() + 20
    try:
        while True:
            try:
                made.raw("GET", "/version")
                break
            except OSError:
                assert process.poll() is None, f"{path} ended with {process.returncode}"
                assert time.monotonic() < deadline, f"{path} does not answer"
                time.sleep(0.02)
        yield made
    finally:
        process.terminate()
        process.wait()
