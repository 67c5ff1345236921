"""A node's disk as real files, and what a loss of power would leave of it.

A killed process loses nothing that it wrote, so nothing is really synced. `files` holds what was written, `synced` a
hard link to each file as of its last sync, named after the file and its length then; only a crash under
`disk.lose_unsynced` makes use of it.
"""

from __future__ import annotations

import asyncio
import errno
import os
from math import inf
from pathlib import Path
from random import Random
from urllib.parse import quote, unquote

from zebra.blob import Blob
from zebra.substrate.inside import DiskEffects
from zebra.substrate.process.board import Imposed


class Files:
    """The directory of one node's disk."""

    def __init__(self, directory: Path) -> None:
        self._files, self._synced = directory / "files", directory / "synced"
        for folder in (self._files, self._synced):
            folder.mkdir(parents=True, exist_ok=True)

    def path(self, name: str) -> Path:
        return self._files / quote(name, safe="@+#=,")

    def names(self) -> list[str]:
        return sorted(unquote(path.name) for path in self._files.iterdir() if not path.name.endswith("%"))

    def used_bytes(self, but: str = "") -> int:
        return sum(path.stat().st_size for path in self._files.iterdir() if path != self.path(but))

    def write(self, name: str, data: bytes) -> None:
        """Replace a file's content; who reads meanwhile sees the old or the new one."""
        new = self._files / "new%"
        new.write_bytes(data)
        new.replace(self.path(name))

    def append(self, name: str, data: bytes) -> None:
        with open(self.path(name), "ab") as file:
            file.write(data)

    def sync(self, name: str) -> None:
        path = self.path(name)
        length = path.stat().st_size
        old = self._marks(path.name)
        mark = self._synced / f"{path.name}%{length}"
        new = self._synced / "%new"
        new.unlink(missing_ok=True)
        os.link(path, new)
        os.replace(new, mark)  # of two links to one file this does nothing, and leaves both
        new.unlink(missing_ok=True)
        for each in old:
            if each != mark:
                each.unlink()

    def remove(self, name: str) -> None:
        path = self.path(name)
        path.unlink(missing_ok=True)
        for mark in self._marks(path.name):
            mark.unlink()

    def lose_unsynced(self, torn: float, random: Random) -> int:
        """Go back to what was synced; of a share `torn` of the files a part of the lost write stays. How many lost."""
        lost = 0
        paths = {path.name: path for path in sorted(self._files.iterdir())}
        for name, path in paths.items():
            marks = self._marks(name)
            synced = marks[-1] if marks else None
            length = int(synced.name.rpartition("%")[2]) if synced else 0
            same = synced is not None and synced.samefile(path)
            if same and path.stat().st_size == length:
                continue
            lost += 1
            content = path.read_bytes()
            if random.random() < torn:
                path.write_bytes(content[: random.randint(length if same else 0, len(content))])
            elif synced is None:
                path.unlink()
            else:
                durable = synced.read_bytes()[:length]
                path.unlink()
                path.write_bytes(durable)
            if path.exists():
                self.sync(unquote(name))
        return lost

    def _marks(self, name: str) -> list[Path]:
        """The links that syncs of a file made, the latest last: more than one if a crash came between."""
        found = [path for path in self._synced.iterdir() if path.name.rpartition("%")[0] == name]
        return sorted(found, key=lambda path: path.stat().st_ctime_ns)


class ProcessDisk:
    """`zebra.node.Disk` on real files, under the effects on the board."""

    def __init__(self, directory: Path, imposed: Imposed, seed: int) -> None:
        self._all = Files(directory)
        self._random = Random(f"{seed}/{directory.parent.name}/disk")
        self._effects = DiskEffects(imposed.disks, lambda: self._random)
        self._free_s = 0.0

    async def write(self, name: str, data: Blob | bytes) -> None:
        """Replace a file's content. Raises OSError: ENOSPC when the disk is full, EROFS, EIO."""
        content = bytes(data)
        await self._spend(len(content))
        self._check(name, len(content))
        self._all.write(name, content)

    async def append(self, name: str, data: Blob | bytes) -> None:
        """Add to the end of a file, made if it is not there. Raises OSError as `write` does."""
        content = bytes(data)
        await self._spend(len(content))
        path = self._all.path(name)
        self._check(name, len(content) + (path.stat().st_size if path.exists() else 0))
        self._all.append(name, content)

    async def read(self, name: str) -> Blob:
        """A file's content. Raises FileNotFoundError, or OSError(EIO)."""
        try:
            content = self._all.path(name).read_bytes()
        except FileNotFoundError:
            raise FileNotFoundError(errno.ENOENT, "no such file", name) from None
        await self._spend(len(content))
        self._effects.check("read_error", name)
        return self._effects.read(Blob.of(content))

    async def sync(self, name: str) -> None:
        """Make a file's content survive the loss of the cache. Raises FileNotFoundError, or OSError(EIO)."""
        if not self._all.path(name).exists():
            raise FileNotFoundError(errno.ENOENT, "no such file", name)
        self._effects.check("write_error", name)
        self._all.sync(name)
        await self._spend(0)

    async def remove(self, name: str) -> None:
        """Delete a file, for good at once; one that is not there is no error. Raises OSError: EROFS, EIO."""
        await self._spend(0)
        self._effects.check_change(name)
        self._all.remove(name)

    def names(self) -> list[str]:
        """The files there are, sorted."""
        return self._all.names()

    def _check(self, name: str, size: int) -> None:
        self._effects.check_change(name)
        self._effects.check_room(name, lambda: self._all.used_bytes(but=name) + size)

    async def _spend(self, size: int) -> None:
        """Take the time that a slow disk needs."""
        rate = self._effects.rate(inf)
        if rate < inf:
            now = asyncio.get_running_loop().time()
            self._free_s = max(self._free_s, now) + size / rate
            await asyncio.sleep(self._free_s - now)
