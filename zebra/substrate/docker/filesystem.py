"""What the containers of nodes hold: an image of the user's, or none at all.

Without one the image is empty, and this machine's own Python, the project and what they need are mounted read-only, at
the places where they are here: so no registry is needed, and a node imports what the session imports.
"""

from __future__ import annotations

import io
import os
import sys
import tarfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SYSTEM = ("/usr", "/etc/ld.so.cache", "/etc/alternatives", "/etc/passwd", "/etc/group", "/etc/localtime", "/etc/ssl")
"""Where programs and their libraries are, and the few files that they look at."""

LINKED = ("/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
"""Directories, or links into /usr on most systems."""

NEVER = ("/", "/dev", "/etc", "/proc", "/run", "/sys", "/tmp", "/var")
"""Not mounted, even if code lies right there: a container has its own."""


@dataclass(frozen=True, kw_only=True)
class Filesystem:
    """What a node's container starts from: `python` is its interpreter, `paths` its PYTHONPATH.

    `shared` are files and directories of this machine that it sees, read-only, at the same places.
    """

    image: str
    python: str
    paths: tuple[str, ...] = ()
    shared: tuple[str, ...] = ()


def of_image(image: str) -> Filesystem:
    """An image that has Python, zebra and the roles' code itself. Nothing is mounted but the run's own directory."""
    return Filesystem(image=image, python="python3")


def of_host(image: str, roles: Iterable[Any]) -> Filesystem:
    """This machine's Python over an image that `empty_layer` made, for all that the session can import."""
    paths = [os.path.abspath(path) for path in sys.path]  # an empty one is the working directory
    paths += [root for role in roles if (root := source_root(role)) and root not in paths]
    linked = [path for path in LINKED if os.path.isdir(path) and not os.path.islink(path)]
    wanted = [*SYSTEM, *linked, sys.prefix, sys.base_prefix, *paths]
    shared = outermost(path for path in wanted if os.path.exists(path) and path not in NEVER)
    return Filesystem(image=image, python=sys.executable, paths=tuple(paths), shared=tuple(shared))


def empty_layer() -> bytes:
    """A tar archive of nothing but this machine's links into /usr."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for path in filter(os.path.islink, LINKED):
            link = tarfile.TarInfo(path[1:])
            link.type, link.linkname = tarfile.SYMTYPE, os.readlink(path)
            tar.addfile(link)
    return archive.getvalue()


def source_root(role: Any) -> str:
    """The directory from which a role's module is imported by its name; "" if its file lies elsewhere."""
    module = sys.modules.get(getattr(role, "__module__", ""))
    file, parts = getattr(module, "__file__", None), getattr(role, "__module__", "").split(".")
    if file is None:
        return ""
    path = Path(os.path.abspath(file)).with_suffix("")
    path = path.parent if path.name == "__init__" else path
    return str(path.parents[len(parts) - 1]) if path.parts[-len(parts) :] == tuple(parts) else ""


def outermost(paths: Iterable[str]) -> list[str]:
    """Those of some absolute paths that lie in no other one of them, sorted."""
    kept: list[str] = []
    for path in sorted({os.path.normpath(path) for path in paths}):
        if not any(Path(path).is_relative_to(other) for other in kept):
            kept.append(path)
    return kept
