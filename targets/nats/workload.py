"""What the client asks for: streams, consumers, messages and requests as large as the node allows that they go through.

A cluster of nodes that agree takes all of it: each node asks for its share of what one node has. Where nodes disagree,
one asks for more than another gives.
"""

from __future__ import annotations

from random import Random
from typing import Any

NEAR = 0.7
"""How near a limit we go."""

REPLICAS = 3
STORAGES = ("file", "memory")
TOKENS_MAX = 12
LINE_MARGIN = 200
"""Bytes of a protocol line that are not its subject."""

BATCH_MAX, OPEN_MAX = 50, 3
"""Messages of the largest atomic batch, and how many batches are open at a time, where the node sets no lower limit."""

FETCH_MAX, PENDING_MAX = 50, 1000
READERS_MAX, EXTRA_MAX = 3, 3
ASSETS = 18
"""Replicated streams and consumers that three nodes ask for at least; a node adds `EXTRA_MAX` consumers if it may."""

WINDOW_S = 120.0


def stream_name(storage: str, server: str) -> str:
    return f"{storage}-{server}"


def stream(storage: str, server: str, config: Any, replicas: int = REPLICAS) -> dict[str, Any]:
    """The stream of one storage that is asked for through a server: a third of what may be used of that one's space."""
    space = config.jetstream__max_file_store if storage == "file" else config.jetstream__max_memory_store
    window_s = min(config.jetstream__limits__duplicate_window or WINDOW_S, WINDOW_S)
    name = stream_name(storage, server)
    wanted: dict[str, Any] = {
        "name": name, "subjects": [f"{name}.>"], "storage": storage, "num_replicas": replicas,
        "max_bytes": int(NEAR / REPLICAS * space), "duplicate_window": round(window_s * 1e9), "allow_atomic": True,
    }  # fmt: skip
    return wanted | ({"placement": {"tags": config.server_tags.split(",")}} if config.server_tags else {})


def reader(number: int) -> str:
    """A stream's consumers, from 1."""
    return f"reader-{number}"


def consumers(storage: str, config: Any) -> list[dict[str, Any]]:
    """The consumers of a stream: as many, and with as many messages not yet acknowledged, as the server allows."""
    limit = config.jetstream__limits__max_ha_assets
    extra = max(0, (limit - ASSETS) // REPLICAS) if limit else EXTRA_MAX
    wanted = READERS_MAX if storage == "file" else 1 + min(extra, EXTRA_MAX)
    count = min(wanted, config.jetstream__limits__default_max_consumers)
    pending = config.jetstream__limits__max_ack_pending or PENDING_MAX
    each = {"ack_policy": "explicit", "max_ack_pending": pending, "ack_wait": 30_000_000_000}
    return [{"durable_name": reader(number), **each} for number in range(1, count + 1)]


def batches(config: Any) -> tuple[int, int]:
    """How many atomic batches are open at a time, and of how many messages each is."""
    batch = "jetstream__limits__batch__"
    limits = (getattr(config, f"{batch}max_inflight_per_stream"), getattr(config, f"{batch}max_inflight_total"))
    return min(OPEN_MAX, *limits), int(NEAR * min(BATCH_MAX, getattr(config, f"{batch}max_msgs")))


def fetch(config: Any) -> int:
    """How many messages are fetched at a time."""
    return int(NEAR * min(config.jetstream__limits__max_request_batch or FETCH_MAX, FETCH_MAX))


def service(asking: str, answering: str, config: Any) -> str:
    """The subject of a request: as many tokens, and as long, as the server of who asks allows."""
    tokens = min(config.max_subscription_tokens or TOKENS_MAX, TOKENS_MAX)
    short = ["service", asking, answering, *"x" * (tokens - 4)]
    length = int(NEAR * config.max_control_line) - LINE_MARGIN - len(".".join(short))
    return ".".join([*short, "y" * length])


def largest(config: Any, random: Random) -> bytes:
    """A message near the limit of the server that it is published to."""
    size = int(NEAR * config.max_payload)
    return random.randbytes(1000) * (size // 1000)


def small(tag: str, random: Random) -> list[bytes]:
    """A few messages of different sizes, an empty one among them."""
    return [b"", tag.encode(), *(random.randbytes(size) for size in (1, 100, 5000))]
