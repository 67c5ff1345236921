"""While a simulation runs, the process's clocks and randomness answer from it, and the real world is out of reach.

What is replaced and why: ../shared/research/probes.md section 3 and ../shared/design.md section 7. `datetime.now()`
cannot be replaced (a C type): roles use `node.clock`.
"""

from __future__ import annotations

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
from typing import Any

from zebra.errors import Escape
from zebra.substrate.sim.loop import CURRENT, SimLoop
from zebra.substrate.sim.machine import BOOT_S, EPOCH_S
from zebra.substrate.sim.network import SimSocket

_RANDOM = ("random", "uniform", "triangular", "randint", "choice", "choices", "randrange", "sample", "shuffle", "randbytes",
           "getrandbits", "gauss", "normalvariate", "lognormvariate", "expovariate", "vonmisesvariate", "gammavariate",
           "betavariate", "paretovariate", "weibullvariate", "seed", "getstate", "setstate")  # fmt: skip
_AUDITED = {"socket.connect", "socket.bind", "socket.sendto", "subprocess.Popen", "os.system", "os.fork", "os.posix_spawn", "os.exec"}

_guarded_thread: int | None = None
_audit_installed = False


class OrderedSet(set):  # type: ignore[type-arg]
    """A set that iterates in order of insertion; stands in for `set` inside asyncio while a run is on."""

    def __init__(self, items: Iterable[Any] = ()) -> None:
        self._order = dict.fromkeys(items)
        super().__init__(self._order)

    def __iter__(self) -> Iterator[Any]:
        return iter(list(self._order))

    def add(self, item: Any) -> None:
        self._order[item] = None
        super().add(item)

    def discard(self, item: Any) -> None:
        self._order.pop(item, None)
        super().discard(item)

    def remove(self, item: Any) -> None:
        super().remove(item)
        del self._order[item]

    def pop(self) -> Any:
        item = next(iter(self._order))
        self.remove(item)
        return item


def _audit(event: str, args: tuple[Any, ...]) -> None:
    if event in _AUDITED and _guarded_thread == threading.get_ident():
        raise Escape(f"{event} inside a simulation: {args!r:.80} would reach the real world")


def _forbidden(what: str, instead: str) -> Callable[..., Any]:
    def refuse(*args: Any, **kwargs: Any) -> Any:
        if _guarded_thread != threading.get_ident():
            return originals[what](*args, **kwargs)
        raise Escape(f"{what} inside a simulation: {instead}")

    return refuse


originals: dict[str, Callable[..., Any]] = {
    "time.sleep": time.sleep,
    "threading.Thread.start": threading.Thread.start,
}


@contextmanager
def isolated(loop: SimLoop, seed: int) -> Iterator[None]:
    """Answer time and randomness from the run, refuse the real world and collect garbage only when the loop says so."""
    global _guarded_thread, _audit_installed
    own = Random(f"{seed}/test")
    streams: dict[str, Random] = {}

    def stream() -> Random:
        """The module-level randomness of the running node, apart from its `node.random`."""
        process = CURRENT.get()
        name = process.node if process is not None else "test"
        if name not in streams:
            streams[name] = Random(f"{seed}/module/{name}")
        return streams[name]

    def wall() -> float:
        process = CURRENT.get()
        return EPOCH_S + loop.now if process is None else process.machine.clock.time()

    def monotonic() -> float:
        return BOOT_S + loop.now

    def nanoseconds(clock: Callable[[], float]) -> Callable[[], int]:
        return lambda: round(clock() * 1e9)

    def draw(name: str) -> Callable[..., Any]:
        return lambda *args, **kwargs: getattr(stream(), name)(*args, **kwargs)

    def urandom(count: int) -> bytes:
        return stream().randbytes(count)

    patches: list[tuple[Any, str, Any]] = [
        (time, "time", wall), (time, "time_ns", nanoseconds(wall)),
        (time, "monotonic", monotonic), (time, "monotonic_ns", nanoseconds(monotonic)),
        (time, "perf_counter", monotonic), (time, "perf_counter_ns", nanoseconds(monotonic)),
        (time, "sleep", _forbidden("time.sleep", "use asyncio.sleep")),
        (threading.Thread, "start", _forbidden("threading.Thread.start", "a simulation has one thread; asyncio.to_thread runs in line")),
        (os, "urandom", urandom), (random, "_urandom", urandom),
        (uuid, "_generate_time_safe", None), (uuid, "getnode", lambda: 0x02005EBA0001), (uuid, "_last_timestamp", None),
        (socket, "socket", SimSocket),
        (asyncio.tasks, "set", OrderedSet),
        *((random, name, draw(name)) for name in _RANDOM),
    ]  # fmt: skip
    if not _audit_installed:
        sys.addaudithook(_audit)
        _audit_installed = True
    missing = object()
    saved = [(owner, name, vars(owner).get(name, missing)) for owner, name, _ in patches]
    state, collecting = random.getstate(), gc.isenabled()
    random.seed(own.random())  # for code that imported the module's functions by name
    gc.disable()
    gc.freeze()  # what was there before the run is not collected, so not finalized, during it
    for owner, name, value in patches:
        setattr(owner, name, value)
    _guarded_thread = threading.get_ident()
    try:
        yield
    finally:
        _guarded_thread = None
        for owner, name, value in reversed(saved):
            if value is missing:
                delattr(owner, name)
            else:
                setattr(owner, name, value)
        random.setstate(state)
        gc.collect()
        gc.unfreeze()
        if collecting:
            gc.enable()
