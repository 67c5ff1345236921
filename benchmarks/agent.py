"""What an intercepted read costs, beside the plain one: `python benchmarks/agent.py [--json]`.

Each row is one configuration system, each column one round of the same reads: without an agent, with one that answers,
with one that also notes who reads what. The columns of a row are measured in turn, and medians are taken of the rounds.
"""

from __future__ import annotations

import argparse
import configparser
import dataclasses
import json
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

from tabulate import tabulate

from zebra import agent
from zebra.agent.adapter import Adapter
from zebra.agent.adapters.configparser import ConfigParser
from zebra.agent.adapters.dataclass import Dataclass
from zebra.agent.adapters.environ import Environ
from zebra.agent.adapters.mapping import Mapping
from zebra.agent.agent import Agent
from zebra.spec import RunSpec

READS, ROUNDS = 20_000, 9
LIMIT_US = 2.0
"""What an intercepted read may cost at most beyond the plain one."""

Read = Callable[[], Any]
Case = tuple[Adapter, str, Callable[[], Read]]


class Settings(dict[str, Any]):
    """Settings that are a dict."""


@dataclasses.dataclass
class Data:
    timeout: int = 5


def cases() -> dict[str, Case]:
    """For each system its adapter, the parameter, and what makes a function that reads it once."""
    os.environ["ZEBRA_BENCHMARK"] = "5"

    def from_mapping() -> Read:
        settings = Settings(timeout=5)
        return lambda: settings["timeout"]

    def from_dataclass() -> Read:
        data = Data()
        return lambda: data.timeout

    def from_parser() -> Read:
        parser = configparser.ConfigParser()
        parser.read_dict({"server": {"timeout": "5"}})
        return lambda: parser.get("server", "timeout")

    found: dict[str, Case] = {
        "dict": (Mapping("app", Settings, {"timeout": 5}), "app.timeout", from_mapping),
        "dataclass": (Dataclass("app", Data), "app.timeout", from_dataclass),
        "os.environ": (
            Environ("app", {"ZEBRA_BENCHMARK": 5}), "app.ZEBRA_BENCHMARK", lambda: lambda: os.environ["ZEBRA_BENCHMARK"]
        ),
        "configparser": (ConfigParser("app", {"server.timeout": 5}), "app.server.timeout", from_parser),
    }  # fmt: skip
    try:
        import dask.config
        import distributed  # noqa: F401  (its defaults are in the configuration from then on)

        from zebra.agent.adapters.dask import Dask
    except ImportError:
        return found
    key = "distributed.comm.timeouts.connect"
    found["dask.config"] = (Dask(), f"dask.{key}", lambda: lambda: dask.config.get(key))
    return found


def cost_us(read: Read) -> float:
    """CPU microseconds of one read: a busy machine does not count."""
    began = time.thread_time_ns()
    for _ in range(READS):
        read()
    return (time.thread_time_ns() - began) / READS / 1000


def measure(case: Case) -> dict[str, float]:
    """Medians of the columns of one row, in microseconds."""
    adapter, name, make = case
    space = adapter.space()
    other = space[name].alternatives()[0]
    columns: dict[str, list[float]] = {"plain": [], "answered": [], "assigned": [], "noted": []}
    for _ in range(ROUNDS):
        columns["plain"].append(cost_us(make()))
        found = Agent(adapter, space)
        found.start()
        try:
            for column, assignment, record in (
                ("answered", {}, False), ("assigned", {name: {"*": other}}, False), ("noted", {}, True),
            ):  # fmt: skip
                spec = RunSpec(target=adapter.name, assignment=assignment)
                with found.run(spec, record=record), agent.node("worker"):
                    columns[column].append(cost_us(make()))
        finally:
            found.stop()
    return {column: statistics.median(values) for column, values in columns.items()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print JSON in place of the table")
    options = parser.parse_args()
    rows = []
    for name, case in cases().items():
        costs = measure(case)
        rows.append({
            "system": name,
            **{f"{column}_us": round(value, 3) for column, value in costs.items()},
            "answered_ratio": round(costs["answered"] / costs["plain"], 2),
            "noted_ratio": round(costs["noted"] / costs["plain"], 2),
            "added_us": round(costs["noted"] - costs["plain"], 3),
            "within_limit": costs["noted"] - costs["plain"] < LIMIT_US,
        })  # fmt: skip
    print(json.dumps(rows, indent=1) if options.json else tabulate(rows, headers="keys"))
    return 0 if all(row["within_limit"] for row in rows) else 1


if __name__ == "__main__":
    raise SystemExit(main())
