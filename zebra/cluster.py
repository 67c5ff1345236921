"""A running target, as a test sees it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from zebra.errors import ConfigError
from zebra.events import Event, History
from zebra.injection.injector import Injected, Injector
from zebra.injection.schedule import Configure, Schedule, groups
from zebra.substrate import Running
from zebra.topology import Place
from zebra.units import seconds
from zebra.workload import Op

if TYPE_CHECKING:
    from zebra.target import Target


class ClientProxy:
    """A client's methods, run on the client's own node: `await cluster.client.publish(size="8MiB")`."""

    def __init__(self, running: Running, name: str) -> None:
        self._running, self.name, self.incarnation = running, name, 0  # the node's own operations count from 1000 on

    def emit(self, kind: str, /, **fields: Any) -> None:
        """Record an event of the workload, as the client's."""
        self._running.log.emit(self.name, kind, **fields)

    def op(self, kind: str, **fields: Any) -> Op:
        """Record an operation: `async with cluster.client.op("write", key=k) as op:` (see `zebra.workload`)."""
        return Op(self, kind, fields)  # type: ignore[arg-type]

    def __getattr__(self, method: str) -> Callable[..., Any]:
        if method.startswith("_"):
            raise AttributeError(method)

        async def call(*args: Any, **kwargs: Any) -> Any:
            return await self._running.call(self.name, method, *args, **kwargs)

        return call


class Cluster:
    """The nodes of one run. `client` is the first client; `config` what nodes have unless the assignment says more."""

    def __init__(self, target: Target, running: Running, places: tuple[Place, ...],
                 configs: Mapping[str, msgspec.Struct], config: Any, injector: Injector) -> None:  # fmt: skip
        self.target, self.places, self.config = target, places, config
        self._running, self._configs, self._injector = running, dict(configs), injector
        self._waiters: list[tuple[Callable[[Event | None], bool], asyncio.Future[None]]] = []
        self.clients = tuple(ClientProxy(running, place.node) for place in places if place.role == "client")
        running.log.listeners.append(self._wake)

    @property
    def client(self) -> ClientProxy:
        """The first client; raises ConfigError when the target has none."""
        if not self.clients:
            raise ConfigError(f"target {self.target.name} has no client")
        return self.clients[0]

    @property
    def now(self) -> float:
        """Seconds since the run began."""
        return self._running.now()

    @property
    def history(self) -> History:
        """The events so far, as far as they are in order: `settled` waits for those that still are on their way."""
        return self._running.log.history

    async def settled(self) -> None:
        """Wait until all that has happened so far is in `history`. Raises Infrastructure if a node stays silent."""
        await self._running.settled()

    def nodes(self, role: str | None = None) -> tuple[str, ...]:
        """The names of all nodes, or of those of one role, up or not."""
        if role is not None:
            self.target.check_role(role)
        return tuple(place.node for place in self.places if role in (None, place.role))

    def up(self, role: str | None = None) -> tuple[str, ...]:
        """The nodes that are running."""
        return tuple(node for node in self.nodes(role) if self._running.is_up(node))

    def config_of(self, node: str) -> Any:
        """A node's own configuration."""
        return self._configs[self._node(node)]

    def role(self, node: str) -> Any:
        """A node's role object, where it lives in the test's process (a client anywhere; any node on sim)."""
        return self._running.role(self._node(node))

    def _node(self, node: str) -> str:
        if node not in self._configs:
            raise ConfigError(f"node {node!r} is not in this cluster, it has {', '.join(self._configs)}")
        return node

    # -- faults ----------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def fault(self, name: str, *on: str | Iterable[str], **settings: Any) -> AsyncIterator[Injected]:
        """Inject a fault and heal it on leaving. Each `on` is a group: a selection or a list of them."""
        injected = await self.inject(name, *on, **settings)
        try:
            yield injected
        finally:
            await self.heal(injected)

    async def inject(self, name: str, *on: str | Iterable[str], **settings: Any) -> Injected:
        """Inject a fault; it lasts until `heal` or the end of the test. Raises ConfigError for bad input."""
        texts = [[group] if isinstance(group, str) else list(group) for group in on]
        return await self._injector.inject(name, groups(texts, name), settings)

    async def heal(self, injected: Injected) -> None:
        """Undo one fault."""
        await self._injector.heal(injected)

    async def follow(self, schedule: Schedule) -> None:
        """Carry out a schedule to its end; its times count from now."""
        await self._injector.follow(schedule, self.now)

    async def configure(
        self, node: str, values: Mapping[str, Any], how: Literal["restart", "reload"] = "restart"
    ) -> None:
        """Give a node other values of some parameters, by a planned restart or its role's `reload`."""
        config = self.target.space.replace(self._configs[self._node(node)], values)
        self._configs[node] = config
        await self._running.configure(node, config, how)

    async def carry_out(self, step: Configure) -> None:
        """A schedule's configuration change."""
        await self.configure(step.node, step.values, step.how)

    # -- waiting ---------------------------------------------------------------------------------------------

    async def event(
        self, kind: str, within: float | str = "30s", *, since: Event | None = None, **fields: Any
    ) -> Event:
        """The next event of a kind with these fields (and `node`); raises TimeoutError.

        It is the next one from now, or the first one after the event `since`: two that follow each other closely may
        both have come before one who waits for the first can begin to wait for the second.
        """
        found: list[Event] = []

        def matches(event: Event | None) -> bool:
            if event is None or event.kind != kind:
                return False
            if all((event.node if name == "node" else event.get(name)) == value for name, value in fields.items()):
                found.append(event)
            return bool(found)

        if since is not None and any(event.seq > since.seq and matches(event) for event in self.history):
            return found[0]
        await self._wait(matches, within, f"an event {kind} {fields or ''}".rstrip())
        return found[0]

    async def until(self, condition: Callable[[], bool], within: float | str = "30s") -> None:
        """Wait until a condition holds, looked at after each event; raises TimeoutError."""
        if not condition():
            await self._wait(lambda _: condition(), within, "the condition")

    async def _wait(self, matches: Callable[[Event | None], bool], within: float | str, what: str) -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiter = (matches, future)
        self._waiters.append(waiter)
        within_s = seconds(within, "within")
        done, _ = await asyncio.wait([future], timeout=within_s)
        if waiter in self._waiters:
            self._waiters.remove(waiter)
        if not done and not matches(None):
            raise TimeoutError(f"{what} did not come within {within_s:g} s")

    def _wake(self, event: Event) -> None:
        if not self._waiters:
            return
        for waiter in [w for w in self._waiters if not w[1].done() and w[0](event)]:
            waiter[1].set_result(None)
            self._waiters.remove(waiter)
