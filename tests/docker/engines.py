"""What tests of the substrate docker share: a raw engine, and things in it that bear labels."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from zebra.substrate.docker.engine import EngineSocket, socket_path
from zebra.substrate.docker.filesystem import empty_layer
from zebra.substrate.docker.substrate import SUBSTRATE

needs_engine = pytest.mark.skipif(bool(SUBSTRATE.unavailable()), reason=f"docker: {SUBSTRATE.unavailable()}")


def ask(method: str, path: str, body: Any = None) -> tuple[int, Any]:
    """One request to the engine."""
    engine = EngineSocket(socket_path())
    try:
        return engine.ask(method, path, b"" if body is None else json.dumps(body).encode())
    finally:
        engine.close()


@contextmanager
def empty_image(name: str, label: str = "") -> Iterator[str]:
    """An image with nothing in it, removed afterwards."""
    engine = EngineSocket(socket_path())
    repository, _, tag = name.partition(":")
    change = f"&changes=LABEL%20{label.replace('=', '%3D')}" if label else ""
    status, answer = engine.ask(
        "POST", f"/images/create?fromSrc=-&repo={repository}&tag={tag}{change}", empty_layer(), "application/x-tar"
    )
    assert status == 200, answer
    engine.close()
    try:
        yield name
    finally:
        ask("DELETE", f"/images/{name}?force=true")
