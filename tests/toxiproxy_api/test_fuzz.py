"""Whatever is thrown at the control API: an answer in JSON, no traceback, and a server that still answers."""

from __future__ import annotations

import contextlib
import json
import re
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

KEYS = st.sampled_from(
    ["name", "listen", "upstream", "enabled", "toxics", "protocol", "type", "stream", "toxicity", "attributes",
     "latency", "jitter", "rate", "sources", "lease_s"]
)  # fmt: skip
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS | st.text(max_size=4), inner, max_size=6),
    max_leaves=12,
)
LIKELY = st.fixed_dictionaries(
    {},
    optional={
        "name": st.sampled_from(["p", "q", "", 3]),
        "upstream": st.sampled_from(["127.0.0.1:9", "x", "", None]),
        "listen": st.sampled_from(["127.0.0.1:0", "garbage", ":99999", "[::1", "::1:0", "127.0.0.1:x"])
        | st.text(max_size=5),
        "enabled": st.sampled_from([True, False, None, 0]),
        "type": st.sampled_from(["latency", "timeout", "slicer", "bandwidth", "nope"]),
        "attributes": JSON,
        "toxicity": st.floats() | st.integers(),
        "lease_s": st.floats(),
        "sources": st.lists(st.sampled_from(["10.0.0.0/8", "::1", "x"])),
        "toxics": JSON,
    },
)
POSTS = st.sampled_from(
    [("POST", "/proxies"), ("POST", "/populate"), ("POST", "/proxies/p"), ("PATCH", "/proxies/p"),
     ("POST", "/proxies/p/toxics"), ("POST", "/proxies/p/toxics/t"), ("PATCH", "/proxies/p/toxics/t")]
)  # fmt: skip
RELAXED = settings(
    max_examples=150, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture
def prepared(api: Any, capfd: pytest.CaptureFixture[str]) -> Iterator[Any]:
    api.ok("POST", "/proxies", {"name": "p", "upstream": "127.0.0.1:9", "listen": "127.0.0.1:0"})
    api.ok("POST", "/proxies/p/toxics", {"type": "latency", "name": "t"})
    yield api
    assert api("GET", "/version")[0] == 200
    assert "Traceback" not in capfd.readouterr().err


def check(status: int, data: bytes) -> None:
    answer = json.loads(data) if data else None
    if status >= 400:
        assert isinstance(answer, dict)
        assert answer["status"] == status and isinstance(answer["error"], str) and "\n" not in answer["error"]
        assert status in (400, 404, 409, 500) and "bug in zebra" not in answer["error"]


@RELAXED
@given(where=POSTS, body=st.binary(max_size=60) | st.text(max_size=40).map(str.encode))
def test_bytes_for_a_body(prepared: Any, where: tuple[str, str], body: bytes) -> None:
    check(*prepared.raw(*where, body))


@RELAXED
@given(where=POSTS, body=JSON | LIKELY | st.lists(LIKELY, max_size=3))
def test_json_for_a_body(prepared: Any, where: tuple[str, str], body: Any) -> None:
    check(*prepared.raw(*where, json.dumps(body)))


@RELAXED
@given(parts=st.lists(st.binary(max_size=50) | st.sampled_from(
    [b"GET /proxies HTTP/1.1\r\n", b"POST /proxies HTTP/1.1\r\n", b"Host: x\r\n", b"\r\n", b"{}",
     b"Content-Length: 2\r\n", b"Content-Length: -1\r\n", b"Transfer-Encoding: chunked\r\n", b"zz\r\n", b"0\r\n\r\n",
     b"Expect: 100-continue\r\n",
     b"CONNECT x:1 HTTP/1.1\r\n", b"GET /%zz HTTP/1.1\r\n", b"GET /\xff HTTP/1.1\r\n", b"Connection: close\r\n"]
), max_size=8))  # fmt: skip
def test_bytes_on_the_connection(prepared: Any, parts: list[bytes]) -> None:
    with socket.create_connection(("127.0.0.1", prepared.port), timeout=5) as connection:
        with contextlib.suppress(OSError):
            connection.sendall(b"".join(parts))
            connection.shutdown(socket.SHUT_WR)
        answer = b""
        with contextlib.suppress(ConnectionResetError):
            while data := connection.recv(65536):
                answer += data
    if answer:
        first, _, _ = answer.partition(b"\r\n")
        assert first.split()[0] == b"HTTP/1.1" and 100 <= int(first.split()[1]) < 600
        if first.split()[1] == b"400":
            assert json.loads(answer.partition(b"\r\n\r\n")[2].splitlines()[0])["status"] == 400


def test_a_body_without_end_is_refused(prepared: Any) -> None:
    with socket.create_connection(("127.0.0.1", prepared.port), timeout=20) as connection:
        connection.sendall(b"POST /proxies HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n")
        with contextlib.suppress(OSError):
            for _ in range(40):
                connection.sendall(bytes(1 << 20))
        answer = b""
        with contextlib.suppress(ConnectionResetError):
            answer = connection.recv(65536)
    assert answer == b"" or answer.startswith(b"HTTP/1.1 413")


def test_requests_in_a_row_are_answered_in_order(api: Any) -> None:
    with socket.create_connection(("127.0.0.1", api.port), timeout=5) as connection:
        connection.sendall(
            b"GET /version HTTP/1.1\r\nHost: x\r\n\r\nGET /proxies HTTP/1.1\r\nHost: x\r\n\r\n"
            b"GET /none HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        )
        answer = b""
        while data := connection.recv(65536):
            answer += data
    assert re.findall(rb"HTTP/1.1 (\d+)", answer) == [b"200", b"200", b"404"]
