"""`dask.config`: parameters are the keys of Dask's and distributed's packaged configuration, after `dask.`.

Schedulers, workers, nannies and clients are nodes; a test that has made a client goes on as that client. Types come
from the packaged YAML files and their schemas. What is read while distributed is imported has one value for all nodes.
"""

from __future__ import annotations

import copy
import inspect
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal

import dask.config
import msgspec
import yaml
from dask.typing import no_default
from dask.utils import parse_bytes, parse_timedelta

from zebra.agent.adapter import Mark
from zebra.agent.agent import Agent
from zebra.agent.context import Owner, follow_jobs
from zebra.agent.defaults import Defaults, as_text
from zebra.params import Param
from zebra.params.parameter import Parameter, Value

_BYTES = re.compile(r"[\d.]+ ?[kKMGT]i?B")
_TIME = re.compile(r"[\d.]+ ?(us|ms|s|m|h|seconds?|minutes?|hours?)")


class Dask(Defaults):
    """All keys; `params` adds candidates or bounds to some of them."""

    inside = (dask.config.__file__,)

    def __init__(self, params: Mapping[str, Param] | None = None) -> None:
        packaged = [_packaged(package) for package in ("dask", "distributed")]
        self.schema = {name: found for _, schema in packaged for name, found in schema.items()}
        super().__init__("dask", {name: value for values, _ in packaged for name, value in values.items()}, params)

    # -- what parameters are ---------------------------------------------------------------------------------

    def _field(self, name: str, default: Any) -> tuple[Any, Value]:
        given, schema = self._params.get(name), self.schema[name]
        if "enum" in schema:
            shown = tuple(map(as_text, schema["enum"]))
            return Annotated[Literal[shown], given or Param()], as_text(default)
        if isinstance(default, str) and _TIME.fullmatch(default):
            return Annotated[float, given or Param(unit="s")], float(parse_timedelta(default))
        if isinstance(default, str) and _BYTES.fullmatch(default):
            return Annotated[int, given or Param(unit="B")], parse_bytes(default)
        numbers = [one["maximum"] for one in schema.get("oneOf", ()) if "maximum" in one]
        if isinstance(default, float) and numbers:
            return Annotated[float, given or Param(maximum=numbers[0])], default
        return super()._field(name, default)

    def native(self, parameter: Parameter, value: Value) -> Any:
        if parameter.choices or parameter.type is str:
            raw = self.defaults[parameter.name.removeprefix("dask.")]
            return value if isinstance(raw, str) and not parameter.choices else yaml.safe_load(str(value))
        if parameter.param.unit == "s":
            microseconds = round(float(value) * 1e6)
            return f"{microseconds}us" if microseconds % 1000 else f"{microseconds // 1000}ms"
        return value

    def value(self, parameter: Parameter, native: Any) -> Value:
        if parameter.param.unit == "s":
            return float(parse_timedelta(native))
        if parameter.param.unit == "B":
            return int(parse_bytes(native))
        return parameter.parse(as_text(native)) if parameter.choices else super().value(parameter, native)

    def environment(self, values: Mapping[str, Any]) -> dict[str, str]:
        """Dask reads `DASK_A__B_C` as `a.b-c`."""
        return {f"DASK_{name.upper().replace('.', '__').replace('-', '_')}": str(v) for name, v in values.items()}

    # -- interception ----------------------------------------------------------------------------------------

    def install(self, agent: Agent) -> None:
        original, leaves = dask.config.get, self._leaves()

        def get(key: str, default: Any = no_default, config: Any = None, override_with: Any = None) -> Any:
            if config is not None or override_with is not None:
                return original(key, default, config, override_with)
            who = agent.owner()
            if key in leaves:
                return _tree(agent, who, key, leaves[key], original(key, default))
            return agent.read(who, key if "_" not in key else key.replace("_", "-"), original, key, default)

        if "distributed" in sys.modules:  # what was read at its import was not seen: look in a process of its own
            agent.uncertain_at |= _read_at_import()
        agent.patches.set(dask.config, "get", get)
        from distributed import Client, Nanny, Scheduler, Worker
        from distributed._concurrent_futures_thread import ThreadPoolExecutor

        follow_jobs(agent.patches, ThreadPoolExecutor)  # distributed has a pool class of its own
        calls = [name for name, found in vars(Client).items() if inspect.isfunction(found) and not name.startswith("_")]
        for mark in (
            Mark(Scheduler, "scheduler", ("start", "close")),
            Mark(Worker, "worker", ("start", "close")),
            Mark(Nanny, "nanny", ("start", "close")),
            Mark(Client, "client", ("_start", "_close", *calls), inner=False, goes_on=True),
        ):
            agent.mark(mark)

    def _leaves(self) -> dict[str, list[str]]:
        """For each inner node of the tree of keys, such as `distributed.comm`, the parameters below it."""
        found: dict[str, list[str]] = {}
        for name in self.defaults:
            steps = name.split(".")
            for length in range(1, len(steps)):
                found.setdefault(".".join(steps[:length]), []).append(name)
        return found


def _tree(agent: Agent, who: Owner, key: str, below: list[str], values: Any) -> Any:
    """What the program gets that reads a whole branch: a copy in which its parameters have their values."""
    if not isinstance(values, dict):
        return values
    given = copy.deepcopy(values)
    for name in below:
        *path, last = name[len(key) + 1 :].split(".")
        branch = given
        for step in path:
            branch = branch.get(step, {})
        if last in branch:
            branch[last] = agent.read(who, name, branch.__getitem__, last)
    return given


def _packaged(package: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Defaults and schema of each key in a package's configuration, read without importing it."""
    spec = find_spec(package)
    assert spec is not None and spec.submodule_search_locations is not None
    folder = Path(spec.submodule_search_locations[0])
    values = yaml.safe_load((folder / f"{package}.yaml").read_text())
    found = list(_walk(values, yaml.safe_load((folder / f"{package}-schema.yaml").read_text()), ""))
    return {name: value for name, value, _ in found}, {name: schema for name, _, schema in found}


def _walk(values: Any, schema: Any, name: str) -> Iterator[tuple[str, Any, Any]]:
    if not isinstance(values, dict) or not values or "properties" not in schema:
        yield name, values, schema
        return
    for key, value in values.items():
        yield from _walk(value, schema["properties"].get(key, {}), f"{name}.{key}".lstrip("."))


def _read_at_import() -> dict[str, str]:
    """The parameters that are read while distributed is imported, and where."""
    script = "import sys; from zebra.agent.adapters import dask; dask.show_read_at_import()"
    shown = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True).stdout
    return msgspec.json.decode(shown, type=dict[str, str])


def show_read_at_import() -> None:
    """Print what `_read_at_import` reads: to be called where distributed is not imported yet."""
    assert "distributed" not in sys.modules
    agent = Agent(Dask())
    agent.start()
    print(msgspec.json.encode(agent.uncertain_at).decode())


ADAPTER = Dask()
