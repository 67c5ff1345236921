"""What the effects on its path do to a message of a simulated stream, when it is put there."""

from __future__ import annotations

import errno
from random import Random
from typing import TYPE_CHECKING, Any

from zebra.proxy.toxics import flip_bit
from zebra.substrate import Effect
from zebra.substrate.sim.path import Path, hit

if TYPE_CHECKING:
    from zebra.substrate.sim.stream import StreamTransport

RTO_S, RTO_MAX_S = 0.2, 120.0
"""The first and the longest retransmission time-out (Linux)."""

EOF, PART = object(), object()
"""Messages without content: the end of the stream; a segment of a long message, whose content comes with its last."""

Message = tuple[float, Any, int]
"""So many seconds late, its content, and how many bytes it has."""


def judged(end: StreamTransport, path: Path, payload: Any, size: int) -> list[Message] | None:
    """What arrives of a message; None if it does not get through at present, nothing if the connection breaks by it."""
    network = end.network
    if hit(path.drops):
        return None
    if hit(path.rejects):
        end.fail(ConnectionResetError(errno.ECONNRESET, "connection reset: the path rejects"))
        return []
    if hit(path.holds):
        for effect in path.holds:
            _time(end, effect)
        return None
    if network.chance(path, "reset", "stream", size):
        end.reset()
        return []
    lost_s, rto_s = 0.0, RTO_S
    while rto_s < RTO_MAX_S and network.chance(path, "loss", "stream", size):
        lost_s += rto_s
        rto_s *= 2
    made = [(lost_s, payload, size)]
    for effect in path.shaped:
        made = [message for each in made for message in _shaped(end, path, effect, each)]
    return made


def _shaped(end: StreamTransport, path: Path, effect: Effect, message: Message) -> list[Message]:
    """What one effect makes of a message."""
    late_s, payload, size = message
    arguments, random = effect.arguments, end.network.random
    if payload is EOF:
        effect.hits += bool(arguments["close_s"])
        return [(late_s + arguments["close_s"], payload, size)]
    if arguments["corrupt"] and payload is not PART and random.random() < arguments["corrupt"]:
        effect.hits += 1
        end.network.decided(effect, path.source.name, path.target.name, "corrupt", "stream", size)
        message = late_s, _flipped(payload, random), size
    if arguments["limit_bytes"] is not None:
        return _limited(end, effect, message)
    return _sliced(end, effect, message) if arguments["slice_bytes"] else [message]


def _flipped(payload: Any, random: Random) -> Any:
    if type(payload) is bytes:
        return flip_bit(payload, random)
    blob, before, size = payload
    if not len(blob):
        return blob, flip_bit(before, random), size
    return blob.flip(random.randrange(len(blob))), before, size


def _limited(end: StreamTransport, effect: Effect, message: Message) -> list[Message]:
    """The message, or its beginning and the end of the stream; a blob comes whole or not at all."""
    late_s, payload, size = message
    passed, limit = end.marks.get(effect.id, 0), effect.arguments["limit_bytes"]
    end.marks[effect.id] = passed + size
    if passed + size < limit:
        return [message]
    effect.hits += 1
    end.cut_off()
    first = payload[: limit - passed] if type(payload) is bytes else b""
    return [*([(late_s, first, len(first))] if first else []), (late_s, EOF, 0)]


def _sliced(end: StreamTransport, effect: Effect, message: Message) -> list[Message]:
    """The message in pieces; a blob arrives whole, with its last piece."""
    late_s, payload, size = message
    step, apart_s, now = effect.arguments["slice_bytes"], effect.arguments["slice_s"], end.network.loop.now
    count = -(-size // step)
    wait_s = max(0.0, end.marks.get(effect.id, 0.0) - now)
    end.marks[effect.id] = now + wait_s + (count * apart_s if count > 1 else 0.0)
    effect.hits += count - 1 or wait_s > 0
    late_s += wait_s
    if type(payload) is not bytes:
        return [(late_s + (count - 1) * apart_s, payload, size)]
    pieces = [payload[at : at + step] for at in range(0, size, step)]
    return [(late_s + number * apart_s, piece, len(piece)) for number, piece in enumerate(pieces)]


def _time(end: StreamTransport, effect: Effect) -> None:
    """Let the first message that an effect holds on a connection be the last, after a while."""
    timeout_s = effect.arguments["timeout_s"]
    if timeout_s and effect.id not in end.marks:
        end.marks[effect.id] = timeout_s
        loop = end.network.loop
        loop.call_later(timeout_s, _time_out, end, effect, context=loop.kernel)


def _time_out(end: StreamTransport, effect: Effect) -> None:
    if effect in end.network.effects and end.waits:
        effect.hits += 1
        end.reset()
