"""`configparser`: parameters are options, called `section.option`.

    ADAPTER = ConfigParser("app", {"server.timeout_s": 5.0}, roles=(Mark(Server, "server"),))

A parser belongs to the node that made it or was given it. What `get` and everything built on it return (`getint`,
`parser["section"]["option"]`, `items`) is intercepted.
"""

from __future__ import annotations

import configparser
import sys
from collections.abc import Mapping
from typing import Any

from zebra.agent.adapter import Mark
from zebra.agent.adapters.environ import MAPPING_GET, text_of
from zebra.agent.adapters.mapping import watch_copies
from zebra.agent.agent import Agent
from zebra.agent.defaults import Defaults
from zebra.params import Param
from zebra.params.parameter import Parameter, Value


class ConfigParser(Defaults):
    """Some options of parsers."""

    inside = (configparser.__file__, MAPPING_GET)

    def __init__(
        self,
        name: str,
        defaults: Mapping[str, Any],
        params: Mapping[str, Param] | None = None,
        choices: Mapping[str, tuple[str, ...]] | None = None,
        roles: tuple[Mark, ...] = (),
    ) -> None:
        super().__init__(name, defaults, params, choices)
        self.roles = roles

    def is_conf(self, found: Any) -> bool:
        return isinstance(found, configparser.RawConfigParser)

    def install(self, agent: Agent) -> None:
        cls = configparser.RawConfigParser
        init, get, items, write, known = cls.__init__, cls.get, cls.items, cls.set, self.defaults

        def created(self: Any, *args: Any, **kwargs: Any) -> None:
            init(self, *args, **kwargs)
            agent.objects.created(self, agent.owner())

        def original(self: Any, section: str, option: str, name: str, kwargs: dict[str, Any]) -> Any:
            return agent.objects.written_back(self, name, get(self, section, option, **kwargs))

        def read(self: Any, section: str, option: str, **kwargs: Any) -> Any:
            if kwargs and kwargs.get("raw") and sys._getframe(1).f_code.co_name == "_interpolate_some":
                return get(self, section, option, **kwargs)  # interpolation, on behalf of a read that is under way
            name = f"{section}.{option}"
            if name not in known:
                name = f"{section}.{self.optionxform(option)}"
            if kwargs or agent.objects.any_copies:
                return agent.read(agent.reader(self), name, original, self, section, option, name, kwargs)
            return agent.read(agent.reader(self), name, get, self, section, option)

        def read_all(self: Any, *args: Any, **kwargs: Any) -> Any:
            section = args[0] if args else kwargs.get("section")
            if not isinstance(section, str):
                return items(self, *args, **kwargs)
            return [(option, read(self, section, option)) for option, _ in items(self, *args, **kwargs)]

        def wrote(self: Any, section: str, option: str, value: Any = None) -> None:
            write(self, section, option, value)
            agent.objects.wrote(self, f"{section}.{self.optionxform(option)}", value, agent.owner())

        for name, function in (("__init__", created), ("get", read), ("items", read_all), ("set", wrote)):
            agent.patches.set(cls, name, function)
        watch_copies(agent, cls)
        for mark in self.roles:
            agent.mark(mark)

    def native(self, parameter: Parameter, value: Value) -> str:
        return text_of(value)
