"""What a person knows of a space that its types do not say: values to try, what to leave out and why, what must be set
together, and profiles.

In code that is a `Rules`; in a file (`--zebra-rules`) YAML of four sections, any of which may be missing:

    values:                                  # beside those that follow from the type
      app.chunk.size: [2MiB, 16MiB]
    exclude:
      app.port.*: addresses are the test's    # every parameter that matches, and the reason
      app.retries: {0: turns retries off}     # or some of its values, each with the reason
    constraints:
      - when: {app.http.policy: [HTTPS, BOTH]}
        set: {app.https.address: "0.0.0.0:8443"}
    profiles:
      app.heartbeats:
        usual: {}
        slow: {app.heartbeat: 2s, app.election.timeout: 10s}

A constraint speaks of nodes: each that is given such a value in place of its usual one gets the other settings too.
Source: ZebraConf's dependency rules (2.5 in ../shared/research/zebraconf.md).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase

from zebra.errors import ConfigError
from zebra.params.assignment import Assignment
from zebra.params.parameter import Profile, Space, Value


@dataclass(frozen=True, slots=True)
class Constraint:
    """A node whose `parameter` is given one of `values` is given what `settings` say as well."""

    parameter: str
    values: tuple[Value, ...]
    settings: Mapping[str, Value]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """Values to try, parameters (names or globs) and values left out with the reason, constraints, profiles.

    Values are as a person would write them until `applied` has checked them against a space.
    """

    values: Mapping[str, tuple[Value, ...]] = field(default_factory=dict)
    exclude: Mapping[str, str] = field(default_factory=dict)
    exclude_values: Mapping[str, Mapping[Value, str]] = field(default_factory=dict)
    constraints: tuple[Constraint, ...] = ()
    profiles: tuple[Profile, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.values or self.exclude or self.exclude_values or self.constraints or self.profiles)

    def __add__(self, other: Rules) -> Rules:
        """Both; where they speak of the same thing, the other holds."""
        return Rules(
            values={**self.values, **other.values}, exclude={**self.exclude, **other.exclude},
            exclude_values={**self.exclude_values, **other.exclude_values},
            constraints=self.constraints + other.constraints, profiles=self.profiles + other.profiles,
        )  # fmt: skip

    def applied(self, space: Space) -> Space:
        """The space as campaigns are to see it. Raises ConfigError for what the space does not have."""
        space = space.altered(self.profiles)
        changed = {}
        for name, values in self.values.items():
            changed[name] = replace(space[name], more=tuple(map(space[name].parse, values)))
        for name, reasons in self.exclude_values.items():
            parameter = changed.get(name, space[name])
            changed[name] = replace(parameter, without={parameter.parse(v): why for v, why in reasons.items()})
        for pattern, reason in self.exclude.items():
            names = [name for name in space if fnmatchcase(name, pattern)]
            if not names:
                raise ConfigError(f"exclude: no parameter of {space.prefix} matches {pattern!r}")
            for name in names:
                changed[name] = replace(changed.get(name, space[name]), excluded=reason)
        for constraint in self.constraints:
            for value in constraint.values:
                space[constraint.parameter].parse(value)
            space.plain(constraint.settings)
            if constraint.parameter in constraint.settings:
                raise ConfigError(f"constraint on {constraint.parameter}: it cannot set itself")
        return space.altered((), changed.values())

    def touches(self, name: str, space: Space) -> frozenset[str]:
        """All parameters that giving this one another value may set."""
        found = {name, *space[name].members}
        for constraint in self.constraints:
            if constraint.parameter in found:
                found |= space.plain(constraint.settings).keys()
        return frozenset(found)

    def lowered(self, assignment: Assignment, space: Space, known: Space, usual: Mapping[str, Value]) -> Assignment:
        """The assignment with all that constraints demand, and with its members in place of a profile that `known`, the
        target's own space, does not have. So a replay needs no rules.

        `usual` is what every node has of its own accord, and needs nothing else to be set.
        """
        found, held = dict(assignment), dict(assignment)
        for name in [name for name in assignment if space[name].members]:
            for member in space[name].members:
                held[member] = {who: space[name].settings[value][member] for who, value in assignment[name].items()}
                if name not in known:
                    found[member] = held[member]
        for constraint in self.constraints:
            shares, usually = held.get(constraint.parameter, {}), usual[constraint.parameter]
            wanted = set(map(space[constraint.parameter].parse, constraint.values)) - {usually}
            if not wanted.intersection(shares.values()):
                continue
            for name, value in space.plain(constraint.settings).items():
                others = found.get(name, {"*": usual[name]})
                all_who = dict.fromkeys((*others, *shares))
                found[name] = {who: others.get(who, others.get("*", usual[name])) for who in all_who}
                found[name] |= {who: value for who, holds in shares.items() if holds in wanted}
                held[name] = found[name]
        return {name: shares for name, shares in found.items() if name in known}

    def changes(self, values: Mapping[str, Value], space: Space, known: Space,
                usual: Mapping[str, Value]) -> dict[str, Value]:  # fmt: skip
        """What a node must be given that changes to these values while it runs: what constraints no longer demand goes
        back to what is usual."""
        touched = frozenset[str]().union(*(self.touches(name, space) for name in values))
        back = {
            name: usual[name]
            for constraint in self.constraints
            if constraint.parameter in touched
            for name in space.plain(constraint.settings)
        }
        found = self.lowered({name: {"*": value} for name, value in values.items()}, space, known, usual)
        return back | {name: shares["*"] for name, shares in found.items()}
