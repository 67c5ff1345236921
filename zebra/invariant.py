"""Invariants: what must hold, checked event by event while the run goes on.

An invariant is a class with one required method, `check(event) -> str | Violation | None`; `end(now_s)` is optional
and is called once after the liveness phase. A new instance is made for every run.
"""

from __future__ import annotations

import inspect
from collections import defaultdict, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, TypeVar

from zebra.errors import ConfigError, PluginError
from zebra.events import Event
from zebra.registry import load, members

EVIDENCE = 5
"""How many of the last events of its kinds a violation shows when the invariant names none."""


@dataclass(frozen=True, slots=True)
class Violation:
    """What broke: a message, and the numbers of the events that show it. `invariant` is filled in by the engine."""

    message: str
    events: tuple[Event | int, ...] = ()
    invariant: str = ""
    t: float = 0.0

    def seqs(self) -> list[int]:
        """The evidence as event numbers."""
        return [event if isinstance(event, int) else event.seq for event in self.events]


class Invariant(Protocol):
    """One instance judges one run."""

    def check(self, event: Event) -> str | Violation | None: ...


Factory = Callable[[], Invariant]
_registry: dict[str, Factory] = {}
F = TypeVar("F", bound=Callable[..., Any])


def invariant(name: str, on: str | Iterable[str]) -> Callable[[F], F]:
    """Register a class (or a factory, such as a partial) as the invariant `name`, called for events of the kinds `on`.

    A kind that ends in `.` stands for all kinds that begin with it; "clock" comes once per second of run time.
    Raises PluginError when the class has no `check(self, event)`.
    """
    kinds = (on,) if isinstance(on, str) else tuple(on)

    def register(factory: F) -> F:
        if inspect.isclass(factory) and len(inspect.signature(getattr(factory, "check", lambda: 0)).parameters) != 2:
            raise PluginError(f"invariant {name}: {factory.__name__} needs a method check(self, event)", name)
        if not kinds or not all(isinstance(kind, str) and kind for kind in kinds):
            raise PluginError(f"invariant {name}: `on` names no event kind", name)
        if isinstance(factory, partial):
            factory.__doc__ = factory.func.__doc__
        factory.zebra_name, factory.zebra_on = name, kinds  # type: ignore[attr-defined]
        _registry[name] = factory
        return factory

    return register


NODE_GONE = ("node.crash", "node.exit", "node.stop")
"""The kinds of event that end an incarnation of a node."""


def value_of(event: Event, name: str) -> Any:
    """A field of an event, or its node for the name "node": how general invariants are told where to look."""
    return event.node if name == "node" else event[name]


def registered() -> dict[str, Factory]:
    """The invariants registered so far, by name."""
    return dict(sorted(_registry.items()))


def find(name: str) -> Factory:
    """An invariant by name, which may have to import its family first; raises ConfigError for an unknown name."""
    if name not in _registry and name.partition(".")[0] in members("invariants"):
        load("invariants", name)
    if name not in _registry:
        raise ConfigError(f"invariant {name!r} is unknown, registered are {', '.join(sorted(_registry)) or 'none'}")
    return _registry[name]


def describe(factory: Any) -> tuple[str, tuple[str, ...]]:
    """The name and the kinds of a factory: a decorated class, an instance of a helper, or a partial of either."""
    inner = factory
    while isinstance(inner, partial) and not hasattr(inner, "zebra_name"):
        inner = inner.func
    if not hasattr(inner, "zebra_name"):
        raise PluginError(f"{inner!r} is not an invariant: decorate it with @invariant(name, on=…)", str(inner))
    return inner.zebra_name, inner.zebra_on


_EVERY_RUN = frozenset({"clock", "run"})
"""Kinds that come in every run: seeing them exercises no invariant that waits for others too."""


class _Checked:
    """The wrapper that validates one invariant: it names the guilty member when that breaks its contract."""

    __slots__ = ("by_absence", "check_inner", "idle", "inner", "name", "recent", "seen")

    def __init__(self, factory: Any) -> None:
        self.name, kinds = describe(factory)
        self.idle = _EVERY_RUN if set(kinds) - _EVERY_RUN else frozenset({"clock"})
        try:
            self.inner: Any = factory()
        except Exception as error:
            raise self._guilty(f"cannot be made: {type(error).__name__}: {error}") from error
        if not callable(getattr(self.inner, "check", None)):
            raise self._guilty("its factory made something without a method check(self, event)")
        self.check_inner: Callable[[Event], Any] = self.inner.check
        self.recent: deque[Event] = deque(maxlen=EVIDENCE)
        self.seen = 0
        self.by_absence = bool(getattr(factory, "zebra_by_absence", False))

    def raised(self, error: Exception, event: Event) -> PluginError:
        """What to say of an exception that `check` raised."""
        return self._guilty(f"raised {type(error).__name__}: {error} at {event!r}")

    def end(self, now_s: float) -> Violation | None:
        end = getattr(self.inner, "end", None)
        try:
            found = None if end is None else end(now_s)
        except Exception as error:
            raise self._guilty(f"raised {type(error).__name__} at its end: {error}") from error
        return None if found is None else self.violation(found, now_s)

    def violation(self, found: Any, t: float) -> Violation:
        if isinstance(found, str):
            return Violation(found, tuple(self.recent), self.name, t)
        if isinstance(found, Violation):
            return Violation(found.message, found.events or tuple(self.recent), found.invariant or self.name, t)
        raise self._guilty(f"check returned {type(found).__name__}, not str, Violation or None")

    def _guilty(self, what: str) -> PluginError:
        return PluginError(f"invariant {self.name}: {what}", self.name)


class Checks:
    """All invariants of one run. `feed` is a listener of the event log; the first violation is kept and announced.

    An invariant that breaks its contract is a violation too, and `error` is the PluginError that says so.
    """

    def __init__(self, factories: Iterable[Any], announce: Callable[[Violation], None] | None = None) -> None:
        self.violation: Violation | None = None
        self.error: PluginError | None = None
        self._announce = announce
        self._all = [_Checked(factory) for factory in factories]
        self._by_kind: dict[str, list[_Checked]] = defaultdict(list)
        self._prefixes: list[tuple[str, _Checked]] = []
        for checked, factory in zip(self._all, factories, strict=True):
            for kind in describe(factory)[1]:
                if kind.endswith("."):
                    self._prefixes.append((kind, checked))
                else:
                    self._by_kind[kind].append(checked)
        self._known = dict(self._by_kind)

    @property
    def wants_clock(self) -> bool:
        return bool(self._by_kind.get("clock"))

    def feed(self, event: Event) -> None:
        kind = event.kind
        checks = self._known.get(kind)
        if checks is None:
            checks = self._by_kind[kind] + [c for prefix, c in self._prefixes if kind.startswith(prefix)]
            self._known[kind] = checks
        for checked in checks:  # one level of calls, for this runs for every event and invariant
            if kind not in checked.idle:
                checked.seen += 1
                checked.recent.append(event)
            try:
                found = checked.check_inner(event)
            except Exception as error:
                found = checked.raised(error, event)
            if found is not None:
                self._judge(checked, found, event.t)

    def _judge(self, checked: _Checked, found: Any, t: float) -> None:
        """Keep what a check returned, or the PluginError that it came to."""
        try:
            if isinstance(found, PluginError):
                raise found
            violation = checked.violation(found, t)
        except PluginError as error:
            violation = self._guilty(checked, error, t)
        self._found(violation)

    def end(self, now_s: float) -> None:
        """Let invariants judge what never came."""
        for checked in self._all:
            if self.violation is not None:
                break
            try:
                found = checked.end(now_s)
            except PluginError as error:
                found = self._guilty(checked, error, now_s)
            if found is not None:
                self._found(found)

    def _guilty(self, checked: _Checked, error: PluginError, t: float) -> Violation:
        """What an invariant that broke its contract comes to: wherever the event was emitted, the run cannot pass."""
        self.error = self.error or error
        return checked.violation(str(error), t)

    def _found(self, violation: Violation) -> None:
        if self.violation is None:
            self.violation = violation
            if self._announce is not None:
                self._announce(violation)

    def exercised(self) -> tuple[list[str], list[str]]:
        """The names of the invariants that saw at least one event, and of those that saw none (unknown)."""
        seen = sorted(c.name for c in self._all if c.seen or c.by_absence)
        return seen, sorted(c.name for c in self._all if not (c.seen or c.by_absence))


def check_history(events: Iterable[Event], factories: Iterable[Any]) -> Violation | None:
    """The first violation in a finished history, or None: what `zebra report` does with stored runs.

    Raises PluginError for an invariant that breaks its contract.
    """
    checks, now_s, second = Checks(list(factories)), 0.0, 1
    for event in events:
        while checks.wants_clock and event.t >= second and checks.violation is None:
            checks.feed(Event(-1, float(second), "", "clock", {}))
            second += 1
        if checks.violation is None:
            checks.feed(event)
        now_s = event.t
        if checks.violation is not None:
            break
    checks.end(now_s)
    if checks.error is not None:
        raise checks.error
    return checks.violation


# -- helpers: invariants from a predicate -----------------------------------------------------------------------


def _register(name: str, on: str | Iterable[str], make: Callable[[], Any]) -> Factory:
    def factory() -> Any:
        return make()

    return invariant(name, on)(factory)


def always(name: str, on: str | Iterable[str], holds: Callable[[Event], bool]) -> Factory:
    """Every event of these kinds satisfies the predicate."""

    class Always:
        def check(self, event: Event) -> str | None:
            return None if holds(event) else f"does not hold at {event!r}"

    return _register(name, on, Always)


def never(name: str, on: str | Iterable[str], happens: Callable[[Event], bool] = lambda _: True) -> Factory:
    """No event of these kinds satisfies the predicate. It holds, and is not unknown, when none ever comes."""
    factory = always(name, on, lambda event: not happens(event))
    factory.zebra_by_absence = True  # type: ignore[attr-defined]
    return factory


def eventually(name: str, on: str, within: float, holds: Callable[[Event], bool] = lambda _: True) -> Factory:
    """An event of this kind that satisfies the predicate comes within so many seconds of the run's start."""
    return leads_to(name, "run", on, within, then=holds)


def leads_to(name: str, first: str, then_kind: str, within: float, *, key: Callable[[Event], Any] = lambda _: None,
             when: Callable[[Event], bool] = lambda _: True,
             then: Callable[[Event], bool] = lambda _: True) -> Factory:  # fmt: skip
    """Each event `first` (with `when`) is followed within so many seconds by one of `then_kind` with the same `key`.

    What is still in time when the run ends is no violation. One event of `then_kind` answers all before it.
    """

    class LeadsTo:
        def __init__(self) -> None:
            self.waiting: dict[Any, Event] = {}

        def check(self, event: Event) -> Violation | None:
            late = self.overdue(event.t)
            if event.kind == then_kind and then(event):
                self.waiting.pop(key(event), None)
            if event.kind == first and when(event):
                self.waiting.setdefault(key(event), event)
            return late

        def end(self, now_s: float) -> Violation | None:
            return self.overdue(now_s)

        def overdue(self, now_s: float) -> Violation | None:
            began = next(iter(self.waiting.values()), None)  # the one that waits longest
            if began is not None and now_s > began.t + within:
                return Violation(f"no {then_kind} within {within:g} s of {began!r}", (began,))
            return None

    return _register(name, (first, then_kind, "clock"), LeadsTo)


def at_most_one(name: str, on: str, per: Callable[[Event], Any],
                who: Callable[[Event], Any] = lambda event: event.node) -> Factory:  # fmt: skip
    """For each value of `per` the events of this kind name one single `who`."""

    class AtMostOne:
        def __init__(self) -> None:
            self.first: dict[Any, Event] = {}

        def check(self, event: Event) -> Violation | None:
            first = self.first.setdefault(per(event), event)
            if who(first) != who(event):
                return Violation(f"{per(event)}: both {who(first)} and {who(event)}", (first, event))
            return None

    return _register(name, on, AtMostOne)
