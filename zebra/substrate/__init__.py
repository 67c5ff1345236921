"""Where nodes run, and the capabilities that every substrate offers to faults.

A capability only ever *adds an effect*; removing the effect undoes it. Effects on one object compose.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar

if TYPE_CHECKING:
    import msgspec

    from zebra.events import EventLog
    from zebra.injection.ledger import Ledger
    from zebra.node import Node
    from zebra.topology import Place, Topology

T = TypeVar("T")
Down = Literal["crash", "stop", "pause", "kill"]

LATELY_S = 10.0
"""How far back `Running.waits` goes."""


@dataclass(slots=True, kw_only=True, eq=False)
class Effect:
    """One change that a capability made. `hits` counts how often it acted since; `arguments` is its undo as data.

    `seen` counts how often it might have acted, where a capability says so. `fault` is the number of the injected fault
    that it belongs to, 0 if a test added it by itself.
    """

    id: int
    capability: str
    arguments: dict[str, Any]
    hits: int = 0
    seen: int = 0
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

    `drop` loses everything, `reject` answers with a reset; with `new_only` both hit what opens a connection and nothing
    else: those that are open go on, datagrams pass. `latency_s` and `jitter_s` are added; `loss`, `duplicate`,
    `reorder`, `reset` and `corrupt` (one bit is wrong) are probabilities per message; `rate` (bytes per second) is one
    shared limit per node of `on` and direction. On a stream, loss costs a retransmission, and duplicates or reordering
    do not show: only datagrams see those.

    With `hold` connections open, and what is sent on them waits until the effect is removed; datagrams are lost. With
    `timeout_s` a connection is reset so long after the first message that was held on it; 0 is never. `close_s` delays
    the end of a stream. A longer message arrives in pieces of at most `slice_bytes`, `slice_s` apart. A connection that
    has carried `limit_bytes` in one direction is cut off: who receives gets these and then the end, who sends an end or
    a reset. Into a node of `on`, no connection comes that would be more than `connections` at a time: it is refused.
    """

    async def add(self, pairs: Pairs, *, drop: bool = False, reject: bool = False, new_only: bool = False,
                  latency_s: float = 0.0, jitter_s: float = 0.0, loss: float = 0.0, duplicate: float = 0.0,
                  after_s: float = 0.0, reorder: float = 0.0, reset: float = 0.0, corrupt: float = 0.0,
                  hold: bool = False, timeout_s: float = 0.0, close_s: float = 0.0, slice_bytes: int = 0,
                  slice_s: float = 0.0, limit_bytes: int | None = None, connections: int | None = None,
                  rate: float = 0.0, on: frozenset[str] = frozenset()) -> Effect: ...  # fmt: skip


class Names(Protocol):
    """What nodes are told when they look each other up, per ordered pair: who asks, and whose name it is.

    With `fail` the name does not resolve; with `stale` it gives an address that nobody has, as of a node that has moved
    away: what is sent there is lost, and connecting times out. Addresses that are known already go on working.
    """

    async def add(self, pairs: Pairs, *, fail: bool = False, stale: bool = False) -> Effect: ...


class Processes(Protocol):
    """The nodes' processes: take them down in one way or another; removing the effect brings them back.

    `crash` is a loss of power, `stop` a planned end with `grace_s` of notice, `pause` is SIGSTOP. `kill` is SIGKILL:
    the process ends at once, and its kernel, which lives on, closes its connections.
    """

    async def add(self, nodes: Iterable[str], *, down: Down, grace_s: float = 5.0,
                  back_after_s: float | None = None) -> Effect: ...  # fmt: skip


class Clocks(Protocol):
    """The nodes' wall clocks; monotonic ones always go on undisturbed.

    `offset_s` is added, and with `every_s` only in every other span of that length; `drift` is in seconds per second;
    `freeze` makes the clock stand still. A hit is a look at a clock that was wrong.
    """

    async def add(self, nodes: Iterable[str], *, offset_s: float = 0.0, every_s: float = 0.0, drift: float = 0.0,
                  freeze: bool = False) -> Effect: ...  # fmt: skip


class Disks(Protocol):
    """The nodes' disks. With `lose_unsynced` a crash loses what was not synced; a share `torn` of it stays in part.

    `rate` is in bytes per second. `read_error` and `write_error` are the shares of operations that fail with EIO (a
    sync is a write), `flip` the share of reads in which one bit is wrong; `read_only` refuses changes with EROFS.
    """

    async def add(self, nodes: Iterable[str], *, lose_unsynced: bool = False, torn: float = 0.0, rate: float = 0.0,
                  capacity_bytes: int | None = None, read_error: float = 0.0, write_error: float = 0.0,
                  flip: float = 0.0, read_only: bool = False) -> Effect: ...  # fmt: skip


class Resources(Protocol):
    """What a host lets its processes have.

    `cpu` is the share of one processor that each node may use. With `stall_s` each node stands still again and again,
    for a random time of up to `stall_s`, once in each `every_s`. `memory_bytes`, `files` and `processes` are how much
    more a node may have than it has now: one that needs more memory is killed, as by the kernel's OOM killer, and
    started again when the effect is removed; more files or processes (threads too) are refused.
    """

    async def add(self, nodes: Iterable[str], *, cpu: float = 0.0, stall_s: float = 0.0, every_s: float = 1.0,
                  memory_bytes: int = 0, files: int | None = None,
                  processes: int | None = None) -> Effect: ...  # fmt: skip


class Application(Protocol):
    """The nodes' own code, at named sites: a failpoint, a type of request that the node serves, `reload` for a
    configuration that is pushed to it; `*` is every request.

    A share `probability` of the passages is hit: `error` names the exception that is raised, `delay_s` and `align_s`
    hold it up (`align_s` until the next multiple of it, so that all go on at once); `drop` carries a request out
    without an answer, `repeat` carries it out twice; `wrong` changes one value in the answer, `stale` gives the first
    answer that an equal request got (of a `reload`: changes the configuration, gives the one before it).

    `leak` makes the node's memory grow by so many bytes per second. `variant` is a version of the role's code, to which
    the node is restarted. `buggify` is the share of the sites of `zebra.buggify` that are active.
    """

    async def add(self, nodes: Iterable[str], *, at: str = "*", probability: float = 1.0, error: str = "",
                  delay_s: float = 0.0, align_s: float = 0.0, drop: bool = False, repeat: bool = False,
                  wrong: bool = False, stale: bool = False, leak: float = 0.0, variant: str = "",
                  buggify: float = 0.0) -> Effect: ...  # fmt: skip

    def passed(self, nodes: Iterable[str]) -> bool:
        """Whether a node has passed a site of `zebra.buggify` while that was on."""


CAPABILITIES: dict[str, type] = {
    "links": Links, "processes": Processes, "clocks": Clocks, "disks": Disks, "resources": Resources,
    "application": Application, "names": Names,
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """All that a substrate needs to run the nodes of one run.

    `roles` are called with a Node; `start_s` bounds a start, `timeout_s` the run. `on_crash` hears of a role whose
    `run` raised, `on_second` is called at each full second of run time, `note_read` hears (node, parameter, value, and
    where). `variant` is what all nodes run, `known_variants` are those that the target has; `external` roles start
    servers that are not ours; `prepared` is what the target has made once for all runs, `images` what the containers of
    some roles hold. With `leaks` a node that is stopped as planned and leaves tasks (`sim`) or processes behind is an
    event `node.leak`.
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
    note_read: Callable[[str, str, Any, str], None] | None = None
    known_variants: tuple[str, ...] = ()
    external: frozenset[str] = frozenset()
    prepared: Path | None = None
    images: Mapping[str, str] = field(default_factory=dict)
    leaks: bool = False


class Running(Protocol):
    """The nodes of one run, while it lasts. Nothing runs until `start`."""

    log: EventLog
    capabilities: Mapping[str, Any]

    @property
    def ledger(self) -> Ledger | None:
        """Where what is made and done is written down first; None where nothing can outlive the process."""

    def now(self) -> float:
        """Seconds since the run began."""

    def is_up(self, node: str) -> bool:
        """Whether the node is meant to run and does (a paused node is up)."""

    async def start(self, nodes: Iterable[str]) -> None:
        """Start nodes and wait until each is ready; raises TargetError for one that is not in time."""

    async def configure(self, node: str, config: msgspec.Struct, how: Literal["restart", "reload"]) -> None:
        """Give a node another configuration, by a planned restart or by calling its role's `reload`."""

    async def stop_node(self, node: str, grace_s: float) -> None:
        """A planned stop: the role's `run` is cancelled and has `grace_s` to finish."""

    async def call(self, node: str, method: str, *args: Any, **kwargs: Any) -> Any:
        """Call a coroutine method of a node's role on that node; raises NodeDown when it is or goes down."""

    def role(self, node: str) -> Any:
        """The role object of a node of the test's own process (a client), or of any node on `sim`."""

    async def settled(self) -> None:
        """Wait until all that was emitted so far has reached the log: nodes of other processes may lag behind."""

    def waits(self) -> Mapping[str, float]:
        """Seconds that each node's process lately waited for a processor of this machine; nothing where time is made.

        The test's own process is called "test".
        """

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
