"""Digests of what a trial's result depends on beside its RunSpec: the test's code, and how parameters are declared.

The code of a test is: zebra itself (without targets and reporters), the versions of all that is installed, and every
loaded module that is part of no installed distribution and can be reached by imports from the test's module, the
`conftest.py` above it, or the modules of the target's configuration, roles and invariants. Data files are not followed.
What a configuration declares (defaults, candidates, units) belongs to its parameters, so those lines are left out.
"""

from __future__ import annotations

import ast
import hashlib
import platform
import sys
import sysconfig
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from importlib.metadata import distributions
from pathlib import Path
from types import ModuleType
from typing import Any, get_args, get_type_hints

import msgspec

from zebra.params.parameter import Parameter
from zebra.target import Target

_ENGINE = Path(__file__).parents[1]
_FOLDERS = ("targets", "reports", "faults", "plugins")


def digest(*parts: bytes | str) -> str:
    """16 hex digits."""
    made = hashlib.blake2b(digest_size=8)
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        made.update(len(data).to_bytes(8, "big") + data)
    return made.hexdigest()


@cache
def engine() -> str:
    """Of zebra's own code that takes part in runs."""
    files = [path for path in _ENGINE.rglob("*.py") if path.relative_to(_ENGINE).parts[0] not in _FOLDERS]
    for folder in ("faults", "plugins"):
        files += (_ENGINE / folder).rglob("*.py")
    return digest(*(part for path in sorted(files) for part in (str(path.relative_to(_ENGINE)), path.read_bytes())))


@cache
def installed() -> str:
    """Of the interpreter's version and those of all distributions installed."""
    names = sorted({f"{found.name} {found.version}" for found in distributions()})
    return digest(platform.python_version(), *names)


def target_modules(target: Target) -> list[ModuleType]:
    """The modules in which a target's configuration, roles and invariants are defined."""
    members: list[Any] = [target.config, *target.all_roles.values(), *target.invariants]
    functions = [getattr(member, "func", member) for member in members]
    names = {getattr(member, "__module__", "") for member in functions}
    return [sys.modules[name] for name in sorted(names) if name in sys.modules]


def of_test(modules: Iterable[ModuleType], target: Target) -> str:
    """Of the code that a test runs; `modules` are the test's own and the conftest modules above it."""
    files = reached([*modules, *target_modules(target)])
    declared = declarations(target.config)
    return digest(engine(), *(part for name in sorted(files) for part in (name, _text(files[name], declared))))


def reached(modules: Iterable[ModuleType]) -> dict[str, Path]:
    """By name the files of some modules and of all that they import, without zebra and what is installed."""
    found: dict[str, Path] = {}
    waiting = list(modules)
    while waiting:
        module = waiting.pop()
        file = getattr(module, "__file__", None)
        if not file or not file.endswith(".py") or module.__name__ in found or _is_foreign(module.__name__, file):
            continue
        found[module.__name__] = Path(file)
        package = module.__name__ if hasattr(module, "__path__") else module.__name__.rpartition(".")[0]
        for name in _imports(Path(file), package):
            if name in sys.modules:
                waiting.append(sys.modules[name])
    return found


def _is_foreign(name: str, file: str) -> bool:
    own = name.split(".")
    if own[0] == "zebra" and (len(own) < 2 or own[1] not in ("targets",)):
        return True
    return any(Path(file).is_relative_to(sysconfig.get_path(kind)) for kind in ("stdlib", "purelib", "platlib"))


def _imports(file: Path, package: str) -> Iterator[str]:
    """Names of modules that a file may import, at its top or inside of functions."""
    for node in ast.walk(_parsed(file)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            names = [base, *(f"{base}.{alias.name}" for alias in node.names)]
        else:
            continue
        for name in names:
            parts = name.split(".")
            yield from (".".join(parts[: count + 1]) for count in range(len(parts)))


def declarations(config: type[msgspec.Struct]) -> set[tuple[str, str]]:
    """Module and name of every struct that a configuration is made of."""
    found: set[tuple[str, str]] = set()
    waiting: list[Any] = [config]
    while waiting:
        kind = waiting.pop()
        if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
            if (kind.__module__, kind.__qualname__) not in found:
                found.add((kind.__module__, kind.__qualname__))
                waiting += get_type_hints(kind, include_extras=True).values()
        else:
            waiting += [inner for inner in get_args(kind) if isinstance(inner, type)]
    return found


def _text(path: Path, declared: set[tuple[str, str]]) -> str:
    """A file's code without the declarations of a configuration, and without comments and layout."""
    return _dumped(path, frozenset(name for module, name in declared if module.rpartition(".")[2] == path.stem))


@cache
def _dumped(path: Path, structs: frozenset[str]) -> str:
    tree = ast.parse(path.read_bytes())
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef) and node.name in structs:
            node.body = [line for line in node.body if not isinstance(line, ast.AnnAssign)] or [ast.Pass()]
    return ast.dump(tree)


@cache
def _parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_bytes())


def of_parameter(parameter: Parameter) -> str:
    """Of how a parameter is declared."""
    about = parameter.param
    limits = (about.unit, about.minimum, about.maximum, about.pattern, about.timer)
    values = (parameter.default, parameter.alternatives(), sorted(map(str, parameter.members)), limits)
    return digest(parameter.type.__name__, repr(values), repr(sorted(map(repr, parameter.settings.items()))))


def of_defaults(space: Mapping[str, Parameter]) -> str:
    """Of the values that every run has where its RunSpec says nothing."""
    return digest(*(f"{name}={parameter.default!r}" for name, parameter in sorted(space.items())))
