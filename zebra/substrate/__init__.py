"""Where nodes run, and the capabilities that every substrate offers to faults.

A capability only ever *adds an effect*; removing the effect undoes it. Effects on one object compose.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar

if TYPE_CHECKING:
    import msgspec

    from zebra.events import EventLog
    from zebra.node import Node
    from zebra.topology import Place, Topology

T = TypeVar("T")
Down = Literal["crash", "stop", "pause"]


@dataclass(slots=True, kw_only=True, eq=False)
class Effect:
    """One change that a capability made. `hits` counts how often it acted since; `arguments` is its undo as data.

    `fault` is the number of the injected fault that it belongs to, 0 if a test added it by itself.
    """

    id: int
    capability: str
    arguments: dict[str, Any]
    hits: int = 0
    fault: int = 0


class Pairs:
    """Ordered pairs of different nodes, kept as products of two sets so that ten thousand nodes cost little."""

    __slots__ = ("products",)

    def __init__(self, products: Iterable[tuple[frozenset[str], frozenset[str]]]) -> None:
        self.products = tuple(products)

    def __contains__(self, pair: tuple[str, str]) -> bool:
        source, target = pair
        return source != target and any(source in a and target in b for a, b in self.products)

    def __bool__(self) -> bool:
        return any(a and b and (len(a) > 1 or len(b) > 1 or a != b) for a, b in self.products)


class Links(Protocol):
    """What lies between two nodes, per ordered pair.

    `drop` loses everything, `reject` answers with a reset; `latency_s` and `jitter_s` are added; `loss`, `duplicate`,
    `reorder` and `reset` are probabilities per message; `rate` (bytes per second) is one shared limit per node of `on`
    and direction. On a stream, loss costs a retransmission, and duplicates or reordering do not show: only datagrams
    see those.
    """

    async def add(self, pairs: Pairs, *, drop: bool = False, reject: bool = False, latency_s: float = 0.0,
                  jitter_s: float = 0.0, loss: float = 0.0, duplicate: float = 0.0, after_s: float = 0.0,
                  reorder: float = 0.0, reset: float = 0.0, rate: float = 0.0,
                  on: frozenset[str] = frozenset()) -> Effect: ...  # fmt: skip


class Processes(Protocol):
    """The nodes' processes: take them down in one way or another; removing the effect brings them back."""

    async def add(self, nodes: Iterable[str], *, down: Down, grace_s: float = 5.0,
                  back_after_s: float | None = None) -> Effect: ...  # fmt: skip


class Clocks(Protocol):
    """The nodes' wall clocks."""

    async def add(self, nodes: Iterable[str], *, offset_s: float) -> Effect: ...


class Disks(Protocol):
    """The nodes' disks. With `lose_unsynced` a crash loses what was not synced; a share `torn` of it stays in part.

    `rate` is in bytes per second.
    """

    async def add(self, nodes: Iterable[str], *, lose_unsynced: bool = False, torn: float = 0.0, rate: float = 0.0,
                  capacity_bytes: int | None = None) -> Effect: ...  # fmt: skip


CAPABILITIES: dict[str, type] = {"links": Links, "processes": Processes, "clocks": Clocks, "disks": Disks}


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """All that a substrate needs to run the nodes of one run.

    `roles` are called with a Node; `start_s` bounds a start, `timeout_s` the run. `on_crash` hears of a role whose
    `run` raised, `on_second` is called at each full second of run time, `note_read` hears (node, parameter, value).
    """

    prefix: str
    places: tuple[Place, ...]
    topology: Topology
    roles: Mapping[str, Callable[[Node[Any]], Any]]
    configs: dict[str, msgspec.Struct]
    seed: int
    variant: str
    start_s: float
    log: Callable[[Callable[[], float]], EventLog]
    on_crash: Callable[[str, BaseException], None]
    timeout_s: float
    on_second: Callable[[], None] | None = None
    note_read: Callable[[str, str, Any], None] | None = None


class Running(Protocol):
    """The nodes of one run, while it lasts. Nothing runs until `start`."""

    log: EventLog
    capabilities: Mapping[str, Any]

    def now(self) -> float:
        """Seconds since the run began."""

    def is_up(self, node: str) -> bool:
        """Whether the node is meant to run and does (a paused node is up)."""

    async def start(self, nodes: Iterable[str]) -> None:
        """Start nodes and wait until each is ready; raises TargetError for one that is not in time."""

    async def configure(self, node: str, config: msgspec.Struct, how: Literal["restart", "reload"]) -> None:
        """Give a node another configuration, by a planned restart or by calling its role's `reload`."""

    async def call(self, node: str, method: str, *args: Any, **kwargs: Any) -> Any:
        """Call a coroutine method of a node's role on that node; raises NodeDown when it is or goes down."""

    def role(self, node: str) -> Any:
        """The role object of a node of the test's own process (a client), or of any node on `sim`."""

    async def settled(self) -> None:
        """Wait until all that was emitted so far has reached the log: nodes of other processes may lag behind."""

    def output(self, node: str) -> Mapping[str, bytes]:
        """The end of what a node's processes wrote to `stdout` and `stderr`; empty where it has none of its own."""

    async def heal(self, effect: Effect) -> None:
        """Remove an effect. One whose object has vanished counts as removed."""

    async def stop(self) -> None:
        """Stop everything."""


class Substrate(Protocol):
    """A kind of place to run nodes."""

    name: str

    def unavailable(self) -> str:
        """Why this machine cannot offer it; "" when it can."""

    def run(self, plan: Plan, main: Callable[[Running], Coroutine[Any, Any, T]]) -> T:
        """Run `main` to its end over the plan's nodes; raises Hang after the plan's `timeout_s` of run time."""
