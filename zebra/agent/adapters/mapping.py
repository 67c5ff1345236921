"""Settings that are a mapping: a class of the program that is a `dict`, a `UserDict` or a `MutableMapping`.

    ADAPTER = Mapping("app", Settings, {"timeout_s": 5.0, "mode": "fast"}, roles=(Mark(Server, "server"),))

An object belongs to the node that made it or was given it. `settings[name]`, `get`, `items` and `values` are
intercepted; `dict(settings)` and `**settings` of a subclass of `dict` are not: Python does not ask the class there.
"""

from __future__ import annotations

import collections.abc
import copy
from collections.abc import ItemsView, ValuesView
from typing import Any

from zebra.agent.adapter import Mark
from zebra.agent.adapters.environ import MAPPING_GET
from zebra.agent.agent import Agent
from zebra.agent.defaults import Defaults
from zebra.params import Param


class Mapping(Defaults):
    """Some keys of the objects of one class."""

    inside = (MAPPING_GET, collections.__file__)

    def __init__(self, name: str, cls: type, defaults: collections.abc.Mapping[str, Any],
                 params: collections.abc.Mapping[str, Param] | None = None,
                 choices: collections.abc.Mapping[str, tuple[str, ...]] | None = None,
                 roles: tuple[Mark, ...] = (),
                 ) -> None:  # fmt: skip
        super().__init__(name, defaults, params, choices)
        self.cls: Any = cls
        self.roles = roles

    def is_conf(self, found: Any) -> bool:
        return isinstance(found, self.cls)

    def install(self, agent: Agent) -> None:
        cls = self.cls
        init, getitem, setitem = cls.__init__, cls.__getitem__, cls.__setitem__

        def created(self: Any, *args: Any, **kwargs: Any) -> None:
            init(self, *args, **kwargs)
            agent.objects.created(self, agent.owner())

        def original(self: Any, name: Any) -> Any:
            return agent.objects.written_back(self, name, getitem(self, name))

        def read(self: Any, name: Any) -> Any:
            return agent.read(agent.reader(self), name, original, self, name)

        def get(self: Any, name: Any, default: Any = None) -> Any:
            try:
                return agent.read(agent.reader(self), name, original, self, name)
            except KeyError:
                return default

        def wrote(self: Any, name: Any, value: Any) -> None:
            setitem(self, name, value)
            agent.objects.wrote(self, name, value, agent.owner())

        def items(self: Any) -> Any:
            return ItemsView(self)

        def values(self: Any) -> Any:
            return ValuesView(self)

        for name, function in (("__init__", created), ("__getitem__", read), ("get", get), ("items", items),
                               ("values", values), ("__setitem__", wrote)):  # fmt: skip
            agent.patches.set(cls, name, function)
        watch_copies(agent, cls)
        for mark in self.roles:
            agent.mark(mark)


def watch_copies(agent: Agent, cls: Any) -> None:
    """Let copies of a class' objects belong to whom the originals belong: by the module `copy` and by their methods."""

    def watched(method: Any) -> Any:
        def copied(self: Any, *args: Any) -> Any:
            with agent.copying():
                made = method(self, *args)
            if type(made) is type(self):  # dict.copy makes a plain dict
                agent.objects.copied(self, made, agent.owner())
            return made

        return copied

    for name, usual in (("__copy__", _copy), ("__deepcopy__", _copy), ("copy", None)):
        if method := getattr(cls, name, usual):
            agent.patches.set(cls, name, watched(method))


def _copy(self: Any, memo: Any = None) -> Any:
    """What `copy` does with an object that has no method of its own for it."""
    parts = list(self.__reduce_ex__(4))
    if isinstance(self, dict):
        parts[4] = iter(dict.items(self))  # as they are, not as somebody reads them
    return copy._reconstruct(self, memo, *parts)  # type: ignore[attr-defined]
