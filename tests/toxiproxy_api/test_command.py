"""`zebra toxiproxy` as a process: its options, its errors, its end."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

COMMAND = [sys.executable, "-m", "zebra.cli", "toxiproxy"]


@contextmanager
def running(*options: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    with subprocess.Popen([*COMMAND, *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            match = re.fullmatch(r"zebra toxiproxy listens at (\S+), seed (-?\d+)\n", line)
            assert match, line + (process.stderr.read() if process.stderr else "")
            yield process, f"http://{match[1]}"
        finally:
            process.kill()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 0)])
def test_a_signal_ends_it_and_no_socket_is_left(number: signal.Signals, code: int) -> None:
    with running("--port", "0", "--seed", "7") as (process, url), socket.create_server(("127.0.0.1", 0)) as upstream:
        body = {"name": "p", "listen": "127.0.0.1:0", "upstream": f"127.0.0.1:{upstream.getsockname()[1]}"}
        request = urllib.request.Request(f"{url}/proxies", data=json.dumps(body).encode(), method="POST")
        with urllib.request.urlopen(request) as response:
            host, _, port = json.loads(response.read())["listen"].rpartition(":")
        with socket.create_connection((host, int(port))) as client:
            behind, _ = upstream.accept()
            process.send_signal(number)
            assert process.wait(10) == code
            assert process.stderr is not None and process.stderr.read() == ""
            for end in (client, behind):
                end.settimeout(5)
                with pytest.raises(ConnectionResetError):
                    end.recv(1)
            behind.close()
        for where in ((host, int(port)), ("127.0.0.1", int(url.rpartition(":")[2]))):
            with socket.socket() as again:
                again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                again.bind(where)


def test_a_configuration_file_is_where_it_begins(tmp_path: Path) -> None:
    file = tmp_path / "proxies.json"
    file.write_text('[{"name": "p", "listen": "127.0.0.1:0", "upstream": "127.0.0.1:9"}]')
    with (
        running("--port", "0", "--config", str(file)) as (_, url),
        urllib.request.urlopen(f"{url}/proxies") as response,
    ):
        assert list(json.loads(response.read())) == ["p"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--port", "x"], "argument --port: 'x' is not a port from 0 to 65535"),
        (["--port", "65536"], "argument --port: '65536' is not a port from 0 to 65535"),
        (["--seed", "x"], "argument --seed: invalid int value: 'x'"),
        (["--host", "no.such.host.invalid"],
         "cannot listen at no.such.host.invalid:0: lookup no.such.host.invalid: no such host"),
        (["--port", "{taken}"], "cannot listen at localhost:{taken}: Address already in use"),
        (["--config", "{path}/none.json"], "{path}/none.json: No such file or directory"),
        (["--config", "{path}/bad.json"], "{path}/bad.json: missing required field: upstream at proxy 1"),
        (["--nope"], "unrecognized arguments: --nope"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_in_one_line(tmp_path: Path, options: list[str], message: str) -> None:
    (tmp_path / "bad.json").write_text('[{"name": "p"}]')
    with socket.create_server(("127.0.0.1", 0)) as taken:
        names = {"taken": str(taken.getsockname()[1]), "path": str(tmp_path)}
        filled = [option.format(**names) for option in options]
        port = [] if "--port" in options else ["--port", "0"]
        result = subprocess.run([*COMMAND, *port, *filled], capture_output=True, text=True, timeout=30, check=False)
    assert result.returncode == 2, result.stderr
    assert result.stderr.startswith("zebra: ") and len(result.stderr.splitlines()) == 1
    assert message.format(**names) in result.stderr
