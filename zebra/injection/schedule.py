"""Schedules: faults and configuration changes over time, as data that can be stored, drawn and replayed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import msgspec

from zebra.errors import ConfigError
from zebra.injection.fault import make
from zebra.injection.selection import check_form
from zebra.units import seconds

Groups = tuple[tuple[str, ...], ...]


class Inject(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="inject"):
    """At `at_s` seconds after the cluster was ready inject a fault on groups of selections; heal it `for_s` later.

    Without `for_s` it lasts to the end of the test.
    """

    fault: str
    on: Groups
    at_s: float = 0.0
    for_s: float | None = None
    settings: dict[str, Any] = {}


class Configure(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="configure"):
    """At `at_s` give a node other values of some parameters, by a planned restart or by its role's `reload`."""

    node: str
    values: dict[str, bool | int | float | str]
    at_s: float = 0.0
    how: Literal["restart", "reload"] = "restart"


class Roll(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="roll"):
    """From `at_s` on restart (or reload) nodes one after the other, giving them other values; none: a plain restart.

    `nodes` are nodes or whole roles, in order. Each node waits until the one before is ready, and `every_s` more. A
    roll goes on to its end, without further waiting, when the test has ended before.
    """

    nodes: tuple[str, ...]
    values: dict[str, bool | int | float | str] = {}
    at_s: float = 0.0
    every_s: float = 0.0
    how: Literal["restart", "reload"] = "restart"


Step = Inject | Configure | Roll


class Schedule(msgspec.Struct, frozen=True, omit_defaults=True):
    """Steps in any order; those of one time act in the order given."""

    steps: tuple[Inject | Configure | Roll, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.steps)

    def __add__(self, other: Schedule) -> Schedule:
        """Both at once."""
        return Schedule(self.steps + other.steps)

    def after(self, delay_s: float) -> Schedule:
        """The same, so many seconds later."""
        return Schedule(tuple(msgspec.structs.replace(step, at_s=step.at_s + delay_s) for step in self.steps))

    def to_data(self) -> list[dict[str, Any]]:
        """Plain data for JSON or YAML; `Schedule.parse` reads it back."""
        return msgspec.to_builtins(self.steps)  # type: ignore[no-any-return]

    @classmethod
    def parse(cls, data: object, what: str = "schedule") -> Schedule:
        """A schedule from outside data: a list of steps, in which times may be text and `on` a node, a list, or groups.

        Raises ConfigError that names the step and what would be right.
        """
        if isinstance(data, Schedule):
            data = data.to_data()
        if not isinstance(data, Sequence) or isinstance(data, str | bytes):
            raise ConfigError(f"{what}: expected a list of steps, got {type(data).__name__}")
        return cls(tuple(_step(step, f"{what}: step {number}") for number, step in enumerate(data, 1)))


def groups(on: object, what: str) -> Groups:
    """Groups of selections from "peer-3", ["peer-3", "one(peer)"] or [["peer-1"], ["tracker-1"]]."""
    if isinstance(on, str):
        on = [on]
    if not isinstance(on, Iterable) or isinstance(on, bytes | Mapping):
        raise ConfigError(f"{what}: `on` is {on!r}, expected a selection, a list of them, or a list of groups")
    items = list(on)
    if items and all(isinstance(item, str) for item in items):
        items = [items]
    found = []
    for group in items:
        group = [group] if isinstance(group, str) else group
        if not isinstance(group, list | tuple) or not group or not all(isinstance(text, str) for text in group):
            raise ConfigError(f"{what}: `on` holds {group!r}, expected selections like peer-3 or one(peer)")
        for text in group:
            try:
                check_form(text)
            except ConfigError as error:
                raise ConfigError(f"{what}: {error}") from None
        found.append(tuple(group))
    if not found:
        raise ConfigError(f"{what}: `on` is empty, expected at least one selection")
    return tuple(found)


def _step(data: object, what: str) -> Step:
    if not isinstance(data, Mapping):
        raise ConfigError(f"{what}: {data!r} is not a mapping such as {{fault: host.crash, on: peer-3, at: 2s}}")
    fields: dict[str, Any] = {str(key): value for key, value in data.items() if key != "type"}
    for short in ("at", "for", "every"):
        if short in fields:
            fields[f"{short}_s"] = fields.pop(short)
    for time in ("at_s", "for_s", "every_s"):
        if fields.get(time) is not None:
            fields[time] = float(seconds(fields[time], f"{what}: {time}"))
    kind: Any = Inject if "fault" in fields else Roll if "nodes" in fields else Configure
    if "fault" in fields:
        fields["on"] = groups(fields.get("on", ()), what)
    try:
        step: Step = msgspec.convert({**fields}, kind, strict=True)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{what}: {error}") from None
    unknown = set(fields) - set(step.__struct_fields__)
    if unknown:
        raise ConfigError(f"{what}: unknown field {min(unknown)!r}, known are {', '.join(step.__struct_fields__)}")
    if isinstance(step, Inject):
        try:
            make(step.fault, step.settings)
        except ConfigError as error:
            raise ConfigError(f"{what}: {error}") from None
    return step
