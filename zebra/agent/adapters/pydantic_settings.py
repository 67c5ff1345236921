"""`pydantic-settings`: parameters are the fields of a `BaseSettings`, nested models included.

    ADAPTER = PydanticSettings("app", Settings, roles=(Mark(Server, "server"),))

As for dataclasses, of which this is a variation; pydantic sets fields past their class, so assignments are watched too.
"""

from __future__ import annotations

from typing import Any

import pydantic.main

from zebra.agent.adapters.dataclass import Dataclass
from zebra.agent.agent import Agent


class PydanticSettings(Dataclass):
    """The fields of one settings class and of the models nested in it."""

    inside = (pydantic.main.__file__,)

    def fields(self, found: Any) -> dict[str, Any] | None:
        if not isinstance(found, pydantic.BaseModel):
            return None
        return {name: getattr(found, name) for name in type(found).model_fields}

    def _watch_creation(self, agent: Agent, cls: Any) -> None:
        super()._watch_creation(agent, cls)
        assign, prefix = cls.__setattr__, self.classes[cls]

        def wrote(self: Any, name: str, value: Any) -> None:
            assign(self, name, value)
            if name in cls.model_fields:
                agent.objects.wrote(self, prefix + name, value, agent.owner())

        agent.patches.set(cls, "__setattr__", wrote)
