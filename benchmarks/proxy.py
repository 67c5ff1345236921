"""Our Toxiproxy server beside a real one: throughput, latency, connections per second, accuracy of toxics.

All stand between the same senders and the same sink, and are measured in turn, round by round; figures are medians of
the rounds, and of the ratios within a round. Ours is measured on uvloop, where that is installed, and on plain asyncio.
The real server is `ZEBRA_TOXIPROXY`, or `toxiproxy-server` on the PATH; where there is none, ours is shown alone.
On a machine that others keep busy a clock tells more about who gets the processor than about the servers, so the
processor time that they take is shown too (Linux).
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tabulate import tabulate

HOST = "127.0.0.1"
ONE_BYTES, MANY_BYTES, STREAMS = 256 << 20, 8 << 20, 50
EXCHANGES, WARM_UP, EXCHANGE_BYTES, CONNECTIONS = 2000, 100, 100, 150
LATENCY_S, RATE_BYTES_PER_S = 0.05, 4_000_000

SERVER_CODE = """
import sys
sys.modules["uvloop"] = None
from zebra.cli import main
sys.exit(main(sys.argv[1:]))
"""


def sink(listening: socket.socket) -> None:
    """After `t` and a size swallow so much and answer `k`; after `s` and a size send so much; after `e` echo.

    A half-close would tell the end as well, but a real Toxiproxy does not carry one.
    """
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        connection, _ = listening.accept()
        if os.fork() == 0:
            listening.close()
            serve(connection)
            os._exit(0)
        connection.close()


def serve(connection: socket.socket) -> None:
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    first = connection.recv(1)
    if first == b"t":
        left = int.from_bytes(connection.recv(8, socket.MSG_WAITALL), "big")
        while left > 0:
            left -= len(connection.recv(1 << 20, socket.MSG_TRUNC)) or left
        connection.send(b"k")
    elif first == b"s":
        connection.sendall(bytes(int.from_bytes(connection.recv(8, socket.MSG_WAITALL), "big")))
    else:
        while data := connection.recv(EXCHANGE_BYTES):
            connection.send(data)


class Server:
    """One server under measurement, with one proxy in front of the sink."""

    def __init__(self, name: str, command: list[str], api: int, upstream: int) -> None:
        self.name, self._api = name, f"http://{HOST}:{api}"
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 20
        while True:
            try:
                proxy = {"name": "bench", "listen": f"{HOST}:0", "upstream": f"{HOST}:{upstream}"}
                made = self.call("POST", "/proxies", proxy)
                break
            except OSError:
                if time.monotonic() > deadline or self._process.poll() is not None:
                    raise
                time.sleep(0.02)  # it is not listening yet
        self.port = int(made["listen"].rpartition(":")[2])

    def call(self, method: str, path: str, body: Any = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self._api + path, data=data, method=method)
        with urllib.request.urlopen(request, timeout=30) as response:
            text = response.read()
        return json.loads(text) if text else None

    @contextmanager
    def toxic(self, type_: str, **attributes: int) -> Iterator[None]:
        self.call("POST", "/proxies/bench/toxics", {"name": "it", "type": type_, "attributes": attributes})
        try:
            yield
        finally:
            self.call("DELETE", "/proxies/bench/toxics/it")

    def cpu_s(self) -> float:
        """Processor time used so far: on a busy machine a steadier measure than what a clock says."""
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def close(self) -> None:
        self._process.terminate()
        self._process.wait()


def connect(port: int, first: bytes) -> socket.socket:
    connection = socket.create_connection((HOST, port))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.send(first)
    return connection


def send_all(port: int, size: int) -> None:
    block = memoryview(bytes(1 << 18))
    with connect(port, b"t" + size.to_bytes(8, "big")) as connection:
        left = size
        while left > 0:
            left -= connection.send(block[:left])
        assert connection.recv(1) == b"k"


def one_stream(port: int) -> float:
    """MB/s."""
    started = time.perf_counter()
    send_all(port, ONE_BYTES)
    return ONE_BYTES / (time.perf_counter() - started) / 1e6


def many_streams(port: int) -> float:
    """MB/s of all together, each sent by a process of its own."""
    ready, go = os.pipe(), os.pipe()
    pids = []
    for _ in range(STREAMS):
        pid = os.fork()
        if pid == 0:
            try:
                os.close(go[1])
                os.write(ready[1], b"r")
                os.read(go[0], 1)
                send_all(port, MANY_BYTES)
                os._exit(0)
            finally:
                os._exit(1)
        pids.append(pid)
    for _ in pids:
        os.read(ready[0], 1)
    started = time.perf_counter()
    os.close(go[1])
    failed = sum(os.waitpid(pid, 0)[1] != 0 for pid in pids)
    taken_s = time.perf_counter() - started
    for fd in (*ready, go[0]):
        os.close(fd)
    assert not failed, f"{failed} senders failed"
    return STREAMS * MANY_BYTES / taken_s / 1e6


def exchanges(port: int) -> tuple[float, float]:
    """The median and the 99th percentile of a small request and its answer, in us."""
    data, times = bytes(EXCHANGE_BYTES), []
    with connect(port, b"e") as connection:
        for number in range(EXCHANGES + WARM_UP):
            started = time.perf_counter()
            connection.send(data)
            got = 0
            while got < EXCHANGE_BYTES:
                got += len(connection.recv(EXCHANGE_BYTES))
            if number >= WARM_UP:
                times.append((time.perf_counter() - started) * 1e6)
    return statistics.median(times), statistics.quantiles(times, n=100)[98]


def connections(port: int) -> float:
    """Connections per second, one after the other, each with an answer."""
    started = time.perf_counter()
    for _ in range(CONNECTIONS):
        with connect(port, b"ex") as connection:
            assert connection.recv(1) == b"x"
    return CONNECTIONS / (time.perf_counter() - started)


def latency_error(server: Server) -> float:
    """What a latency toxic adds beyond what it should, in ms."""
    with server.toxic("latency", latency=round(LATENCY_S * 1000)), connect(server.port, b"e") as connection:
        times = []
        for _ in range(9):
            started = time.perf_counter()
            connection.send(b"x")
            assert connection.recv(1) == b"x"
            times.append(time.perf_counter() - started)
    return (statistics.median(times) - LATENCY_S) * 1e3


def rate_error(server: Server) -> float:
    """How far a bandwidth toxic is off, in percent, from the first bytes that come to the last."""
    size = RATE_BYTES_PER_S
    first = b"s" + size.to_bytes(8, "big")
    with server.toxic("bandwidth", rate=RATE_BYTES_PER_S // 1000), connect(server.port, first) as connection:
        first_bytes = got = len(connection.recv(1 << 20))
        started = time.perf_counter()
        while got < size:
            got += len(connection.recv(1 << 20))
        took_s = time.perf_counter() - started
    return ((size - first_bytes) / took_s / RATE_BYTES_PER_S - 1) * 100


Figures = dict[str, dict[str, list[float]]]


def measure(servers: list[Server], upstream: int, rounds: int) -> Figures:
    """Figures by what and by server, `direct` among them; one of each per round."""
    figures: Figures = {}

    def note(what: str, who: str, value: float) -> None:
        figures.setdefault(what, {}).setdefault(who, []).append(value)

    for number in range(rounds):
        turn = [("direct", upstream, None), *((each.name, each.port, each) for each in servers)]
        turn = turn[number % len(turn) :] + turn[: number % len(turn)]
        for who, port, server in turn:
            before = server.cpu_s() if server else 0.0
            note("one stream, MB/s", who, one_stream(port))
            if server is not None:
                note("one stream, CPU ms per 100 MB", who, (server.cpu_s() - before) * 1e11 / ONE_BYTES)
        for who, port, _ in turn:
            note(f"{STREAMS} streams, MB/s", who, many_streams(port))
        for who, port, server in turn:
            before = server.cpu_s() if server else 0.0
            median, worst = exchanges(port)
            note("exchange, median us", who, median)
            note("exchange, p99 us", who, worst)
            if server is not None:
                note("exchange, CPU us", who, (server.cpu_s() - before) * 1e6 / (EXCHANGES + WARM_UP))
        for who, port, _ in turn:
            note("new connections per s", who, connections(port))
        for who, _, server in turn:
            if server is not None:
                note(f"latency {LATENCY_S * 1e3:g} ms: error, ms", who, latency_error(server))
        for who, _, server in turn:
            if server is not None:
                note(f"bandwidth {RATE_BYTES_PER_S / 1e6:g} MB/s: error, %", who, rate_error(server))
    for what in ("median", "p99"):
        times = figures[f"exchange, {what} us"]
        for server in servers:
            added = [a - b for a, b in zip(times[server.name], times["direct"], strict=True)]
            figures.setdefault(f"added, {what} us", {})[server.name] = added
    return figures


def table(figures: Figures, names: list[str], real: str) -> list[dict[str, object]]:
    """A row for each figure: medians, and ours as a ratio to the real server's within each round."""
    rows: list[dict[str, object]] = []
    for what, by_server in figures.items():
        row: dict[str, object] = {"what": what}
        for name in names:
            if name in by_server:
                row[name] = round(statistics.median(by_server[name]), 2)
        for name in names:
            if real in by_server and name not in (real, "direct") and "error" not in what:
                ratios = [a / b for a, b in zip(by_server[name], by_server[real], strict=True) if b > 0]
                row[f"{name} / real"] = round(statistics.median(ratios), 2) if ratios else None
        rows.append(row)
    return rows


def free_port() -> int:
    with socket.create_server((HOST, 0)) as free:
        return int(free.getsockname()[1])


def real_server() -> str | None:
    return os.environ.get("ZEBRA_TOXIPROXY") or shutil.which("toxiproxy-server")


def have_uvloop() -> bool:
    try:
        import uvloop  # noqa: F401
    except ImportError:
        return False
    return True


def commands() -> Iterator[tuple[str, Callable[[int], list[str]]]]:
    """Each server's name, and its command line for a port."""
    if have_uvloop():
        yield "zebra", lambda port: [sys.executable, "-m", "zebra.cli", "toxiproxy", "--port", str(port)]
    yield "zebra, asyncio", lambda port: [sys.executable, "-c", SERVER_CODE, "toxiproxy", "--port", str(port)]
    real = real_server()
    if real is not None:
        yield "toxiproxy", lambda port: [real, "-host", HOST, "-port", str(port)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    listening = socket.create_server((HOST, 0), backlog=1024)
    upstream = int(listening.getsockname()[1])
    pid = os.fork()
    if pid == 0:
        try:
            sink(listening)
        finally:
            os._exit(1)
    listening.close()
    servers: list[Server] = []
    try:
        for name, command in commands():
            port = free_port()
            servers.append(Server(name, command(port), port, upstream))
        figures = measure(servers, upstream, options.rounds)
    finally:
        for server in servers:
            server.close()
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    rows = table(figures, ["direct", *(server.name for server in servers)], "toxiproxy")
    print(json.dumps(rows) if options.json else tabulate(rows, headers="keys"))
    if not options.json and all(server.name != "toxiproxy" for server in servers):
        print("no real Toxiproxy was found (ZEBRA_TOXIPROXY, or toxiproxy-server on the PATH): ours is shown alone")


if __name__ == "__main__":
    main()
