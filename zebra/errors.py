"""What zebra raises on purpose, and the exit codes of the `zebra` command."""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from zebra.invariant import Violation


class ExitCode(IntEnum):
    """Exit codes of the `zebra` command. Source: ../shared/design.md section 12."""

    OK = 0
    VIOLATION = 1
    USAGE = 2
    INCONCLUSIVE = 3
    INTERNAL = 70
    INTERRUPTED = 130


class ZebraError(Exception):
    """The parent of everything that zebra raises on purpose."""


class ConfigError(ZebraError, ValueError):
    """A setting is missing, unknown or out of range: the reader of the message can put it right."""


class PluginError(ZebraError):
    """A fault, invariant, reporter or target broke its contract; `member` is its name."""

    def __init__(self, message: str, member: str) -> None:
        super().__init__(message)
        self.member = member


class TargetError(ZebraError):
    """The system under test would not start or stop."""


class NodeDown(ZebraError):
    """A call was made on a client whose node is not running, or stopped running meanwhile."""


class Escape(ZebraError):
    """Code inside a simulation reached for the real world: a socket, a thread, a subprocess, a blocking sleep."""


class Hang(ZebraError):
    """The run was not done in time; the message says who waited where."""


class Deadlock(Hang):
    """Nothing can run and no timer is set: the simulated cluster would wait for ever."""


class Injected(ZebraError):
    """Raised in a role's code by the fault `application.exception`: nothing is wrong but what the test wanted."""


class NondeterminismError(ZebraError):
    """One seed gave two histories; `first` and `second` are the first events that differ (or None where one ended)."""

    def __init__(self, message: str, first: str | None, second: str | None) -> None:
        super().__init__(message)
        self.first, self.second = first, second


class Infrastructure(ZebraError):
    """The machinery of a run failed, not the system under test: the run says nothing about it."""


class Failed(ZebraError):
    """Raised by a client inside `op(...)`: the operation surely did not happen (its outcome is `fail`)."""


class ZebraInternalError(ZebraError):
    """A bug in zebra itself: please report it, with the token that the run printed."""


class InvariantViolated(ZebraError, AssertionError):
    """A finding, not a malfunction: `violation` says which invariant broke and at which events."""

    def __init__(self, violation: Violation, token: str) -> None:
        super().__init__(f"{violation.invariant}: {violation.message}")
        self.violation, self.token = violation, token
