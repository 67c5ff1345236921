"""Requests to streams and to JetStream's API over one connection."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from zebra.errors import Failed
from zebra.workload import Op

CALL_S = 4.0
"""Bound of one request."""

LOOK_S = 0.05
TRY_S = 0.3
"""Bound of a request that nobody may be there to answer, and is made again."""

SHOWN = 60
"""So many characters are quoted of a subject."""

NOBODY = (nats.errors.TimeoutError, nats.errors.NoRespondersError)
"""What a request raises that nobody answered."""


async def ask(connection: Client, subject: str, data: bytes, headers: dict[str, str] | None = None) -> Msg:
    """The answer to a message. Raises TimeoutError, or Failed where nobody listens.

    Who listens elsewhere may have begun only now, so a server that has not heard of anybody is asked again.
    """
    until = time.monotonic() + CALL_S
    while True:
        try:
            return await connection.request(subject, data, timeout=CALL_S, headers=headers)
        except nats.errors.NoRespondersError:
            if time.monotonic() > until:
                raise Failed(f"the server knows of nobody who answers to {subject[:SHOWN]}") from None
            await asyncio.sleep(LOOK_S)
        except nats.errors.TimeoutError:
            raise TimeoutError(f"no answer to {subject[:SHOWN]} within {CALL_S:g} s") from None


async def call(connection: Client, subject: str, body: dict[str, Any], timeout_s: float = CALL_S) -> dict[str, Any]:
    """JetStream's answer to a request, which may be an error. Raises one of `NOBODY`."""
    answer = await connection.request(f"$JS.API.{subject}", json.dumps(body).encode(), timeout=timeout_s)
    return dict(json.loads(answer.data))


async def answered(inbox: Subscription, stream: str, within_s: float) -> Msg:
    """What a fetch from a stream brings to an inbox next. Raises TimeoutError."""
    try:
        return await inbox.next_msg(timeout=within_s)
    except nats.errors.TimeoutError:
        raise TimeoutError(f"no answer to a fetch from {stream} within {within_s:g} s") from None


async def step_down(connection: Client, what: str, placed: dict[str, Any]) -> None:
    """Ask a leader to hand over; where there is none at the moment, nobody answers."""
    kind, *names = what.split(" ")
    try:
        await call(connection, ".".join([kind, "LEADER.STEPDOWN", *names]), placed, timeout_s=TRY_S)
    except NOBODY:
        pass


def seq_of(op: Op, answer: Msg) -> int:
    """The sequence number in a stream's answer, noted in the operation; raises Failed where that is an error."""
    said = json.loads(answer.data)
    if "error" in said:
        raise Failed(answer.data.decode())
    op.note(seq=said["seq"])
    return int(said["seq"])


async def quiet(error: Exception) -> None:
    """What goes wrong on a connection shows in the request that waits for it."""
