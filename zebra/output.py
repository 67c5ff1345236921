"""What nodes wrote to stdout and stderr: of a run that failed all of it is kept, and the end of it shown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import islice
from pathlib import Path

from zebra.substrate import Running

LINES, LINES_EACH = 12, 4
"""Lines shown of each stream: of nodes at which a failure can be seen, and of every node where it is nobody's."""

NODES_MAX = 16
"""Of so many nodes the last lines are shown."""


def keep(running: Running, nodes: Iterable[str], directory: Path) -> bool:
    """Write what nodes wrote to `<node>.stdout` and `<node>.stderr`, where there is any; whether there was."""
    kept = False
    for node in nodes:
        for stream, content in running.output(node).items():
            if content:
                directory.mkdir(parents=True, exist_ok=True)
                (directory / f"{node}.{stream}").write_bytes(content)
                kept = True
    return kept


def last_lines(running: Running, involved: Iterable[str], everyone: Iterable[str]) -> dict[str, str]:
    """The last lines of the nodes involved in a failure, by node; a few of every node if none of those wrote any."""
    return _last_lines(running, involved, LINES) or _last_lines(running, everyone, LINES_EACH)


def _last_lines(running: Running, nodes: Iterable[str], lines: int) -> dict[str, str]:
    texts = ((node, _end(running.output(node), lines)) for node in nodes)
    return dict(islice(((node, text) for node, text in texts if text), NODES_MAX))


def _end(output: Mapping[str, bytes], lines: int) -> str:
    texts = {stream: content.decode(errors="backslashreplace").splitlines() for stream, content in output.items()}
    return "\n".join(f"{stream}: {line}" for stream, text in texts.items() for line in text[-lines:])
