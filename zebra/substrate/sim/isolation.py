"""While a simulation runs, the process's clocks and randomness answer from it, and the real world is out of reach.

What is replaced and why: ../shared/research/probes.md section 3 and ../shared/design.md section 7. `datetime.now()`
cannot be replaced (a C type): roles use `node.clock`.
"""

from __future__ import annotations

import _thread
import asyncio.tasks
import gc
import os
import random
import socket
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from random import Random
from threading import get_ident
from typing import Any

from zebra.errors import Escape
from zebra.substrate.sim.loop import CURRENT, SimLoop
from zebra.substrate.sim.machine import BOOT_S, EPOCH_S
from zebra.substrate.sim.network import SimSocket

_RANDOM = (
    "random", "uniform", "triangular", "randint", "choice", "choices", "randrange", "sample", "shuffle",
    "randbytes", "getrandbits", "gauss", "normalvariate", "lognormvariate", "expovariate", "vonmisesvariate",
    "gammavariate", "betavariate", "paretovariate", "weibullvariate", "seed", "getstate", "setstate",
)  # fmt: skip
_AUDITED = frozenset({
    "socket.__new__", "socket.connect", "socket.bind", "socket.sendto", "socket.getaddrinfo", "socket.gethostbyname",
    "socket.gethostbyaddr", "socket.getnameinfo", "subprocess.Popen", "os.system", "os.fork", "os.forkpty", 
    "os.posix_spawn",     "os.spawn", "os.exec", "pty.spawn", "_thread.start_new_thread",
})  # fmt: skip
_MISSING = object()
_STATEFUL = ("_last_timestamp", "_last_timestamp_v6", "_last_timestamp_v7", "_last_counter_v7")  # of uuid

RUNS = 16
"""One looks so seldom how many objects there are, as counting takes a millisecond for some hundred thousand."""

GARBAGE = 20_000
"""So many more objects than a quarter above those that were left by the last full collection call for another one."""

_guarded_thread: int | None = None
_audit_installed = False
_left = _runs = 0


class OrderedSet(set):  # type: ignore[type-arg]
    """A set that iterates in order of insertion; stands in for `set` inside asyncio while a run is on.

    What makes a new set of it (`a | b`) gives a plain one.
    """

    def __init__(self, items: Iterable[Any] = ()) -> None:
        self._order: dict[Any, None] = dict.fromkeys(items)
        super().__init__(self._order)

    def __iter__(self) -> Iterator[Any]:
        return iter(list(self._order))

    def pop(self) -> Any:
        for item in self._order:
            self.remove(item)
            return item
        raise KeyError("pop from an empty set")

    def copy(self) -> OrderedSet:
        return OrderedSet(self._order)

    def __reduce__(self) -> Any:
        return set, (list(self._order),)


def _changing(name: str) -> Callable[..., Any]:
    """One of set's methods that change it, keeping the order up to date."""
    change = getattr(set, name)

    def method(self: OrderedSet, *arguments: Any) -> Any:
        items = name in ("add", "remove", "discard")
        lists = arguments if items else tuple(a if isinstance(a, set | frozenset) else list(a) for a in arguments)
        result = change(self, *lists)
        order = self._order
        if len(order) > len(self) or not (items or name in ("update", "__ior__")):
            for gone in [item for item in order if item not in self]:
                del order[gone]
        for item in (lists,) if items else lists:
            order.update((one, None) for one in item if one not in order and one in self)
        return result

    return method


_CHANGING = ("add", "remove", "discard", "clear", "update", "intersection_update", "difference_update",
             "symmetric_difference_update", "__ior__", "__iand__", "__isub__", "__ixor__")  # fmt: skip
for _name in _CHANGING:
    setattr(OrderedSet, _name, _changing(_name))


def _audit(event: str, args: tuple[Any, ...]) -> None:
    if event in _AUDITED and _guarded_thread == get_ident():
        raise Escape(f"{event} inside a simulation: {args!r:.80} would reach the real world")


def _forbidden(what: str, instead: str) -> Callable[..., Any]:
    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise Escape(f"{what} inside a simulation: {instead}")

    return refuse


def _answers(loop: SimLoop, seed: int) -> list[tuple[Any, str, Callable[..., Any]]]:
    """(owner, name, function) of what answers from the run."""
    streams: dict[str, Random] = {}
    originals = time.gmtime, time.localtime, time.strftime, time.asctime, random.Random.seed
    gmtime, localtime, strftime, asctime, reseed = originals

    def stream() -> Random:
        """The module-level randomness of the running node, apart from its `node.random`."""
        process = CURRENT.get()
        name = process.node if process is not None else "test"
        found = streams.get(name)
        if found is None:
            found = streams[name] = Random(f"{seed}/module/{name}")
        return found

    def wall() -> float:
        process = CURRENT.get()
        return EPOCH_S + loop.now if process is None else process.machine.clock.time()

    def monotonic() -> float:
        return BOOT_S + loop.now

    def nanoseconds(clock: Callable[[], float]) -> Callable[[], int]:
        return lambda: round(clock() * 1e9)

    def of_clock(number: int) -> float:
        return wall() if number == time.CLOCK_REALTIME else monotonic()

    def draw(name: str) -> Callable[..., Any]:
        return lambda *args, **kwargs: getattr(stream(), name)(*args, **kwargs)

    def urandom(count: int) -> bytes:
        return stream().randbytes(count)

    def seed_it(self: Random, a: Any = None, version: int = 2) -> None:
        reseed(self, stream().getrandbits(128) if a is None else a, version)

    def getaddrinfo(host: Any, port: Any, family: int = 0, type: int = 0, proto: int = 0, flags: int = 0) -> Any:
        return loop.network.getaddrinfo(host, port, family=family, type=type, proto=proto, flags=flags)

    def hostname(*_: Any) -> str:
        process = CURRENT.get()
        return "localhost" if process is None else process.node

    def pid() -> int:
        process = CURRENT.get()
        return 1000 + (0 if process is None else process.incarnation)

    def all_tasks(asked: Any = None) -> set[Any]:
        """A node sees its own tasks only, as it would in a process of its own."""
        process = CURRENT.get()
        if asked not in (None, loop):
            return set()
        return OrderedSet(task for task in loop.tasks() if process is None or task.process is process)

    timers = [
        ("time", wall),
        ("monotonic", monotonic),
        ("perf_counter", monotonic),
        ("process_time", monotonic),
        ("thread_time", monotonic),
    ]
    return [
        *((time, name, clock) for name, clock in timers),
        *((time, f"{name}_ns", nanoseconds(clock)) for name, clock in timers),
        (time, "clock_gettime", of_clock),
        (time, "clock_gettime_ns", lambda number: round(of_clock(number) * 1e9)),
        (time, "gmtime", lambda at=None: gmtime(wall() if at is None else at)),
        (time, "localtime", lambda at=None: localtime(wall() if at is None else at)),
        (time, "ctime", lambda at=None: asctime(localtime(wall() if at is None else at))),
        (time, "asctime", lambda at=None: asctime(localtime(wall()) if at is None else at)),
        (time, "strftime", lambda form, at=None: strftime(form, localtime(wall()) if at is None else at)),
        (time, "sleep", _forbidden("time.sleep", "use asyncio.sleep")),
        (threading.Thread, "start", _forbidden("threading.Thread.start", "it has one thread; use asyncio.to_thread")),
        (threading.Condition, "wait", _forbidden("threading.Condition.wait", "nobody could wake it; use asyncio's")),
        (_thread, "start_new_thread", _forbidden("_thread.start_new_thread", "use asyncio.to_thread")),
        (os, "urandom", urandom), (os, "getpid", pid),
        (random, "_urandom", urandom), (random.Random, "seed", seed_it),
        *((random, name, draw(name)) for name in _RANDOM),
        (uuid, "getnode", lambda: 0x02005EBA0001),
        (socket, "getaddrinfo", getaddrinfo), (socket, "gethostname", hostname), (socket, "getfqdn", hostname),
        (socket, "gethostbyname", lambda host: getaddrinfo(host, 0)[0][4][0]),
        (socket, "socketpair", _forbidden("socket.socketpair", "use asyncio's streams")),
        (asyncio, "all_tasks", all_tasks), (asyncio.tasks, "all_tasks", all_tasks),
    ]  # fmt: skip


def _in_thread(inside: Callable[..., Any], outside: Callable[..., Any], thread: int) -> Callable[..., Any]:
    """A function that answers from the run in the thread that runs it, and as ever in all others."""

    def answer(*args: Any, **kwargs: Any) -> Any:
        return inside(*args, **kwargs) if get_ident() == thread else outside(*args, **kwargs)

    return answer


def _collect_what_earlier_runs_left() -> None:
    """Python's own collector rests while runs go on, and between them rarely gets to what has become old meanwhile."""
    global _left, _runs
    _runs += 1
    if _runs % RUNS == 0 and _objects() > 1.25 * _left + GARBAGE:
        gc.collect()
        _left = _objects()


def _objects() -> int:
    """How many objects the collector knows."""
    gc.freeze()
    count = gc.get_freeze_count()
    gc.unfreeze()
    return count


@contextmanager
def isolated(loop: SimLoop, seed: int) -> Iterator[None]:
    """Answer time and randomness from the run, refuse the real world and collect garbage only when the loop says so.

    Other threads go on in the real world. Afterwards everything is as it was.
    """
    global _guarded_thread, _audit_installed
    thread, outer = get_ident(), _guarded_thread
    if outer is not None:
        raise RuntimeError("a simulation is running already: a process can hold one at a time")
    patches: list[tuple[Any, str, Any]] = [
        (owner, name, _in_thread(answer, getattr(owner, name), thread)) for owner, name, answer in _answers(loop, seed)
    ]
    patches += [(uuid, name, None) for name in ("_generate_time_safe", *_STATEFUL) if hasattr(uuid, name)]
    patches += [
        (socket, "socket", SimSocket),
        (SimSocket, "real", staticmethod(lambda: get_ident() != thread)),
        (asyncio.tasks, "set", OrderedSet),
    ]
    if not _audit_installed:
        sys.addaudithook(_audit)
        _audit_installed = True
    saved = [(owner, name, vars(owner).get(name, _MISSING)) for owner, name, _ in patches]
    numpy_random: Any = getattr(sys.modules.get("numpy"), "random", None)
    state, numpy_state, collecting = random.getstate(), numpy_random and numpy_random.get_state(), gc.isenabled()
    frozen = gc.get_freeze_count()
    try:
        random.seed(f"{seed}/test")  # for code that imported the module's functions by name
        if numpy_random:
            numpy_random.seed(seed % 2**32)
        gc.disable()
        if not frozen:
            _collect_what_earlier_runs_left()
        gc.freeze()  # what was there before the run is not collected, so not finalized, during it
        for owner, name, value in patches:
            setattr(owner, name, value)
        _guarded_thread = thread
        yield
    finally:
        _guarded_thread = None
        for owner, name, value in reversed(saved):
            if value is not _MISSING:
                setattr(owner, name, value)
            elif name in vars(owner):
                delattr(owner, name)
        random.setstate(state)
        if numpy_random:
            numpy_random.set_state(numpy_state)
        gc.collect()
        if not frozen:  # a server that forks has frozen what its children share
            gc.unfreeze()
        if collecting:
            gc.enable()
