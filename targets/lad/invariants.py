"""What must hold of LAD's distribution, checked on its events. Source: ../shared/targets/lad.md section 4.

A8 and the pipeline's are in `store_invariants`, what has to happen in time in `liveness`.
"""

from __future__ import annotations

from collections import defaultdict

from zebra.events import Event
from zebra.invariant import NODE_GONE, Violation, invariant
from zebra.plugins.composite import composite
from zebra.plugins.no_cycles import no_cycles
from zebra.targets.lad.models import FAULT, Cluster, Commits

UNTOUCHED_S = 5.0
"""Time in which a broken connection, or a digest that was wrong, may still show after what caused it."""


@invariant("lad.monotone", on=("meta.apply", "app.get", *FAULT))
class Monotone:
    """A1: per proxy and path the applied version, and per app and path the one it is served, never goes back.

    A proxy whose disk was full may forget what it could not write when it is started again.
    """

    def __init__(self) -> None:
        self.cluster = Cluster()
        self.applied: dict[str, dict[str, tuple[int, Event]]] = defaultdict(dict)
        self.forgetful: set[str] = set()

    def check(self, event: Event) -> Violation | None:
        self.cluster.see(event)
        if event.kind == "meta.apply":
            for path, version in event["entries"]:
                found = self._see(event.node, f"applied {path}", version, event)
                if found is not None:
                    return found
        elif event.kind == "app.get":
            return (
                self._see(event["app"], f"was served {event['path']}", event["version"], event) if event["ok"] else None
            )
        elif event.kind == "fault.inject" and event["fault"] == "disk.full":
            hosts = {self.cluster.places[node]["host"] for node in event["on"]}
            self.forgetful.update(node for node, place in self.cluster.places.items() if place["host"] in hosts)
        elif event.kind == "node.start" and event.node in self.forgetful:
            self.applied.pop(event.node, None)
        return None

    def _see(self, where: str, what: str, version: int, event: Event) -> Violation | None:
        before, last = self.applied[where].get(what, (0, event))
        if version < before:
            return Violation(f"{where} {what} version {version} after {before}", (last, event))
        self.applied[where][what] = version, event
        return None


@invariant("lad.prefix", on=("commit", "meta.apply", "node.start"))
class Prefix:
    """A2: after an update that ends at zxid z, what a proxy knows of a shard is what the store had at z."""

    def __init__(self) -> None:
        self.commits = Commits()
        self.at: dict[tuple[str, str], int] = {}

    def check(self, event: Event) -> str | None:
        if event.kind == "commit":
            self.commits.see(event)
            return None
        if event.kind == "node.start":
            for key in [key for key in self.at if key[0] == event.node]:
                del self.at[key]  # what it goes on from is in its next update
            return None
        key = event["proxy"], event["shard"]
        have = self.at.get(key, event["have"])
        self.at[key] = event["zxid"]
        if event["have"] != have:
            return f"{key[0]} goes on from zxid {event['have']} in {key[1]}, it was at {have}"
        expected, got = self.commits.between(key[1], have, event["zxid"]), dict(event["entries"])
        for path in expected.keys() | got.keys():
            if expected.get(path) != got.get(path):
                return (f"{key[0]} in {key[1]} from zxid {have} to {event['zxid']}: {path} has version "
                        f"{got.get(path)}, in the store {expected.get(path)}")  # fmt: skip
        return None


@invariant("lad.integrity", on=("commit", "content.ready", "app.get"))
class Integrity:
    """A3: what is ready on a proxy, and what an app gets, has the digest of the commit."""

    def __init__(self) -> None:
        self.commits = Commits()

    def check(self, event: Event) -> Violation | None:
        if event.kind == "commit":
            self.commits.see(event)
            return None
        if event.kind == "app.get" and not event["ok"]:
            return None
        commit = self.commits.of.get((event["path"], event["version"]))
        if commit is None:
            return Violation(
                f"{event.node} has {event['path']} version {event['version']}, which nobody committed", (event,)
            )
        if commit["digest"] != event["digest"]:
            return Violation(
                f"{event.node} has other content than was committed as {event['path']} version {event['version']}",
                (commit, event),
            )
        return None


@invariant("lad.interest", on=("interest", "meta.apply", "content.asked", "content.ready", "node.start"))
class InterestOnly:
    """A4: a proxy gets metadata of shards in which its apps use a path, content that they use or a child asked for."""

    def __init__(self) -> None:
        self.paths: dict[str, set[str]] = defaultdict(set)
        self.prefixes: dict[str, set[str]] = defaultdict(set)
        self.asked: dict[str, set[str]] = defaultdict(set)

    def check(self, event: Event) -> str | None:
        node = event.node
        if event.kind == "node.start":
            for known in (self.paths, self.prefixes, self.asked):
                known.pop(node, None)
        elif event.kind == "interest":
            steps = event["path"].split("/")
            self.paths[node].add(event["path"])
            self.prefixes[node].update("/".join(steps[:depth]) for depth in range(2, len(steps) + 1))
        elif event.kind == "content.asked":
            self.asked[node].add(event["path"])
        elif event.kind == "meta.apply":
            if event["shard"] not in self.prefixes[node]:
                return f"{node} takes updates of {event['shard']}, in which nobody on its host is interested"
        elif event["path"] not in self.paths[node] and event["path"] not in self.asked[node]:
            return f"{node} gets {event['path']}, which neither its apps nor its children asked for"
        return None


@invariant("lad.tree_form", on=("tree.add", "tree.del", "peer.add", "node.start", *NODE_GONE))
class TreeForm:
    """A5, but for cycles: in a tree each has one parent, which is the distributor or hangs on it; none has too many
    children."""

    def __init__(self) -> None:
        self.cluster = Cluster()
        self.parents: dict[str, dict[str, Event]] = defaultdict(dict)
        self.kids: dict[tuple[str, str], int] = defaultdict(int)

    def check(self, event: Event) -> str | Violation | None:
        if event.kind == "peer.add":
            limit = self.cluster.of(event.node, "proxy", "max_children")
            return f"{event.node} has {event['kids']} children, it takes {limit}" if event["kids"] > limit else None
        if not event.kind.startswith("tree."):
            self.cluster.see(event)
            return None
        parents, child, parent = self.parents[event["tree"]], event["child"], event["parent"]
        if event.kind == "tree.del":
            if parents.pop(child, None) is not None:
                self.kids[event["tree"], parent] -= 1
            return None
        if child in parents:
            return Violation(f"{child} has two parents in {event['tree']}", (parents[child], event))
        if parent != event.node and parent not in parents:
            return f"{child} is placed under {parent}, which has no place in {event['tree']}"
        parents[child] = event
        self.kids[event["tree"], parent] += 1
        fanout = self.cluster.of(event.node, "tree", "fanout")
        if self.kids[event["tree"], parent] > fanout:
            return (
                f"{parent} is given {self.kids[event['tree'], parent]} children in {event['tree']}, fan-out is {fanout}"
            )
        return None


TreeShape = composite(
    "lad.tree_shape",
    no_cycles("lad.tree_acyclic", opened="tree.add", closed="tree.del", per="tree"),
    TreeForm,
)
TreeShape.__doc__ = """A5: a tree has no cycle, one parent for each, the distributor as its root, and no node with too
many children."""


@invariant("lad.fencing", on=("sub", "peer.add", "node.start"))
class Fencing:
    """A6: a proxy moves in trees, and takes children, only at the command of the distributor and epoch that answered
    its latest subscription; an older place never replaces a newer one."""

    def __init__(self) -> None:
        self.tree: dict[str, Event] = {}
        self.turns: dict[tuple[str, str], Event] = {}

    def check(self, event: Event) -> Violation | None:
        if event.kind == "node.start":
            self.tree.pop(event.node, None)
            return None
        current = self.tree.get(event.node)
        mine = current is not None and all(current[what] == event[what] for what in ("distributor", "epoch"))
        if event.kind == "sub" and event["why"] == "subscribed":
            if (
                current is not None
                and current["distributor"] == event["distributor"]
                and current["epoch"] > event["epoch"]
            ):
                return Violation(
                    f"{event.node} follows epoch {event['epoch']} after {current['epoch']}", (current, event)
                )
            self.tree[event.node] = event
        elif not mine:
            return Violation(
                f"{event.node} obeys {event['distributor']} (epoch {event['epoch']}), to which it does not belong",
                (event,) if current is None else (current, event),
            )
        if event.kind == "sub":
            last = self.turns.get((event.node, event["shard"]))
            if mine and last is not None and event["turn"] < last["turn"] and last["epoch"] == event["epoch"] and (
                last["distributor"] == event["distributor"]
            ):  # fmt: skip
                return Violation(f"{event.node} takes an older place", (last, event))
            self.turns[event.node, event["shard"]] = event
        return None


@invariant("lad.readable", on=("interest", "content.ready", "app.get", *FAULT))
class Readable:
    """A7: once a version of a path was ready on a host, its apps can read the path while the host is up.

    Not in the first moments after a start, and not where the disk was full and could keep nothing.
    """

    def __init__(self) -> None:
        self.cluster = Cluster()
        self.ready: dict[str, dict[str, Event]] = defaultdict(dict)
        self.wanted: set[tuple[str, str]] = set()

    def check(self, event: Event) -> Violation | None:
        self.cluster.see(event)
        if event.kind == "interest":
            self.wanted.add((event.node, event["path"]))
        elif event.kind == "content.ready":
            if (event.node, event["path"]) in self.wanted:
                self.ready[self.cluster.places[event.node]["host"]][event["path"]] = event
        elif event.kind == "fault.inject" and event["fault"] == "disk.full":
            for node in event["on"]:
                self.ready.pop(self.cluster.places[node]["host"], None)
        elif event.kind == "app.get" and not event["ok"]:
            first = self.ready[event["host"]].get(event["path"])
            settled_s = 2 * self.cluster.highest("rpc", "timeout")
            since_s = max(self.cluster.node_quiet_since(event.node), event.t if first is None else first.t)
            if first is not None and event.t - since_s > settled_s:
                return Violation(f"{event['app']} cannot read {event['path']}, which its host has", (first, event))
        return None


@invariant(
    "lad.no_spurious_repair",
    on=("sub", "resync", "parent.lost", "lease.lost", "lease.expired", "content.reject", "cache.torn", *FAULT),
)
class NoSpuriousRepair:
    """A9: gaps, lost parents and leases, subscriptions anew and wrong digests come after faults and restarts only."""

    def __init__(self) -> None:
        self.cluster = Cluster()
        self.subscribed: set[tuple[str, str]] = set()

    def check(self, event: Event) -> Violation | None:
        if event.kind in FAULT:
            self.cluster.see(event)
            if event.kind == "node.start":
                self.subscribed = {key for key in self.subscribed if key[0] != event.node}
            return None
        if event.kind == "sub":
            if event["why"] != "subscribed":
                return None
            key = event.node, event["shard"]
            if key not in self.subscribed:
                self.subscribed.add(key)
                return None
        if event.t - self.cluster.quiet_since() <= self.cluster.recovery_s() + UNTOUCHED_S:
            return None
        what = {"sub": "subscribes anew to", "resync": "has a gap in", "parent.lost": "loses its parent in"}
        where = event.get("shard") or event.get("path") or event.get("distributor") or event.get("proxy")
        return Violation(
            f"{event.node} {what.get(event.kind, event.kind)} {where}, and nothing was done to anybody", (event,)
        )


INVARIANTS = (Monotone, Prefix, Integrity, InterestOnly, TreeShape, Fencing, Readable, NoSpuriousRepair)
