"""Dask distributed, as it is: scheduler, workers and client in one process, told apart by the agent."""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from zebra.target import Target

if TYPE_CHECKING:
    TARGET: Target


class NoDask(msgspec.Struct, frozen=True, kw_only=True):
    """The configuration where distributed is not installed: no parameters."""


@cache
def target() -> Target:
    """The target; its space is the packaged configuration of the distributed that is installed here."""
    config: type[msgspec.Struct] = NoDask
    unavailable = "" if find_spec("distributed") else "distributed is not installed: pip install pytest-zebra[cluster]"
    if not unavailable:
        from zebra.targets.dask.space import ADAPTER

        config = ADAPTER.space().config
    return Target(name="dask", config=config, roles={}, agent="dask", unavailable=unavailable, workers=3,
                  accepted=Path(__file__).with_name("accepted.txt"))  # fmt: skip


def __getattr__(name: str) -> Any:
    """`TARGET` is made on first use."""
    if name == "TARGET":
        return target()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
