"""PostgreSQL: a primary and a hot standby under their own configuration files, the space read from `pg_settings`."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zebra.cluster import Cluster
from zebra.target import Target
from zebra.targets.postgres.install import unavailable
from zebra.targets.postgres.invariants import CONVERGE_S, INVARIANTS
from zebra.targets.postgres.space import config_type, rules
from zebra.topology import Topology

if TYPE_CHECKING:
    TARGET: Target


async def alike_again(cluster: Cluster) -> None:
    """Progress: once all is healed, the nodes hold the same."""
    await cluster.client.compare("healing", within_s=CONVERGE_S - 1)


def prepare(directory: Path) -> None:
    """Make the data directory that every primary begins with."""
    from zebra.targets.postgres.template import prepare

    prepare(directory)


class NoClient:
    """The client or a role where there is no server, or no `psycopg`: the target says why, and nothing is run."""

    def __init__(self, node: Any) -> None:
        raise RuntimeError(unavailable())


@cache
def target() -> Target:
    """The target; its space is asked from the server that is installed here."""
    primary = standby = client = NoClient
    if not unavailable():
        from zebra.targets.postgres.client import PostgresClient
        from zebra.targets.postgres.server import Primary, Standby

        primary, standby, client = Primary, Standby, PostgresClient  # type: ignore[assignment]
    return Target(
        name="postgres", config=config_type(), roles={"primary": primary, "standby": standby}, client=client,
        topology=Topology(counts={"primary": 1, "standby": 1}), invariants=INVARIANTS, progress=alike_again,
        settle_s=CONVERGE_S, start_s=60.0, external=True, unavailable=unavailable(), workers=6, prepare=prepare,
        rules=rules("postgres"), sometimes=("postgres.applied", "postgres.compared", "postgres.promoted"),
        variants=("bug.no_signal", "bug.short_copy", "bug.unlogged", "bug.text_values"),
        accepted=Path(__file__).with_name("accepted.txt"),
    )  # fmt: skip


def __getattr__(name: str) -> Any:
    """`TARGET` is made on first use."""
    if name == "TARGET":
        return target()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
