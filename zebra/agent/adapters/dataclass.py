"""Settings that are a dataclass, nested ones included: parameters are fields, called `db.timeout_s` in a nested one.

    ADAPTER = Dataclass("app", Settings, roles=(Mark(Server, "server"),))

An object belongs to the node that made it or was given it. Frozen dataclasses and such with slots work too. Defaults
come from `Settings()`; where that cannot be made, give one as `example`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from zebra.agent.adapter import Mark
from zebra.agent.adapters.mapping import watch_copies
from zebra.agent.agent import Agent
from zebra.agent.defaults import Defaults
from zebra.errors import ConfigError
from zebra.params import Param


class Dataclass(Defaults):
    """The fields of one dataclass and of those nested in it."""

    inside: tuple[str, ...] = (dataclasses.__file__,)

    def __init__(self, name: str, cls: type, params: Mapping[str, Param] | None = None,
                 choices: Mapping[str, tuple[str, ...]] | None = None, roles: tuple[Mark, ...] = (),
                 example: Any = None) -> None:  # fmt: skip
        self.cls, self.roles = cls, roles
        self.classes: dict[type, str] = {}
        super().__init__(name, dict(self._walk(cls() if example is None else example, "")), params, choices)

    def fields(self, found: Any) -> dict[str, Any] | None:
        """The fields of a settings object with their values; None for a value that is no settings object."""
        if not dataclasses.is_dataclass(found) or isinstance(found, type):
            return None
        return {field.name: getattr(found, field.name) for field in dataclasses.fields(found)}

    def _walk(self, conf: Any, prefix: str) -> Iterator[tuple[str, Any]]:
        if self.classes.setdefault(type(conf), prefix) != prefix:
            raise ConfigError(f"{type(conf).__name__} is nested twice, so reads of its fields cannot be told apart")
        for name, value in (self.fields(conf) or {}).items():
            if self.fields(value) is None:
                yield prefix + name, value
            else:
                yield from self._walk(value, f"{prefix}{name}.")

    def parts(self, conf: Any) -> Iterator[Any]:
        """An object and all that are nested in it."""
        yield conf
        for value in (self.fields(conf) or {}).values():
            if self.fields(value) is not None:
                yield from self.parts(value)

    def is_conf(self, found: Any) -> bool:
        return type(found) in self.classes

    def install(self, agent: Agent) -> None:
        for cls, prefix in self.classes.items():
            for name in [n for n in self.defaults if n.startswith(prefix) and "." not in n[len(prefix) :]]:
                field = name[len(prefix) :]
                agent.patches.set(cls, field, _Field(agent, name, field, vars(cls).get(field)))
            self._watch_creation(agent, cls)
            watch_copies(agent, cls)
        for mark in self.roles:
            agent.mark(mark)

    def _watch_creation(self, agent: Agent, cls: Any) -> None:
        init = cls.__init__

        def created(self: Any, *args: Any, **kwargs: Any) -> None:
            agent.objects.created(self, agent.owner())
            init(self, *args, **kwargs)

        agent.patches.set(cls, "__init__", created)


class _Field:
    """A field of a settings class, while an agent is on. `found` is what the class has there: a slot, a default."""

    def __init__(self, agent: Agent, name: str, field: str, found: Any) -> None:
        self.agent, self.name, self.field, self.found = agent, name, field, found
        self.slot = found if hasattr(type(found), "__set__") else None

    def __get__(self, conf: Any, cls: Any) -> Any:
        if conf is None:
            if self.slot is None and self.found is None:
                raise AttributeError(self.field)
            return self.found
        return self.agent.read(self.agent.reader(conf), self.name, self.original, conf)

    def original(self, conf: Any) -> Any:
        if self.slot is not None:
            value = self.slot.__get__(conf, type(conf))
        else:
            try:
                value = vars(conf)[self.field]
            except KeyError:
                raise AttributeError(self.field) from None
        return self.agent.objects.written_back(conf, self.name, value)

    def __set__(self, conf: Any, value: Any) -> None:
        if self.slot is not None:
            self.slot.__set__(conf, value)
        else:
            vars(conf)[self.field] = value
        self.agent.objects.wrote(conf, self.name, value, self.agent.owner())

    def __delete__(self, conf: Any) -> None:
        if self.slot is not None:
            self.slot.__delete__(conf)
        else:
            vars(conf).pop(self.field)
