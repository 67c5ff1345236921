"""What must hold of a primary and its standbys."""

from __future__ import annotations

from zebra.events import Event
from zebra.invariant import Violation, invariant, leads_to

CONVERGE_S = 20.0
"""Within so long of the last healing a comparison finds all nodes alike."""


@invariant("postgres.one_data_set", on="postgres.compared")
class OneDataSet:
    """Every standby holds the primary's data, and a promoted one what it held before: tables, rows, typed values."""

    def check(self, event: Event) -> Violation | None:
        for node, lines in event["differs"].items():
            return Violation(f"after {event['phase']}: {node} {'; '.join(lines)}", (event,))
        return None


@invariant("postgres.same_when_written_back", on="postgres.written_back")
class SameWhenWrittenBack:
    """What is read from one node and written on another is the same there, type by type."""

    def check(self, event: Event) -> Violation | None:
        if not event["differs"]:
            return None
        rows = ", ".join(map(str, event["differs"]))
        return Violation(f"read from {event.get('source')}, on {event['to']} other values in rows {rows}", (event,))


@invariant("postgres.healthy", on="postgres.health")
class Healthy:
    """Every node that is up answers, has its role, receives and replays, and is not behind."""

    def check(self, event: Event) -> Violation | None:
        for node, wrong in event["problems"].items():
            return Violation(f"after {event['phase']}: {node} {wrong}", (event,))
        return None


@invariant("postgres.no_lost_commit", on=("op.invoke", "op.ok", "postgres.kept"))
class NoLostCommit:
    """What was committed and then seen on every standby is on whichever node is the primary later."""

    def __init__(self) -> None:
        self.asked: dict[tuple[str, int], Event] = {}
        self.confirmed: dict[str, tuple[str, Event]] = {}

    def check(self, event: Event) -> Violation | None:
        if event.kind == "postgres.kept":
            for key, (value, written) in self.confirmed.items():
                if event["values"].get(key) != value:
                    held = event["values"].get(key, "nothing")
                    lost = f"{key}={value} was committed and on every standby, {event['on']} holds {held}"
                    return Violation(lost, (written, event))
        elif event["f"] == "write":
            if event.kind == "op.invoke":
                self.asked[event.node, event["op"]] = event
            elif event["confirmed"] >= event["standbys"] > 0:
                asked = self.asked[event.node, event["op"]]
                self.confirmed[asked["key"]] = (asked["value"], event)
        return None


CONVERGES = leads_to(
    "postgres.converges", "run.healed", "postgres.compared", within=CONVERGE_S, then=lambda event: not event["differs"]
)
CONVERGES.__doc__ = "Once everything is healed, all nodes are alike within a bound."

INVARIANTS = (OneDataSet, SameWhenWrittenBack, Healthy, NoLostCommit, CONVERGES)
