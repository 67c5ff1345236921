"""An asyncio event loop in virtual time.

There is no selector: the loop runs what is ready, then jumps to the next timer. What it does is a function of
the code that runs on it and of the seed, so the same run gives the same steps. How it is fast, and what was
measured: ../shared/research/probes.md sections 1 and 3.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import os
import sys
from asyncio import events
from collections import deque
from collections.abc import Callable, Container, Coroutine, Generator
from contextvars import Context, ContextVar, copy_context
from functools import partial
from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING, Any, TypeVar

from zebra.errors import Deadlock, Escape, Hang

if TYPE_CHECKING:
    from zebra.substrate.sim.machine import Process

T = TypeVar("T")

CURRENT: ContextVar[Process | None] = ContextVar("zebra_process", default=None)
"""The simulated process that the running code belongs to; None in the test itself."""

GC_STEPS = 100_000
"""Garbage is collected each time this many steps have run, so that finalizers run at the same step in every run."""

GC_FULL = 10
"""Every so many times all objects are looked at; else only those made since the last time, which costs far less."""

LIVELOCK_STEPS = 5_000_000
"""So many steps without time moving on are taken for an endless loop."""


def _noop() -> None:
    pass


_CANCELLED = (_noop, (), {}, None)  # type: ignore[var-annotated]


class Handle(partial):  # type: ignore[type-arg]
    """A callback bound to its context, built and called in C: `partial(context.run, callback, *args)`.

    It stands in for `asyncio.Handle`; a cancelled one stays in its queue and does nothing.
    """

    __slots__ = ()

    def cancel(self) -> None:
        self.__setstate__(_CANCELLED)  # type: ignore[attr-defined]

    def cancelled(self) -> bool:
        return self.func is _noop

    def when(self) -> float:
        """The time that a timer is set to; asked so seldom that the loop's timers are searched for it."""
        loop = events.get_running_loop()
        assert isinstance(loop, SimLoop)
        return next((when for when, _, handle in loop._timers if handle is self), loop.now)

    @property
    def process(self) -> Process | None:
        """The simulated process that the callback belongs to."""
        context = getattr(self.func, "__self__", None)
        return context.get(CURRENT) if isinstance(context, Context) else None


class SimTask(asyncio.Task):  # type: ignore[type-arg]
    """A task that hashes by its number of creation, not by its address, so that sets of tasks keep one order.

    `abandoned` says that its process is gone: it stays pending for ever.
    """

    __slots__ = ("abandoned", "number", "process")

    def __init__(
        self, coro: Any, *, loop: SimLoop, name: str | None = None, context: Context | None = None, **options: Any
    ) -> None:
        self.number, self.abandoned = loop.next_number(), False
        self.process = CURRENT.get()
        if context is not None:
            if self.process is not None and CURRENT not in context:
                context.run(CURRENT.set, self.process)
            self.process = context.get(CURRENT)
            options["context"] = context
        super().__init__(coro, loop=loop, name=name or f"Task-{self.number}", **options)

    def __hash__(self) -> int:
        return self.number


_all_tasks = asyncio.all_tasks
_LIBRARY = os.path.dirname(asyncio.__file__)


def unfinished(coroutine: Any) -> list[Any]:
    """A coroutine and what it awaits, outermost first, as far as they have not ended."""
    found: list[Any] = []
    while True:
        if getattr(coroutine, "cr_frame", None) is not None:
            found.append(coroutine)
            coroutine = coroutine.cr_await
        elif getattr(coroutine, "gi_frame", None) is not None:
            found.append(coroutine)
            coroutine = coroutine.gi_yieldfrom
        else:
            return found


def _settle(future: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
    if not future.done():
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(error)


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
        self.kernel = Context()
        """What runs in no process: its timers outlive those that set them."""
        self._handlers: dict[Process | None, Callable[[Any, dict[str, Any]], object]] = {}
        self._ready: deque[Handle] = deque()
        self._timers: list[tuple[float, int, Handle]] = []
        self._running = self._closed = False
        self.next_number = itertools.count(1).__next__
        self.create_future = partial(asyncio.Future, loop=self)  # type: ignore[method-assign]
        self.get_debug = bool  # type: ignore[method-assign]  # False, from C: every future asks
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

        def call_later(
            delay: float, callback: Callable[..., object], *args: Any, context: Context | None = None
        ) -> Handle:
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
        if events._get_running_loop() is not None:
            if not isinstance(future, asyncio.Future):
                future.close()
            raise RuntimeError("a simulation cannot run inside another event loop: call it from plain code")
        task: asyncio.Future[T] = future if isinstance(future, asyncio.Future) else self.create_task(future)
        task.add_done_callback(lambda _: self._ready.append(Handle(_raise_stop)))
        self.run_forever()
        return task.result()

    def run_forever(self) -> None:
        if self._running or self._closed:
            raise RuntimeError("the loop is already running" if self._running else "the loop is closed")
        hooks = sys.get_asyncgen_hooks()
        self._running = True
        try:
            sys.set_asyncgen_hooks(firstiter=None, finalizer=self._close_generator)
            events._set_running_loop(self)
            self._drive()
        finally:
            self._running = False
            events._set_running_loop(None)
            sys.set_asyncgen_hooks(*hooks)

    def _drive(self) -> None:
        ready, timers, popleft, repeat = self._ready, self._timers, self._ready.popleft, itertools.repeat
        handle: Handle | None = None
        collect_at = self.steps + self.gc_steps
        while True:
            try:
                while True:
                    while ready:
                        batch = len(ready)
                        self.steps += batch
                        for _ in repeat(None, batch):
                            handle = popleft()
                            handle()
                        if self.steps > collect_at:
                            collect_at = self.steps + self.gc_steps
                            self._checkpoint()
                    if not timers:
                        raise Deadlock(
                            self.waiting_report(f"nothing can run and no timer is set at t={self.now:.6f} s")
                        )
                    when, number, handle = heappop(timers)
                    if when > self.now:
                        if handle.func is _noop:
                            continue  # cancelled: nothing happens then
                        if when >= self._tick_at and self._tick(when):
                            heappush(timers, (when, number, handle))
                            continue
                        self.now = when
                    self.steps += 1
                    handle()
                    if self.steps > collect_at:
                        collect_at = self.steps + self.gc_steps
                        self._checkpoint()
            except _Stop:
                return
            except (SystemExit, KeyboardInterrupt, Hang):
                raise
            except BaseException as error:
                self.call_exception_handler(
                    {"message": "exception in a callback", "exception": error, "handle": handle}
                )

    gc_steps, gc_full, livelock_steps = GC_STEPS, GC_FULL, LIVELOCK_STEPS
    _tick_at = float("inf")

    def watch(self, deadline_s: float, on_second: Callable[[], None] | None) -> None:
        """Raise Hang when time would pass the deadline, and call `on_second` at each full second on the way.

        Neither is a timer, so that a cluster in which nothing else is scheduled still counts as deadlocked.
        """
        self._deadline_s, self._on_second = deadline_s, on_second
        self._tick_at = min(deadline_s, self.now // 1 + 1) if on_second else deadline_s

    def _tick(self, when: float) -> bool:
        """Let the full seconds before `when` pass; whether one made something ready. Raises Hang at the deadline."""
        while self._on_second is not None and self._tick_at <= min(when, self._deadline_s):
            self.now = self._tick_at
            self._on_second()
            self._tick_at = min(self._deadline_s, self.now // 1 + 1)
            if self._ready:
                return True
            if self.now >= self._deadline_s:
                break
        if when > self._deadline_s:
            self.now = self._deadline_s
            raise Hang(f"not done after {self._deadline_s:g} s\n{self.waiting_report()}")
        return False

    _checked_now = -1.0
    _checked_steps = _collected = 0

    def _checkpoint(self) -> None:
        self._collected += 1
        gc.collect(1 if self._collected % self.gc_full else 2)
        live = [entry for entry in self._timers if entry[2].func is not _noop]
        if 2 * len(live) < len(self._timers):
            self._timers[:] = live
            heapify(self._timers)
        if self.now > self._checked_now:
            self._checked_now, self._checked_steps = self.now, self.steps
        elif self.steps - self._checked_steps > self.livelock_steps:
            raise Livelock(
                f"{self.livelock_steps} steps ran at t={self.now:.6f} s without time moving on\n{self.waiting_report()}"
            )

    def stop(self) -> None:
        """End `run_forever`; raises Escape in a node, whose loop is everybody's."""
        if CURRENT.get() is not None:
            raise Escape("loop.stop() inside a simulated node would stop all of them: return from `run` instead")
        self._ready.append(Handle(_raise_stop))

    def is_running(self) -> bool:
        return self._running

    def is_closed(self) -> bool:
        return self._closed

    def close(self) -> None:
        self._closed, self.on_error = True, None
        for task in _all_tasks(self):  # asyncio would list them until they are collected, for every later run to skip
            asyncio.tasks._unregister_task(task)
        self._handlers.clear()
        self._ready.clear()
        self._timers.clear()

    def time(self) -> float:
        return self.now

    def _close_generator(self, generator: Any) -> None:
        """An asynchronous generator was dropped: its `finally` blocks run in a task, as asyncio does it."""
        process = CURRENT.get()
        closing = generator.aclose()
        if self._closed or (process is not None and not process.alive):
            try:
                closing.send(None)
            except BaseException:
                pass
            closing.close()
        else:
            self.create_task(closing)

    async def shutdown_asyncgens(self) -> None:
        pass

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:  # noqa: ASYNC109
        pass

    def set_debug(self, enabled: bool) -> None:
        pass

    # -- tasks -----------------------------------------------------------------------------------------------

    def create_task(
        self,
        coro: Generator[Any, None, T] | Coroutine[Any, Any, T],
        *,
        name: str | None = None,
        context: Context | None = None,
        **options: Any,
    ) -> asyncio.Task[T]:
        return SimTask(coro, loop=self, name=name, context=context, **options)

    def get_task_factory(self) -> None:
        return None

    def set_task_factory(self, factory: Any) -> None:
        if factory is not None:
            raise Escape("task factories are not simulated: tasks are numbered, so that sets of them keep one order")

    def run_in_executor(self, executor: Any, func: Callable[..., T], *args: Any) -> asyncio.Future[T]:  # type: ignore[override]
        """The function's result, run in line: a simulation has one thread. The caller hears of it at the next step."""
        future: asyncio.Future[T] = self.create_future()
        try:
            result = func(*args)
        except Exception as error:
            if isinstance(error, StopIteration):
                error = RuntimeError("the function raised StopIteration")
            self.call_soon(_settle, future, None, error)
        else:
            self.call_soon(_settle, future, result, None)
        return future

    def set_default_executor(self, executor: Any) -> None:
        pass

    def tasks(self) -> list[SimTask]:
        """Every task that is neither done nor abandoned, in order of creation."""
        return sorted(
            (t for t in _all_tasks(self) if isinstance(t, SimTask) and not t.abandoned), key=lambda t: t.number
        )

    def waiting_report(self, head: str = "") -> str:
        """Who waits where, one line a task: shown for a deadlock and for a hang."""
        lines = []
        for task in self.tasks():
            awaited = unfinished(task.get_coro())
            frames = [getattr(c, "cr_frame", None) or c.gi_frame for c in awaited]
            own = [frame for frame in frames if not frame.f_code.co_filename.startswith(_LIBRARY)]
            frame = (own or frames or [None])[-1]
            where = (
                "nothing"
                if frame is None
                else f"{frame.f_code.co_qualname} ({frame.f_code.co_filename}:{frame.f_lineno})"
            )
            lines.append(f"  {task.process.node if task.process else 'test'}: {task.get_name()} waits in {where}")
        head = head or f"t={self.now:.6f} s"
        return "\n".join([f"{head}; {len(lines)} tasks wait:", *lines[:40], *(["  ..."] if len(lines) > 40 else [])])

    # -- processes -------------------------------------------------------------------------------------------

    def drop(self, processes: Container[Process | None]) -> None:
        """Forget everything that some processes had scheduled."""
        for handle in self._ready:
            if handle.process in processes:
                handle.cancel()
        for _, _, handle in self._timers:
            if handle.process in processes:
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
        owner = context.get("task") or context.get("future") or context.get("handle")
        handler = self._handlers.get(getattr(owner, "process", CURRENT.get()))
        if handler is not None and not isinstance(error, Escape):
            handler(self, context)
        else:
            self.default_exception_handler(context)

    def default_exception_handler(self, context: dict[str, Any]) -> None:
        if self.on_error is not None:
            self.on_error(context)

    def get_exception_handler(self) -> Any:
        return self._handlers.get(CURRENT.get())

    def set_exception_handler(
        self, handler: Callable[[asyncio.AbstractEventLoop, dict[str, Any]], object] | None
    ) -> None:
        """Each simulated process has a handler of its own."""
        if handler is None:
            self._handlers.pop(CURRENT.get(), None)
        else:
            self._handlers[CURRENT.get()] = handler

    # -- network ---------------------------------------------------------------------------------------------

    async def getaddrinfo(self, host: Any, port: Any, **options: Any) -> Any:
        return self.network.getaddrinfo(host, port, **options)

    async def getnameinfo(self, sockaddr: Any, flags: int = 0) -> Any:
        return self.network.name_of(sockaddr[0]), str(sockaddr[1])

    async def create_connection(  # type: ignore[override]
        self, factory: Any, host: Any = None, port: Any = None, *, sock: Any = None, **options: Any
    ) -> Any:
        return await self.network.connect(factory, host, port, sock=sock, **options)

    async def create_server(  # type: ignore[override]
        self, factory: Any, host: Any = None, port: Any = None, **options: Any
    ) -> Any:
        return await self.network.listen(factory, host, port, **options)

    async def create_datagram_endpoint(  # type: ignore[override]
        self, factory: Any, local_addr: Any = None, remote_addr: Any = None, **_: Any
    ) -> Any:
        return await self.network.datagram_endpoint(factory, local_addr, remote_addr)

    async def sock_connect(self, sock: Any, address: Any) -> None:
        await self.network.sock_connect(sock, address)


def _refuse(name: str, instead: str) -> Callable[..., Any]:
    def refuse(self: SimLoop, *args: Any, **kwargs: Any) -> Any:
        raise Escape(f"loop.{name} inside a simulation: {instead}")

    return refuse


for _names, _instead in {
    "add_reader add_writer remove_reader remove_writer": "there are no file descriptors, use streams or protocols",
    "sock_recv sock_recv_into sock_recvfrom sock_recvfrom_into sock_sendall sock_sendto sock_sendfile sock_accept "
    "connect_accepted_socket":
        "hand the socket to create_connection, or use streams",
    "subprocess_exec subprocess_shell connect_read_pipe connect_write_pipe": "a simulation has no other processes",
    "create_unix_connection create_unix_server": "only IP is simulated",
    "start_tls": "TLS is not simulated",
}.items():  # fmt: skip
    for _name in _names.split():
        setattr(SimLoop, _name, _refuse(_name, _instead))
