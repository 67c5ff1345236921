"""The paths of Toxiproxy's HTTP API, their answers, and what goes beyond it.

Statuses, bodies and defaults are those that a Toxiproxy 2.12 server was seen to give; `docs/toxiproxy.md` lists them,
and what differs on purpose.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Awaitable, Callable
from importlib.metadata import version
from typing import Any
from urllib.parse import quote, unquote

from zebra.faults.toxiproxy.http import JSON, TEXT, Answer, Request, error_answer
from zebra.faults.toxiproxy.proxies import Proxies
from zebra.faults.toxiproxy.wire import ApiError, an_object, objects, read, write

Handler = Callable[..., Awaitable[Answer]]

_BROKEN_ESCAPE = re.compile("%(?![0-9a-fA-F]{2})")


def _json(status: int, value: Any) -> Answer:
    return Answer(status=status, body=write(value), type=JSON)


class Api:
    """Answers requests."""

    def __init__(self, proxies: Proxies) -> None:
        self._proxies = proxies
        name = "([^/]+)"
        routes: dict[str, dict[str, Handler]] = {
            "/proxies": {"GET": self._list, "POST": self._create},
            f"/proxies/{name}": {
                "GET": self._show, "POST": self._update, "PATCH": self._update, "DELETE": self._delete,
            },
            f"/proxies/{name}/toxics": {"GET": self._list_toxics, "POST": self._add_toxic},
            f"/proxies/{name}/toxics/{name}": {
                "GET": self._show_toxic, "POST": self._update_toxic, "PATCH": self._update_toxic,
                "DELETE": self._remove_toxic,
            },
            f"/proxies/{name}/decisions": {"GET": self._decisions},
            "/populate": {"POST": self._populate},
            "/reset": {"POST": self._reset},
            "/version": {"GET": self._version},
            "/metrics": {"GET": self._metrics},
        }  # fmt: skip
        self._routes = [(re.compile(path), methods) for path, methods in routes.items()]

    async def handle(self, request: Request) -> Answer:
        """The answer to any request."""
        path, _, _ = request.target.partition("?")
        path = re.sub("^https?://[^/]*", "", path)
        if _BROKEN_ESCAPE.search(path):
            return error_answer(400, f"bad request: {path!r} has a broken escape")
        path = unquote(path)
        clean = posixpath.normpath(f"/{path.lstrip('/')}") + ("/" if path.endswith("/") and path.strip("/") else "")
        if path.startswith("/") and clean != path:
            return Answer(status=301, location=quote(clean))
        found = next(((m, methods) for pattern, methods in self._routes if (m := pattern.fullmatch(path))), None)
        if found is None:
            return Answer(status=404, body=b"404 page not found\n", type=TEXT)
        match, methods = found
        handler = methods.get(request.method)
        if handler is None:
            return Answer(status=405)
        if request.agent.startswith("Mozilla/"):  # a page that a browser shows is not to reach us
            return Answer(status=403, body=b"User agent not allowed\n", type=TEXT)
        try:
            return await handler(request.body, *match.groups())
        except ApiError as error:
            return error_answer(error.status, str(error))

    async def _list(self, body: bytes) -> Answer:
        return _json(200, {name: proxy.show() for name, proxy in sorted(self._proxies.by_name.items())})

    async def _create(self, body: bytes) -> Answer:
        return _json(201, (await self._proxies.create(an_object(read(body)))).show())

    async def _show(self, body: bytes, proxy: str) -> Answer:
        return _json(200, self._proxies.find(proxy).show())

    async def _update(self, body: bytes, proxy: str) -> Answer:
        self._proxies.find(proxy)
        return _json(200, (await self._proxies.update(proxy, an_object(read(body)))).show())

    async def _delete(self, body: bytes, proxy: str) -> Answer:
        await self._proxies.delete(proxy)
        return Answer(status=204)

    async def _list_toxics(self, body: bytes, proxy: str) -> Answer:
        return _json(200, self._proxies.find(proxy).show_toxics())

    async def _add_toxic(self, body: bytes, proxy: str) -> Answer:
        self._proxies.find(proxy)
        return _json(200, (await self._proxies.add_toxic(proxy, an_object(read(body)))).show())

    async def _show_toxic(self, body: bytes, proxy: str, toxic: str) -> Answer:
        return _json(200, self._proxies.find_toxic(proxy, toxic)[1].show())

    async def _update_toxic(self, body: bytes, proxy: str, toxic: str) -> Answer:
        self._proxies.find_toxic(proxy, toxic)
        return _json(200, (await self._proxies.update_toxic(proxy, toxic, an_object(read(body)))).show())

    async def _remove_toxic(self, body: bytes, proxy: str, toxic: str) -> Answer:
        await self._proxies.remove_toxic(proxy, toxic)
        return Answer(status=204)

    async def _decisions(self, body: bytes, proxy: str) -> Answer:
        return _json(200, list(self._proxies.find(proxy).decisions))

    async def _populate(self, body: bytes) -> Answer:
        try:
            done, error = await self._proxies.populate(objects(read(body)))
        except ApiError as trouble:
            done, error = [], trouble
        shown = [proxy.show() for proxy in done] or None
        if error is None:
            return _json(201, {"proxies": shown})
        return _json(error.status, {"error": str(error), "status": error.status, "proxies": shown})

    async def _reset(self, body: bytes) -> Answer:
        await self._proxies.reset()
        return Answer(status=204)

    async def _version(self, body: bytes) -> Answer:
        return Answer(
            status=200, body=write({"version": version("pytest-zebra")}) + b"\n", type=f"{JSON};charset=utf-8"
        )

    async def _metrics(self, body: bytes) -> Answer:
        lines = []
        for at, what in ((0, "received"), (1, "sent")):
            name = f"toxiproxy_proxy_{what}_bytes_total"
            lines += [f"# HELP {name} Bytes {what} by a proxy.", f"# TYPE {name} counter"]
            for proxy in self._proxies.by_name.values():
                for direction, bytes_ in (("downstream", proxy.passed[2 + at]), ("upstream", proxy.passed[at])):
                    labels = (
                        f'direction="{direction}",listener={_quoted(proxy.listen)},'
                        f"proxy={_quoted(proxy.name)},upstream={_quoted(proxy.upstream)}"
                    )
                    lines.append(f"{name}{{{labels}}} {bytes_}")
        text = "\n".join(lines) + "\n"
        return Answer(status=200, body=text.encode(), type="text/plain; version=0.0.4; charset=utf-8")


def _quoted(value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'
