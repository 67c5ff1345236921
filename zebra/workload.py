"""Operations of clients, with an outcome that is ok, fail or unknown."""

from __future__ import annotations

import itertools
from types import TracebackType
from typing import TYPE_CHECKING, Any

from zebra.errors import Failed

if TYPE_CHECKING:
    from zebra.node import Node


class Op:
    """One operation: `op.invoke`, then `op.ok` (left normally), `op.fail` (Failed raised) or `op.unknown` (all else).

    `client` in the events is the logical client; after an unknown outcome it gets a new number, since the old one may
    still be at work. `op.note(**fields)` adds fields, such as what was read, to the closing event.
    """

    def __init__(self, node: Node[Any], kind: str, fields: dict[str, Any]) -> None:
        self._node, self._kind, self._fields = node, kind, fields
        self._notes: dict[str, Any] = {}

    def note(self, **fields: Any) -> None:
        """Add fields to the event that closes the operation."""
        self._notes |= fields

    async def __aenter__(self) -> Op:
        state = _logical(self._node)
        self._id, self._client = next(state.ids), f"{self._node.name}/{state.number}"
        self._node.emit("op.invoke", op=self._id, client=self._client, f=self._kind, **self._fields)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        outcome = "op.ok" if kind is None else "op.fail" if issubclass(kind, Failed) else "op.unknown"
        if outcome == "op.unknown":
            _logical(self._node).number += 1
        why = {} if error is None else {"why": f"{type(error).__name__}: {error}"}
        self._node.emit(outcome, op=self._id, client=self._client, f=self._kind, **self._notes, **why)


class _Logical:
    def __init__(self, first: int) -> None:
        self.ids, self.number = itertools.count(1), first


def _logical(node: Node[Any]) -> _Logical:
    state: _Logical | None = getattr(node, "_logical_client", None)
    if state is None:
        state = _Logical(node.incarnation * 1000)
        node._logical_client = state  # type: ignore[attr-defined]
    return state
