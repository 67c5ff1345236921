"""What apps make of the configuration they have: the same everywhere. Source: ../shared/targets/other.md section 1."""

from __future__ import annotations

from collections import Counter, defaultdict

from zebra.events import Event
from zebra.invariant import Violation, invariant, never
from zebra.targets.lad.gates import is_inside
from zebra.targets.lad.models import DOWN
from zebra.targets.lad.store_messages import Gate

Refusal = never("lad.acceptance", "app.refused")
Refusal.__doc__ = "No app refuses a value that was committed: what is compiled and validated can be opened everywhere."


@invariant("lad.same_value", on="app.runs")
class SameValue:
    """Apps that run a version of a path mean the same by it, whatever revision of the schema they were built with."""

    def __init__(self) -> None:
        self.first: dict[tuple[str, int], Event] = {}

    def check(self, event: Event) -> Violation | None:
        if not event["rev"] or event["source"] == "default":
            return None
        first = self.first.setdefault((event["path"], event["rev"]), event)
        if first["mode"] == event["mode"]:
            return None
        return Violation(
            f"{event['path']} version {event['rev']} is mode {first['mode']} to {first['app']}, "
            f"{event['mode']} to {event['app']}",
            (first, event),
        )


@invariant("lad.agreement", on=("app.runs", "node.start", "clock", *DOWN))
class Agreement:
    """Apps that are up talk the same protocol, but for `lad.limit.propagation` after a change, whatever goes wrong."""

    def __init__(self) -> None:
        self.runs: dict[str, dict[str, Event]] = defaultdict(dict)
        self.counts: dict[str, Counter[int]] = defaultdict(Counter)
        self.since: dict[str, float] = {}
        self.bound_s = 0.0

    def check(self, event: Event) -> Violation | None:
        if event.kind == "clock":
            return self._overdue(event.t)
        if event.kind == "app.runs":
            self._set(event["path"], event["app"], event)
        elif event.kind == "node.start":
            config = event["config"].get("lad", event["config"])
            self.bound_s = max(self.bound_s, config["limit"]["propagation"])
        if event.kind in DOWN:
            for path in [path for path, runs in self.runs.items() if event.node in runs]:
                self._set(path, event.node, None, event.t)
        return None

    def _set(self, path: str, app: str, event: Event | None, t: float = 0.0) -> None:
        counts, old = self.counts[path], self.runs[path].pop(app, None)
        if old is not None:
            counts[old["protocol"]] -= 1
        if event is not None:
            self.runs[path][app] = event
            counts[event["protocol"]] += 1
        if sum(count > 0 for count in counts.values()) > 1:
            self.since.setdefault(path, t if event is None else event.t)
        else:
            self.since.pop(path, None)

    def _overdue(self, now_s: float) -> Violation | None:
        for path, since_s in self.since.items():
            if now_s - since_s > self.bound_s:
                apps = {event["protocol"]: event for event in self.runs[path].values()}
                who = ", ".join(f"{event['app']} {protocol}" for protocol, event in sorted(apps.items()))
                text = f"apps talk different protocols by {path} for {now_s - since_s:.1f} s: {who}"
                return Violation(text, tuple(apps.values()))
        return None


@invariant("lad.stage_kept", on=("commit", "stage.see", "node.start"))
class StageKept:
    """A proxy sees a staged version only where the author's gate, with the author's seed, lets its host in."""

    def __init__(self) -> None:
        self.gates: dict[tuple[str, int], Event] = {}
        self.seed = 0

    def check(self, event: Event) -> Violation | None:
        if event.kind == "node.start":
            if event.node == "author-1":
                self.seed = event["config"].get("lad", event["config"])["selector"]["seed"]
        elif event.kind == "commit":
            self.gates[event["path"], event["zxid"]] = event
        else:
            commit = self.gates.get((event["path"], event["zxid"]))
            if commit is not None:
                gate = Gate(percent=commit["percent"], hosts=tuple(commit["hosts"]), change=commit["change"])
                if not is_inside(gate, event["host"], self.seed):
                    text = f"{event['host']} sees {event['path']} version {event['version']}, which is not for it yet"
                    return Violation(text, (commit, event))
        return None


AGREEMENT = (Refusal, SameValue, Agreement, StageKept)
