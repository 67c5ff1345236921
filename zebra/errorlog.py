"""What nodes say in a run that somebody calls an error: regular expressions over what they write and log.

Looked at are what nodes wrote to stdout and stderr (real substrates, the last MiB of each), what they log through
`logging` (on `sim`; elsewhere that is their stderr), and `error` events, which an exception in a loop leaves.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable

from zebra.errors import ConfigError
from zebra.events import Event
from zebra.substrate import Running
from zebra.substrate.sim.loop import CURRENT

SHOWN = 200
"""So many characters of a line are quoted."""


def compiled(patterns: Iterable[str], what: str = "errors") -> tuple[re.Pattern[str], ...]:
    """The patterns, ready for use. Raises ConfigError for what is no regular expression."""
    if isinstance(patterns, str):
        raise ConfigError(f"{what}: {patterns!r} is one text, expected a list of regular expressions")
    found = []
    for pattern in patterns:
        try:
            found.append(re.compile(pattern))
        except (re.error, TypeError) as error:
            raise ConfigError(f"{what}: {pattern!r} is not a regular expression ({error})") from None
    return tuple(found)


class ErrorLog(logging.Handler):
    """Listens in one run, between `open` and `close`; `first` is what was heard first, "" for nothing."""

    def __init__(self, patterns: Iterable[re.Pattern[str]]) -> None:
        super().__init__()
        self._patterns, self.first = tuple(patterns), ""

    def open(self) -> None:
        if self._patterns:
            logging.getLogger().addHandler(self)

    def close(self) -> None:
        logging.getLogger().removeHandler(self)
        super().close()

    def emit(self, record: logging.LogRecord) -> None:
        """A line of a simulated node's; what the test itself logs is its own affair."""
        process = CURRENT.get()
        if process is not None:
            self._look(process.node, "logged", f"{record.levelname} {record.name}: {record.getMessage()}")

    def event(self, event: Event) -> None:
        """An event of the run."""
        if self._patterns and event.kind == "error":
            self._look(event.node, "left", f"{event.get('message', '')} {event.get('error', '')}".strip())

    def look(self, running: Running, nodes: Iterable[str]) -> str:
        """What was heard first, or else is found in what the nodes wrote."""
        for node in nodes if self._patterns else ():
            for stream, content in running.output(node).items():
                for line in content.decode(errors="backslashreplace").splitlines():
                    self._look(node, f"wrote to {stream}", line)
        return self.first

    def _look(self, node: str, how: str, line: str) -> None:
        if self.first:
            return
        for pattern in self._patterns:
            if pattern.search(line):
                self.first = f"{node or 'the run'} {how} {line[:SHOWN]!r}, which matches {pattern.pattern!r}"
                return
