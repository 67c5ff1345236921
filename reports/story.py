"""What the events of one run say, sorted for drawing: who was up, what was injected, what happened, what broke."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from zebra.events import Event
from zebra.reports.wording import one_line

COLOURS = 6  # families of kinds beyond these share one
_STATES = {"node.start": "up", "node.resume": "up", "node.pause": "paused", "node.stop": "down", "node.crash": "down"}
_DRAWN_OTHERWISE = {"run", "run.end", "violation", "clock", "fault.inject", "fault.heal", "link.effect", *_STATES}


@dataclass(frozen=True, slots=True)
class State:
    """A node was up, paused or down for a time; `cause` is the kind of the event that began it."""

    name: str
    start: float
    end: float
    cause: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """A fault from its injection to its healing, or to the end of the run; `hits` says how often it took effect."""

    name: str
    start: float
    end: float
    on: tuple[str, ...]
    settings: str
    hits: str
    took_effect: bool = True

    @property
    def where(self) -> str:
        more = f" +{len(self.on) - 3}" if len(self.on) > 3 else ""
        return ", ".join(self.on[:3]) + more

    @property
    def title(self) -> str:
        text = f"{self.name} {self.settings} on {', '.join(self.on[:12])}"
        return one_line(f"{text}, {moment(self.start)} to {moment(self.end)}, {self.hits}")


class Story:
    """One run; `nodes` are in the order of the topology, `evidence` are the events that the violation names."""

    def __init__(self, events: Sequence[Event]) -> None:
        self.end_s = events[-1].t
        self.places: dict[str, dict[str, object]] = {str(p["node"]): p for p in events[0].get("places", [])}
        self.marks = [event for event in events if event.kind not in _DRAWN_OTHERWISE]
        self.violations = [event for event in events if event.kind == "violation"]
        named = {seq for violation in self.violations for seq in violation.get("events", [])}
        self.evidence = [event for event in events if event.seq in named]
        self.faults = list(faults(events))
        self.states = _states(events, self.end_s)
        seen = dict.fromkeys([event.node for event in self.marks] + list(self.states))
        self.nodes = [node for node in seen if not node] + list(self.places)  # what is on no node has the first lane
        self.nodes += [node for node in seen if node and node not in self.places]
        families = Counter(family(event.kind) for event in self.marks)
        ranked = [name for name, _ in families.most_common() if name != "trouble"]
        self.colours = {name: f"k{min(index, COLOURS)}" for index, name in enumerate(ranked)} | {"trouble": "kx"}
        self.legend = dict[str, tuple[str, int]]()  # colour: names of the families, number of their events
        for name, number in families.most_common():
            names, sum_before = self.legend.get(self.colours[name], ("", 0))
            shown = "op.fail, op.unknown" if name == "trouble" else name
            self.legend[self.colours[name]] = (f"{names}, {shown}" if names else shown, sum_before + number)

    def witnesses(self) -> list[str]:
        """The nodes that the evidence happened on, or that it or the violation speaks of."""
        said = self.said()
        return [node for node in self.nodes if node in said]

    def said(self) -> set[str]:
        """All values that the evidence holds, as text, and the words of the violation's message."""
        values = {str(value) for event in self.evidence for value in (event.node, *event.fields.values())}
        return values.union(*(re.findall(r"[\w.-]*\w", str(v.get("message", ""))) for v in self.violations))

    def concerned(self, start: float, end: float) -> list[str]:
        """The witnesses, and the nodes that a fault hit or that were not up at some time between the two."""
        named = set(self.witnesses())
        named.update(node for fault in self.faults if fault.start <= end and fault.end >= start for node in fault.on)
        for node, states in self.states.items():
            if any(s.name != "up" and s.start <= end and s.end >= start for s in states):
                named.add(node)
        return [node for node in self.nodes if node in named]

    def down_at(self, time_s: float) -> list[str]:
        """The nodes that were down then."""
        last = {node: [s for s in past if s.start <= time_s] for node, past in self.states.items()}
        return [node for node, past in last.items() if past and past[-1].name == "down"]

    def found_s(self, violation: Event) -> float:
        """When an invariant found it: the event itself comes when the run has ended."""
        found_s = violation.get("found_s")
        return min(float(found_s), self.end_s) if isinstance(found_s, int | float) else violation.t

    def close_up(self) -> tuple[float, float] | None:
        """The time from the first evidence to the violation, when that is a small part of the run."""
        times = [event.t for event in self.evidence] + [self.found_s(violation) for violation in self.violations[:1]]
        if not self.evidence or not self.violations:
            return None
        margin = max((max(times) - min(times)) * 0.1, self.end_s * 0.003)
        start, end = max(0.0, min(times) - margin), min(self.end_s, max(times) + margin)
        return (start, end) if end - start < self.end_s / 5 else None


def family(kind: str) -> str:
    """The first part of a kind, or "trouble" for an operation that did not succeed."""
    return "trouble" if kind in ("op.fail", "op.unknown") else kind.partition(".")[0]


def moment(time_s: float) -> str:
    """A time as the history has it, in seconds."""
    return f"{time_s:.6f}".rstrip("0").rstrip(".") + " s"


def describe(event: Event, width: int = 1000) -> str:
    """An event on one line, without its number and node: "12.43 s edge.open child=peer-3 chunk=7"."""
    rest = " ".join(f"{name}={value}" for name, value in event.fields.items())
    return one_line(f"{moment(event.t)} {event.kind} {rest}", width)


def faults(events: Sequence[Event]) -> Iterator[Fault]:
    """The faults of a run, in the order of their injection; one that was not healed lasts to the end."""
    end_s = events[-1].t
    healed = {event.get("id"): event for event in events if event.kind == "fault.heal"}
    for event in events:
        if event.kind == "fault.inject":
            heal, on = healed.get(event.get("id")), event.get("on") or []
            hits = heal.get("hits") if heal is not None else None
            yield Fault(
                name=str(event.get("fault", "fault")),
                start=event.t,
                end=end_s if heal is None else heal.t,
                on=(on,) if isinstance(on, str) else tuple(map(str, on)),
                settings=" ".join(f"{name}={value}" for name, value in (event.get("settings") or {}).items()),
                hits="not healed" if heal is None else "healed" if hits is None else f"{hits} hits",
                took_effect=heal is None or heal.get("took_effect") is not False,
            )


def _states(events: Sequence[Event], end_s: float) -> dict[str, list[State]]:
    """The states of each node; one that is down is neither paused nor resumed."""
    begun, states = dict[str, Event](), defaultdict[str, list[State]](list)
    for event in events:
        if event.kind not in _STATES:
            continue
        before = begun.get(event.node)
        if before is not None:
            if _STATES[before.kind] == "down" and event.kind in ("node.pause", "node.resume"):
                continue
            states[event.node].append(State(_STATES[before.kind], before.t, event.t, before.kind))
        begun[event.node] = event
    for node, event in begun.items():
        states[node].append(State(_STATES[event.kind], event.t, end_s, event.kind))
    return dict(states)
