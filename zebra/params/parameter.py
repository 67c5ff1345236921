"""A parameter: a dotted name, a type, a default, candidate values; and a space: all parameters of a target."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import msgspec

from zebra.errors import ConfigError, PluginError
from zebra.units import Unit, show

Value = bool | int | float | str


@dataclass(frozen=True, slots=True)
class Param:
    """What an annotation adds to a field of a configuration: `size: Annotated[int, Param("4MiB", unit="B")] = 8 << 20`.

    `candidates` are the alternatives to the default that campaigns try; without them they are derived from the type.
    `unit` is "s", "B" or "" (a plain number); `minimum` and `maximum` bound what is accepted at all. `why` says why
    there are no candidates, where a target knows: reports show it with the verdict *untested*. A `timer` is there for
    `realtime` and for tests: a campaign over everything leaves it out, one that names it varies it.
    """

    candidates: tuple[Value, ...]
    unit: str = ""
    minimum: float = 0.0
    maximum: float = math.inf
    pattern: str = ""
    doc: str = ""
    why: str = ""
    timer: bool = False

    def __init__(self, *candidates: Value, unit: str = "", minimum: float = 0.0, maximum: float = math.inf,
                 pattern: str = "", doc: str = "", why: str = "", timer: bool = False) -> None:  # fmt: skip
        for name, value in (("candidates", candidates), ("unit", unit), ("minimum", minimum), ("maximum", maximum),
                            ("pattern", pattern), ("doc", doc), ("why", why), ("timer", timer)):  # fmt: skip
            object.__setattr__(self, name, value)


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """One parameter of a space. `choices` is empty unless the type is an enumeration; `path` leads to its field."""

    name: str
    type: type[bool] | type[int] | type[float] | type[str]
    default: Value
    path: tuple[str, ...]
    choices: tuple[Value, ...] = ()
    param: Param = field(default_factory=Param)

    def parse(self, value: object) -> Value:
        """The value with this parameter's type; raises ConfigError when it is of another type or out of range."""
        if self.choices:
            for choice in self.choices:
                if value == choice or value == str(choice):
                    return choice
            raise ConfigError(f"{self.name}: {value!r} is not one of {', '.join(map(str, self.choices))}")
        if self.type is bool:
            if isinstance(value, bool):
                return value
            word = value.lower() if isinstance(value, str) else ""
            if word in ("true", "on", "yes", "false", "off", "no"):
                return word in ("true", "on", "yes")
            raise ConfigError(f"{self.name}: {value!r} is not true or false")
        if self.type is str:
            if isinstance(value, str) and re.fullmatch(self.param.pattern or ".*", value):
                return value
            raise ConfigError(f"{self.name}: {value!r} does not match {self.param.pattern or 'text'}")
        number = Unit(self.param.unit or "1", self.param.minimum, self.param.maximum).parse(value, self.name)
        if self.type is int and number != int(number):
            raise ConfigError(f"{self.name}: {value!r} is not a whole number")
        return self.type(number)

    def show(self, value: Value) -> str:
        """The value as a person would write it; `parse` reads it back."""
        return show(value, self.param.unit)

    def alternatives(self, observed: Value | None = None) -> tuple[Value, ...]:
        """The values to try against `observed` (the default unless given): explicit candidates, else by type.

        A boolean's other value; an enumeration's other values; for numbers half and double, within the bounds.
        """
        observed = self.default if observed is None else observed
        found: Iterable[Value]
        if self.param.why:
            found = ()
        elif self.param.candidates:
            found = [self.default, *map(self.parse, self.param.candidates)]
        elif self.choices:
            found = self.choices
        elif self.type is bool:
            found = (True, False)
        elif isinstance(observed, int | float):
            wanted = (observed * 2, observed / 2) if observed else (1,)
            found = [self.type(v) for v in wanted if self.param.minimum <= v <= self.param.maximum]
        else:
            found = ()
        return tuple(dict.fromkeys(value for value in found if value != observed))


class Space(Mapping[str, Parameter]):
    """All parameters of a target by name, read from the annotations of its configuration structs.

    A parameter is called after its field, or by the field's encoded name where the struct was made with `rename`: so a
    parameter can have the very name that a server has for it, such as `valkey.repl-backlog-size`.
    """

    def __init__(self, prefix: str, config: type[msgspec.Struct]) -> None:
        self.prefix, self.config = prefix, config
        self._parameters = {p.name: p for p in _walk(prefix, config, ())}

    def __getitem__(self, name: str) -> Parameter:
        try:
            return self._parameters[name]
        except KeyError:
            from difflib import get_close_matches

            close = get_close_matches(name, self._parameters, n=1)
            raise UnknownParameter(f"parameter {name!r} is unknown" + (f", did you mean {close[0]}?" if close else
                                   f", {self.prefix} has {', '.join(self._parameters)}")) from None  # fmt: skip

    def __iter__(self) -> Iterator[str]:
        return iter(self._parameters)

    def __len__(self) -> int:
        return len(self._parameters)

    def matching(self, pattern: str = "*") -> list[str]:
        """The names that match a glob; timers only if it says more than "everything"."""
        names = [name for name in self if fnmatchcase(name, pattern)]
        return [name for name in names if not self[name].param.timer] if pattern == "*" else names

    def get_value(self, config: msgspec.Struct, name: str) -> Value:
        """The value of a parameter in a whole configuration."""
        value: Any = config
        for step in self[name].path:
            value = getattr(value, step)
        return value  # type: ignore[no-any-return]

    def replace(self, config: msgspec.Struct, values: Mapping[str, Value]) -> msgspec.Struct:
        """The configuration with some parameters set, each parsed and checked."""
        for name, value in values.items():
            config = _set(config, self[name].path, self[name].parse(value))
        return config


class UnknownParameter(ConfigError, KeyError):
    """A parameter that the space does not have; a KeyError too, as mappings promise."""

    __str__ = Exception.__str__


def _set(config: msgspec.Struct, path: tuple[str, ...], value: Value) -> msgspec.Struct:
    head, rest = path[0], path[1:]
    return msgspec.structs.replace(config, **{head: _set(getattr(config, head), rest, value) if rest else value})


def _walk(prefix: str, config: type[msgspec.Struct], path: tuple[str, ...]) -> Iterator[Parameter]:
    hints = get_type_hints(config, include_extras=True)
    defaults = config()
    for name, shown in zip(config.__struct_fields__, config.__struct_encode_fields__, strict=True):
        hint, here, dotted, param = hints[name], (*path, name), f"{prefix}.{shown}", Param()
        if get_origin(hint) is Annotated:
            hint, *extras = get_args(hint)
            param = next((extra for extra in extras if isinstance(extra, Param)), param)
        if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
            yield from _walk(dotted, hint, here)
            continue
        choices = get_args(hint) if get_origin(hint) is Literal else ()
        kind = type(choices[0]) if choices else hint
        if kind not in (bool, int, float, str):
            raise PluginError(f"{dotted}: type {hint} is not bool, int, float, str or a Literal of them", dotted)
        default = getattr(defaults, name)
        yield Parameter(name=dotted, type=kind, default=default, path=here, choices=choices, param=param)
