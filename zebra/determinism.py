"""Check that a scenario's history is a function of its RunSpec alone: run it again here and in fresh interpreters.

A fresh interpreter differs in what must not matter: its hash seed, what was imported before, and how many objects were
allocated before. What differs all the same came in by a door that a simulation cannot shut (sets of strings, sets of
objects that hash by address, `datetime.now()`, files): the first event that differs usually tells which.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import msgspec

from zebra.errors import ConfigError, NondeterminismError, TargetError
from zebra.events import Event, first_difference
from zebra.run import run
from zebra.spec import RunSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Interpreter:
    """How a fresh interpreter differs: PYTHONHASHSEED, modules imported first, and objects allocated first."""

    hash_seed: int = 1
    imports: tuple[str, ...] = ()
    objects: int = 0


INTERPRETERS = (Interpreter(hash_seed=1), Interpreter(hash_seed=2, imports=("pytest",), objects=10_000))


class _Order(msgspec.Struct, kw_only=True):
    """What the fresh interpreter reads on its standard input."""

    spec: RunSpec
    path: list[str]
    imports: tuple[str, ...]
    objects: int


def check_determinism(
    spec: RunSpec, interpreters: Sequence[Interpreter] = INTERPRETERS, *, timeout_s: float = 120.0
) -> list[Event]:
    """The history of `spec`, whose `test` is `module:function`, if it is the same twice here and in every interpreter.

    Raises NondeterminismError with the first event that differs, ConfigError if the scenario cannot be found, and
    TargetError if an interpreter fails. Costs two runs and, for each interpreter, its start and a run.
    """
    history = list(run(find_scenario(spec.test), spec).history)
    _compare(history, run(find_scenario(spec.test), spec).history, "the second run in this process")
    for interpreter in interpreters:
        _compare(history, _run_in(interpreter, spec, timeout_s), f"a fresh process with {interpreter}")
    return history


def find_scenario(name: str) -> Any:
    """The function that `module:function` names; raises ConfigError."""
    module, _, function = name.partition(":")
    try:
        return getattr(import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"scenario {name!r}: {error}, expected module:function") from None


def _compare(history: Iterable[Event], other: Iterable[Event], where: str) -> None:
    difference = first_difference(history, other)
    if difference is None:
        return
    first, second = (None if event is None else repr(event) for event in difference)
    raise NondeterminismError(
        f"one seed gave two histories; the first event that differs:\n  here: {first or 'the history has ended'}\n"
        f"  {where}: {second or 'the history has ended'}\n"
        "something that is not simulated decided: look for sets of strings or objects, datetime.now(), files, id()",
        first,
        second,
    )


def _run_in(interpreter: Interpreter, spec: RunSpec, timeout_s: float) -> list[Event]:
    order = _Order(spec=spec, path=sys.path, imports=interpreter.imports, objects=interpreter.objects)
    environment = {**os.environ, "PYTHONHASHSEED": str(interpreter.hash_seed)}
    done = subprocess.run(
        [sys.executable, "-m", __name__],
        input=msgspec.json.encode(order),
        env=environment,
        capture_output=True,
        timeout=timeout_s,
        check=False,
    )
    if done.returncode:
        raise TargetError(f"a fresh process with {interpreter} failed:\n{done.stderr.decode()[-2000:]}")
    return [Event.from_json(line) for line in done.stdout.splitlines() if line.startswith(b"{")]


def main() -> None:
    """Run the order on standard input and print the history."""
    order = msgspec.json.decode(sys.stdin.buffer.read(), type=_Order)
    sys.path[:] = order.path
    for module in order.imports:
        import_module(module)
    ballast: list[object] = [[index] for index in range(order.objects)]
    history = run(find_scenario(order.spec.test), order.spec).history
    sys.stdout.buffer.writelines(event.to_json() + b"\n" for event in history)
    del ballast


if __name__ == "__main__":
    main()
