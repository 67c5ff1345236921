"""Real processes and the fault proxy: how soon a cluster answers, and what the proxy costs beside a direct connection.

Start-up is counted from a warm zygote's parent, as a test sees it: from `zebra.run` to the answer of the last node.
The proxy is measured in rounds, direct and proxied in turn; the figures are medians of the rounds and of their ratios.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import socket
import statistics
import time
from collections.abc import Callable

from tabulate import tabulate

import zebra
from zebra import Cluster, RunSpec, Topology
from zebra.proxy.proxy import Proxy
from zebra.testing import echo

BULK_BYTES = 100 << 20
EXCHANGES = 300


def first_answers_s(nodes: int) -> float:
    """Seconds until every one of some echo servers has answered."""
    started, answered = time.perf_counter(), 0.0

    async def ask_all(cluster: Cluster) -> None:
        nonlocal answered
        await asyncio.gather(*(cluster.client.say(server, "x") for server in cluster.nodes("server")))
        answered = time.perf_counter() - started

    spec = RunSpec(target="echo", substrate="process", topology=Topology(counts={"server": nodes}))
    outcome = zebra.run(ask_all, spec, target=echo)
    assert outcome.result == "pass", outcome.message
    return answered


def child(work: Callable[[], None]) -> int:
    """The pid of a process that does something until it is killed."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
        finally:
            os._exit(1)
    return pid


def sink(listening: socket.socket) -> None:
    """Swallow what begins with `t` and answer `k` at its end; echo what begins with `e`."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        connection, _ = listening.accept()
        if os.fork() == 0:
            if connection.recv(1) == b"t":
                while connection.recv(1 << 20, socket.MSG_TRUNC):
                    pass
                connection.send(b"k")
            else:
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                while data := connection.recv(100):
                    connection.send(data)
            os._exit(0)
        connection.close()


def proxy(front: int, back: int) -> None:
    async def serve() -> None:
        made = Proxy(asyncio.get_running_loop(), 0, lambda *_: (), lambda _: "client")
        await made.listen(("127.0.0.1", front), "server", ("127.0.0.1", back))
        await asyncio.get_running_loop().create_future()

    asyncio.run(serve())


def throughput(port: int) -> float:
    """Bytes per second of one stream."""
    block = bytes(1 << 18)
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.send(b"t")
        started = time.perf_counter()
        for _ in range(BULK_BYTES // len(block)):
            connection.sendall(block)
        connection.shutdown(socket.SHUT_WR)
        connection.recv(1)
        return BULK_BYTES / (time.perf_counter() - started)


def exchange_s(port: int) -> float:
    """The median time of a small request and its answer."""
    times = []
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.send(b"e")
        for _ in range(EXCHANGES):
            started = time.perf_counter()
            connection.send(b"x" * 64)
            connection.recv(100)
            times.append(time.perf_counter() - started)
    return statistics.median(times)


def proxied(rounds: int) -> list[dict[str, object]]:
    """Direct and proxied in turn."""
    listening = socket.create_server(("127.0.0.1", 0), backlog=64)
    back = listening.getsockname()[1]
    with socket.create_server(("127.0.0.1", 0)) as free:
        front = free.getsockname()[1]
    pids = [child(lambda: sink(listening)), child(lambda: proxy(front, back))]
    try:
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            try:
                exchange_s(front)
                break
            except OSError:
                time.sleep(0.01)  # the proxy's process is not listening yet
        pairs = [(throughput(back), throughput(front), exchange_s(back), exchange_s(front)) for _ in range(rounds)]
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
    speed = statistics.median(b / a for a, b, _, _ in pairs)
    added = statistics.median(d - c for _, _, c, d in pairs)
    return [
        {"what": "proxy, one stream: rate, proxied / direct", "median": round(speed, 2), "unit": "ratio"},
        {"what": "proxy: added to one small exchange", "median": round(added * 1e6, 1), "unit": "us"},
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    first_answers_s(1)
    rows: list[dict[str, object]] = []
    for nodes in (5, 50):
        times = [first_answers_s(nodes) for _ in range(options.rounds)]
        what = f"{nodes} echo servers: all answered"
        rows.append({"what": what, "median": round(statistics.median(times), 3), "unit": "s"})
    rows += proxied(options.rounds)
    print(json.dumps(rows) if options.json else tabulate(rows, headers="keys"))


if __name__ == "__main__":
    main()
