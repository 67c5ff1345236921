"""What is made once for all runs: a data directory with tables and a first round of data, and copies of it."""

from __future__ import annotations

import asyncio
import subprocess
from pathlib import Path
from random import Random

from zebra.errors import TargetError
from zebra.targets.postgres.data import COLLATIONS, SCHEMA, collation_indexes, statements
from zebra.targets.postgres.install import execute, initialise

HBA = "host all all 127.0.0.0/8 trust\nhost replication all 127.0.0.0/8 trust\n"
"""Nodes are reached from other addresses of this machine than 127.0.0.1; there is nothing to protect."""


def prepare(directory: Path) -> None:
    """Make the data directory that every primary begins with. Raises TargetError."""
    data = initialise(directory / "template")
    answer = data.parent / "collations"
    execute(data, f"COPY (SELECT collname FROM pg_collation) TO '{answer}'")
    known = answer.read_text().split()
    execute(data, *SCHEMA, *collation_indexes([name for name in COLLATIONS if name in known]))
    execute(data, *statements(0, "template", Random(0)), "CHECKPOINT")
    (data / "pg_hba.conf").write_text(HBA)


async def copy_template(prepared: Path, to: Path) -> None:
    """Copy the prepared data directory, owner and all. Raises TargetError."""
    command = ("cp", "-a", str(prepared / "template" / "data"), str(to))
    process = await asyncio.create_subprocess_exec(*command, stderr=subprocess.PIPE)
    _, said = await process.communicate()
    if process.returncode:
        raise TargetError(f"cannot copy the prepared data directory: {said.decode().strip()}")
