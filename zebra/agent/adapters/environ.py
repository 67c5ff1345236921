"""`os.environ`: parameters are environment variables.

    ADAPTER = Environ("app", {"APP_TIMEOUT_S": 5.0, "APP_MODE": "fast"}, choices={"APP_MODE": ("fast", "safe")})

The defaults say which variables are parameters, and their types; the program reads text. Programs that nodes start get
their node's values. Reads by C code (`getenv`) are not seen.
"""

from __future__ import annotations

import collections.abc
import os
from collections.abc import Mapping
from typing import Any

from zebra.agent.adapter import Mark
from zebra.agent.agent import Agent
from zebra.agent.defaults import Defaults
from zebra.params import Param
from zebra.params.parameter import Parameter, Value

MAPPING_GET = collections.abc.Mapping.__dict__["get"].__code__.co_filename
"""The file of `Mapping.get`, through which many reads go."""


class Environ(Defaults):
    """Some variables of the environment."""

    inside = (os.__file__, os.getenv.__code__.co_filename, MAPPING_GET)

    def __init__(self, name: str, defaults: Mapping[str, Any], params: Mapping[str, Param] | None = None,
                 choices: Mapping[str, tuple[str, ...]] | None = None, roles: tuple[Mark, ...] = (),
                 ) -> None:  # fmt: skip
        super().__init__(name, defaults, params, choices)
        self.roles = roles

    def install(self, agent: Agent) -> None:
        kind, original = type(os.environ), type(os.environ).__getitem__

        def getitem(self: Any, name: Any) -> Any:
            if self is not os.environ:  # os.environb
                return original(self, name)
            return agent.read(agent.owner(), name, original, self, name)

        agent.patches.set(kind, "__getitem__", getitem)
        for mark in self.roles:
            agent.mark(mark)

    def native(self, parameter: Parameter, value: Value) -> str:
        return text_of(value)

    def environment(self, values: Mapping[str, Any]) -> dict[str, str]:
        return dict(values)


def text_of(value: Value) -> str:
    """A value as text: true, 5, fast."""
    return str(value).lower() if isinstance(value, bool) else str(value)
