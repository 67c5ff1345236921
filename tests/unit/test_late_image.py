"""An image that a dead session had asked for, of an engine that is at work on it still: it is waited for."""

from __future__ import annotations

import json
import socketserver
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from zebra.substrate.docker.engine import LABEL_SESSION
from zebra.substrate.docker.reap import LATE, reap

IMPORT_S = 0.02


class Engine(socketserver.ThreadingUnixStreamServer):
    """Plays the engine's images: an import takes `IMPORT_S`; the dead session's is done `late` times as long after it
    began to be looked for, or never (0)."""

    daemon_threads = True

    def __init__(self, path: Path, late: float) -> None:
        super().__init__(str(path), Handler)
        self.images: set[str] = set()
        if late:
            timer = threading.Timer(late * IMPORT_S, self.images.add, ["first"])
            timer.daemon = True
            timer.start()


class Handler(BaseHTTPRequestHandler):
    server: Engine
    protocol_version = "HTTP/1.1"

    def address_string(self) -> str:
        return "a unix socket"

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self.answer([{"Id": each} for each in sorted(self.server.images)])

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        time.sleep(IMPORT_S)
        self.server.images.add("second")
        self.answer([])

    def do_DELETE(self) -> None:
        self.server.images.discard(unquote(urlsplit(self.path).path).rpartition("/")[2])
        self.answer([])

    def answer(self, said: object) -> None:
        data = json.dumps(said).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@pytest.fixture(params=[0.5, 3.0, LATE / 2, 0.0], ids=lambda late: f"{late:g} imports later" if late else "never")
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    with Engine(tmp_path / "engine", request.param) as engine:
        thread = threading.Thread(target=engine.serve_forever, args=(0.01,))
        thread.start()
        yield engine
        engine.shutdown()
        thread.join()


def test_an_import_that_ends_after_one_begun_later_leaves_no_image(engine: Engine, tmp_path: Path) -> None:
    labels = {LABEL_SESSION: "zebra-1-0123abcd"}
    entry = {"kind": "image", "name": "zebra:x", "engine": str(tmp_path / "engine"), "labels": labels}
    assert reap([entry])
    time.sleep(LATE * IMPORT_S)  # by then it would be there
    assert engine.images == set()
