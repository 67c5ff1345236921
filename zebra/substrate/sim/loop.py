"""An asyncio event loop in virtual time.

There is no selector: the loop runs what is ready, then jumps to the next timer. What it does is a function of
the code that runs on it and of the seed, so the same run gives the same steps. How it is fast, and what was
measured: ../shared/research/probes.md sections 1 and 3.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import sys
from asyncio import events
from collections import deque
from collections.abc import Callable, Coroutine, Generator
from contextvars import Context, ContextVar, copy_context
from functools import partial
from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING, Any, TypeVar

from zebra.errors import Deadlock, Hang

if TYPE_CHECKING:
    from zebra.substrate.sim.machine import Process

T = TypeVar("T")

CURRENT: ContextVar[Process | None] = ContextVar("zebra_process", default=None)
"""The simulated process that the running code belongs to; None in the test itself."""

GC_STEPS = 100_000
"""Garbage is collected each time this many steps have run, so that finalizers run at the same step in every run."""

LIVELOCK_STEPS = 20_000_000
"""So many steps without time moving on are taken for an endless loop."""


def _noop() -> None:
    pass


class Handle(partial):  # type: ignore[type-arg]
    """A callback bound to its context, built and called in C: `partial(context.run, callback, *args)`.

    It stands in for `asyncio.Handle`; a cancelled one stays in its queue and does nothing.
    """

    __slots__ = ()

    def cancel(self) -> None:
        self.__setstate__((_noop, (), {}, None))

    def cancelled(self) -> bool:
        return self.func is _noop

    @property
    def process(self) -> Process | None:
        """The simulated process that the callback belongs to."""
        context = getattr(self.func, "__self__", None)
        return context.get(CURRENT) if isinstance(context, Context) else None


class SimTask(asyncio.Task):  # type: ignore[type-arg]
    """A task that hashes by its number of creation, not by its address, so that sets of tasks keep one order."""

    def __init__(self, coro: Any, *, loop: SimLoop, name: str | None, context: Context | None) -> None:
        self.number = loop.next_number()
        self.process = CURRENT.get() if context is None else context.get(CURRENT)
        if context is None:
            super().__init__(coro, loop=loop, name=name or f"Task-{self.number}")
        else:
            super().__init__(coro, loop=loop, name=name or f"Task-{self.number}", context=context)

    def __hash__(self) -> int:
        return self.number


class _Stop(BaseException):
    """Ends the inner loop; raised by a callback, so that no flag is tested at each step."""


class Livelock(Deadlock):
    """The code runs for ever without waiting for anything."""


def _raise_stop() -> None:
    raise _Stop


class SimLoop(asyncio.AbstractEventLoop):
    """The event loop of one simulated run. `now` is the virtual time in seconds; `steps` counts callbacks run.

    What touches the network is answered by `network`, which the substrate sets.
    """

    def __init__(self) -> None:
        self.now, self.steps = 0.0, 0
        self.network: Any = None
        self.on_error: Callable[[dict[str, Any]], None] | None = None
        self._ready: deque[Handle] = deque()
        self._timers: list[tuple[float, int, Handle]] = []
        self._running = self._closed = False
        self.next_number = itertools.count(1).__next__
        self.create_future = partial(asyncio.Future, loop=self)  # type: ignore[method-assign]
        ready_append, timers, number = self._ready.append, self._timers, itertools.count().__next__
        self._next_timer = number

        def call_soon(callback: Callable[..., object], *args: Any, context: Context | None = None) -> Handle:
            handle = Handle((copy_context() if context is None else context).run, callback, *args)
            ready_append(handle)
            return handle

        def call_at(when: float, callback: Callable[..., object], *args: Any, context: Context | None = None) -> Handle:
            handle = Handle((copy_context() if context is None else context).run, callback, *args)
            heappush(timers, (when, number(), handle))
            return handle

        def call_later(delay: float, callback: Callable[..., object], *args: Any, context: Context | None = None) -> Handle:
            handle = Handle((copy_context() if context is None else context).run, callback, *args)
            heappush(timers, (self.now + delay, number(), handle))
            return handle

        self.call_soon = call_soon  # type: ignore[assignment,method-assign]
        self.call_soon_threadsafe = call_soon  # type: ignore[assignment,method-assign]
        self.call_at = call_at  # type: ignore[assignment,method-assign]
        self.call_later = call_later  # type: ignore[assignment,method-assign]

    # -- running ---------------------------------------------------------------------------------------------

    def run_until_complete(self, future: Coroutine[Any, Any, T] | asyncio.Future[T]) -> T:  # type: ignore[override]
        """Run until the future is done and return its result; raises Deadlock when it never can be."""
        task: asyncio.Future[T] = future if isinstance(future, asyncio.Future) else self.create_task(future)
        task.add_done_callback(lambda _: self.stop())
        self.run_forever()
        return task.result()

    def run_forever(self) -> None:
        if self._running or self._closed:
            raise RuntimeError("the loop is already running" if self._running else "the loop is closed")
        hooks = sys.get_asyncgen_hooks()
        self._running = True
        events._set_running_loop(self)
        try:
            self._drive()
        finally:
            self._running = False
            events._set_running_loop(None)
            sys.set_asyncgen_hooks(*hooks)

    def _drive(self) -> None:
        ready, timers, popleft, repeat = self._ready, self._timers, self._ready.popleft, itertools.repeat
        collect_at = self.steps + GC_STEPS
        while True:
            try:
                while True:
                    while ready:
                        batch = len(ready)
                        self.steps += batch
                        for _ in repeat(None, batch):
                            popleft()()
                        if self.steps > collect_at:
                            collect_at = self.steps + GC_STEPS
                            self._checkpoint()
                    if not timers:
                        raise Deadlock(self.waiting_report())
                    when, _, handle = heappop(timers)
                    if when > self.now:
                        if when >= self._tick_at:
                            self._tick(when)
                        self.now = when
                    self.steps += 1
                    handle()
            except _Stop:
                return
            except (SystemExit, KeyboardInterrupt, Hang):
                raise
            except BaseException as error:
                self.call_exception_handler({"message": "exception in a callback", "exception": error})

    _tick_at = float("inf")

    def watch(self, deadline_s: float, on_second: Callable[[], None] | None) -> None:
        """Raise Hang when time would pass the deadline, and call `on_second` at each full second on the way.

        Neither is a timer, so that a cluster in which nothing else is scheduled still counts as deadlocked.
        """
        self._deadline_s, self._on_second = deadline_s, on_second
        self._tick_at = min(deadline_s, self.now // 1 + 1) if on_second else deadline_s

    def _tick(self, when: float) -> None:
        while self._on_second is not None and self._tick_at <= min(when, self._deadline_s):
            self.now = self._tick_at
            self._on_second()
            self._tick_at = min(self._deadline_s, self.now // 1 + 1)
            if self.now >= self._deadline_s:
                break
        if when > self._deadline_s:
            self.now = self._deadline_s
            raise Hang(f"not done after {self._deadline_s:g} s\n{self.waiting_report()}")

    _checked_now = -1.0
    _checked_steps = 0

    def _checkpoint(self) -> None:
        gc.collect()
        live = [entry for entry in self._timers if entry[2].func is not _noop]
        if 2 * len(live) < len(self._timers):
            self._timers[:] = live
            heapify(self._timers)
        if self.now > self._checked_now:
            self._checked_now, self._checked_steps = self.now, self.steps
        elif self.steps - self._checked_steps > LIVELOCK_STEPS:
            raise Livelock(f"{LIVELOCK_STEPS} steps ran at t={self.now:.6f} s without time moving on\n{self.waiting_report()}")

    def stop(self) -> None:
        self._ready.append(Handle(_raise_stop))

    def is_running(self) -> bool:
        return self._running

    def is_closed(self) -> bool:
        return self._closed

    def close(self) -> None:
        self._closed = True
        self._ready.clear()
        self._timers.clear()

    def time(self) -> float:
        return self.now

    async def shutdown_asyncgens(self) -> None:
        pass

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:
        pass

    def get_debug(self) -> bool:
        return False

    def set_debug(self, enabled: bool) -> None:
        pass

    # -- tasks -----------------------------------------------------------------------------------------------

    def create_task(  # type: ignore[override]
        self, coro: Generator[Any, None, T] | Coroutine[Any, Any, T], *, name: str | None = None, context: Context | None = None
    ) -> asyncio.Task[T]:
        return SimTask(coro, loop=self, name=name, context=context)

    def run_in_executor(self, executor: Any, func: Callable[..., T], *args: Any) -> asyncio.Future[T]:  # type: ignore[override]
        """The function's result, run at once and in line: a simulation has one thread."""
        future: asyncio.Future[T] = self.create_future()
        try:
            future.set_result(func(*args))
        except Exception as error:
            future.set_exception(error)
        return future

    def tasks(self) -> list[SimTask]:
        """Every task that is not done, in order of creation."""
        return sorted((t for t in asyncio.all_tasks(self) if isinstance(t, SimTask)), key=lambda t: t.number)

    def waiting_report(self) -> str:
        """Who waits where, one line a task: shown for a deadlock and for a hang."""
        lines = []
        for task in self.tasks():
            frames = task.get_stack(limit=1)
            where = f"{frames[-1].f_code.co_filename}:{frames[-1].f_lineno}" if frames else "before its first step"
            deepest: Any = task.get_coro()
            while getattr(deepest, "cr_await", None) is not None and hasattr(deepest.cr_await, "cr_frame"):
                deepest = deepest.cr_await
            if getattr(deepest, "cr_frame", None) is not None:
                where = f"{deepest.cr_code.co_qualname} ({deepest.cr_code.co_filename}:{deepest.cr_frame.f_lineno})"
            lines.append(f"  {task.process.node if task.process else 'test'}: {task.get_name()} waits in {where}")
        head = f"nothing can run and no timer is set at t={self.now:.6f} s" if not self._timers else f"t={self.now:.6f} s"
        return "\n".join([f"{head}; {len(lines)} tasks wait:", *lines[:40], *(["  ..."] if len(lines) > 40 else [])])

    # -- processes -------------------------------------------------------------------------------------------

    def drop(self, process: Process) -> None:
        """Forget everything that a process had scheduled."""
        for handle in self._ready:
            if handle.process is process:
                handle.cancel()
        for _, _, handle in self._timers:
            if handle.process is process:
                handle.cancel()

    def park(self, process: Process) -> list[tuple[float, Handle]]:
        """Take everything that a process had scheduled out of the queues: (time, handle), to be given to `unpark`."""
        parked: list[tuple[float, Handle]] = []
        for index, handle in enumerate(self._ready):
            if handle.process is process:
                parked.append((self.now, handle))
                self._ready[index] = Handle(_noop)
        mine = [entry for entry in self._timers if entry[2].process is process]
        if mine:
            self._timers[:] = [entry for entry in self._timers if entry[2].process is not process]
            heapify(self._timers)
            parked += [(when, handle) for when, _, handle in sorted(mine, key=lambda entry: entry[:2])]
        return parked

    def unpark(self, parked: list[tuple[float, Handle]]) -> None:
        """Schedule again what `park` took: timers that ran out meanwhile fire at once."""
        for when, handle in parked:
            if when <= self.now:
                self._ready.append(handle)
            else:
                heappush(self._timers, (when, self._next_timer(), handle))

    # -- errors ----------------------------------------------------------------------------------------------

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if isinstance(error, asyncio.CancelledError):
            return  # Python 3.11: a cancelled handler of a stream server reports its own cancellation
        if self.on_error is not None:
            self.on_error(context)

    def default_exception_handler(self, context: dict[str, Any]) -> None:
        self.call_exception_handler(context)

    def set_exception_handler(self, handler: Callable[[asyncio.AbstractEventLoop, dict[str, Any]], object] | None) -> None:
        self.on_error = None if handler is None else partial(handler, self)

    # -- network ---------------------------------------------------------------------------------------------

    async def getaddrinfo(self, host: Any, port: Any, **_: Any) -> Any:
        return self.network.getaddrinfo(host, port)

    async def getnameinfo(self, sockaddr: Any, flags: int = 0) -> Any:
        return self.network.name_of(sockaddr[0]), str(sockaddr[1])

    async def create_connection(self, factory: Any, host: Any = None, port: Any = None, *, sock: Any = None, **options: Any) -> Any:
        return await self.network.connect(factory, host, port, sock=sock, **options)

    async def create_server(self, factory: Any, host: Any = None, port: Any = None, **options: Any) -> Any:
        return await self.network.listen(factory, host, port, **options)

    async def create_datagram_endpoint(self, factory: Any, local_addr: Any = None, remote_addr: Any = None, **_: Any) -> Any:
        return await self.network.datagram_endpoint(factory, local_addr, remote_addr)

    async def sock_connect(self, sock: Any, address: Any) -> None:
        await self.network.sock_connect(sock, address)
