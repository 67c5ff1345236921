"""What must hold of Owl, checked on its events alone. Source: ../shared/targets/owl.md section 4 (O1-O8, L1-L4)."""

from __future__ import annotations

from collections.abc import Iterator

from zebra.events import Event
from zebra.invariant import Violation, invariant
from zebra.targets.owl.config import DELEGATE_SHARE, FAIR_RATE, deadline_s
from zebra.targets.owl.forest import EXT
from zebra.targets.owl.models import EDGE, FAULT, LIFE, Edges, Faults, Settings
from zebra.targets.owl.policies import BUCKETS

BLAME = ("stall", "reset", "checksum", "length")
REPAIR_S = 3.0


@invariant("owl.no_cycle", on=EDGE)
class NoCycle:
    """O1: the open edges of a chunk, over all trackers, form no cycle."""

    def __init__(self) -> None:
        self.edges = Edges()

    def check(self, event: Event) -> Violation | None:
        self.edges.see(event)
        if event.kind != "edge.open":
            return None
        chunk, child, at, way = event["chunk"], event["child"], event["parent"], [event["child"]]
        while at not in way:
            way.append(at)
            at = self.edges.parent.get((chunk, at), EXT)
            if at == EXT:
                return None
        return Violation(
            f"{chunk}: {' <- '.join([*way, at])} is a cycle, closed by {child}", tuple(self._evidence(chunk, way))
        )

    def _evidence(self, chunk: str, way: list[str]) -> Iterator[Event]:
        for peer in way:
            yield from self.edges.of(peer, chunk)


@invariant("owl.single_source", on=EDGE)
class SingleSource:
    """O2: a peer has at most one open edge for a chunk."""

    def __init__(self) -> None:
        self.edges = Edges()

    def check(self, event: Event) -> Violation | None:
        self.edges.see(event)
        if event.kind == "edge.open":
            edges = self.edges.of(event["child"], event["chunk"])
            if len(edges) > 1:
                parents = ", ".join(e["parent"] for e in edges)
                return Violation(f"{event['child']} downloads {event['chunk']} from {parents} at once", tuple(edges))
        return None


@invariant("owl.integrity", on=("op.invoke", "get.end", "owl.verify", "owl.keep"))
class Integrity:
    """O3: what a get delivers is what was put, and a chunk is kept only once it is verified."""

    def __init__(self) -> None:
        self.put: dict[str, Event] = {}
        self.verified: set[tuple[str, str]] = set()

    def check(self, event: Event) -> str | Violation | None:
        if event.kind == "op.invoke":
            if event["f"] == "publish":
                self.put[event["object"]] = event
        elif event.kind == "get.end":
            if event["ok"] and event["digest"] != self.put[event["object"]]["digest"]:
                return Violation(
                    f"{event['peer']} delivered wrong content as {event['object']}", (self.put[event["object"]], event)
                )
        elif event.kind == "owl.verify":
            if event["ok"]:
                self.verified.add((event["peer"], event["chunk"]))
        elif (event["peer"], event["chunk"]) not in self.verified:
            return Violation(f"{event['peer']} keeps {event['chunk']}, which it has not verified", (event,))
        return None


@invariant("owl.cut_through_honesty", on=("owl.recv", "owl.serve", "owl.keep", "owl.evict", "node.start"))
class CutThroughHonesty:
    """O4: no peer serves bytes of a chunk beyond those that it has received or keeps."""

    def __init__(self) -> None:
        self.received: dict[str, dict[str, int]] = {}
        self.kept: set[tuple[str, str]] = set()

    def check(self, event: Event) -> str | None:
        if event.kind == "node.start":
            before = self.received.get(event.node, {})
            self.received[event.node] = {c: end for c, end in before.items() if (event.node, c) in self.kept}
            return None
        fields, kind = event.fields, event.kind
        peer, chunk = fields["peer"], fields["chunk"]
        if kind == "owl.keep":
            self.kept.add((peer, chunk))
        elif kind == "owl.evict":
            self.kept.discard((peer, chunk))
        else:
            end, held = fields["off"] + fields["len"], self.received[peer].get(chunk, 0)
            if kind == "owl.serve":
                return f"{peer} served {chunk} up to {end}, holds {held}" if end > held else None
            if end > held:
                self.received[peer][chunk] = end
        return None


@invariant("owl.resume", on=("owl.recv", "owl.restart", "owl.drop", "owl.verify", "node.start"))
class Resume:
    """O5: the first bytes on a new edge follow those already held, unless what was held proved to be garbage."""

    def __init__(self) -> None:
        self.held: dict[str, dict[str, tuple[str, int]]] = {}

    def check(self, event: Event) -> str | None:
        if event.kind == "node.start":
            self.held[event.node] = {}
            return None
        fields = event.fields
        peer, chunk = fields["peer"], fields["chunk"]
        if event.kind != "owl.recv":
            if event.kind != "owl.verify" or fields["ok"]:
                self.held[peer].pop(chunk, None)
            return None
        mine, edge, offset = self.held[peer], fields["edge"], fields["off"]
        before, held = mine.get(chunk, ("", 0))
        mine[chunk] = (edge, offset + fields["len"])
        if before != edge and offset != held:
            return f"{peer} holds {held} bytes of {chunk} and begins at {offset} on edge {edge}"
        return None


@invariant("owl.external_economy", on=(*EDGE, *FAULT, "owl.evict"))
class ExternalEconomy:
    """O6: a tracker has at most `owl.external.limit` open edges to the store per chunk.

    Where nothing went wrong with a chunk of the default bucket and nobody evicted it, all trackers together fetch it
    from the store once, those aside that began before they could have heard of it.
    """

    def __init__(self) -> None:
        self.settings, self.edges, self.faults = Settings(), Edges(), Faults()
        self.pushed: dict[tuple[str, str], int] = {}
        self.first: dict[str, dict[str, Event]] = {}
        self.tainted: set[str] = set()

    def check(self, event: Event) -> str | Violation | None:
        self.settings.see(event)
        self.edges.see(event)
        self.faults.see(event)
        if event.kind == "owl.policy":
            self.pushed[event.node, event["bucket"]] = event["external_limit"]
        elif event.kind == "owl.evict" or (event.kind == "edge.close" and event["why"] != "done"):
            self.tainted.add(event["chunk"])
        if event.kind != "edge.open" or event["parent"] != EXT:
            return None
        chunk, tracker = event["chunk"], event.node
        limit = self.pushed.get((tracker, event["bucket"]), self.settings.of(tracker, "external", "limit"))
        mine = [
            e
            for i, e in self.edges.open.items()
            if e["chunk"] == chunk and e["parent"] == EXT and self.edges.owner(i) == tracker
        ]
        if len(mine) > limit:
            return Violation(f"{tracker} has {len(mine)} edges to the store for {chunk}, limit {limit}", tuple(mine))
        first = self.first.setdefault(chunk, {})
        asked_s = DELEGATE_SHARE * self.settings.highest("rpc", "timeout")
        known_s = event.t - self.settings.highest("advert", "every") - asked_s
        earlier = [e for t, e in first.items() if t == tracker or e.t < known_s]
        first.setdefault(tracker, event)
        if earlier and chunk not in self.tainted and event["bucket"] == "default" and not self.faults.any_since(0.0):
            return Violation(
                f"{tracker} fetches {chunk} from the store, {earlier[0].node} did before", (*earlier, event)
            )
        return None


@invariant("owl.no_false_blame", on=("edge.close", *FAULT))
class NoFalseBlame:
    """O7: a source is blamed for a stall, a reset or garbage only when something was done to one of the two ends."""

    def __init__(self) -> None:
        self.settings, self.faults = Settings(), Faults()

    def check(self, event: Event) -> Violation | None:
        self.settings.see(event)
        self.faults.see(event)
        if event.kind != "edge.close" or event["why"] not in BLAME:
            return None
        since_s = event.t - 2 * self.settings.highest("transfer", "idle_timeout")
        if any(self.faults.hit(node, since_s) for node in (event["child"], event["src"])):
            return None
        return Violation(
            f"{event['child']} blames {event['src']} for a {event['why']} of {event['chunk']}, and neither had a fault",
            (event,),
        )


@invariant("owl.obedience", on=("owl.told", "owl.keep", "owl.evict", "clock", *FAULT))
class Obedience:
    """O8: a peer keeps only what it was told to keep, and within two leases nothing that it was told to evict."""

    def __init__(self) -> None:
        self.settings, self.faults = Settings(), Faults()
        self.told: set[tuple[str, str]] = set()
        self.kept: set[tuple[str, str]] = set()
        self.evict: dict[tuple[str, str], Event] = {}

    def check(self, event: Event) -> str | Violation | None:
        self.settings.see(event)
        self.faults.see(event)
        if event.kind == "owl.told":
            key = (event["peer"], event["chunk"])
            self.told.add(key)
            self.evict.pop(key, None)
            if not event["keep"]:
                self.evict[key] = event
        elif event.kind == "owl.keep":
            self.kept.add((event["peer"], event["chunk"]))
            if (event["peer"], event["chunk"]) not in self.told:
                return f"{event['peer']} keeps {event['chunk']}, which it was not told to"
        elif event.kind == "owl.evict":
            self.kept.discard((event["peer"], event["chunk"]))
            self.evict.pop((event["peer"], event["chunk"]), None)
        elif event.kind == "clock":
            grace_s = 2 * self.settings.highest("lease", "ttl")
            for (peer, chunk), told in self.evict.items():
                hit = self.faults.hit(peer, told.t) or self.faults.role_hit("tracker", told.t)
                if event.t > told.t + grace_s and (peer, chunk) in self.kept and not hit:
                    return Violation(f"{peer} still keeps {chunk} {grace_s:g} s after it was told to evict it", (told,))
        return None


@invariant("owl.completion", on=("get.start", "get.end", "clock", *FAULT))
class Completion:
    """L1: every get ends within its deadline, and well unless store, tracker or its peer had a fault."""

    def __init__(self) -> None:
        self.settings, self.faults = Settings(), Faults()
        self.going: dict[tuple[str, str], list[Event]] = {}

    def check(self, event: Event) -> Violation | None:
        self.settings.see(event)
        self.faults.see(event)
        if event.kind in LIFE:
            for key in [k for k in self.going if k[0] == event.node]:
                del self.going[key]
        elif event.kind == "get.start":
            self.going.setdefault((event["peer"], event["object"]), []).append(event)
        elif event.kind == "get.end" and self.going.get((event["peer"], event["object"])):
            started = self.going[event["peer"], event["object"]].pop(0)
            since_s = started.t - 2 * self.settings.highest("transfer", "idle_timeout")
            excused = self.faults.hit(event["peer"], since_s) or any(
                self.faults.role_hit(r, since_s) for r in ("store", "tracker")
            )
            if not event["ok"] and event["why"] != "cancelled" and not excused:
                return Violation(f"{event['peer']} could not get {event['object']}: {event['why']}", (started, event))
        elif event.kind == "clock":
            for started in (e for events in self.going.values() for e in events):
                limit_s = self._limit_s(started["length"])
                if event.t > started.t + limit_s and not self.faults.hit(started["peer"], started.t):
                    return Violation(
                        f"{started['peer']} has been getting {started['object']} for more than {limit_s:g} s",
                        (started,),
                    )
        return None

    def _limit_s(self, length: int) -> float:
        highest = self.settings.highest
        rpc_s = highest("rpc", "timeout")
        return float(
            rpc_s + deadline_s(length, highest("retry", "attempts"), highest("transfer", "idle_timeout"), rpc_s)
        )


@invariant("owl.repair", on=(*EDGE, *FAULT, "owl.recv", "owl.verify", "owl.drop", "clock"))
class Repair:
    """L2: when its source has crashed, a child receives a new byte within its idle timeout and 3 s more."""

    def __init__(self) -> None:
        self.settings, self.edges, self.faults = Settings(), Edges(), Faults()
        self.complete: set[tuple[str, str]] = set()
        self.due: dict[tuple[str, str], tuple[float, Event]] = {}

    def check(self, event: Event) -> Violation | None:
        if event.kind in ("owl.recv", "owl.verify", "owl.drop"):
            key = (event["peer"], event["chunk"])
            self.due.pop(key, None)
            (self.complete.add if event.kind == "owl.verify" and event["ok"] else self.complete.discard)(key)
            return None
        orphans = [e for e in self.edges.open.values() if e["src"] == event.node] if event.kind == "node.crash" else []
        self.settings.see(event)
        self.edges.see(event)
        if event.kind in FAULT and event.kind not in ("run", "node.ready", "fault.inject", "node.start"):
            self.due = {key: due for key, due in self.due.items() if due[1].t == event.t}  # one thing at a time
        self.faults.see(event)
        if (
            event.kind == "node.crash"
            and not self.faults.role_hit("store", event.t)
            and not self.faults.role_hit("tracker", event.t)
        ):
            for edge in orphans:
                key = (edge["child"], edge["chunk"])
                if key not in self.complete and edge["parent"] != EXT:
                    self.due[key] = (
                        event.t + self.settings.of(edge["child"], "transfer", "idle_timeout") + REPAIR_S,
                        event,
                    )
        elif (
            event.kind == "edge.open"
            and (event["child"], event["chunk"]) in self.due
            and event["src"] in self.faults.active()
        ):
            crash = self.due[event["child"], event["chunk"]][1]  # out of one dead peer's hands into another's
            due_s = event.t + self.settings.of(event["child"], "transfer", "idle_timeout") + REPAIR_S
            self.due[event["child"], event["chunk"]] = (due_s, crash)
        elif event.kind == "clock":
            for (child, chunk), (due_s, crash) in self.due.items():
                if event.t > due_s and not self.faults.hit(child, crash.t):
                    return Violation(
                        f"{child} has had no byte of {chunk} since its source {crash.node} crashed", (crash,)
                    )
        return None


@invariant("owl.tracker_loss", on=("owl.reg", "owl.keep", "owl.evict", "clock", *FAULT))
class TrackerLoss:
    """L3: a lost tracker's peers are registered again within two leases, and the tracker then knows what they keep."""

    def __init__(self) -> None:
        self.settings, self.faults = Settings(), Faults()
        self.tracker: dict[str, str] = {}
        self.due: dict[str, tuple[float, Event]] = {}
        self.kept: dict[str, dict[str, float]] = {}
        self.evicted: dict[str, dict[str, float]] = {}

    def check(self, event: Event) -> str | Violation | None:
        self.settings.see(event)
        self.faults.see(event)
        kind = event.kind
        if kind in ("owl.keep", "owl.evict"):
            gains, loses = (self.kept, self.evicted) if kind == "owl.keep" else (self.evicted, self.kept)
            gains.setdefault(event["peer"], {})[event["chunk"]] = event.t
            loses.get(event["peer"], {}).pop(event["chunk"], None)
        elif kind == "owl.reg":
            self.tracker[event["peer"]] = event.node
            self.due.pop(event["peer"], None)
            return self._known(event)
        elif kind in ("node.crash", "node.stop"):
            self.tracker.pop(event.node, None)
            self.due.pop(event.node, None)
            for peer in [p for p, t in self.tracker.items() if t == event.node]:
                self.due[peer] = (event.t + 2 * self.settings.highest("lease", "ttl"), event)
        elif kind == "clock":
            for peer, (due_s, lost) in self.due.items():
                if event.t > due_s and not self.faults.hit(peer, lost.t) and not self._all_lost():
                    return Violation(f"{peer} is not registered again two leases after {lost.node} was lost", (lost,))
        return None

    def _all_lost(self) -> bool:
        return {n for n in self.settings.configs if n.startswith("tracker-")} <= set(self.faults.active())

    def _known(self, event: Event) -> str | None:
        """Compare a registration's cache list with the cache; what changed while it was on its way does not count."""
        peer, sent_s = event["peer"], event.t - self.settings.of(event["peer"], "rpc", "timeout")
        missing = [c for c, at in self.kept.get(peer, {}).items() if at < sent_s and c not in event["cached"]]
        extra = [c for c in event["cached"] if self.evicted.get(peer, {}).get(c, event.t) < sent_s]
        if (missing or extra) and not self.faults.hit(event.node, sent_s):
            return f"{event.node} registers {peer} without {missing} and with {extra}, which it keeps and does not keep"
        return None


@invariant("owl.sla", on=("get.start", "get.end", *FAULT))
class Sla:
    """L4: of the gets of a bucket that no fault disturbed, the promised share ends within the bucket's time."""

    def __init__(self) -> None:
        self.faults = Faults()
        self.going: dict[tuple[str, str], Event] = {}
        self.in_time: dict[str, list[bool]] = {}

    def check(self, event: Event) -> None:
        self.faults.see(event)
        if event.kind == "get.start":
            self.going[event["peer"], event["object"]] = event
        elif event.kind == "get.end":
            started = self.going.pop((event["peer"], event["object"]), None)
            if started is not None and not self.faults.any_since(started.t):
                limit_s = BUCKETS[started["bucket"]].sla_s + started["length"] / FAIR_RATE
                self.in_time.setdefault(started["bucket"], []).append(event["ok"] and event.t - started.t <= limit_s)

    def end(self, now_s: float) -> str | None:
        for bucket, gets in self.in_time.items():
            share = sum(gets) / len(gets)
            if share < BUCKETS[bucket].sla_target:
                return f"bucket {bucket}: {share:.0%} of {len(gets)} in time, promised {BUCKETS[bucket].sla_target:.0%}"
        return None


INVARIANTS = (
    NoCycle,
    SingleSource,
    Integrity,
    CutThroughHonesty,
    Resume,
    ExternalEconomy,
    NoFalseBlame,
    Obedience,
    Completion,
    Repair,
    TrackerLoss,
    Sla,
)
