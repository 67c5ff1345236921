"""Zebra tests distributed systems the way production breaks them.

The words, each explained where it lives: a *target* (`zebra.target`) has *roles*; a *node* (`zebra.node`) is a running
instance on a host of the *topology*; a *cluster* (`zebra.cluster`) is a running target; a *substrate*
(`zebra.substrate`) is where its nodes run; *parameters*, *spaces* and *assignments* are in `zebra.params`; *faults*,
*selections* and *schedules* in `zebra.injection`; *events* and *histories* in `zebra.events`; *invariants* and
*violations* in `zebra.invariant`; a *run* in `zebra.run`, its RunSpec and token in `zebra.spec`, its *outcome* in
`zebra.outcome`; *campaigns*, *trials* and *verdicts* in `zebra.campaign`.

Names are resolved on first use, so that importing the pytest plugin costs next to nothing.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zebra.blob import Blob as Blob
    from zebra.cluster import Cluster as Cluster
    from zebra.errors import ConfigError as ConfigError
    from zebra.errors import Failed as Failed
    from zebra.errors import InvariantViolated as InvariantViolated
    from zebra.errors import ZebraError as ZebraError
    from zebra.events import Event as Event
    from zebra.events import History as History
    from zebra.injection.fault import fault as fault
    from zebra.injection.schedule import Configure as Configure
    from zebra.injection.schedule import Inject as Inject
    from zebra.injection.schedule import Roll as Roll
    from zebra.injection.schedule import Schedule as Schedule
    from zebra.injection.selection import Selection as Selection
    from zebra.injection.selection import all_of as all_of
    from zebra.injection.selection import majority as majority
    from zebra.injection.selection import minority as minority
    from zebra.injection.selection import one as one
    from zebra.invariant import Violation as Violation
    from zebra.invariant import always as always
    from zebra.invariant import at_most_one as at_most_one
    from zebra.invariant import eventually as eventually
    from zebra.invariant import invariant as invariant
    from zebra.invariant import leads_to as leads_to
    from zebra.invariant import never as never
    from zebra.node import Node as Node
    from zebra.outcome import Outcome as Outcome
    from zebra.params.parameter import Param as Param
    from zebra.params.parameter import Profile as Profile
    from zebra.run import run as run
    from zebra.sites import buggify as buggify
    from zebra.sites import failpoint as failpoint
    from zebra.spec import RunSpec as RunSpec
    from zebra.target import Target as Target
    from zebra.topology import Topology as Topology

_WHERE = {
    "zebra.blob": ("Blob",),
    "zebra.cluster": ("Cluster",),
    "zebra.errors": ("ConfigError", "Failed", "InvariantViolated", "ZebraError"),
    "zebra.events": ("Event", "History"),
    "zebra.injection.fault": ("fault",),
    "zebra.injection.schedule": ("Configure", "Inject", "Roll", "Schedule"),
    "zebra.injection.selection": ("Selection", "all_of", "majority", "minority", "one"),
    "zebra.invariant": ("Violation", "always", "at_most_one", "eventually", "invariant", "leads_to", "never"),
    "zebra.node": ("Node",),
    "zebra.outcome": ("Outcome",),
    "zebra.params.parameter": ("Param", "Profile"),
    "zebra.run": ("run",),
    "zebra.sites": ("buggify", "failpoint"),
    "zebra.spec": ("RunSpec",),
    "zebra.target": ("Target",),
    "zebra.topology": ("Topology",),
}
_NAMES = {name: module for module, names in _WHERE.items() for name in names}
__all__ = sorted(_NAMES)


def __getattr__(name: str) -> Any:
    if name not in _NAMES:
        raise AttributeError(f"module 'zebra' has no attribute {name!r}")
    value = getattr(import_module(_NAMES[name]), name)
    globals()[name] = value
    return value


class _Package(ModuleType):
    """`zebra.run` and `zebra.invariant` are functions; importing the modules of those names must not hide them."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (isinstance(value, ModuleType) and name in _NAMES):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __dir__() -> list[str]:
    return sorted([*globals(), *_NAMES])
