"""The contract of a fault: a class with settings and one required method, `inject(on, capability)`.

    @fault("network.loss", level="network", needs=Links)
    class Loss:
        \"\"\"Lose a share of the messages.\"\"\"
        probability: Probability

        async def inject(self, on: Selection, links: Links) -> None:
            await links.add(on.pairs(), loss=self.probability)

The decorator makes it a frozen dataclass whose settings are parsed and checked when it is made. A composite fault
has `expand(on, random) -> Schedule` in place of `inject`. `probe(on, capability)` is optional: a coroutine that says
whether the fault took effect, where the hits of its effects cannot.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, TypeVar, dataclass_transform, get_args, get_origin, get_type_hints

import msgspec

from zebra.errors import ConfigError, PluginError
from zebra.registry import load, members
from zebra.substrate import CAPABILITIES
from zebra.units import Unit

Level = Literal["application", "host", "network", "cluster"]
Fault = Any
C = TypeVar("C", bound=type)
_registry: dict[str, type] = {}


@dataclass_transform(frozen_default=True)
def fault(name: str, *, level: Level, needs: type | None = None) -> Callable[[C], C]:
    """Register a class as the fault `name`, which acts through the capability `needs` (a Protocol of zebra.substrate).

    Raises PluginError when the class does not keep the contract.
    """

    def register(cls: C) -> C:
        composite, plain = hasattr(cls, "expand"), inspect.iscoroutinefunction(getattr(cls, "inject", None))
        if composite == plain:
            raise PluginError(f"fault {name}: {cls.__name__} needs either `async def inject(self, on, capability)` "
                              "or `def expand(self, on, random)`", name)  # fmt: skip
        entry = "expand" if composite else "inject"
        if len(inspect.signature(getattr(cls, entry)).parameters) != 3:
            wanted = f"(self, on, {'random' if composite else 'capability'})"
            raise PluginError(f"fault {name}: {cls.__name__}.{entry} takes {wanted}", name)
        capability = next((key for key, kind in CAPABILITIES.items() if kind is needs), None)
        if plain and capability is None:
            known = ", ".join(kind.__name__ for kind in CAPABILITIES.values())
            raise PluginError(f"fault {name}: needs= must be one of {known}", name)
        other = _registry.get(name)
        if other is not None and (other.__module__, other.__qualname__) != (cls.__module__, cls.__qualname__):
            raise PluginError(f"fault {name}: there is one already, {other.__module__}.{other.__qualname__}", name)
        if not (cls.__doc__ or "").strip():
            raise PluginError(f"fault {name}: {cls.__name__} has no docstring, `zebra list` shows its first line", name)
        cls.zebra_name, cls.zebra_level, cls.zebra_needs = name, level, capability  # type: ignore[attr-defined]
        cls.__post_init__ = _check_settings  # type: ignore[attr-defined]
        made: C = dataclasses.dataclass(frozen=True, kw_only=True)(cls)  # type: ignore[assignment]
        _registry[name] = made
        return made

    return register


def _check_settings(self: Any) -> None:
    hints = get_type_hints(type(self), include_extras=True)
    for field in dataclasses.fields(self):
        what = f"{type(self).zebra_name}: {field.name}"
        object.__setattr__(self, field.name, _parse(hints[field.name], getattr(self, field.name), what))
    if hasattr(self, "validate"):
        self.validate()


def _parse(hint: Any, value: Any, what: str) -> Any:
    if get_origin(hint) is Annotated:
        unit = next((extra for extra in get_args(hint)[1:] if isinstance(extra, Unit)), None)
        if unit is not None:
            return unit.parse(value, what)
        hint = get_args(hint)[0]
    if value is None and type(None) in get_args(hint):
        return None
    inner = next((arg for arg in get_args(hint) if get_origin(arg) is Annotated), None)
    if inner is not None and type(None) in get_args(hint):
        return _parse(inner, value, what)
    try:
        return msgspec.convert(value, hint, strict=True)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{what}: {value!r}: {error}") from None


def find(name: str) -> type:
    """The class of a fault; raises ConfigError for an unknown name."""
    if name not in _registry:
        load("faults", name)
    if name not in _registry:
        family = name.partition(".")[0]
        known = ", ".join(sorted(n for n in _registry if n.startswith(family + ".")))
        raise ConfigError(f"fault {name!r} is unknown, known are {known}")
    return _registry[name]


def make(name: str, settings: Mapping[str, Any]) -> Fault:
    """A fault with its settings checked; raises ConfigError."""
    cls = find(name)
    fields = {field.name: field for field in dataclasses.fields(cls)}
    for setting in settings:
        if setting not in fields:
            raise ConfigError(f"{name}: unknown setting {setting!r}, it has {', '.join(sorted(fields)) or 'none'}")
    for setting, field in fields.items():
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if required and setting not in settings:
            raise ConfigError(f"{name}: the setting {setting!r} is missing")
    return cls(**settings)


def settings_of(made: Fault) -> dict[str, Any]:
    """The settings of a fault as plain data."""
    return {field.name: getattr(made, field.name) for field in dataclasses.fields(made)}


def catalogue() -> dict[str, type]:
    """Every fault there is, by name: imports all families."""
    for family in members("faults"):
        load("faults", family)
    return dict(sorted(_registry.items()))
