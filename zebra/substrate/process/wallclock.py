"""The wall clock of a node's process: `time.time`, `time.time_ns` and `datetime.now` show what its faults make of it.

What C libraries ask the kernel, and names that were bound to `time.time` before the fork, are not reached. libfaketime
is no way for Python nodes: it breaks `time.sleep` of 3.11 and cannot be changed after a fork (probes.md section 10).
"""

from __future__ import annotations

import ctypes
import datetime
import gc
import time
from collections.abc import Callable
from typing import Any

from zebra.substrate.inside import wall_s
from zebra.substrate.process.board import Imposed

_time, _time_ns = time.time, time.time_ns
_gmtime, _localtime, _asctime, _strftime = time.gmtime, time.localtime, time.asctime, time.strftime


class FaultyClock:
    """`zebra.node.Clock`: the machine's, with the effects on the board."""

    def __init__(self, imposed: Imposed) -> None:
        self._imposed = imposed

    def time(self) -> float:
        effects = self._imposed.clocks()
        return wall_s(effects, _time(), time.monotonic()) if effects else _time()

    def time_ns(self) -> int:
        effects = self._imposed.clocks()
        return round(wall_s(effects, _time(), time.monotonic()) * 1e9) if effects else _time_ns()

    def monotonic(self) -> float:
        return time.monotonic()


def install(clock: FaultyClock) -> None:
    """Let this process ask `clock` for the time of day."""

    def local(at: float | None = None) -> time.struct_time:
        return _localtime(clock.time() if at is None else at)

    answers: dict[str, Callable[..., Any]] = {
        "time": clock.time, "time_ns": clock.time_ns, "localtime": local,
        "gmtime": lambda at=None: _gmtime(clock.time() if at is None else at),
        "ctime": lambda at=None: _asctime(local(at)),
        "asctime": lambda at=None: _asctime(local() if at is None else at),
        "strftime": lambda form, at=None: _strftime(form, local() if at is None else at),
    }  # fmt: skip
    for name, answer in answers.items():
        setattr(time, name, answer)
    _replace(datetime.datetime, now=lambda cls, tz=None: cls.fromtimestamp(clock.time(), tz),
             utcnow=lambda cls: cls.fromtimestamp(clock.time(), datetime.UTC).replace(tzinfo=None),
             today=lambda cls: cls.fromtimestamp(clock.time()))  # fmt: skip
    _replace(datetime.date, today=lambda cls: cls.fromtimestamp(clock.time()))


def _replace(kind: type, **methods: Callable[..., Any]) -> None:
    """Give a class written in C other class methods, in this process; it stays the class that libraries know."""
    own: dict[str, Any] = gc.get_referents(kind.__dict__)[0]
    own.update({name: classmethod(method) for name, method in methods.items()})
    ctypes.pythonapi.PyType_Modified(ctypes.py_object(kind))
