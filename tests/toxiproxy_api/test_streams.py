"""What toxics do to connections: each of them, live, by seed, by peer, for a while, on datagrams."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import pytest

from tests.toxiproxy_api.reading import read
from zebra.faults.toxiproxy.proxies import Proxies
from zebra.faults.toxiproxy.wire import Body, Number

HOST = "127.0.0.1"


def taken_s(sock: socket.socket, want: int) -> float:
    started = time.monotonic()
    got, how = read(sock, 10.0, want)
    assert how == "all", (len(got), how)
    return time.monotonic() - started


def toxic(type_: str, name: str = "t", **attributes: Any) -> dict[str, Any]:
    return {"type": type_, "name": name, "attributes": attributes}


T = "/proxies/p/toxics/t"


def test_without_toxics_bytes_pass_both_ways_and_a_half_close_is_one(api: Any, upstream: Any) -> None:
    client, server = upstream.pair(api.proxy(upstream.address))
    data = bytes(range(256)) * 40_000
    threading.Thread(target=lambda: (client.sendall(data), client.shutdown(socket.SHUT_WR))).start()
    assert read(server, 10.0) == (data, "end")
    server.sendall(b"late")
    server.close()
    assert read(client) == (b"late", "end")


def test_a_toxic_comes_on_changes_and_goes_while_connections_last(api: Any, upstream: Any) -> None:
    client, server = upstream.pair(api.proxy(upstream.address))
    server.sendall(b"x")
    assert taken_s(client, 1) < 0.1
    api.ok("POST", "/proxies/p/toxics", toxic("latency", latency=150))
    server.sendall(b"x")
    assert 0.145 <= taken_s(client, 1) < 0.3
    api.ok("PATCH", T, {"attributes": {"latency": 60_000}})
    server.sendall(b"x")
    assert read(client, 0.1) == (b"", "quiet")
    api.ok("POST", T, {"attributes": {"latency": 120}})
    assert taken_s(client, 1) < 0.2
    api.ok("POST", T, {"attributes": {"latency": 60_000}})
    server.sendall(b"y")
    assert read(client, 0.05) == (b"", "quiet")
    api("DELETE", T)
    assert read(client, 1.0, 1) == (b"y", "all")
    client.sendall(b"up")
    assert read(server, 1.0, 2) == (b"up", "all")


def test_latencies_add_up_and_jitter_stays_in_its_bounds(api: Any, upstream: Any) -> None:
    where = api.proxy(upstream.address, toxic("latency", latency=60), toxic("latency", "u", latency=50, jitter=20))
    client, server = upstream.pair(where)
    for _ in range(5):
        server.sendall(b"x")
        assert 0.088 <= taken_s(client, 1) < 0.2
    api.ok("POST", T, {"attributes": {"latency": -1000}})
    api.ok("POST", "/proxies/p/toxics/u", {"attributes": {"latency": -5, "jitter": 0}})
    server.sendall(b"x")
    assert taken_s(client, 1) < 0.1


def test_bandwidth_is_each_connections_own(api: Any, upstream: Any) -> None:
    where = api.proxy(upstream.address, toxic("bandwidth", rate=100))
    pairs = [upstream.pair(where) for _ in range(2)]
    started = time.monotonic()
    for _, server in pairs:
        server.sendall(bytes(30_000))
    for client, _ in pairs:
        read(client, 5.0, 30_000)
    assert 0.29 <= time.monotonic() - started < 0.45
    api.ok("POST", T, {"attributes": {"rate": 0}})
    client, server = pairs[0]
    server.sendall(bytes(1000))
    assert read(client, 0.1) == (b"", "quiet")
    api.ok("POST", T, {"attributes": {"rate": 10}})
    assert 0.09 <= taken_s(client, 1000) < 0.3


@pytest.mark.parametrize("stream", ["upstream", "downstream"])
def test_timeout_loses_data_and_closes(api: Any, upstream: Any, stream: str) -> None:
    client, server = upstream.pair(api.proxy(upstream.address, {**toxic("timeout", timeout=150), "stream": stream}))
    started = time.monotonic()
    client.sendall(b"up")
    server.sendall(b"down")
    assert read(client) == (b"" if stream == "downstream" else b"down", "end")
    assert 0.14 <= time.monotonic() - started < 0.4
    assert read(server) == (b"" if stream == "upstream" else b"up", "end")


def test_timeout_0_lasts_until_it_is_removed_which_closes(api: Any, upstream: Any) -> None:
    client, server = upstream.pair(api.proxy(upstream.address, toxic("timeout")))
    server.sendall(b"lost")
    assert read(client, 0.1) == (b"", "quiet")
    api("DELETE", T)
    assert read(client) == (b"", "end") == read(server)
    client, server = upstream.pair(api.proxy(upstream.address, toxic("timeout")))
    server.close()
    assert read(client) == (b"", "end")


@pytest.mark.parametrize("live", [False, True])
def test_reset_peer_resets_both_ends_at_the_first_data(api: Any, upstream: Any, live: bool) -> None:
    reset = toxic("reset_peer", timeout=100)
    client, server = upstream.pair(api.proxy(upstream.address, *([] if live else [reset])))
    if live:
        server.sendall(b"x")
        assert read(client, 1.0, 1) == (b"x", "all")
        api.ok("POST", "/proxies/p/toxics", reset)
    assert read(client, 0.15) == (b"", "quiet")
    server.sendall(b"y")
    started = time.monotonic()
    assert read(client) == (b"", "reset") == read(server)
    assert 0.09 <= time.monotonic() - started < 0.3


def test_reset_peer_makes_a_reset_of_the_end_of_its_stream(api: Any, upstream: Any) -> None:
    client, server = upstream.pair(api.proxy(upstream.address, toxic("reset_peer")))
    server.close()
    assert read(client) == (b"", "reset")


def test_a_reset_by_one_side_reaches_the_other(api: Any, upstream: Any) -> None:
    for side in (0, 1):
        pair = upstream.pair(api.proxy(upstream.address))
        pair[0].sendall(b"x")
        assert read(pair[1], 1.0, 1) == (b"x", "all")
        pair[side].setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        pair[side].close()
        assert read(pair[1 - side]) == (b"", "reset")


def test_slow_close_delays_the_end_alone(api: Any, upstream: Any) -> None:
    client, server = upstream.pair(api.proxy(upstream.address, toxic("slow_close", delay=150)))
    server.sendall(b"x")
    assert taken_s(client, 1) < 0.1
    server.close()
    started = time.monotonic()
    assert read(client) == (b"", "end")
    assert 0.14 <= time.monotonic() - started < 0.4
    client, server = upstream.pair(api.proxy(upstream.address, toxic("slow_close", delay=60_000)))
    server.close()
    api.ok("POST", T, {"attributes": {"delay": 1}})
    assert read(client) == (b"", "end")


@pytest.mark.parametrize(
    ("limit", "got", "how"),
    [(0, b"", "end"), (-3, b"", "end"), (5, b"01234", "end"), (7, b"0123456", "end"), (8, b"0123456", "quiet")],
)
def test_limit_data_closes_once_so_much_has_passed(api: Any, upstream: Any, limit: int, got: bytes, how: str) -> None:
    client, server = upstream.pair(api.proxy(upstream.address, toxic("limit_data", bytes=limit)))
    assert read(client, 0.05) == (b"", "quiet")
    server.sendall(b"0123456")
    assert read(client, 0.1) == (got, how)


def test_limit_data_counts_on_when_it_is_changed_and_from_when_it_came_on(api: Any, upstream: Any) -> None:
    client, server = upstream.pair(api.proxy(upstream.address))
    server.sendall(bytes(50))
    assert read(client, 1.0, 50)[1] == "all"
    api.ok("POST", "/proxies/p/toxics", toxic("limit_data", bytes=10))
    server.sendall(b"01234")
    assert read(client, 1.0, 5) == (b"01234", "all")
    api.ok("POST", T, {"attributes": {"bytes": 7}})
    server.sendall(b"56789")
    assert read(client) == (b"56", "end")


def test_slicer_cuts_and_delays(api: Any, upstream: Any) -> None:
    client, server = upstream.pair(api.proxy(upstream.address, toxic("slicer", average_size=10, delay=20_000)))
    server.sendall(b"0123456789" * 5)
    assert 0.075 <= taken_s(client, 50) < 0.3  # the first piece goes at once
    for size, variation in ((0, 0), (-4, 0), (5, 9), (0, 5)):  # a real server loops for ever or dies of these
        api.ok("POST", T, {"attributes": {"average_size": size, "size_variation": variation, "delay": 0}})
        server.sendall(b"0123456789")
        assert read(client, 2.0, 10) == (b"0123456789", "all")


def test_packet_loss_delays_a_stream_and_comes_in_bursts_when_correlated(api: Any, upstream: Any) -> None:
    loss = {**toxic("packet_loss", loss_rate=0.2, correlation=0.7), "stream": "upstream"}
    client, server = upstream.pair(api.proxy(upstream.address, loss))
    for number in range(10):
        client.sendall(bytes([number]))
        time.sleep(0.001)
    assert read(server, 10.0, 10) == (bytes(range(10)), "all")
    assert {each["decision"] for each in api.ok("GET", "/proxies/p/decisions")} == {"loss"}


def test_who_is_refused_by_the_upstream_is_closed(api: Any) -> None:
    with socket.create_server((HOST, 0)) as free:
        nobody = f"{HOST}:{free.getsockname()[1]}"
    for upstream in (nobody, "garbage"):
        with socket.create_connection(api.proxy(upstream)) as client:
            assert read(client) == (b"", "end")


def test_taking_a_proxy_down_closes_its_connections_and_refuses_new_ones(api: Any, upstream: Any) -> None:
    for how in (("POST", "/proxies/p", {"enabled": False}), ("POST", "/proxies/p", {"upstream": "x:1"}),
                ("DELETE", "/proxies/p", None)):  # fmt: skip
        where = api.proxy(upstream.address, toxic("latency", latency=60_000))
        client, server = upstream.pair(where)
        server.sendall(b"held")
        api.ok(*how)
        assert read(client) == (b"", "end") == read(server)
        if how[2] != {"upstream": "x:1"}:
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(where)
    client, server = upstream.pair(api.proxy(upstream.address))
    api.ok("POST", "/reset")
    api.ok("POST", "/proxies/p", {"upstream": upstream.address, "enabled": True})
    server.sendall(b"still here")
    assert read(client, 1.0, 10) == (b"still here", "all")


def test_toxicity_is_a_share_of_connections_the_same_for_the_same_seed(
    upstream: Any, serve: Callable[..., Any]
) -> None:
    def hit(seed: int) -> tuple[list[bool], Any]:
        made = []
        with serve(seed) as api:
            where = api.proxy(upstream.address, {**toxic("limit_data", bytes=1), "toxicity": 0.5})
            for _ in range(24):
                client, server = upstream.pair(where)
                server.sendall(b"xx")
                got, _ = read(client, 0.5, 2)
                made.append(got == b"x")
            return made, api.ok("GET", "/proxies/p/decisions")

    first, decisions = hit(3)
    assert 5 <= sum(first) <= 19
    assert hit(3) == (first, decisions)
    assert [each["decision"] == "on" for each in decisions] == first
    assert decisions[0].keys() == {"toxic", "stream", "way", "decision"}
    assert hit(4)[0] != first


def test_toxicity_0_leaves_connections_alone_even_when_it_is_removed(api: Any, upstream: Any) -> None:
    client, server = upstream.pair(api.proxy(upstream.address, {**toxic("timeout"), "toxicity": 0}))
    server.sendall(b"x")
    assert read(client, 1.0, 1) == (b"x", "all")
    api("DELETE", T)
    server.sendall(b"y")
    assert read(client, 1.0, 1) == (b"y", "all")


def test_a_toxic_for_some_peers_leaves_others_alone(api: Any, upstream: Any) -> None:
    where = api.proxy(upstream.address, {**toxic("timeout"), "sources": ["127.0.0.2", "10.0.0.0/8"]})
    assert api.ok("GET", T)["sources"] == ["127.0.0.2/32", "10.0.0.0/8"]
    for host, expected in (("127.0.0.2", (b"", "quiet")), ("127.0.0.3", (b"x", "all"))):
        with socket.create_connection(where, source_address=(host, 0)) as client:
            server, _ = upstream.sock.accept()
            server.sendall(b"x")
            assert read(client, 0.2, 1) == expected
            server.close()
    api.ok("POST", T, {"sources": []})
    client, server = upstream.pair(where)
    server.sendall(b"x")
    assert read(client, 0.1) == (b"", "quiet")


def test_a_leased_toxic_goes_unless_it_is_renewed(api: Any, upstream: Any) -> None:
    client, server = upstream.pair(api.proxy(upstream.address))
    started = time.monotonic()
    api.ok("POST", "/proxies/p/toxics", {**toxic("latency", latency=60_000), "lease_s": 0.5})
    server.sendall(b"x")
    for _ in range(4):
        time.sleep(0.2)
        assert api.ok("PATCH", T, {})["lease_s"] == 0.5
    assert read(client, 0.01) == (b"", "quiet")
    assert read(client, 5.0, 1) == (b"x", "all")
    assert 1.2 <= time.monotonic() - started < 2.5
    assert api.ok("GET", "/proxies/p/toxics") == []
    assert api.ok("GET", "/proxies/p/decisions")[-1]["decision"] == "expired"
    api.ok("POST", "/proxies/p/toxics", {**toxic("latency", latency=1), "lease_s": 0.1})
    api.ok("POST", T, {"lease_s": 0})
    time.sleep(0.2)
    assert "lease_s" not in api.ok("GET", T)


def test_datagrams(api: Any) -> None:
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client,
    ):
        server.bind((HOST, 0))
        server.settimeout(2)
        client.settimeout(2)
        made = api.ok("POST", "/proxies", {"name": "p", "protocol": "udp", "listen": f"{HOST}:0",
                                           "upstream": f"{HOST}:{server.getsockname()[1]}"})  # fmt: skip
        assert made["protocol"] == "udp"
        client.connect((HOST, int(made["listen"].rpartition(":")[2])))
        client.send(b"ask")
        data, peer = server.recvfrom(100)
        server.sendto(b"answer to " + data, peer)
        assert client.recv(100) == b"answer to ask"
        status, answer = api("POST", "/proxies/p/toxics", {"type": "slicer"})
        assert (status, answer["error"]) == (400, "invalid toxic type: slicer does nothing to datagrams")
        api.ok("POST", "/proxies/p/toxics", toxic("latency", latency=100))
        started = time.monotonic()
        server.sendto(b"late", peer)
        assert client.recv(100) == b"late" and 0.09 <= time.monotonic() - started < 0.3
        api("DELETE", T)
        api.ok("POST", "/proxies/p/toxics", {**toxic("packet_loss", loss_rate=0.5), "stream": "upstream"})
        for number in range(40):
            client.send(b"%d" % number)
        server.settimeout(0.2)
        got = []
        while True:
            try:
                got.append(int(server.recv(100)))
            except TimeoutError:
                break
        lost = [each for each in api.ok("GET", "/proxies/p/decisions") if each["decision"] == "loss"]
        assert 8 <= len(got) == 40 - len(lost) <= 32 and got == sorted(got)


def test_metrics_count_bytes(api: Any, upstream: Any) -> None:
    where = api.proxy(upstream.address, toxic("limit_data", bytes=3))
    client, server = upstream.pair(where)
    client.sendall(b"12345")
    assert read(server, 1.0, 5)[1] == "all"
    server.sendall(b"1234567")
    assert read(client) == (b"123", "end")
    labels = f'listener="{where[0]}:{where[1]}",proxy="p",upstream="{upstream.address}"'
    text = api.ok("GET", "/metrics")
    for what, direction, count in (("received", "upstream", 5), ("sent", "upstream", 5), ("received", "downstream", 7),
                                   ("sent", "downstream", 3)):  # fmt: skip
        line = f'toxiproxy_proxy_{what}_bytes_total{{direction="{direction}",{labels}}} {count}\n'
        assert line in text, (line, text)


def test_tearing_down_hundreds_of_stuck_connections_leaves_the_api_its_turn() -> None:
    """No step of the loop takes 50 ms of processor time, so that a request waits no longer than that."""

    async def run() -> tuple[float, int]:
        loop = asyncio.get_running_loop()
        server, done, longest, turns = Proxies(0), asyncio.Event(), 0.0, 0

        async def measure() -> None:
            nonlocal longest, turns
            while not done.is_set():
                started = time.process_time()
                await asyncio.sleep(0)
                longest, turns = max(longest, time.process_time() - started), turns + 1

        with socket.create_server((HOST, 0), backlog=512) as upstream, ExitStack() as stack:
            upstream.setblocking(False)
            proxy = await server.create(
                Body(name="p", listen=f"{HOST}:0", upstream=f"{HOST}:{upstream.getsockname()[1]}")
            )
            await server.add_toxic("p", Body(type="latency", stream="upstream", attributes=Body(latency=Number(10**6))))
            host, _, port = proxy.listen.rpartition(":")
            for _ in range(200):
                client = stack.enter_context(socket.socket())
                client.setblocking(False)
                await loop.sock_connect(client, (host, int(port)))
                stack.enter_context((await loop.sock_accept(upstream))[0])
                client.send(bytes(1 << 20))
            while sum(connection.forward.received for connection in proxy.core.connections) < 200 * 900_000:  # noqa: ASYNC110
                await asyncio.sleep(0.001)
            measuring = asyncio.create_task(measure())
            await server.remove_toxic("p", "latency_upstream")
            await server.update("p", Body(enabled=False))
            done.set()
            await measuring
            server.close()
        return longest, turns

    longest_s, turns = asyncio.run(run())
    assert turns > 1 and longest_s < 0.05, (turns, longest_s)


def test_a_stuck_proxy_does_not_hold_the_api(api: Any, upstream: Any) -> None:
    clients = [upstream.pair(api.proxy(upstream.address, toxic("bandwidth", rate=0)))[0]]
    assert api("DELETE", T)[0] == 204
    assert api("DELETE", "/proxies/p")[0] == 204
    assert read(clients[0]) == (b"", "end")
    assert json.dumps(api.ok("GET", "/proxies")) == "{}"
