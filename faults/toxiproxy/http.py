"""HTTP/1.1 for the control API: h11 reads and writes the protocol, one asyncio protocol per client moves the bytes.

h11 is pure Python without dependencies and knows the traps of the format (chunks, pipelining, broken requests); all
that a full web framework would add here is a router, for a price of seven compiled packages.
"""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import h11

from zebra.faults.toxiproxy.wire import write

BODY_BYTES_MAX = 16 << 20
TEXT = "text/plain; charset=utf-8"
JSON = "application/json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    method: str
    target: str
    agent: str
    body: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    status: int
    body: bytes = b""
    type: str = ""
    location: str = ""


def error_answer(status: int, message: str) -> Answer:
    """`{"error": message, "status": status}`, which the original calls plain text."""
    return Answer(status=status, body=write({"error": message, "status": status}) + b"\n", type=TEXT)


class Client(asyncio.Protocol):
    """One client: requests one after the other. Whatever it sends, it gets an answer or loses its connection; one whose
    socket is not `welcome` gets 403 for each."""

    def __init__(self, handle: Callable[[Request], Awaitable[Answer]], clients: set[Client],
                 welcome: Callable[[Any], bool]) -> None:  # fmt: skip
        self._handle, self._clients, self._welcome = handle, clients, welcome
        self._http = h11.Connection(h11.SERVER)
        self._is_welcome = False
        self._request: h11.Request | None = None
        self._body: list[bytes] = []
        self._size = 0
        self._task: asyncio.Task[None] | None = None
        self.transport: Any = None

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self._clients.add(self)
        self._is_welcome = self._welcome(transport.get_extra_info("socket"))

    def connection_lost(self, error: Exception | None) -> None:
        self._clients.discard(self)

    def data_received(self, data: bytes) -> None:
        self._receive(data)

    def eof_received(self) -> bool:
        self._receive(b"")
        return self._task is not None  # an answer is on its way

    def _receive(self, data: bytes) -> None:
        if self._http.their_state is h11.ERROR:
            return
        try:
            self._http.receive_data(data)
            self._go_on()
        except h11.RemoteProtocolError as error:
            self._refuse(error.error_status_hint, f"bad request: {error}")
        except RuntimeError:  # data after the end of file
            self.transport.abort()

    def _go_on(self) -> None:
        """Take in what has come, until a request is whole."""
        while self._task is None and not self.transport.is_closing():
            if self._http.they_are_waiting_for_100_continue:
                self._send(h11.InformationalResponse(status_code=100, headers=[]))
            event = self._http.next_event()
            if isinstance(event, h11.Request):
                self._request, self._body, self._size = event, [], 0
            elif isinstance(event, h11.Data):
                self._size += len(event.data)
                if self._size > BODY_BYTES_MAX:
                    self._refuse(413, f"bad request body: it is longer than {BODY_BYTES_MAX} bytes")
                else:
                    self._body.append(bytes(event.data))
            elif isinstance(event, h11.EndOfMessage):
                self._task = asyncio.get_running_loop().create_task(self._answer())
                self.transport.pause_reading()
            elif isinstance(event, h11.ConnectionClosed):
                self.transport.close()
            else:  # h11.NEED_DATA or h11.PAUSED
                return

    async def _answer(self) -> None:
        assert self._request is not None
        headers = dict(self._request.headers)
        request = Request(
            method=self._request.method.decode(),
            target=self._request.target.decode("latin-1"),
            agent=headers.get(b"user-agent", b"").decode("latin-1"),
            body=b"".join(self._body),
        )
        try:
            known = self._is_welcome
            answer = await self._handle(request) if known else error_answer(403, "another user runs this server")
        except Exception:
            traceback.print_exc()
            answer = error_answer(500, "this is a bug in zebra: the server's log has more")
        self._task = None
        if self.transport.is_closing():
            return
        try:
            self._respond(answer)
            self.transport.resume_reading()
            if self._http.our_state is h11.DONE and self._http.their_state is h11.DONE:
                self._http.start_next_cycle()
                self._go_on()
            else:
                self.transport.close()
        except h11.ProtocolError:
            self.transport.close()

    def _respond(self, answer: Answer, close: bool = False) -> None:
        headers = [("content-length", str(len(answer.body)))] if answer.status != 204 else []
        headers += [("content-type", answer.type)] if answer.type else []
        headers += [("location", answer.location)] if answer.location else []
        headers += [("x-content-type-options", "nosniff")] if answer.type == TEXT else []
        headers += [("connection", "close")] if close else []
        self._send(h11.Response(status_code=answer.status, headers=headers))
        if answer.body:
            self._send(h11.Data(data=answer.body))
        self._send(h11.EndOfMessage())

    def _send(self, event: Any) -> None:
        data = self._http.send(event)
        if data:
            self.transport.write(data)

    def _refuse(self, status: int, message: str) -> None:
        """Say what is wrong, and go: there is no telling where the next request begins."""
        if self._http.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            self._respond(error_answer(status, message), close=True)
        self.transport.close()
