"""What must hold of store, pipeline and baseline, checked on their events. Sources: ../shared/targets/lad.md section 4
(A8), other.md section 1."""

from __future__ import annotations

from typing import Any

from zebra.events import Event
from zebra.invariant import Violation, invariant
from zebra.targets.lad.models import FAULT, Cluster


@invariant("lad.store_order", on=("store.apply", "store.ack", "store.leader", "store.load"))
class StoreOrder:
    """A8: one total order of transactions on all members, one leader per term; what was acknowledged stays.

    So: whatever two members carry out as the zxid z is the same; each goes through them one by one; and who is elected
    has all that was acknowledged in its log.
    """

    def __init__(self) -> None:
        self.of: dict[int, Event] = {}
        self.at: dict[str, int] = {}
        self.leaders: dict[int, Event] = {}
        self.acked: Event | None = None

    def check(self, event: Event) -> Violation | None:
        if event.kind == "store.load":
            self.at[event.node] = event["zxid"]
        elif event.kind == "store.ack":
            if self.acked is None or event["zxid"] > self.acked["zxid"]:
                self.acked = event
        elif event.kind == "store.leader":
            first = self.leaders.setdefault(event["term"], event)
            if first.node != event.node:
                return Violation(
                    f"term {event['term']}: {first.node} and {event.node} were both elected", (first, event)
                )
            if self.acked is not None and event["last"] < self.acked["zxid"]:
                text = (
                    f"{event.node} is elected with a log up to {event['last']}, {self.acked['zxid']} was acknowledged"
                )
                return Violation(text, (self.acked, event))
        else:
            return self._applied(event)
        return None

    def _applied(self, event: Event) -> Violation | None:
        zxid, before = event["zxid"], self.at.get(event.node, 0)
        self.at[event.node] = zxid
        if zxid != before + 1:
            return Violation(f"{event.node} carries out {zxid} after {before}", (event,))
        first = self.of.setdefault(zxid, event)
        if first["of"] != event["of"]:
            return Violation(
                f"{first.node} and {event.node} carried out different transactions as {zxid}", (first, event)
            )
        return None


@invariant("lad.validated_only", on=("validator.pass", "change.expose", "change.undo", "applied"))
class ValidatedOnly:
    """Of a path that changes through the author, apps apply only versions that the validator has passed."""

    def __init__(self) -> None:
        self.passed: set[str] = set()
        self.change: dict[tuple[str, int], Event] = {}
        self.paths: set[str] = set()

    def check(self, event: Event) -> Violation | None:
        if event.kind == "validator.pass":
            self.passed.add(event["change"])
        elif event.kind != "applied":
            self.change[event["path"], event["rev"]] = event
            self.paths.add(event["path"])
        elif event["rev"] and event["path"] in self.paths:
            made = self.change.get((event["path"], event["rev"]))
            if made is None:
                return Violation(f"{event.node} applied {event['path']} version {event['rev']}, of no change", (event,))
            if made.kind != "change.undo" and made["change"] not in self.passed:
                text = f"{event.node} applied {event['path']} version {event['rev']}, which was not validated"
                return Violation(text, (made, event))
        return None


@invariant("lad.stage_only", on=("change.expose", "change.undo", "applied"))
class StageOnly:
    """A host applies a version only once the author has let it: as a canary, in its stage, or with all."""

    def __init__(self) -> None:
        self.allowed: dict[tuple[str, int], set[str] | None] = {}

    def check(self, event: Event) -> str | None:
        key = (event["path"], event["rev"])
        if event.kind == "change.undo" or (event.kind == "change.expose" and event["percent"] >= 100):
            self.allowed[key] = None
        elif event.kind == "change.expose":
            hosts = self.allowed.setdefault(key, set())
            if hosts is not None:
                hosts.update(event["hosts"])
        else:
            hosts = self.allowed.get(key)
            if hosts is not None and event["host"] not in hosts:
                inside = ", ".join(sorted(hosts)) or "nobody"
                return f"{event['host']} applied {key[0]} version {key[1]}, which is for {inside}"
        return None


@invariant("lad.no_full_after_bad_canary", on=("canary.verdict", "change.state"))
class NoFullAfterBadCanary:
    """What a canary found bad never reaches all hosts."""

    def __init__(self) -> None:
        self.bad: dict[str, Event] = {}

    def check(self, event: Event) -> Violation | None:
        if event.kind == "canary.verdict":
            if not event["ok"]:
                self.bad[event["change"]] = event
        elif event["state"] == "FULL" and event["change"] in self.bad:
            text = f"{event['change']} is at all hosts although its canary failed"
            return Violation(text, (self.bad[event["change"]], event))
        return None


@invariant("lad.groups_together", on=("change.state", "applied", "app.runs", "clock"))
class GroupsTogether:
    """Paths changed in one commit are applied together: an app that uses several takes all before it runs with any."""

    def __init__(self) -> None:
        self.group: dict[tuple[str, int], dict[str, int]] = {}
        self.members: dict[str, dict[str, int]] = {}
        self.at: dict[tuple[str, str], int] = {}
        self.open: list[tuple[Event, dict[str, int]]] = []

    def check(self, event: Event) -> Violation | None:
        late = self._late(event.t - 1.0, event.node if event.kind == "app.runs" else "")
        if event.kind == "change.state" and event["state"] == "VALIDATED":
            group = self.members.setdefault(event["change"], {})
            group[event["path"]] = event["rev"]
            self.group[event["path"], event["rev"]] = group
        elif event.kind == "applied":
            self.at[event.node, event["path"]] = event["rev"]
            others = self.group.get((event["path"], event["rev"]), {})
            used = {path: rev for path, rev in others.items() if (event.node, path) in self.at}
            if len(used) > 1 and event.get("source") == "live":
                self.open.append((event, used))
        return late

    def end(self, now_s: float) -> Violation | None:
        return self._late(now_s + 1)

    def _late(self, before_s: float, node: str = "") -> Violation | None:
        """Judge what was applied before a time, or by a node that now runs with it."""
        due = [pair for pair in self.open if pair[0].t < before_s or pair[0].node == node]
        for applied, group in due:
            self.open.remove((applied, group))
            missing = [path for path, rev in group.items() if self.at[applied.node, path] < rev]
            if missing:
                text = f"{applied.node} applied {applied['path']} version {applied['rev']} without {', '.join(missing)}"
                return Violation(text, (applied,))
        return None


_LIFE = ("node.start", "node.crash", "node.stop")


@invariant("lad.last_good", on=("app.runs", "applied", "fault.inject", "node.start"))
class LastGood:
    """An app that is to fall back to what was good last never runs with the default once it had a version."""

    def __init__(self) -> None:
        self.mode: dict[str, str] = {}
        self.had: dict[tuple[str, str], Event] = {}
        self.hurt: set[str] = set()

    def check(self, event: Event) -> Violation | None:
        if event.kind == "node.start":
            self.mode[event.node] = lad_of(event["config"]).get("fallback", {}).get("mode", "")
        elif event.kind == "fault.inject":
            if event["fault"].startswith("disk."):
                self.hurt.update(event["on"])
        elif event.kind == "applied" and event["rev"]:
            self.had[event.node, event["path"]] = event
        elif event.kind == "app.runs" and event["source"] == "default" and event.node not in self.hurt:
            had = self.had.get((event.node, event["path"]))
            if had is not None and self.mode.get(event.node) == "last_good":
                return Violation(
                    f"{event.node} runs with the default of {event['path']}, it had {had['rev']}", (had, event)
                )
        return None


@invariant("lad.full_in_time", on=("change.state", "applied", "clock", *FAULT))
class FullInTime:
    """A change at FULL is applied within 5 s by all apps that use its path, are up, and apply changes as they run.

    Not judged where something was done to anybody meanwhile, or so shortly before that it is still being repaired.
    """

    def __init__(self) -> None:
        self.cluster = Cluster()
        self.live: dict[str, bool] = {}
        self.limit_s = 5.0
        self.at: dict[tuple[str, str], int] = {}
        self.due: dict[str, Event] = {}

    def check(self, event: Event) -> Violation | None:
        if event.kind in FAULT:
            self.cluster.see(event)
            self.due.clear()
            if event.kind == "node.start":
                config = lad_of(event["config"])
                self.live[event.node] = config.get("apply", {}).get("mode") == "live"
                self.limit_s = max(self.limit_s, config.get("limit", {}).get("propagation", 0.0))
        elif event.kind == "applied":
            self.at[event.node, event["path"]] = event["rev"]
        elif event.kind == "change.state":
            if event["state"] == "FULL" and event.t > self.cluster.quiet_since() + self.cluster.recovery_s():
                self.due[event["path"]] = event
            elif event["state"] not in ("DRAFT", "COMPILED", "REJECTED"):
                self.due.pop(event["path"], None)
        else:
            return self._late(event.t)
        return None

    def _late(self, now_s: float) -> Violation | None:
        for path in [path for path, full in self.due.items() if now_s > full.t + self.limit_s]:
            full = self.due.pop(path)
            late = [n for (n, p), rev in self.at.items() if p == path and self.live.get(n) and rev < full["rev"]]
            if late:
                text = f"{', '.join(late)} did not apply {path} version {full['rev']} within {self.limit_s:g} s"
                return Violation(text, (full,))
        return None


def lad_of(config: dict[str, Any]) -> dict[str, Any]:
    """LAD's part of a node's configuration as `node.start` carries it: all, or the field `lad` of another target's."""
    found: dict[str, Any] = config.get("lad", config)
    return found


@invariant("lad.watchers_fresh", on=("commit", "watch.follow", "watch.read", "clock", *_LIFE))
class WatchersFresh:
    """In the baseline, who follows a path has its newest version once 5 s pass in which nobody reads or writes it."""

    QUIET_S = 5.0

    def __init__(self) -> None:
        self.newest: dict[str, Event] = {}
        self.has: dict[str, dict[str, int]] = {}
        self.last_s: dict[str, float] = {}

    def check(self, event: Event) -> Violation | None:
        if event.kind == "clock":
            return self._stale(event.t)
        if event.kind in _LIFE:
            for path, has in self.has.items():
                self.last_s[path] = event.t
                if event.kind != "node.start":
                    has.pop(event.node, None)
            return None
        path = event["path"]
        self.last_s[path] = event.t
        if event.kind == "commit":
            if path not in self.newest or event["zxid"] > self.newest[path]["zxid"]:
                self.newest[path] = event
        else:
            self.has.setdefault(path, {})[event.node] = event.get("version", 0)
        return None

    def end(self, now_s: float) -> Violation | None:
        return self._stale(now_s)

    def _stale(self, now_s: float) -> Violation | None:
        for path in [path for path, at in self.last_s.items() if now_s - at > self.QUIET_S]:
            del self.last_s[path]
            newest = self.newest.get(path)
            if newest is not None:
                stale = [node for node, version in self.has.get(path, {}).items() if version < newest["full"]]
                if stale:
                    text = f"{', '.join(stale[:5])} never read {path} version {newest['full']}"
                    return Violation(text, (newest,))
        return None


STORE_INVARIANTS = (StoreOrder, WatchersFresh)
PIPELINE_INVARIANTS = (ValidatedOnly, StageOnly, NoFullAfterBadCanary, GroupsTogether, LastGood, FullInTime)
INVARIANTS = (*STORE_INVARIANTS, *PIPELINE_INVARIANTS)
VARIANTS = (
    "bug.ack_before_majority",
    "bug.no_sync",
    "bug.no_fence",
    "bug.skip_validation",
    "bug.full_after_bad_canary",
    "bug.split_group",
    "bug.watch_gap",
    "safe.name_coverage",
    "safe.seed_in_gate",
    "safe.name_digest",
    "safe.least_reader_limit",
    "safe.least_schema",
)
