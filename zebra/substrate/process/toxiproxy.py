"""A Toxiproxy server that somebody else runs on this machine: its HTTP API, and what a session has left there.

Source: github.com/Shopify/toxiproxy, README (HTTP API) and api.go.
"""

from __future__ import annotations

import http.client
import ipaddress
import json
import os
import time
from typing import Any
from urllib.parse import quote, urlsplit

from zebra.errors import ConfigError, Infrastructure

TOXIPROXY = "ZEBRA_TOXIPROXY_URL"
"""The variable of the environment that has the URL of a Toxiproxy server, which does what links suffer."""

PREFIX = "zebra-"
"""The names of all proxies that are ours begin so; a session's name follows."""

PATIENCE_S = 5.0
"""So long may the server take to answer."""

NO_CONTENT, NOT_FOUND = 204, 404

TRIES, EVERY_S = 3, 0.02
"""How often proxies are removed: what a session has asked for just before it died may come to pass after it."""


class Toxiproxy:
    """The server at a URL, which `server_at` has checked."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        assert parts.hostname is not None and parts.port is not None
        self.url, self._host, self._port = url, parts.hostname, parts.port

    def ask(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """Status and answer of a request; raises OSError."""
        connection = http.client.HTTPConnection(self._host, self._port, timeout=PATIENCE_S)
        try:
            connection.request(method, path, None if body is None else json.dumps(body))
            response = connection.getresponse()
            data = response.read()
        except http.client.HTTPException as error:
            raise OSError(f"its answer is no HTTP ({type(error).__name__})") from None
        finally:
            connection.close()
        try:
            return response.status, json.loads(data)
        except ValueError:
            return response.status, data.decode(errors="replace").strip()

    def do(self, method: str, path: str, body: Any = None, *, gone: bool = False) -> Any:
        """The answer to a request; raises Infrastructure when it is not carried out. With `gone` 404 is as good."""
        try:
            status, answer = self.ask(method, path, body)
        except OSError as error:
            raise Infrastructure(f"toxiproxy at {self.url}: {error}") from None
        if status >= 300 and not (gone and status == NOT_FOUND):
            why = answer.get("error", answer) if isinstance(answer, dict) else answer
            raise Infrastructure(f"toxiproxy at {self.url}: {method} {path}: {status} {why}")
        return answer


def server_at(url: str) -> Toxiproxy:
    """The server at a URL, once it has answered. Raises ConfigError for a URL that cannot be used, and why."""
    wanted = "expected http://127.0.0.1:8474 or the like"
    if not _is_complete(url):
        raise ConfigError(f"toxiproxy: {url!r} is no URL of a server, {wanted}")
    if not _is_usable(url):
        raise ConfigError(f"toxiproxy: {url} is not on this machine's loopback, where the nodes are; {wanted}")
    server = Toxiproxy(url.rstrip("/"))
    try:
        status, answer = server.ask("GET", "/proxies")
    except OSError as error:
        raise ConfigError(f"toxiproxy: nobody answers at {url} ({error})") from None
    if status != 200 or not isinstance(answer, dict):
        raise ConfigError(f"toxiproxy: what answers at {url} is no Toxiproxy (GET /proxies: {status})")
    return server


def use(url: str, substrate: str, option: str) -> None:
    """Let the server at a URL do what links suffer in all runs from here on. Raises ConfigError where it cannot be."""
    if substrate != "process":
        raise ConfigError(f"{option}: it needs the substrate process, this is {substrate}")
    os.environ[TOXIPROXY] = server_at(url).url  # for trials, wherever they run


def _is_complete(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return bool(parts.scheme == "http" and parts.hostname and parts.port and parts.path in ("", "/"))
    except ValueError:
        return False


def _is_usable(url: str) -> bool:
    """Whether it is the URL of a server on this machine's loopback."""
    if not _is_complete(url):
        return False
    host = urlsplit(url).hostname or ""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def join(address: tuple[str, int]) -> str:
    return f"{address[0]}:{address[1]}"


def path_of(proxy: str) -> str:
    return f"/proxies/{quote(proxy, safe='')}"


def reap(entries: list[dict[str, Any]]) -> bool:
    """Delete the proxies that ledger entries name; whether none of them is left.

    An entry holds the server's `url` and the proxy's `name`. A server that is gone has taken its proxies along; one
    without our mark is somebody else's and stays.
    """
    left = entries
    for _ in range(TRIES):
        left = [entry for entry in entries if not delete(entry)]
        time.sleep(EVERY_S)
    return not left


def delete(entry: dict[str, Any]) -> bool:
    """Delete the proxy that a ledger entry names; whether it is gone."""
    url, name = str(entry.get("url")), str(entry.get("name"))
    if not name.startswith(PREFIX) or not _is_usable(url):
        return False
    server = Toxiproxy(url)
    try:
        return server.ask("DELETE", path_of(name))[0] in (NO_CONTENT, NOT_FOUND)
    except ConnectionRefusedError:
        return True
    except OSError:
        return False
