"""Other values of parameters that are free text, where no answer of the server says what is allowed.

What has a form is changed within it: numbers are halved, a file gets another name, of several words one is left out.
For the rest somebody has to know a value: those are here, with what a configuration file may say and no running server
tells.
"""

from __future__ import annotations

import re

SECRET = "zebra-secret"

RENAMED = "APPEND"
"""A command that is sent under another name where the file says so: a primary passes it on as it was called."""

FILE_ONLY: dict[str, tuple[str, str]] = {
    "rename-command": (f"{RENAMED} X{RENAMED}", ""),
    "loadmodule": ("", "needs a module"),
    "include": ("", "reserved: the target writes one file"),
    "user": ("", "reserved: the target logs in as the default user"),
}
"""What only the file knows: another value, or why there is none."""

KNOWN = {
    "availability-zone": "zone-2", "hash-seed": "zebra", "ignore-warnings": "ARM64-COW-BUG", "locale-collate": "C",
    "notify-keyspace-events": "AKE", "save": "1 1", "pidfile": "server.pid", "tls-protocols": "TLSv1.2",
    "tls-ciphers": "HIGH", "tls-ciphersuites": "TLS_AES_256_GCM_SHA384", "requirepass": SECRET,
    "primaryauth": SECRET, "masterauth": SECRET,
    "primaryuser": "default", "masteruser": "default", "replica-announce-ip": "127.0.0.1",
    "cluster-announce-ip": "127.0.0.1", "cluster-announce-hostname": "zebra.example",
    "cluster-announce-human-nodename": "zebra", "cluster-announce-client-ipv4": "127.0.0.1",
    "cluster-announce-client-ipv6": "::1",
}  # fmt: skip

_FILE = re.compile(r"(filename|dirname|config-file)$")
_CPUS = re.compile(r"[-_]cpulist$")
_WHOLE = re.compile(r"(?<![\d.])\d+(?![\d.])")


def other_text(name: str, value: str) -> str:
    """Another value than the one that the server shows, "" if none can be thought of."""
    if name in KNOWN:
        return KNOWN[name]
    if _CPUS.search(name):
        return "0"
    if not value:
        return ""
    if _FILE.search(name):
        return f"other-{value}"
    halved = _WHOLE.sub(lambda number: str(max(int(number[0]) // 2, min(int(number[0]), 1))), value)
    if halved != value:
        return halved
    words = value.split()
    return " ".join(words[:-1]) if len(words) > 1 else f"{value}2"


def renamed(setting: str, command: str) -> str:
    """What a command is called on a server with this `rename-command`."""
    old, _, new = setting.partition(" ")
    return new if old == command else command
