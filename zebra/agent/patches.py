"""Replacing attributes of other people's modules and classes, and putting back what was there."""

from __future__ import annotations

from typing import Any

_ABSENT = object()


class Patches:
    """What has been replaced; `undo` puts everything back, the last first."""

    def __init__(self) -> None:
        self._done: list[tuple[Any, str, Any]] = []

    def set(self, owner: Any, name: str, value: Any) -> None:
        """Replace an attribute of a module or class; one that it only inherited is deleted again by `undo`."""
        self._done.append((owner, name, vars(owner).get(name, _ABSENT)))
        setattr(owner, name, value)

    def undo(self) -> None:
        while self._done:
            owner, name, value = self._done.pop()
            if value is _ABSENT:
                delattr(owner, name)
            else:
                setattr(owner, name, value)

    def __len__(self) -> int:
        return len(self._done)
