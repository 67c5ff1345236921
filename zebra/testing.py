"""For authors of invariants and faults: build a history, try an invariant on it, try a fault on a small target.

assert check_invariant(NoSplit, history(event("leader", node="a", term=1), event("leader", node="b", term=1)))
assert check_fault("network.latency", "server-1", delay="50ms").took_effect
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from zebra.cluster import Cluster
from zebra.events import Event
from zebra.invariant import Violation, check_history
from zebra.node import Node
from zebra.outcome import Outcome
from zebra.rpc import Caller, Message, Request, Rpc, RpcError, Wire
from zebra.run import Scenario, run
from zebra.spec import RunSpec
from zebra.target import Target
from zebra.topology import Topology

# -- histories ---------------------------------------------------------------------------------------------------


def event(kind: str, /, *, node: str = "", t: float | None = None, **fields: Any) -> Event:
    """An event for `history`, which numbers it; without `t` it comes one second after the one before."""
    return Event(-1, -1.0 if t is None else t, node, kind, fields)


def history(*events: Event) -> list[Event]:
    """The events numbered from 0. Raises ValueError when time runs backwards."""
    made: list[Event] = []
    for each in events:
        before = made[-1].t if made else 0.0
        t = each.t if each.t >= 0 else before + 1.0
        if t < before:
            raise ValueError(f"{each.kind} at {t:g} s comes after an event at {before:g} s")
        made.append(Event(len(made), t, each.node, each.kind, each.fields))
    return made


def check_invariant(factory: Any, events: Iterable[Event]) -> Violation | None:
    """What an invariant finds in a history, `clock` events and its `end` included; None when it holds."""
    return check_history(events, [factory])


# -- a small target ----------------------------------------------------------------------------------------------


class EchoConfig(msgspec.Struct, frozen=True, kw_only=True):
    """`timeout_s` bounds the client's calls; `greeting` goes before every echo."""

    timeout_s: float = 1.0
    greeting: str = ""


class Say(Request["Said"], tag="say", frozen=True, kw_only=True):
    """Answered with the same text."""

    text: str


class Said(Message, tag="said", frozen=True, kw_only=True):
    """`time_s` is the server's wall clock."""

    text: str
    time_s: float


class Keep(Request["Said"], tag="keep", frozen=True, kw_only=True):
    """Write a file, and make it durable if `sync`."""

    name: str
    text: str
    sync: bool


class Recall(Request["Said"], tag="recall", frozen=True, kw_only=True):
    """Read a file; answered with an empty text if there is none."""

    name: str


class Ping(Message, tag="ping", frozen=True, kw_only=True):
    """A datagram; the server sends it back, the client emits `echo.pong` with its number `n`."""

    n: int


_WIRE = Wire(Say, Said, Keep, Recall, Ping, port=7)


class EchoServer:
    """Echoes texts over streams and pings over datagrams, and keeps files."""

    def __init__(self, node: Node[EchoConfig]) -> None:
        self.node, self.config = node, node.config

    async def run(self) -> None:
        rpc = Rpc(self.node, _WIRE)
        casts = {Ping: lambda ping, caller: rpc.cast(caller.name, ping)}
        await rpc.serve({Say: self.say, Keep: self.keep, Recall: self.recall}, casts)
        await self.node.ready()
        await asyncio.Event().wait()

    async def reload(self, config: EchoConfig) -> None:
        self.config = config

    def say(self, say: Say, caller: Caller) -> Said:
        return Said(text=self.config.greeting + say.text, time_s=self.node.clock.time())

    async def keep(self, keep: Keep, caller: Caller) -> Said:
        await self.node.disk.write(keep.name, keep.text.encode())
        if keep.sync:
            await self.node.disk.sync(keep.name)
        return self.say(Say(text=keep.text), caller)

    async def recall(self, recall: Recall, caller: Caller) -> Said:
        try:
            return self.say(Say(text=bytes(await self.node.disk.read(recall.name)).decode()), caller)
        except FileNotFoundError:
            return self.say(Say(text=""), caller)


class EchoClient:
    """`say`, `keep` and `recall` are operations that return what the server said; `ping` sends a datagram."""

    def __init__(self, node: Node[EchoConfig]) -> None:
        self.node = node

    async def run(self) -> None:
        self.rpc = Rpc(self.node, _WIRE)
        await self.rpc.serve({}, {Ping: lambda ping, caller: self.node.emit("echo.pong", n=ping.n)})
        await self.node.ready()
        await asyncio.Event().wait()

    async def say(self, to: str, text: str = "hello") -> Said:
        return await self._call("say", to, Say(text=text))

    async def keep(self, to: str, name: str, text: str, sync: bool = True) -> Said:
        return await self._call("keep", to, Keep(name=name, text=text, sync=sync))

    async def recall(self, to: str, name: str) -> Said:
        return await self._call("recall", to, Recall(name=name))

    async def ping(self, to: str, n: int) -> None:
        self.rpc.cast(to, Ping(n=n))

    async def _call(self, kind: str, to: str, request: Request[Said]) -> Said:
        async with self.node.op(kind, to=to) as op:
            said = await self.rpc.call(to, request, timeout_s=self.node.config.timeout_s)
            op.note(text=said.text, time_s=said.time_s)
            return said


async def echo_everywhere(cluster: Cluster) -> None:
    """A bit of everything, three times, with every server: echoes, pings, files with and without sync.

    What goes wrong is in the history (`op.unknown`), not raised.
    """
    for number in range(3):
        for server in cluster.nodes("server"):
            calls = [("say", ()), ("keep", ("synced", f"{number}", True)), ("keep", ("unsynced", f"{number}", False)),
                     ("recall", ("synced",)), ("ping", (number,))]  # fmt: skip
            for method, arguments in calls:
                try:
                    await getattr(cluster.client, method)(server, *arguments)
                except RpcError:
                    pass
        await asyncio.sleep(0.1)


async def _all_answer(cluster: Cluster) -> None:
    for server in cluster.nodes("server"):
        while True:
            try:
                await cluster.client.keep(server, "progress", "done")
                break
            except RpcError:
                await asyncio.sleep(0.1)


echo = Target(name="echo", config=EchoConfig, roles={"server": EchoServer}, client=EchoClient, progress=_all_answer,
              topology=Topology(counts={"server": 3}))  # fmt: skip
"""Three servers that echo and keep files, one client; healed means that every server keeps a file again."""

# -- faults ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultCheck:
    """The same scenario with and without a fault, from the same seed.

    `on.result` is "pass" when the scenario went through, the fault took effect, and the target recovered once it was
    healed; "inconclusive" when the fault had no effect. Compare the histories for what it did.
    """

    off: Outcome
    on: Outcome
    hits: int
    took_effect: bool

    def seconds(self, kind: str = "op.ok") -> tuple[float, float]:
        """The run time of the last event of a kind, without and with the fault: how much it slowed things down."""
        return tuple(max((e.t for e in run.history.of(kind)), default=0.0) for run in (self.off, self.on))  # type: ignore[return-value]

    def count(self, kind: str) -> tuple[int, int]:
        """How many events of a kind there were without and with the fault."""
        return len(self.off.history.of(kind)), len(self.on.history.of(kind))


def check_fault(name: str, *on: str | Iterable[str], scenario: Scenario = echo_everywhere, target: Target = echo,
                seed: int = 0, spec: Mapping[str, Any] | None = None, **settings: Any) -> FaultCheck:  # fmt: skip
    """Run a scenario without a fault, and with it on from the scenario's start to its end.

    `spec` holds further fields of the RunSpec. Raises ConfigError for bad settings, PluginError for a broken contract.
    """

    async def with_fault(cluster: Cluster) -> None:
        async with cluster.fault(name, *on, **settings):
            await scenario(cluster)

    made = RunSpec(target=target.name, seed=seed, **(spec or {}))
    runs = [run(each, made, target=target) for each in (scenario, with_fault)]
    error = runs[1].error
    if error is not None and not runs[1].history.of("fault.heal"):
        raise error
    healed = [e for e in runs[1].history.of("fault.heal") if e["fault"] == name]
    return FaultCheck(off=runs[0], on=runs[1], hits=sum(e["hits"] for e in healed),
                      took_effect=bool(healed) and all(e["took_effect"] for e in healed))  # fmt: skip
