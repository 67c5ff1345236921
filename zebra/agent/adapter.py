"""The contract of an adapter: how zebra gets between a program and one configuration system.

An adapter is found by the name of its entry point in the group `zebra.agents`, which names a module with `ADAPTER`, or
as `module:ATTRIBUTE`. `docs/agent.md` shows how to write one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol

from zebra.errors import ConfigError, PluginError
from zebra.params import Space
from zebra.params.parameter import Parameter, Value
from zebra.registry import load, members
from zebra.target import Target, find_target

if TYPE_CHECKING:
    from zebra.agent.agent import Agent


class Adapter(Protocol):
    """A configuration system. Subclass it for the defaults of the last three, or write all six members."""

    name: str
    """Of the adapter and of the target that a campaign reports on."""

    def space(self) -> Space:
        """All parameters. `name.x` is read by the program as `x`, unless the adapter maps names otherwise."""
        ...

    def install(self, agent: Agent) -> None:
        """Intercept: `agent.patches.set(owner, name, function)`, functions that ask `agent.read(...)`; mark the classes
        that are nodes with `agent.mark(...)`, where the program does not do so itself with `zebra.agent.node`."""
        ...

    def native(self, parameter: Parameter, value: Value) -> Any:
        """A value as the program reads it."""
        return value

    def value(self, parameter: Parameter, native: Any) -> Value:
        """The reverse, for what was read; raises ConfigError for what is no value of the parameter."""
        return parameter.parse(native)

    def environment(self, values: Mapping[str, Any]) -> dict[str, str]:
        """What processes that a node starts get in their environment; `values` are its native ones, by short name."""
        return {}


@dataclass(frozen=True, slots=True)
class Mark:
    """A class whose instances are nodes of a role; `methods` run as that node too, whoever calls them.

    `cls` may be text, `module:Class`, which is imported once the agent is on: then it sees what is read at that import.
    With `inner` an instance that a node makes begins a node of its own, else it belongs to the node that made it.
    With `goes_on` the test that made an instance goes on as it: it is the program in which the node lives, as
    applications are for a client. Instances have a `__dict__`.
    """

    cls: type | str
    role: str
    methods: tuple[str, ...] = ()
    inner: bool = True
    goes_on: bool = False


def find_adapter(name: str) -> Adapter:
    """The adapter of a name, or `module:ATTRIBUTE`. Raises ConfigError and, if it is broken, PluginError."""
    found: Any = named(name) if ":" in name else getattr(load("agents", name), "ADAPTER", None)
    missing = [member for member in ("name", "space", "install") if not hasattr(found, member)]
    if missing:
        raise PluginError(f"agent {name!r} is not a zebra.agent.Adapter, it has no {', '.join(missing)}", name)
    return found  # type: ignore[no-any-return]


def named(name: str) -> Any:
    """What `module:ATTRIBUTE` names, None if the module has no such thing. Raises ConfigError."""
    module, _, attribute = name.partition(":")
    try:
        return getattr(import_module(module), attribute, None)
    except ImportError as error:
        raise ConfigError(f"{name!r}: cannot import {module} ({error})") from None


def target_of(name: str, adapter: Adapter) -> Target:
    """What a campaign with this agent decides: the installed target that names the agent, or one made of its space.

    Its topology is not known beforehand: the nodes are those that read something in the pre-run.
    """
    if name in members("targets"):
        target = find_target(name)
        if target.agent == name:
            return target
    return Target(name=adapter.name, config=adapter.space().config, roles={}, agent=name)
