"""What must hold of a cluster with replicated streams."""

from __future__ import annotations

from zebra.events import Event
from zebra.invariant import Violation, at_most_one, invariant, leads_to

CONVERGE_S = 25.0
"""Within so long of the last healing all servers are well and hold the same: longer than two elections take."""

SHOWN = 3
"""How many messages a violation names."""


@invariant("nats.same_streams", on="nats.compared")
class SameStreams:
    """All servers that are up hold the same streams and consumers: settings, sequence numbers, what was delivered."""

    def check(self, event: Event) -> Violation | None:
        for node, lines in event["differs"].items():
            return Violation(f"after {event['phase']}: {node} {'; '.join(lines)}", (event,))
        return None


@invariant("nats.same_messages", on="nats.held")
class SameMessages:
    """A message has one content wherever and whenever it is read: subject, headers, data and time, by its sequence.

    Each event `nats.held` is what one server, leading, answered for all sequence numbers of a stream.
    """

    def __init__(self) -> None:
        self.first: dict[tuple[str, str], tuple[str, Event]] = {}

    def check(self, event: Event) -> Violation | None:
        for number, checksum in event["messages"].items():
            seen, where = self.first.setdefault((event["stream"], number), (checksum, event))
            if seen != checksum:
                text = f"{event['stream']} message {number}: {where['on']} held {seen}, {event['on']} holds {checksum}"
                return Violation(text, (where, event))
        return None


@invariant("nats.no_lost_message", on=("op.invoke", "op.ok", "nats.held"))
class NoLostMessage:
    """What a stream acknowledged is on every server that is read later, under the sequence number it was given."""

    def __init__(self) -> None:
        self.asked: dict[tuple[str, int], Event] = {}
        self.acknowledged: dict[str, dict[str, tuple[str, Event]]] = {}

    def check(self, event: Event) -> Violation | None:
        if event.kind == "nats.held":
            kept = self.acknowledged.get(event["stream"], {})
            gone = [
                number
                for number, (checksum, _) in kept.items()
                if event["messages"].get(number, "").partition(" ")[0] != checksum
            ]
            if gone:
                some = ", ".join(gone[:SHOWN]) + (", …" if len(gone) > SHOWN else "")
                text = f"{event['on']} lacks {len(gone)} acknowledged messages of {event['stream']} ({some})"
                return Violation(text, (kept[gone[0]][1], event))
        elif event["f"] == "publish":
            if event.kind == "op.invoke":
                self.asked[event.node, event["op"]] = event
            else:
                asked = self.asked.pop((event.node, event["op"]))
                known = self.acknowledged.setdefault(asked["stream"], {})
                numbers = range(event["seq"] - len(asked["checksums"]) + 1, event["seq"] + 1)
                known |= {str(n): (c, event) for n, c in zip(numbers, asked["checksums"], strict=True)}
        return None


@invariant("nats.healthy", on="nats.health")
class Healthy:
    """Every server that is up answers, calls itself healthy, has its routes, and agrees on the meta layer's leader."""

    def check(self, event: Event) -> Violation | None:
        for node, wrong in event["problems"].items():
            return Violation(f"after {event['phase']}: {node} {wrong}", (event,))
        return None


ONE_LEADER = at_most_one(
    "nats.one_leader_a_term", "nats.leads",
    per=lambda event: f"{event['group']} in term {event['term']}", who=lambda event: event["leader"],
)  # fmt: skip
ONE_LEADER.__doc__ = "At most one server leads a Raft group in a term: the meta layer's, a stream's, a consumer's."

CONVERGES = leads_to(
    "nats.converges", "run.healed", "nats.compared", within=CONVERGE_S, then=lambda event: not event["differs"]
)
CONVERGES.__doc__ = "Once everything is healed, all servers hold the same within a bound."

INVARIANTS = (SameStreams, SameMessages, NoLostMessage, Healthy, ONE_LEADER, CONVERGES)
