"""What limits and leaks do inside a node's process."""

from __future__ import annotations

import builtins
import errno
import io
import os
import resource
import socket
import time
from collections.abc import Callable, Sequence
from typing import Any

from zebra.substrate import Effect
from zebra.substrate.process.board import Imposed


def count_refused(imposed: Imposed) -> None:
    """Count on the board each socket, connection and file that this process could not open for a limit of files.

    What else is refused (pipes, what programs do that the role starts) is not seen here.
    """

    def counted(opens: Callable[..., Any]) -> Callable[..., Any]:
        def attempt(*args: Any, **kwargs: Any) -> Any:
            try:
                return opens(*args, **kwargs)
            except OSError as error:
                if error.errno == errno.EMFILE:
                    bound, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
                    for effect in imposed.of("resources"):
                        effect.hits += effect.arguments["bounds"].get(os.getpid()) == bound
                raise

        return attempt

    for name in ("__init__", "accept"):
        setattr(socket.socket, name, counted(getattr(socket.socket, name)))
    builtins.open = io.open = counted(io.open)


class Leak:
    """Memory that `application.leak` makes the process hold."""

    def __init__(self, effects: Callable[[], Sequence[Effect]]) -> None:
        self._effects = effects
        self._held: list[bytes] = []
        self._grown_s = 0.0

    def grow(self) -> None:
        """Take what has leaked since the last time; give all back when nothing leaks any more."""
        leaks = [effect for effect in self._effects() if effect.arguments["leak"]]
        if not leaks:
            self._held.clear()
            self._grown_s = 0.0
            return
        now_s = time.monotonic()
        if self._grown_s:
            size = int(sum(effect.arguments["leak"] for effect in leaks) * (now_s - self._grown_s))
            self._held.append(b"x" * size)  # written to, so that it is there
            for effect in leaks:
                effect.hits += 1
        self._grown_s = now_s
