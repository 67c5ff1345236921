"""Only the server's own user, and root, control it."""

from __future__ import annotations

import encodings.idna  # noqa: F401 (a fork that is nobody may not be able to read it any more)
import http.client
import os
import socket
from collections.abc import Callable
from typing import Any

import pytest

from zebra.faults.toxiproxy import owner

NOBODY, OTHER = 65534, 65533

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="it takes root to be two users")


def as_user(user: int, act: Callable[[], int]) -> int:
    """What a fork of this process returns that has become another user."""
    pid = os.fork()
    if not pid:
        code = 255
        try:
            os.setuid(user)
            code = act()
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@as_root
@pytest.mark.parametrize(("user", "status"), [(NOBODY, 403), (0, 200)])
def test_another_user_is_turned_away(user: int, status: int, api: Any) -> None:
    def ask() -> int:
        connection = http.client.HTTPConnection("127.0.0.1", api.port, timeout=10)
        connection.request("GET", "/proxies")
        answer = connection.getresponse()
        assert answer.status == 200 or b"another user runs this server" in answer.read()
        return answer.status - 200

    assert as_user(user, ask) == status - 200
    assert api("GET", "/proxies")[0] == 200


@as_root
@pytest.mark.parametrize(
    ("server", "client", "welcome"),
    [(NOBODY, NOBODY, True), (NOBODY, 0, True), (0, NOBODY, False), (OTHER, NOBODY, False)],
)
def test_a_server_knows_its_own_user_and_root(server: int, client: int, welcome: bool) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        where = listening.getsockname()

        def accept() -> int:
            connection, _ = listening.accept()
            code = 0 if owner.allowed(connection) else 1
            connection.sendall(b".")
            return code

        def connect() -> int:
            with socket.create_connection(where, timeout=10) as connection:
                return len(connection.recv(1)) - 1

        pid = os.fork()
        if not pid:
            os._exit(as_user(client, connect))
        assert as_user(server, accept) == (0 if welcome else 1)
        assert os.waitpid(pid, 0)[1] == 0


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_the_kernel_says_whose_a_connection_is(host: str) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with (
        socket.create_server((host, 0), family=family) as listening,
        socket.create_connection(listening.getsockname()[:2]),
    ):
        connection, _ = listening.accept()
        with connection:
            ends = connection.getpeername()[:2], connection.getsockname()[:2]
            assert owner.uid_of(family, *ends) == os.geteuid() and owner.allowed(connection)
            assert owner.uid_of(family, ends[0], (host, 1)) is None
