"""Whole-system tests of distributed, which know nothing of zebra: `zebra campaign dask` mixes their configuration."""

# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

import asyncio
import time
import zlib
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("distributed", reason="distributed is not installed")

from distributed import Event, Lock, Queue, Semaphore, Variable, get_worker, wait

from zebra.targets.dask.cluster import Cluster, cluster
from zebra.targets.dask.credentials import tls_config
from zebra.targets.dask.space import CIPHERS

LIMIT_S = 30.0
CONNECT_S = 15.0
"""Limits of wall time: of a test, and of one in which nodes that disagree try to connect until it is over."""

HOLD_S = 1.2
"""How long a lock is held: longer than the shortest lease that is tried."""

LEASES = {"distributed.scheduler.locks.lease-validation-interval": "50ms"}


def run(scenario: Callable[..., Coroutine[Any, Any, None]], limit_s: float = LIMIT_S, **options: Any) -> None:
    """Run a scenario on a cluster of its own."""

    async def main() -> None:
        async with asyncio.timeout(limit_s), cluster(**options) as made:
            await scenario(made)

    asyncio.run(main())


# -- what tasks do -----------------------------------------------------------------------------------------------


def block(number: int, size: int) -> bytes:
    """Bytes that compress, different for each number."""
    return (f"{number:08d}".encode() * (size // 8 + 1))[:size]


def checksum(*parts: bytes) -> int:
    total = 0
    for part in parts:
        total = zlib.crc32(part, total)
    return total


def own_name() -> str:
    return str(get_worker().name)


def hold(lock: Any, number: int, seconds: float) -> tuple[int, float, float]:
    """Hold a lock for a while; who it was, and from when to when."""
    with lock:
        began = time.monotonic()
        time.sleep(seconds)
        return number, began, time.monotonic()


def test_tasks_with_dependencies_on_other_workers() -> None:
    async def scenario(made: Cluster) -> None:
        size = 300_000
        blocks = [made.client.submit(block, number, size, workers=f"w{number % 3 + 1}") for number in range(6)]
        total = made.client.submit(checksum, *blocks, workers="w1")
        again = made.client.submit(checksum, *blocks, workers="w2", pure=False)
        expected = checksum(*(block(number, size) for number in range(6)))
        assert await made.client.gather([total, again]) == [expected, expected]
        assert await made.client.gather(blocks) == [block(number, size) for number in range(6)]

    run(scenario)


def test_scattered_data_reaches_all() -> None:
    async def scenario(made: Cluster) -> None:
        data = block(7, 1_500_000)
        future = await made.client.scatter(data, broadcast=True)
        sums = [made.client.submit(checksum, future, workers=f"w{n}", pure=False) for n in (1, 2, 3)]
        assert await made.client.gather(sums) == [checksum(data)] * 3
        await made.client.replicate([future], n=2)
        await made.client.rebalance()
        assert await future == data
        assert "children" in await made.client.profile()
        assert len(await made.client.get_worker_logs()) == 3
        assert len((await made.client.get_versions(check=True))["workers"]) == 3

    run(scenario)


def test_data_survives_the_loss_of_a_worker_and_the_leave_of_another() -> None:
    async def scenario(made: Cluster) -> None:
        blocks = [
            made.client.submit(block, n, 20_000, workers=f"w{n % 3 + 1}", allow_other_workers=True) for n in range(9)
        ]
        await wait(blocks)
        await made.workers[0].close()
        assert await made.client.submit(checksum, *blocks) == checksum(*(block(n, 20_000) for n in range(9)))
        await made.client.retire_workers([made.workers[1].address])
        assert await made.client.gather(blocks) == [block(number, 20_000) for number in range(9)]

    run(scenario)


def test_tasks_and_client_coordinate() -> None:
    def answer(queue: Any, variable: Any, event: Any) -> int:
        event.wait()
        value = int(queue.get()) + int(variable.get())
        queue.put(value)
        return value

    class Counter:
        def __init__(self) -> None:
            self.count = 0

        def add(self, number: int) -> int:
            self.count += number
            return self.count

    async def scenario(made: Cluster) -> None:
        queue, variable, event = await Queue("q"), Variable("v"), Event("e")
        await variable.set(40)
        future = made.client.submit(answer, queue, variable, event)
        await queue.put(2)
        await event.set()
        assert await future == 42
        assert await queue.get() == 42
        counter = await made.client.submit(Counter, actor=True, workers="w2")
        assert [await counter.add(1) for _ in range(5)] == [1, 2, 3, 4, 5]
        failed = made.client.submit(lambda: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            await failed
        assert await made.client.submit(own_name, workers="w3") == "w3"

    run(scenario)


def test_locks_and_semaphores_have_as_many_holders_as_they_may() -> None:
    async def scenario(made: Cluster) -> None:
        lock, two = Lock("lock"), await Semaphore(max_leases=2, name="two")
        async with lock:
            pass
        locked = [made.client.submit(hold, lock, n, HOLD_S, workers=f"w{n}") for n in (1, 2)]
        leased = [made.client.submit(hold, two, n, HOLD_S, workers=f"w{n}") for n in (1, 2, 3)]
        for most, spans in ((1, await made.client.gather(locked)), (2, await made.client.gather(leased))):
            for _, began, _ in spans:
                holders = [f"w{n}" for n, start, end in spans if start <= began < end]
                assert len(holders) <= most, f"{' and '.join(holders)} at once, {most} may"

    run(scenario, config=LEASES)


def test_arrays_are_rechunked_between_workers() -> None:
    array = pytest.importorskip("dask.array")

    async def scenario(made: Cluster) -> None:
        columns = array.ones((200, 200), chunks=(200, 50)) * array.arange(200, chunks=50)
        rows = columns.rechunk((50, 200), method="p2p")
        result = await made.client.compute(rows.sum(axis=1))
        assert (result == 200 * 199 / 2).all()

    run(scenario)


def test_addresses_without_a_scheme() -> None:
    async def scenario(made: Cluster) -> None:
        assert await made.client.submit(own_name, workers="w1") == "w1"
        assert await made.client.submit(checksum, b"", workers="w2") == 0

    run(scenario, limit_s=CONNECT_S, scheme="", workers=2)


def test_tls_with_a_fixed_list_of_ciphers(tmp_path: Path) -> None:
    async def scenario(made: Cluster) -> None:
        blocks = [made.client.submit(block, number, 50_000, workers=f"w{number + 1}") for number in range(2)]
        assert await made.client.submit(checksum, *blocks) == checksum(block(0, 50_000), block(1, 50_000))

    versions = {"distributed.comm.tls.max-version": 1.2, "distributed.comm.tls.ciphers": CIPHERS}
    run(scenario, limit_s=CONNECT_S, scheme="tls://", workers=2, config={**tls_config(tmp_path), **versions})
