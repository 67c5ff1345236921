"""What must happen in time in LAD's distribution: L1 to L5 of ../shared/targets/lad.md section 4.

Time counts while nothing is being done to anybody: a bound begins anew when the last fault is healed, with what the
repair itself may take added.
"""

from __future__ import annotations

from collections import defaultdict, deque

from zebra.events import Event
from zebra.invariant import Violation, invariant
from zebra.targets.lad.gates import is_inside
from zebra.targets.lad.models import FAULT, Cluster, Commits
from zebra.targets.lad.store_messages import Gate

ALIVE = ("commit", "interest", "content.ready", "clock", *FAULT)


class Due:
    """Which proxy still lacks which version of which path, and since when: what L1 and L5 share.

    `cause` says which of the two a debt belongs to: a commit, or a new interest of the proxy.
    """

    def __init__(self) -> None:
        self.cluster, self.commits = Cluster(), Commits()
        self.interested: dict[str, dict[str, None]] = defaultdict(dict)
        self.ready: dict[tuple[str, str], int] = {}
        self.debts: dict[tuple[str, str], tuple[int, float, Event, str]] = {}

    def see(self, event: Event) -> None:
        kind = event.kind
        if kind in FAULT:
            self.cluster.see(event)
            if kind == "node.start":
                for paths in self.interested.values():
                    paths.pop(event.node, None)
                for key in [key for key in self.debts if key[0] == event.node]:
                    del self.debts[key]
        elif kind == "commit":
            if self.commits.see(event):
                for proxy in self.interested[event["path"]]:
                    self._owe(proxy, event, "commit", event.t)
        elif kind == "interest":
            self.interested[event["path"]][event.node] = None
            latest = self.commits.latest.get(event["path"])
            if latest is not None:
                self._owe(event.node, latest, "interest", event.t)
        elif kind == "content.ready":
            key = event.node, event["path"]
            self.ready[key] = max(event["version"], self.ready.get(key, 0))
            debt = self.debts.get(key)
            if debt is not None and debt[0] <= self.ready[key]:
                del self.debts[key]

    def _owe(self, proxy: str, commit: Event, cause: str, t: float) -> None:
        version = self._version_for(proxy, commit)
        key = proxy, commit["path"]
        if commit["deleted"] or version <= self.ready.get(key, 0):
            return
        since_s = self.debts[key][1] if key in self.debts else t
        self.debts[key] = version, since_s, commit, cause

    def _version_for(self, proxy: str, commit: Event) -> int:
        """The version that a host is meant to see: the exposer's gate decides."""
        if commit["percent"] >= 100:
            return int(commit["version"])
        gate = Gate(percent=commit["percent"], hosts=tuple(commit["hosts"]), change=commit["change"])
        author = next(iter(self.cluster.role("author")), "")
        seed = self.cluster.of(author, "selector", "seed") if author else 0
        inside = is_inside(gate, self.cluster.places[proxy]["host"], seed)
        return int(commit["version"] if inside else commit["full"] or 0)

    def overdue(self, now_s: float, cause: str) -> Violation | None:
        """The oldest debt that should have been paid."""
        quiet_s = self.cluster.quiet_since()
        bound_s = self.cluster.highest("limit", "propagation")
        for (proxy, path), (version, since_s, commit, why) in self.debts.items():
            start_s = max(since_s, quiet_s + self.cluster.recovery_s())
            if why == cause and now_s - start_s > bound_s:
                has = self.ready.get((proxy, path), 0)
                return Violation(
                    f"{proxy} has version {has} of {path}, not {version}, {now_s - since_s:.1f} s after the {cause}",
                    (commit,),
                )
        return None


@invariant("lad.propagation", on=ALIVE)
class Propagation:
    """L1: a commit is ready at every proxy that is up, interested and may see it within `lad.limit.propagation`."""

    cause = "commit"

    def __init__(self) -> None:
        self.due = Due()

    def check(self, event: Event) -> Violation | None:
        if event.kind == "clock":
            return self.due.overdue(event.t, self.cause)
        self.due.see(event)
        return None

    def end(self, now_s: float) -> Violation | None:
        return self.due.overdue(now_s, self.cause)


@invariant("lad.interest_gain", on=ALIVE)
class InterestGain(Propagation):
    """L5: a new interest of a proxy is served within the same time."""

    cause = "interest"


@invariant("lad.heal", on=("parent.lost", "sub", "clock", *FAULT))
class Heal:
    """L2: a proxy that lost its parent has another one within a lease, a poll and 2 s, if distributors are well."""

    def __init__(self) -> None:
        self.cluster = Cluster()
        self.orphans: dict[tuple[str, str], Event] = {}

    def check(self, event: Event) -> Violation | None:
        if event.kind == "parent.lost":
            self.orphans.setdefault((event.node, event["shard"]), event)
        elif event.kind == "sub":
            self.orphans.pop((event.node, event["shard"]), None)
        elif event.kind == "clock":
            return self._overdue(event.t)
        else:
            self.cluster.see(event)
            if event.kind == "node.start":
                self.orphans = {key: value for key, value in self.orphans.items() if key[0] != event.node}
        return None

    def _overdue(self, now_s: float) -> Violation | None:
        cluster = self.cluster
        bound_s = cluster.highest("lease", "ttl") + cluster.highest("poll", "interval") + 2.0
        for (proxy, shard), lost in self.orphans.items():
            quiet_s = cluster.node_quiet_since(proxy, *cluster.role("distributor"), *cluster.role("store"))
            if now_s - max(lost.t, quiet_s) > bound_s:
                return Violation(f"{proxy} has no parent in {shard} {now_s - lost.t:.1f} s after it lost one", (lost,))
        return None


@invariant("lad.distributor_loss", on=("sub", "clock", *FAULT))
class DistributorLoss:
    """L3: the proxies of a distributor that dies are with another one, or with its next life, within two leases."""

    def __init__(self) -> None:
        self.cluster = Cluster()
        self.of: dict[tuple[str, str], tuple[str, int]] = {}
        self.lost: dict[tuple[str, str], Event] = {}
        self.epochs: dict[str, int] = {}

    def check(self, event: Event) -> Violation | None:
        kind = event.kind
        if kind == "sub":
            key = event.node, event["shard"]
            self.of[key] = event["distributor"], event["epoch"]
            self.lost.pop(key, None)
        elif kind == "clock":
            return self._overdue(event.t)
        else:
            self.cluster.see(event)
            if kind == "node.crash" and event.node in self.cluster.role("distributor"):
                for key, (distributor, _) in self.of.items():
                    if distributor == event.node:
                        self.lost.setdefault(key, event)
            elif kind in ("node.start", "node.crash", "node.stop"):
                for known in (self.of, self.lost):
                    for key in [key for key in known if key[0] == event.node]:
                        del known[key]
        return None

    def _overdue(self, now_s: float) -> Violation | None:
        cluster = self.cluster
        bound_s = 2 * cluster.highest("lease", "ttl")
        for (proxy, shard), lost in self.lost.items():
            back_s = min(cluster.node_quiet_since(d) for d in cluster.role("distributor"))
            start_s = max(lost.t, back_s, cluster.node_quiet_since(proxy, *cluster.role("store")))
            if now_s - start_s > bound_s:
                return Violation(
                    f"{proxy} is with no distributor in {shard} {now_s - lost.t:.1f} s after {lost.node} died", (lost,)
                )
        return None


@invariant("lad.no_herd", on=("commit", "content.sent", "store.fetch", "sub", *FAULT))
class NoHerd:
    """L4: undisturbed, no node sends more of a version than its fan-out times its size and a tenth, a distributor reads
    it once; after a loss proxies come back spread over a third of a lease."""

    def __init__(self) -> None:
        self.cluster, self.commits = Cluster(), Commits()
        self.sent: dict[tuple[str, str, int], int] = defaultdict(int)
        self.fetched: dict[tuple[str, int], int] = defaultdict(int)
        self.subscribed: set[tuple[str, str]] = set()
        self.recent: deque[float] = deque()

    def check(self, event: Event) -> Violation | None:
        kind = event.kind
        if kind in FAULT:
            self.cluster.see(event)
        elif kind == "commit":
            self.commits.see(event)
        elif kind == "sub":
            return self._subscribed(event)
        else:
            commit = self.commits.of.get((event["path"], event["version"]))
            if commit is not None and commit.t > self.cluster.quiet_since() + self.cluster.recovery_s():
                return self._fetched(event, commit) if kind == "store.fetch" else self._sent(event, commit)
        return None

    def _sent(self, event: Event, commit: Event) -> Violation | None:
        key = event.node, event["path"], event["version"]
        self.sent[key] += event["bytes"]
        limit = 1.1 * self.cluster.highest("tree", "fanout") * max(commit["size"], commit["raw_size"])
        if self.sent[key] > limit:
            return Violation(
                f"{event.node} sent {self.sent[key]} bytes of {event['path']}, at most {limit:.0f} are due",
                (commit, event),
            )
        return None

    def _fetched(self, event: Event, commit: Event) -> Violation | None:
        key = event["path"], event["version"]
        self.fetched[key] += 1
        limit = len(self.cluster.role("distributor"))
        if self.fetched[key] > limit:
            return Violation(
                f"{self.fetched[key]} reads of {key[0]} at the store, for {limit} distributors", (commit, event)
            )
        return None

    def _subscribed(self, event: Event) -> Violation | None:
        key = event.node, event["shard"]
        if event["why"] != "subscribed":
            return None
        if key not in self.subscribed:
            self.subscribed.add(key)
            return None
        window_s = min(self.cluster.highest("backoff", "longest"), self.cluster.of(event.node, "lease", "ttl") / 3) / 4
        self.recent.append(event.t)
        while self.recent[0] < event.t - window_s:
            self.recent.popleft()
        limit = 8 + 0.6 * len(self.subscribed)
        if len(self.recent) > limit:
            return Violation(
                f"{len(self.recent)} subscriptions within {window_s:.2f} s, {limit:.0f} are expected of jitter",
                (event,),
            )
        return None


LIVENESS = (Propagation, Heal, DistributorLoss, NoHerd, InterestGain)
