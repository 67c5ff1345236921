"""The agent: in a process that holds several nodes it knows which of them reads a parameter, and answers each its own.

Reads outside of any node before the first node begins, imports among them, are *uncertain*: several nodes may share
what was read, so nothing can be said of such a parameter. What the test reads later is *external*: it gets what all
get.
"""

from __future__ import annotations

import copy
import functools
import inspect
import os
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

from zebra.agent import context, processes
from zebra.agent.adapter import Adapter, Mark, named
from zebra.agent.context import Owner, running
from zebra.agent.ownership import Ownership
from zebra.agent.patches import Patches
from zebra.errors import ConfigError
from zebra.params import Read, Space
from zebra.params.assignment import values_for
from zebra.spec import RunSpec
from zebra.topology import Place

_ABSENT: Any = object()
_PLAIN = frozenset((bool, int, float, str))
_OWNER = "_zebra_owner"
RESTORERS = ("_pytest/monkeypatch.py", "unittest/mock.py")
"""Files that read what is there only to put it back."""

EXTERNAL, UNCERTAIN = "test", "?"
_copying: ContextVar[bool] = ContextVar("zebra_copying", default=False)


class Agent:
    """One adapter at work. `start` patches, `stop` takes everything back; `run` holds the nodes of one run."""

    def __init__(self, adapter: Adapter, space: Space | None = None) -> None:
        self.adapter = adapter
        self.space = adapter.space() if space is None else space
        self.patches = Patches()
        self.recording = False
        self.uncertain_at: dict[str, str] = {}
        self._one_node = False
        self._prefix = len(self.space.prefix) + 1
        self._full = {name[self._prefix :]: name for name in self.space}
        self._inside: tuple[str, ...] = tuple(getattr(adapter, "inside", ()))
        self._sites: dict[tuple[CodeType, int], str] = {}
        self._reset(RunSpec(target=adapter.name), None)

    # -- life ------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Intercept, and note from now on what is read. Raises ConfigError while another agent is on."""
        if context.active is not None:
            raise ConfigError(f"agent {self.adapter.name}: another agent is on in this process")
        context.activate(self)
        self.recording = True
        try:
            context.follow(self.patches)
            processes.follow(self.patches, self.environment, self.copying)
            self.adapter.install(self)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Put back whatever was replaced."""
        self.patches.undo()
        self.recording = False
        if context.active is self:
            context.activate(None)

    def _reset(self, spec: RunSpec, directory: Path | None) -> None:
        self.spec, self.directory = spec, directory
        self.reads: set[Read] = set()
        self.nodes: dict[str, Owner] = {}
        self._numbers: dict[str, int] = {}
        nobody = Place(node="none-1", role="none", host="", rack="", dc="", region="")
        self.external = Owner(EXTERNAL, "", self._natives(nobody))
        self.uncertain = Owner(UNCERTAIN, "", self._natives(nobody))
        self.objects = Ownership(self.external, self.uncertain)

    @contextmanager
    def run(self, spec: RunSpec, *, record: bool, directory: Path | None = None) -> Iterator[None]:
        """One run: nodes are numbered anew and read what `spec.assignment` gives them; all else runs as the test.

        `directory` is where processes that nodes start find what they need to go on as these nodes
        (`zebra.agent.join`); without one it is made and removed.
        """
        self._reset(spec, directory)
        recording, self.recording = self.recording, record
        try:
            with context.acting(self.external):
                yield
        finally:
            self.reads |= processes.collect(self.directory)
            if directory is None and self.directory is not None:
                processes.remove(self.directory)
            self.recording = recording

    # -- who -------------------------------------------------------------------------------------------------

    def begin(self, role: str) -> Owner:
        """The next node of a role."""
        number = self._numbers[role] = self._numbers.get(role, 0) + 1
        return self._make(f"{role}-{number}", role)

    def _make(self, name: str, role: str) -> Owner:
        place = Place(node=name, role=role, host="", rack="", dc="", region="")
        self.nodes[name] = Owner(name, role, self._natives(place))
        return self.nodes[name]

    def become(self, name: str, spec: RunSpec, directory: Path) -> None:
        """This whole process is one node of a run elsewhere."""
        self._reset(spec, directory)
        self._one_node = True
        running.set(self._make(name, name.rpartition("-")[0]))

    def _natives(self, place: Place) -> dict[str, Any]:
        values = values_for(self.spec.assignment, place)
        native = self.adapter.native
        return {name[self._prefix :]: native(self.space[name], value) for name, value in values.items()}

    def owner(self) -> Owner:
        """Who is running."""
        return running.get() or self.uncertain

    def reader(self, conf: Any) -> Owner:
        """Who counts as the reader of a configuration object."""
        return self.objects.reader(conf, running.get() or self.uncertain)

    def receive(self, conf: Any, node: Owner) -> Any:
        """A node's own copy of a configuration object; one that a node has already stays as it is."""
        if self.objects.owner(conf).is_node:
            return conf
        parts = getattr(self.adapter, "parts", lambda conf: (conf,))
        with context.acting(node), self.copying():
            own = copy.deepcopy(conf)
            for theirs, part in zip(parts(conf), parts(own), strict=True):
                self.objects.handed(theirs, part, node)
        return own

    @contextmanager
    def copying(self) -> Iterator[None]:
        """What is read in order to copy a configuration, or to hand it on, is as it is, and not noted."""
        before = _copying.set(True)
        try:
            yield
        finally:
            _copying.reset(before)

    # -- reads -----------------------------------------------------------------------------------------------

    def read(self, who: Owner, name: str, original: Any, *args: Any) -> Any:
        """The answer to a read of a parameter: what the assignment gives to `who`, else `original(*args)`.

        To be called by the very function that the program calls to read: one further frame up is the read site.
        """
        value = who.values.get(name, _ABSENT)
        if value is _ABSENT or _copying.get():
            try:
                value = original(*args)
            except KeyError:  # the program has a default of its own, which the space is taken to know
                if self.recording and (full := self._full.get(name)):
                    usual = self.adapter.native(self.space[full], self.space[full].default)
                    self.note(who, name, usual, sys._getframe(2))
                raise
        if self.recording and name in self._full:
            frame = sys._getframe(2)
            if who.seen.get((name, id(frame.f_code), frame.f_lasti), _ABSENT) is not value:  # else known already
                self.note(who, name, value, frame)
        return value

    def note(self, who: Owner, name: str, value: Any, frame: FrameType | None) -> None:
        """Remember who has read what, where, unless it is known already."""
        if _copying.get():
            return
        while frame is not None and frame.f_code.co_filename in self._inside:
            frame = frame.f_back
        if frame is None or frame.f_code.co_filename.endswith(RESTORERS):
            return
        key = (name, id(frame.f_code), frame.f_lasti)  # a code object's own hash takes longer than all else here
        before = who.seen.get(key, _ABSENT)
        if before is value or (type(value) in _PLAIN and type(before) is type(value) and before == value):
            return
        who.seen[key] = value
        full, site = self._full[name], self.site(frame)
        at_import = not self._one_node and not frame.f_code.co_flags & inspect.CO_OPTIMIZED  # a module's or class' body
        if who is self.uncertain or at_import or (who is self.external and not self.nodes):
            self.uncertain_at.setdefault(full, site)
            return
        try:
            shown = self.adapter.value(self.space[full], value)
        except (ConfigError, TypeError):
            shown = str(value)
        self.reads.add(Read(who.role, full, shown, who.name, site))

    def site(self, frame: FrameType) -> str:
        """Where a frame is, `path:line`, relative to where its code was imported from."""
        key = (frame.f_code, frame.f_lineno)
        if key not in self._sites:
            self._sites[key] = f"{_relative(frame.f_code.co_filename)}:{frame.f_lineno}"
        return self._sites[key]

    # -- nodes that are objects ------------------------------------------------------------------------------

    def mark(self, mark: Mark) -> None:
        """Let the instances of a class be nodes of a role; arguments that are configuration objects become theirs."""
        cls: Any = mark.cls
        if isinstance(cls, str):
            cls = named(cls)
        self.patches.set(cls, "__init__", self._initialiser(mark, cls.__init__))
        for name in mark.methods:
            self.patches.set(cls, name, _method(getattr(cls, name)))

    def _initialiser(self, mark: Mark, init: Any) -> Any:
        is_conf = getattr(self.adapter, "is_conf", lambda _: False)

        @functools.wraps(init)
        def initialise(instance: Any, *args: Any, **kwargs: Any) -> None:
            who = vars(instance).get(_OWNER)
            if who is None:  # else this is called by the initialiser of a subclass
                here = self.owner()
                who = here if here.is_node and not mark.inner else self.begin(mark.role)
                vars(instance)[_OWNER] = who
            args = tuple(self.receive(arg, who) if is_conf(arg) else arg for arg in args)
            kwargs = {name: self.receive(arg, who) if is_conf(arg) else arg for name, arg in kwargs.items()}
            with context.acting(who):
                init(instance, *args, **kwargs)
            if mark.goes_on and (here is self.external or here.role == mark.role):
                running.set(who)

        return initialise

    # -- processes -------------------------------------------------------------------------------------------

    def environment(self) -> dict[str, str]:
        """What a process that is started now gets in its environment: its node's identity, and the node's values."""
        who = running.get()
        if who is None or not who.is_node:
            return {}
        if self.directory is None:
            self.directory = Path(tempfile.mkdtemp(prefix="zebra-agent-"))
        identity = processes.identity(who.name, self.spec, self.directory, self.recording)
        return {**self.adapter.environment(who.values), **identity}


def _method(function: Any) -> Any:
    """A method that runs as the node that its instance is."""
    if inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def call_async(self: Any, *args: Any, **kwargs: Any) -> Any:
            with context.acting(vars(self).get(_OWNER)):
                return await function(self, *args, **kwargs)

        return call_async

    @functools.wraps(function)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        who = vars(self).get(_OWNER)
        with context.acting(who):
            result = function(self, *args, **kwargs)
        return context.continuing(who, result) if inspect.iscoroutine(result) else result

    return call


@functools.cache
def _roots() -> tuple[str, ...]:
    """Where code is imported from, the most exact first."""
    found = {os.getcwd(), *sysconfig.get_paths().values(), *(os.path.abspath(path) for path in sys.path if path)}
    return tuple(sorted((root.rstrip("/") + "/" for root in found), key=len, reverse=True))


def _relative(file: str) -> str:
    return next((file[len(root) :] for root in _roots() if file.startswith(root)), os.path.basename(file))
