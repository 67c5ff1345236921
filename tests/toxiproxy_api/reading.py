"""What arrives on a socket."""

from __future__ import annotations

import socket


def read(sock: socket.socket, wait_s: float = 5.0, want: int = -1) -> tuple[bytes, str]:
    """What arrives, and how it ends: `end`, `reset`, `quiet` after `wait_s`, or `all` that was wanted."""
    sock.settimeout(wait_s)
    got = b""
    try:
        while len(got) != want:
            data = sock.recv(65536 if want < 0 else want - len(got))
            if not data:
                return got, "end"
            got += data
    except TimeoutError:
        return got, "quiet"
    except OSError:
        return got, "reset"
    return got, "all"
