"""The structure of a running system as its events tell it: who hangs on whom. Reports draw it at a violation.

A target says how in `Target(structure=…)`: a factory of objects that see every event of a stored history in order, and
list the links that exist after the last one they saw. `Links` serves where one kind of event adds a link and another
removes it: `partial(Links, "tree.add", "tree.del", group="shard", epoch="epoch")`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from zebra.events import Event
from zebra.invariant import NODE_GONE


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """`child` gets from `parent` what `group` names (a chunk, a shard); `stale` if it may no longer count."""

    group: str
    parent: str
    child: str
    name: str = ""
    stale: bool = False


class Structure(Protocol):
    """One instance follows one run."""

    def see(self, event: Event) -> None: ...

    def links(self) -> Iterable[Link]: ...


class Links:
    """The links that events of the kinds `add` made and none of the kinds `remove` has unmade since.

    `group`, `parent`, `child` name the fields that both hold. `key` names a field that identifies a link; without it
    its group and ends do. A link is stale once the node that emitted it is down, and, where `epoch` names a field, once
    that node added one of the group with a greater epoch.
    """

    def __init__(self, add: str | tuple[str, ...], remove: str | tuple[str, ...], *, group: str,
                 parent: str = "parent", child: str = "child", key: str = "", epoch: str = "") -> None:  # fmt: skip
        self.add = (add,) if isinstance(add, str) else add
        self.remove = (remove,) if isinstance(remove, str) else remove
        self.group, self.parent, self.child, self.key, self.epoch = group, parent, child, key, epoch
        self._open: dict[Any, Event] = {}
        self._newest: dict[tuple[str, Any], Any] = {}
        self._orphans: set[Any] = set()

    def see(self, event: Event) -> None:
        if event.kind in self.add:
            self._open[self._key(event)] = event
            self._orphans.discard(self._key(event))
            if self.epoch:
                of = event.node, event[self.group]
                self._newest[of] = max(event[self.epoch], self._newest.get(of, event[self.epoch]))
        elif event.kind in self.remove:
            self._open.pop(self._key(event), None)
        elif event.kind in NODE_GONE:
            self._orphans.update(key for key, made in self._open.items() if made.node == event.node)

    def links(self) -> Iterator[Link]:
        for key, event in self._open.items():
            group, stale = event[self.group], key in self._orphans
            if self.epoch:
                stale = stale or event[self.epoch] < self._newest[event.node, group]
            name = f"{self.epoch} {event[self.epoch]}" if self.epoch else str(event[self.key]) if self.key else ""
            yield Link(
                group=str(group), parent=str(event[self.parent]), child=str(event[self.child]), name=name, stale=stale
            )

    def _key(self, event: Event) -> Any:
        return event[self.key] if self.key else (event[self.group], event[self.parent], event[self.child])
