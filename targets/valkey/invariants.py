"""What must hold of a primary and its replicas."""

from __future__ import annotations

from zebra.events import Event
from zebra.invariant import Violation, invariant, leads_to

CONVERGE_S = 15.0
"""Within so long of the last healing a comparison finds all nodes alike."""


@invariant("valkey.one_data_set", on="valkey.compared")
class OneDataSet:
    """Every replica holds the primary's data: the same keys in the same databases, of the same types and values."""

    def check(self, event: Event) -> Violation | None:
        for node, lines in event["differs"].items():
            return Violation(f"after {event['phase']}: {node} {'; '.join(lines)}", (event,))
        return None


@invariant("valkey.healthy", on="valkey.health")
class Healthy:
    """Every node that is up answers, has its role and its link, is not behind, and carried out all that it was sent."""

    def check(self, event: Event) -> Violation | None:
        for node, wrong in event["problems"].items():
            return Violation(f"after {event['phase']}: {node} {wrong}", (event,))
        return None


@invariant("valkey.no_lost_write", on=("op.invoke", "op.ok", "valkey.kept"))
class NoLostWrite:
    """What both replicas confirmed by `WAIT 2`, or a primary that saves before it goes, is on the primary later."""

    def __init__(self) -> None:
        self.asked: dict[tuple[str, int], Event] = {}
        self.confirmed: dict[str, tuple[str, Event]] = {}

    def check(self, event: Event) -> Violation | None:
        if event.kind == "valkey.kept":
            for key, (value, written) in self.confirmed.items():
                if event["values"].get(key) != value:
                    held = event["values"].get(key, "nothing")
                    by = "a primary that saves before it goes" if written["saved"] else "two replicas"
                    lost = f"{key}={value} was confirmed by {by}, {event['on']} holds {held}"
                    return Violation(lost, (written, event))
        elif event["f"] == "write":
            if event.kind == "op.invoke":
                self.asked[event.node, event["op"]] = event
            elif event["confirmed"] >= 2 or event["saved"]:
                asked = self.asked[event.node, event["op"]]
                self.confirmed[asked["key"]] = (asked["value"], event)
        return None


CONVERGES = leads_to(
    "valkey.converges", "run.healed", "valkey.compared", within=CONVERGE_S, then=lambda event: not event["differs"]
)
CONVERGES.__doc__ = "Once everything is healed, all nodes are alike within a bound."

INVARIANTS = (OneDataSet, Healthy, NoLostWrite, CONVERGES)
