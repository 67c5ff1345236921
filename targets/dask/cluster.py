"""A cluster for a test: scheduler, workers and client in this process, each worker on a loopback address of its own.

Different addresses make them different hosts to distributed, which compresses nothing between two nodes of one host.
"""

# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, NamedTuple

import dask.config
from distributed import Client, Scheduler, Worker


class Cluster(NamedTuple):
    """What a test works with."""

    client: Any
    scheduler: Scheduler
    workers: list[Worker]


@asynccontextmanager
async def cluster(
    workers: int = 3, config: Mapping[str, Any] | None = None, scheme: str = "tcp://", **options: Any
) -> AsyncIterator[Cluster]:
    """Everything is started, and closed at the end. `config` is set for all nodes as long as it lasts.

    `scheme` is that of the scheduler's address; "" leaves it to the configuration of whoever uses the address.
    """
    async with AsyncExitStack() as stack:
        stack.enter_context(dask.config.set(config or {}))
        scheduler = await stack.enter_async_context(
            Scheduler(host=f"{scheme}127.0.0.1", port=0, dashboard_address=":0", **options)
        )
        address = f"{scheme}127.0.0.1:{scheduler.port}"
        started = [
            await stack.enter_async_context(
                Worker(address, host=f"127.0.1.{number}", nthreads=2, memory_limit="1GiB", name=f"w{number}", **options)
            )
            for number in range(1, workers + 1)
        ]
        client = await stack.enter_async_context(Client(address, asynchronous=True, **options))
        yield Cluster(client, scheduler, started)
