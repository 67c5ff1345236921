"""A process that a node has started goes on as that node."""

from __future__ import annotations

import atexit
import os
from pathlib import Path

import msgspec

from zebra.agent.adapter import find_adapter
from zebra.agent.agent import Agent
from zebra.agent.processes import NODE, READS, RUN
from zebra.errors import ConfigError
from zebra.spec import RunSpec


def join() -> str:
    """Go on as the node that started this process, and return its name; "" in a process that no node has started.

    Call it before the configuration is read. It holds to the end of the process. Raises ConfigError if the file that
    `ZEBRA_RUN` names is not a RunSpec.
    """
    node, path = os.environ.get(NODE, ""), Path(os.environ.get(RUN, ""))
    if not node:
        return ""
    try:
        spec = msgspec.json.decode(path.read_bytes(), type=RunSpec)
    except (OSError, msgspec.DecodeError) as error:
        raise ConfigError(f"{RUN}={path}: not the RunSpec of the run that {node} is in ({error})") from None
    agent = Agent(find_adapter(spec.target))
    agent.start()
    agent.become(node, spec, path.parent)
    reads = path.with_name(READS)
    if reads.exists():
        atexit.register(_write, agent, reads)
    return node


def _write(agent: Agent, path: Path) -> None:
    with open(path, "ab") as file:
        file.write(b"".join(msgspec.json.encode(read) + b"\n" for read in sorted(agent.reads)))
