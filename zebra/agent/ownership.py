"""Whose a configuration object is. Source: ConfAgent's rules, ../shared/research/zebraconf.md section 1.3 and 1.4.

1. Created by a node: the node's. Created by the test: *external*. Created where nobody knows who runs: *uncertain*.
2. Copied: whose the original is.
3. Handed to a node: the node gets a copy of its own, the original is external; a node's own object stays as it is.
4. What is external makes its uncertain copies and originals external too.
5. The original follows its copies: who reads it reads what a node has last written to its copy.

Reads go by the object's owner; an object that is no node's is read by the node that runs, if one does. Objects are told
apart by identity, and not kept alive where Python can watch them.
"""

from __future__ import annotations

import weakref
from itertools import count
from typing import Any

from zebra.agent.context import Owner


class _Object:
    """What is known of one configuration object."""

    __slots__ = ("copies", "kept", "original", "owner", "written")

    def __init__(self, owner: Owner, kept: Any) -> None:
        self.owner, self.kept = owner, kept
        self.original: _Object | None = None
        self.copies: list[_Object] = []
        self.written: dict[str, tuple[int, Any]] = {}


class Ownership:
    """Owners of configuration objects in one run."""

    def __init__(self, external: Owner, uncertain: Owner) -> None:
        self.external, self.uncertain = external, uncertain
        self._objects: dict[int, _Object] = {}
        self._writes = count()
        self.any_copies = False
        """Whether any object has copies; if none has, every object shows its own values."""

    def created(self, conf: Any, by: Owner) -> None:
        """Rule 1."""
        self._known(conf, by)

    def copied(self, original: Any, copy: Any, by: Owner) -> None:
        """Rule 2."""
        parent = self._known(original, by)
        child = self._known(copy, parent.owner)
        self._link(parent, child, parent.owner)
        child.written.clear()  # what copying has set is no write

    def handed(self, original: Any, copy: Any, node: Owner) -> None:
        """Rule 3: `copy` is what the node will use instead."""
        parent, child = self._known(original, self.external), self._known(copy, node)
        self._link(parent, child, node)
        child.owner = node
        if not parent.owner.is_node:
            self._make_external(parent)

    def owner(self, conf: Any) -> Owner:
        """Whose an object is; one that was never heard of is uncertain, until somebody writes to it or copies it."""
        found = self._objects.get(id(conf))
        return self.uncertain if found is None else found.owner

    def reader(self, conf: Any, by: Owner) -> Owner:
        """Who counts as the reader of an object when `by` reads it."""
        found = self._objects.get(id(conf))
        if found is None or (by.role and not found.owner.role):
            return by
        return by if found.owner is self.external else found.owner

    def wrote(self, conf: Any, name: str, value: Any, by: Owner) -> None:
        """Remember the last write of a parameter, for rule 5."""
        self._known(conf, by).written[name] = next(self._writes), value

    def written_back(self, conf: Any, name: str, value: Any) -> Any:
        """What an object that is not a node's shows: its own value, or what was written to a copy since. Rule 5."""
        found = self._objects.get(id(conf))
        if found is None or not found.copies or found.owner.role:
            return value
        latest = found.written.get(name, (-1, value))
        pending = list(found.copies)
        while pending:
            copy = pending.pop()
            latest = max(latest, copy.written.get(name, latest), key=lambda write: write[0])
            pending += copy.copies
        return value if latest[0] < 0 else latest[1]

    def _known(self, conf: Any, owner: Owner) -> _Object:
        key = id(conf)
        if key not in self._objects:
            kept: Any = conf
            try:
                kept = weakref.ref(conf, lambda _: self._objects.pop(key, None))
            except TypeError:
                pass  # an object with slots: kept alive for the run, so that its identity is not taken over
            self._objects[key] = _Object(owner, kept)
        return self._objects[key]

    def _link(self, parent: _Object, child: _Object, owner: Owner) -> None:
        if child.original is None and child is not parent:
            child.original, child.owner = parent, owner
            parent.copies.append(child)
            self.any_copies = True

    def _make_external(self, first: _Object) -> None:
        """Rule 4."""
        pending = [first]
        while pending:
            found = pending.pop()
            found.owner = self.external
            near = [*found.copies, *([] if found.original is None else [found.original])]
            pending += [other for other in near if other.owner is self.uncertain]
