"""A campaign's progress for people: a live line on a terminal, a line per stage elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any


class Progress:
    """Called with (stage, trials done, trials expected, culprits so far); use it as a context manager."""

    def __init__(self, title: str, quiet: bool = False) -> None:
        self._title, self._quiet, self._stage, self._began = title, quiet, "", time.monotonic()
        self._live: Any = None
        self._task: Any = None

    def __enter__(self) -> Progress:
        if not self._quiet and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
            from rich.progress import Progress as Live

            text = TextColumn("{task.description}")
            counts = TextColumn("{task.completed} of about {task.total} trials · {task.fields[found]}")
            self._live = Live(
                text, BarColumn(24), counts, TimeElapsedColumn(), console=Console(stderr=True), transient=True
            )
            self._live.start()
            self._task = self._live.add_task(self._title, total=None, found="")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def __call__(self, stage: str, done: int, expected: int, found: Sequence[str]) -> None:
        culprits = f"{len(found)} unsafe"
        if self._live is not None:
            self._live.update(
                self._task, description=f"{self._title}: {stage}", completed=done, total=expected, found=culprits
            )
        elif not self._quiet and stage != self._stage:
            wall_s = time.monotonic() - self._began
            print(
                f"zebra {self._title}: {stage}: {done} trials, {culprits}, {wall_s:.1f} s", file=sys.stderr, flush=True
            )
        self._stage = stage
