"""A campaign's progress for people: live lines on a terminal, else a line per stage and one whenever a while has gone.

What is shown: the stage, the trials that are done and about how many there will be, the parameters found to be unsafe
and those suspected just now, the time so far and about how long it may take.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from types import TracebackType
from typing import IO, Any

EVERY_S = 30.0
"""A line is written at least so often where there is no terminal, if anything has happened."""

NAMES = 3
"""So many suspects are named, the rest are counted."""


class Progress:
    """Called with (stage, trials done, trials expected, unsafe, suspects); use it as a context manager.

    `arrived` tells of each result between these calls. What is expected is a guess that grows with what is found.
    """

    def __init__(self, title: str, quiet: bool = False, stream: IO[str] | None = None) -> None:
        self._title, self._quiet, self._stage = title, quiet, ""
        self._stream = sys.stderr if stream is None else stream
        self._began = self._said = time.monotonic()
        self._done = self._expected = self._run = 0
        self._found: Sequence[str] = ()
        self._suspects: Sequence[str] = ()
        self._live: Any = None
        self._task: Any = None

    def __enter__(self) -> Progress:
        if not self._quiet and self._stream.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, TextColumn
            from rich.progress import Progress as Live

            self._live = Live(
                TextColumn("{task.description}"), BarColumn(10), TextColumn("{task.fields[about]}"),
                console=Console(file=self._stream), transient=True,
            )  # fmt: skip
            self._live.start()
            self._task = self._live.add_task(self._title, total=None, about="")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def __call__(self, stage: str, done: int, expected: int, found: Sequence[str], suspects: Sequence[str]) -> None:
        new = stage != self._stage
        self._stage, self._done, self._expected, self._found, self._suspects = stage, done, expected, found, suspects
        self._show(new)

    def arrived(self, stored: bool) -> None:
        """A trial's result has come: from a store, which says nothing of how long trials take, or from a run."""
        self._done += 1
        self._run += not stored
        self._show(False)

    def _show(self, new_stage: bool) -> None:
        now = time.monotonic()
        if self._quiet:
            return
        if self._live is not None:
            self._live.update(
                self._task, description=f"{self._title}: {self._stage}", completed=self._done,
                total=max(self._expected, self._done), about=self._about(now),
            )  # fmt: skip
        elif new_stage or now >= self._said + EVERY_S:
            self._said = now
            print(f"zebra {self._title}: {self._stage}: {self._about(now)}", file=self._stream, flush=True)

    def _about(self, now: float) -> str:
        more = f" of about {self._expected}" if self._expected > self._done else ""
        parts = [f"{self._done}{more} trials", f"{len(self._found)} unsafe"]
        if self._suspects:
            more = f" and {len(self._suspects) - NAMES} more" if len(self._suspects) > NAMES else ""
            parts.append(f"suspected {', '.join(self._suspects[:NAMES])}{more}")
        gone_s = now - self._began
        parts.append(f"{_clock(gone_s)} gone")
        if self._run and self._expected > self._done:
            parts.append(f"about {_clock(gone_s / self._run * (self._expected - self._done))} left")
        return ", ".join(parts)


def _clock(duration_s: float) -> str:
    """`42 s`, `3 min 5 s`, `2 h 10 min`."""
    whole = round(duration_s)
    if whole < 60:
        return f"{whole} s"
    return f"{whole // 60} min {whole % 60} s" if whole < 3600 else f"{whole // 3600} h {whole % 3600 // 60} min"
