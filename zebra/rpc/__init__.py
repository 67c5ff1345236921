"""Typed calls between nodes: msgspec structs over one multiplexed connection per pair, and casts over datagrams.

A message is a frozen struct derived from `Message`; one that is answered derives from `Request[Answer]`:

    class Get(Request["Value"], tag="get"):
        key: str
    class Value(Message, tag="value"):
        text: str
    WIRE = Wire(Get, Value, port=7000)

    rpc = Rpc(node, WIRE)
    await rpc.serve({Get: lambda get, caller: Value(text="…")})
    value = await rpc.call("store-1", Get(key="k"), timeout_s=1.0)

A handler is a function, a coroutine function, or an async generator function (then the caller uses `stream`).
"""

from zebra.rpc.connection import Stream
from zebra.rpc.rpc import Rpc
from zebra.rpc.wire import Caller, Message, RemoteError, Request, RpcError, RpcTimeout, Unreachable, Wire

__all__ = [
    "Caller",
    "Message",
    "RemoteError",
    "Request",
    "Rpc",
    "RpcError",
    "RpcTimeout",
    "Stream",
    "Unreachable",
    "Wire",
]
