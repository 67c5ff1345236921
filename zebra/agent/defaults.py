"""Spaces that are made of a configuration's own defaults."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec
import yaml

from zebra.agent.adapter import Adapter
from zebra.params import Param, Space
from zebra.params.parameter import Parameter, Value

NO_VALUE = "no other value can be derived from {}"


class Defaults(Adapter):
    """An adapter that knows its parameters by their defaults: what bool, int, float and text are, follows from these.

    `params` adds to what follows: candidates, unit, bounds; `choices` lists the values of enumerations. A parameter
    whose default is something else (None, a list) is text in the notation of YAML, which the program reads as what the
    text says: so `params={"proxy": Param("direct")}` tries "direct" against null.
    """

    def __init__(self, name: str, defaults: Mapping[str, Any], params: Mapping[str, Param] | None = None,
                 choices: Mapping[str, tuple[str, ...]] | None = None) -> None:  # fmt: skip
        self.name, self.defaults = name, dict(defaults)
        self._params, self._choices = params or {}, choices or {}

    def space(self) -> Space:
        fields, names = list[tuple[str, Any, Value]](), dict[str, str]()
        for name, default in self.defaults.items():
            field = _field_name(name, names)
            names[field] = name
            fields.append((field, *self._field(name, default)))
        config = msgspec.defstruct(f"{self.name.capitalize()}Config", fields, frozen=True, kw_only=True, rename=names,
                                   module=type(self).__module__)  # fmt: skip
        return Space(self.name, config)

    def _field(self, name: str, default: Any) -> tuple[Any, Value]:
        given, plain = self._params.get(name), isinstance(default, bool | int | float | str)
        if name in self._choices:
            return Annotated[Literal[tuple(self._choices[name])], given or Param()], as_text(default)
        if plain and not isinstance(default, str):
            low = float("-inf") if default < 0 else 0.0
            return Annotated[type(default), given or Param(minimum=low)], default
        param = given or Param(why=NO_VALUE.format("text" if plain else type(default).__name__))
        return Annotated[str, param], default if plain else as_text(default)

    def native(self, parameter: Parameter, value: Value) -> Any:
        """Text stands for what YAML reads in it where the default is no text."""
        default = self.defaults[parameter.name[len(self.name) + 1 :]]
        return yaml.safe_load(value) if isinstance(value, str) and not isinstance(default, str) else value

    def value(self, parameter: Parameter, native: Any) -> Value:
        return as_text(native) if parameter.type is str and not isinstance(native, str) else parameter.parse(native)


def as_text(value: Any) -> str:
    """A value in YAML's notation, on one line: null, [a, b]."""
    text = yaml.safe_dump(value, default_flow_style=True, width=float("inf"))
    return str(text).removesuffix("\n").removesuffix("\n...")


def _field_name(name: str, taken: Mapping[str, str]) -> str:
    field = "p_" + re.sub(r"\W", "_", name)
    return field if field not in taken else f"{field}_{len(taken)}"
