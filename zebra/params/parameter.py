"""A parameter: a dotted name, a type, a default, candidate values; a profile: several of them under one name; and a
space: all parameters of a target."""

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
    there are no candidates, where a target knows: reports show it with the verdict *untested*. `refused` are values
    that the system itself does not take, each with what it says: they are invalid without a run. A `timer` is there for
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
    refused: tuple[tuple[Value, str], ...] = ()

    def __init__(self, *candidates: Value, unit: str = "", minimum: float = 0.0, maximum: float = math.inf,
                 pattern: str = "", doc: str = "", why: str = "", timer: bool = False,
                 refused: tuple[tuple[Value, str], ...] = ()) -> None:  # fmt: skip
        for name, value in (("candidates", candidates), ("unit", unit), ("minimum", minimum), ("maximum", maximum),
                            ("pattern", pattern), ("doc", doc), ("why", why), ("timer", timer),
                            ("refused", refused)):  # fmt: skip
            object.__setattr__(self, name, value)


@dataclass(frozen=True, slots=True)
class Profile:
    """A composite parameter: each of its values sets several parameters at once.

    `Profile("app.password", {"off": {}, "on": {"app.requirepass": "s3", "app.peerpass": "s3"}})`. All parameters that
    any value mentions are the profile's members; a value that leaves one out means its default. One of the values must
    say what nodes have by default. Campaigns search, confirm and report a profile like any other parameter.
    """

    name: str
    values: Mapping[str, Mapping[str, Value]]
    doc: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """One parameter of a space. `choices` is empty unless the type is an enumeration; `path` leads to its field.

    For a profile the path is empty, and `settings` holds for each of its values what the members are set to. `more` are
    further values to try, `without` values that are not to be tried, with the reason; `excluded` says why none is.
    """

    name: str
    type: type[bool] | type[int] | type[float] | type[str]
    default: Value
    path: tuple[str, ...]
    choices: tuple[Value, ...] = ()
    param: Param = field(default_factory=Param)
    settings: Mapping[Value, Mapping[str, Value]] = field(default_factory=dict, hash=False)
    more: tuple[Value, ...] = ()
    without: Mapping[Value, str] = field(default_factory=dict, hash=False)
    excluded: str = ""

    @property
    def why(self) -> str:
        """Why there is no other value to try, where somebody said so."""
        return f"excluded: {self.excluded}" if self.excluded else "" if self.more else self.param.why

    @property
    def members(self) -> tuple[str, ...]:
        """The parameters that a profile sets; none unless it is one."""
        return tuple(next(iter(self.settings.values()), ()))

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

        A boolean's other value; an enumeration's other values; for numbers half and double, within the bounds. Then
        what a person added, and without what a person left out.
        """
        if self.excluded:
            return ()
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
            numbers = (observed * 2, observed / 2) if observed else (1,)
            found = [self.type(v) for v in numbers if self.param.minimum <= v <= self.param.maximum]
        else:
            found = ()
        wanted = [value for value in (*found, *self.more) if value != observed and value not in self.without]
        return tuple(dict.fromkeys(wanted))


class Space(Mapping[str, Parameter]):
    """All parameters of a target by name, read from the annotations of its configuration structs.

    A parameter is called after its field, or by the field's encoded name where the struct was made with `rename`: so a
    parameter can have the very name that a server has for it, such as `valkey.repl-backlog-size`. Profiles come last.
    Raises ConfigError for a profile that does not fit.
    """

    def __init__(self, prefix: str, config: type[msgspec.Struct], profiles: Iterable[Profile] = ()) -> None:
        self.prefix, self.config = prefix, config
        self._parameters = {p.name: p for p in _walk(prefix, config, ())}
        for profile in profiles:
            self._parameters[profile.name] = self._composed(profile)

    def altered(self, profiles: Iterable[Profile] = (), parameters: Iterable[Parameter] = ()) -> Space:
        """The same space with more profiles, and with these in place of its parameters of the same names."""
        space = Space(self.prefix, self.config)
        space._parameters = self._parameters | {parameter.name: parameter for parameter in parameters}
        for profile in profiles:
            space._parameters[profile.name] = space._composed(profile)
        return space

    def _composed(self, profile: Profile) -> Parameter:
        """A profile as a parameter."""
        name = profile.name
        if name in self._parameters:
            raise ConfigError(f"profile {name}: there is a parameter of this name already")
        if not name.startswith(f"{self.prefix}."):
            raise ConfigError(f"profile {name}: its name must begin with {self.prefix}.")
        if len(profile.values) < 2:
            raise ConfigError(f"profile {name}: expected two values at least, such as off and on")
        members = dict.fromkeys(member for settings in profile.values.values() for member in settings)
        for member in members:
            if self[member].settings:
                raise ConfigError(f"profile {name}: {member} is a profile itself, name the parameters that it sets")
        defaults = {member: self[member].default for member in members}
        found: dict[Value, dict[str, Value]] = {
            value: defaults | {member: self[member].parse(setting) for member, setting in settings.items()}
            for value, settings in profile.values.items()
        }
        usual = [value for value, settings in found.items() if settings == defaults]
        if len(usual) != 1:
            what = f"{' and '.join(map(str, usual))} do" if usual else "none does"
            raise ConfigError(f"profile {name}: one value must leave all at their defaults, {what}")
        return Parameter(name=name, type=str, default=usual[0], path=(), choices=tuple(found),
                         param=Param(doc=profile.doc), settings=found)  # fmt: skip

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
        """The value of a parameter in a whole configuration; for a profile "" when it has no value's settings."""
        if settings := self[name].settings:
            held = {member: self.get_value(config, member) for member in self[name].members}
            return next((value for value, wanted in settings.items() if wanted == held), "")
        value: Any = config
        for step in self[name].path:
            value = getattr(value, step)
        return value  # type: ignore[no-any-return]

    def replace(self, config: msgspec.Struct, values: Mapping[str, Value]) -> msgspec.Struct:
        """The configuration with some parameters set, each parsed and checked. A profile overrules its members."""
        for name, value in self.plain(values).items():
            config = _set(config, self[name].path, value)
        return config

    def plain(self, values: Mapping[str, Any]) -> dict[str, Value]:
        """The values parsed and checked, with those of its members in place of a profile's."""
        parsed = {name: self[name].parse(value) for name, value in values.items()}
        found = {name: value for name, value in parsed.items() if not self[name].settings}
        for name, value in parsed.items():
            found.update(self[name].settings.get(value, {}))
        return found


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
