"""What the apps of a host can read: for each path one version, shown once it is ready.

The paths of one transaction are shown together. A version that is not shown yet gives way to a newer one, together
with what was to be shown with it. Source: ../shared/targets/lad.md section 2, races 4 and 5.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from zebra.node import Node
from zebra.targets.lad.config import LadConfig
from zebra.targets.lad.content import Contents, Holding
from zebra.targets.lad.gates import visible
from zebra.targets.lad.store_messages import Entry, Version


@dataclass(slots=True)
class Group:
    """Versions that are shown together. `batch` is the zxid of the newest transaction among them."""

    targets: dict[str, Version]
    waiting: set[str]
    batch: int


class Shelf:
    """The versions that apps may read. `show` is called with the paths of a group, all at once."""

    def __init__(self, node: Node[object], contents: Contents, show: Callable[[list[str]], None]) -> None:
        self.node, self.contents, self._show = node, contents, show
        self.config: LadConfig = node.config.lad  # type: ignore[attr-defined]
        self.interest: dict[str, None] = {}
        self.shown: dict[str, Version] = {}
        self.batch: dict[str, int] = {}
        self.groups: dict[str, Group] = {}

    def consider(self, entries: Iterable[Entry]) -> None:
        """Entries are news, or their paths have become interesting: get what this host may see of them."""
        targets = {entry.path: (entry, version) for entry in entries if (version := self._target(entry)) is not None}
        together = any(entry.batch > 1 for entry, _ in targets.values()) and not self.node.variant("bug.split_batch")
        if together:
            self._begin(
                {path: version for path, (_, version) in targets.items()}, max(e.zxid for e, _ in targets.values())
            )
            return
        for path, (entry, version) in targets.items():
            self._begin({path: version}, entry.zxid)

    def _target(self, entry: Entry) -> Version | None:
        """The version of a path to get and show; None when there is nothing to do."""
        if entry.path not in self.interest and not self.node.variant("bug.fetch_all"):
            return None
        seen = visible(entry, self.node.place.host, self.config.selector.seed)
        if self.node.variant("bug.open_gate"):
            seen = entry.latest
        shown, group = self.shown.get(entry.path), self.groups.get(entry.path)
        newest = group.targets[entry.path] if group is not None else shown
        if seen is None or (newest is not None and seen.version <= newest.version):
            return None
        if entry.gate is not None and seen.version == entry.version:
            self.node.emit("stage.see", host=self.node.place.host, path=entry.path, version=seen.version,
                           zxid=entry.zxid)  # fmt: skip
        if seen.size > self.config.value.max_bytes:
            self.node.emit("content.refused", path=entry.path, version=seen.version, size=seen.size)
            return None
        return seen

    def _begin(self, targets: dict[str, Version], batch: int) -> None:
        group = Group(dict(targets), set(), batch)
        for path in targets:
            older = self.groups.get(path)
            if older is None:
                continue
            for one, version in older.targets.items():
                if one not in targets:
                    group.targets[one] = version
                self.groups.pop(one, None)
            self._cancel(path, older.targets[path])
        for path, version in group.targets.items():
            self.groups[path] = group
            if not version.deleted:
                holding = self.contents.begin(path, version)
                if not holding.ready:
                    group.waiting.add(path)
                    if self.node.variant("bug.notify_early"):
                        self.shown[path] = version
                        self._show([path])
                    if self.node.variant("bug.drop_early"):
                        self.shown.pop(path, None)
        self._finish(group)

    def _cancel(self, path: str, version: Version) -> None:
        """Nobody here wants a version any more: stop getting it, unless others may still ask for it."""
        holding = self.contents.find(path, version.version)
        if holding is not None and not holding.ready and self.contents.known(path, version.version) is None:
            self.contents.drop(holding, "overtaken")

    def ready(self, holding: Holding) -> None:
        """A version has become ready."""
        group = self.groups.get(holding.path)
        if group is not None and group.targets[holding.path].version == holding.version.version:
            group.waiting.discard(holding.path)
            self._finish(group)

    def _finish(self, group: Group) -> None:
        if group.waiting:
            return
        for path, version in group.targets.items():
            self.groups.pop(path, None)
            self.shown[path], self.batch[path] = version, group.batch
            self.tidy(path)
        self._show(list(group.targets))

    def tidy(self, path: str) -> None:
        """Drop the versions of a path that neither apps nor children need."""
        entry, shown = self.contents.entries(path), self.shown.get(path)
        keep = {one.version for one in (shown, entry and entry.latest, entry and entry.base) if one is not None}
        group = self.groups.get(path)
        if group is not None:
            keep.add(group.targets[path].version)
        for holding in list(self.contents.outdated(path, keep, self.config.retain.versions)):
            self.contents.drop(holding, "outdated")
