"""The in-process agent: which node of a program is reading its configuration. See docs/agent.md.

A program that wants to say itself where its nodes begin needs this and nothing more:

    from zebra import agent

    with agent.node("worker") as me:
        server = Worker(me.receive(settings))
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from zebra.agent.context import node as node

if TYPE_CHECKING:
    from zebra.agent.adapter import Adapter as Adapter
    from zebra.agent.adapter import Mark as Mark
    from zebra.agent.agent import Agent as Agent
    from zebra.agent.joining import join as join

_WHERE = {"Adapter": "adapter", "Mark": "adapter", "Agent": "agent", "join": "joining"}


def __getattr__(name: str) -> Any:
    """The other names are imported on first use: a mark in a program costs no import of the engine."""
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_WHERE[name]}"), name)
