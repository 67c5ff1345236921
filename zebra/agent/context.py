"""Which node is running. A context variable says so; asyncio's tasks and callbacks inherit it by themselves.

Threads and executors do not: `follow` makes those that are started while an agent is active do so too.
"""

from __future__ import annotations

import functools
import inspect
import threading
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

if TYPE_CHECKING:
    from zebra.agent.patches import Patches

F = TypeVar("F", bound=Callable[..., Any])


class Owner:
    """Who reads: a node such as worker-2, the test itself (`external`) or nobody that is known (`uncertain`).

    `values` is what the assignment gives it, by parameter, in the form that the configuration system has; `seen` is
    what has been noted of its reads.
    """

    __slots__ = ("name", "role", "seen", "values")

    def __init__(self, name: str, role: str, values: dict[str, Any]) -> None:
        self.name, self.role, self.values = name, role, values
        self.seen: dict[Any, Any] = {}

    @property
    def is_node(self) -> bool:
        return self.role != ""

    def __repr__(self) -> str:
        return f"Owner({self.name})"


class _Active(Protocol):
    """The part of an agent that marks need."""

    uncertain: Owner

    def begin(self, role: str) -> Owner: ...

    def receive(self, conf: Any, node: Owner) -> Any: ...


running: ContextVar[Owner | None] = ContextVar("zebra_owner", default=None)
active: _Active | None = None
"""The agent that is on in this process; None costs a mark one comparison."""


def activate(agent: _Active | None) -> None:
    """Make this the agent of the process; None: there is none."""
    global active
    active = agent


class node:  # noqa: N801
    """Here a node of a role begins: `with node("worker") as me:`, or a decorator of the function that starts it.

    Whatever is started within (tasks, threads, executors' jobs, processes) runs as this node. Nodes are numbered from 1
    in the order in which they begin, `me.name` is such as "worker-2". Without an agent it does nothing.
    """

    def __init__(self, role: str) -> None:
        self.role = role
        self._owner: Owner | None = None

    @property
    def name(self) -> str:
        """The node's name; "" where no agent is on."""
        return "" if self._owner is None else self._owner.name

    def __enter__(self) -> node:
        if active is not None:
            self._owner = active.begin(self.role)
            self._before = running.set(self._owner)
        return self

    def __exit__(self, *_: object) -> None:
        if self._owner is not None:
            running.reset(self._before)

    def __call__(self, function: F) -> F:
        if inspect.iscoroutinefunction(function):

            @functools.wraps(function)
            async def start_async(*args: Any, **kwargs: Any) -> Any:
                with node(self.role):
                    return await function(*args, **kwargs)

            return start_async  # type: ignore[return-value]

        @functools.wraps(function)
        def start(*args: Any, **kwargs: Any) -> Any:
            with node(self.role):
                return function(*args, **kwargs)

        return start  # type: ignore[return-value]

    def receive(self, conf: Any) -> Any:
        """The node's own copy of a configuration object that it is given, as the others may be given it too."""
        return conf if active is None or self._owner is None else active.receive(conf, self._owner)


def owner() -> Owner | None:
    """Who is running: a node, the test, or `uncertain`; None where no agent is on."""
    return None if active is None else running.get() or active.uncertain


@contextmanager
def acting(who: Owner | None) -> Iterator[None]:
    """Run a block as somebody; None changes nothing."""
    if who is None:
        yield
        return
    before = running.set(who)
    try:
        yield
    finally:
        try:
            running.reset(before)
        except ValueError:
            pass  # a coroutine that was closed elsewhere than it ran: its own context is gone with it


async def continuing(who: Owner | None, coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine as somebody, whoever awaits it."""
    with acting(who):
        return await coroutine


def as_owner(who: Owner | None, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Call a function as somebody."""
    with acting(who):
        return function(*args, **kwargs)


def follow(patches: Patches) -> None:
    """Let threads and executors' jobs run as who started them."""
    start = threading.Thread.start

    def start_as(self: threading.Thread) -> None:
        who = running.get()
        if who is not None:
            self.run = functools.partial(as_owner, who, self.run)  # type: ignore[method-assign]
        start(self)

    patches.set(threading.Thread, "start", start_as)
    follow_jobs(patches, ThreadPoolExecutor)


def follow_jobs(patches: Patches, executor: Any) -> None:
    """Let the jobs of a class of executors run as who submitted them."""
    patches.set(executor, "submit", _submit_as(executor.submit))


def _submit_as(submit: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(submit)
    def submit_as(self: Any, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        who = running.get()
        if who is None:
            return submit(self, function, *args, **kwargs)
        return submit(self, as_owner, who, function, *args, **kwargs)

    return submit_as
