"""A waiter wakes its task at once when there is news, and else exactly when its time is over."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from zebra.substrate.sim.loop import SimLoop
from zebra.waiter import Waiter


def run(main: Coroutine[Any, Any, None]) -> SimLoop:
    loop = SimLoop()  # type: ignore[abstract]
    loop.run_until_complete(main)
    return loop


def test_a_wake_ends_the_wait_at_once() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        waiter = Waiter(loop)
        loop.call_later(2.0, waiter.wake)
        await waiter.wait(5.0)
        assert loop.time() == 2.0

    run(main())


def test_each_wait_lasts_its_own_time_whatever_the_timer_was_set_to_before() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        waiter = Waiter(loop)
        for timeout_s in (5.0, 1.0, 3.0, 0.5):
            began = loop.time()
            loop.call_later(timeout_s / 4, waiter.wake)
            await waiter.wait(timeout_s)
            assert loop.time() == began + timeout_s / 4
            began = loop.time()
            await waiter.wait(timeout_s)
            assert loop.time() == pytest.approx(began + timeout_s, abs=1e-9)

    run(main())


def test_a_thousand_waits_that_are_woken_set_few_timers() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, SimLoop)
        waiter = Waiter(loop)
        for _ in range(1000):
            loop.call_soon(waiter.wake)
            await waiter.wait(5.0)
        assert len(loop._timers) == 1

    run(main())


def test_a_wait_that_is_cancelled_leaves_nobody_to_wake() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        waiter = Waiter(loop)
        task = loop.create_task(waiter.wait(5.0))
        await asyncio.sleep(1.0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        waiter.wake()
        began = loop.time()
        await waiter.wait(7.0)
        assert loop.time() == began + 7.0

    run(main())


def test_a_closed_waiter_leaves_no_timer_that_would_keep_the_run_going() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        waiter = Waiter(loop)
        loop.call_later(1.0, waiter.wake)
        await waiter.wait(100.0)
        waiter.close()
        await asyncio.sleep(2.0)

    assert run(main()).now == 3.0
