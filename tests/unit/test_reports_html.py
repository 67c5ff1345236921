"""The page that a session leaves: what it says, what it never holds, and how large it gets."""

from __future__ import annotations

import base64
import hashlib
import json
import random
import re
from collections.abc import Iterator, Sequence
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from zebra.campaign.result import Baselines, CampaignResult, Evidence, ParameterResult, Trials
from zebra.events import Event
from zebra.report import Report
from zebra.reports.html import SHAPES_PER_RUN, html
from zebra.reports.story import Story
from zebra.reports.timeline import LANES_MAX, Timeline
from zebra.topology import Topology

TEST = "targets/owl/test_owl.py::test_object_reaches_every_peer"
BLAME = "owl.no_false_blame: peer-4 closed edge e412 for checksum, but nothing had harmed its source peer-7"
TOKEN = "zebra1.3gABpHRlc3TZL3RhcmdldHMvb3dsL3Rlc3Rfb3dsLnB5OjpmYW5vdXSmdGFyZ2V0o293bKlzdWJzdHJhdGWjc2lt{}.5f0e91ac"

Entry = tuple[float, str, str, dict[str, Any]]


class FakeRun:
    """Writes a plausible history of owl: peers fetch chunks, hosts crash and racks part, something breaks."""

    def __init__(self, counts: dict[str, int], seed: int = 0, **spec: Any) -> None:
        self.random, self.events, self.seed = random.Random(seed), list[Entry](), seed
        self.spec = dict[str, Any](test=TEST, target="owl") | spec
        self.topology = Topology(counts=counts, regions=2, dcs=2)
        self.places = self.topology.places()
        self.peers = [place.node for place in self.places if place.role not in ("tracker", "store")]
        for place in self.places:
            self.at(self.random.random() * 0.02, place.node, "node.start", incarnation=1, config={"lease": {"ttl": 15}})

    def at(self, t: float, node: str, kind: str, **fields: Any) -> None:
        self.events.append((t, node, kind, fields))

    def fault(
        self, number: int, name: str, start: float, end: float | None, on: Sequence[str], **settings: Any
    ) -> None:
        self.at(start, "", "fault.inject", id=number, fault=name, on=list(on), settings=settings)
        if end is not None:
            self.at(end, "", "fault.heal", id=number, hits=self.random.randint(1, 400))

    def outage(self, node: str, start: float, end: float, how: str = "crash") -> None:
        back = "resume" if how == "pause" else "start"
        self.at(start, node, f"node.{how}")
        self.at(end, node, f"node.{back}", incarnation=2)

    def traffic(self, seconds: float, events: int) -> None:
        kinds = ["recv"] * 8 + ["serve"] * 6 + ["edge.open", "edge.close", "reg.renew", "op.invoke", "op.ok", "verify"]
        for _ in range(events):
            kind, peer, other = self.random.choice(kinds), *self.random.sample(self.peers, 2)
            t = seconds * self.random.random() ** (0.8 if kind == "recv" else 1)
            self.at(t, peer, kind, chunk=self.random.randrange(64), edge=f"e{self.random.randrange(999)}", parent=other)
        for _ in range(events // 400):
            self.at(seconds * self.random.random(), self.random.choice(self.peers), "op.fail", op="fetch", why="stall")
            self.at(seconds * self.random.random(), self.random.choice(self.peers), "get.end", object=1, ok=True)

    def _alive(self, ordered: list[Entry]) -> Iterator[Entry]:
        """Without what nodes would have said while they were down or paused."""
        silent = set[str]()
        for entry in ordered:
            _, node, kind, _ = entry
            if kind in ("node.crash", "node.stop", "node.pause"):
                silent.add(node)
            elif kind in ("node.start", "node.resume"):
                silent.discard(node)
            elif node in silent:
                continue
            yield entry

    def history(
        self, seconds: float, outcome: str, message: str = "", evidence: Sequence[int] = (), **end: Any
    ) -> list[Event]:
        """The events in order; `evidence` counts back from the violation, over the events on nodes."""
        ordered = list(self._alive(sorted((e for e in self.events if e[0] <= seconds), key=lambda entry: entry[0])))
        first: dict[str, Any] = {
            "schema": 1,
            "substrate": "sim",
            "seed": self.seed,
            "variant": "",
            "timeout_s": 600,
            "schedule": [],
        }
        places = [{name: getattr(place, name) for name in place.__struct_fields__} for place in self.places]
        first |= {"topology": {"counts": self.topology.counts}, "places": places, "assignment": {}}
        first |= self.spec
        events = [Event(0, 0.0, "", "run", first)]
        events += [Event(seq, *rest) for seq, rest in enumerate(ordered, 1)]
        if outcome == "fail":
            on_nodes = [event.seq for event in events if event.node]
            named = sorted(on_nodes[-back] for back in evidence)
            invariant, _, text = message.partition(": ")
            broken = {"invariant": invariant, "message": text, "events": named}
            events.append(Event(len(events), seconds, "", "violation", broken))
        fields: dict[str, Any] = {
            "outcome": outcome,
            "message": message,
            "replay": f"zebra replay {TOKEN.format(self.seed)}" if outcome != "pass" else "",
        }
        fields |= {"unknown": [], "exercised": ["owl.no_cycles", "owl.single_source"], "steps": len(events)} | end
        return [*events, Event(len(events), seconds, "", "run.end", fields)]


def small(seed: int = 0, outcome: str = "fail", events: int = 900, **spec: Any) -> list[Event]:
    """12 nodes of 3 roles for 40 s."""
    run = FakeRun({"tracker": 2, "store": 1, "peer": 9}, seed, **spec)
    run.traffic(40, events)
    run.fault(1, "host.crash", 8, 17, ["peer-3"])
    run.outage("peer-3", 8, 17.4)
    run.fault(2, "network.partition", 12, 21, ["tracker-1", "peer-1", "peer-2", "peer-5"], both_ways=True)
    run.fault(3, "disk.slow", 25, None, ["peer-7"], share=0.05)
    run.outage("peer-6", 22, 26, "pause")
    run.outage("tracker-2", 28, 31, "stop")
    message = BLAME if outcome == "fail" else "" if outcome == "pass" else "fault disk.slow had no effect on peer-7"
    return run.history(34.2, outcome, message, (1, 2, 5, 9), unknown=["owl.leases_expire", "owl.sla"])


def large(events: int = 20_000) -> list[Event]:
    """60 nodes of 3 roles for 10 minutes."""
    run = FakeRun({"tracker": 6, "superpeer": 6, "peer": 48}, 7, test="targets/owl/test_owl.py::test_flash_crowd[48]")
    run.traffic(600, events)
    for number in range(14):
        start = run.random.random() * 560
        hit = run.random.sample(run.peers, 1 + number % 4)
        name = ("host.crash", "network.delay", "network.loss", "clock.skew")[number % 4]
        run.fault(number, name, start, start + 20 + run.random.random() * 60, hit, probability=0.2)
        if name == "host.crash":
            run.outage(hit[0], start, start + 25)
    run.fault(99, "network.partition", 300, 345, [p.node for p in run.places if p.dc == "r1-dc1"])
    message = "owl.no_cycles: open edges of chunk 41 form a cycle: peer-4 > peer-17 > peer-30 > peer-4"
    return run.history(588.3, "fail", message, (1, 4, 8, 30), unknown=["owl.sla"])


def unsafe(name: str, values: str, seed: int, violation: str, **rest: Any) -> ParameterResult:
    evidence = Evidence(test=TEST, outcome="fail", violation=violation, replay=TOKEN.format(seed))
    rest = dict[str, Any](roles=["peer", "superpeer"], direction="both", trials=24) | rest
    return ParameterResult(name=name, verdict="unsafe", values=values.split(), evidence=evidence, **rest)


def campaign() -> CampaignResult:
    hang = Evidence(test=TEST, outcome="hang", violation="the run made no progress within 30s", replay=TOKEN.format(8))
    safe = (
        "chunk.id_scheme lease.ttl advert.ttl proto.version selection.policy cache.capacity fetch.parallel tracker.pick"
    )
    note = "9 tests, 4 pools, 3 seeds each"
    parameters = [
        ParameterResult(name=f"owl.{name}", verdict="safe", roles=["peer"], values=["a", "b"], trials=9, note=note)
        for name in safe.split()
    ]
    parameters += [
        unsafe("owl.checksum.algorithm", "crc32c sha256", 3, BLAME),
        unsafe("owl.transfer.frame_max", "4MiB 256KiB", 4, BLAME, direction="superpeer>peer"),
        unsafe("owl.chunk.size", "4MiB 8MiB", 5, BLAME, requires=["owl.chunk.id_scheme=index"]),
        unsafe("owl.transfer.encryption", "off psk", 6, BLAME, accepted=True, note="accepted in zebra-accept.txt"),
        ParameterResult(name="owl.external.limit", verdict="invalid", roles=["store"], values=["8", "0"], trials=3,
                        note="0 fails on all nodes alike", evidence=hang),
        ParameterResult(name="owl.transfer.idle_timeout", verdict="undecided", roles=["peer"], values=["1s", "20s"],
                        trials=60, note="failed on 4 of 20 seeds, its control on 1 of 20: budget spent"),
        ParameterResult(name="owl.debug.sample_rate", verdict="untested", values=["0", "1"], note="no node read it"),
    ]  # fmt: skip
    return CampaignResult(
        target="owl",
        substrate="sim",
        seed=0,
        bound_bits=31.4,
        error_rate=0.01,
        never=["owl.delegated", "owl.evicted"],
        trials=Trials(total=268, prerun=9, pooled=118, control=84, confirm=45, requires=12, cached=31),
        baselines=Baselines(zebraconf=742, one_by_one=1910),
        parameters=parameters,
    )


def stored(directory: Path, runs: Sequence[list[Event]], result: CampaignResult | None = None) -> Report:
    with open(directory / "history.jsonl", "wb") as file:
        for events in runs:
            file.writelines(event.to_json() + b"\n" for event in events)
    return Report(directory=directory, campaign=result)


def page(directory: Path, runs: Sequence[list[Event]], result: CampaignResult | None = None) -> str:
    assert html(stored(directory, runs, result)) == f"html: {directory / 'index.html'}"
    return (directory / "index.html").read_text(encoding="utf-8")


def tainted(value: Any, text: str) -> Any:
    """The value with the text after each string in it, and as one more entry of each mapping."""
    if isinstance(value, dict):
        return {name: tainted(inner, text) for name, inner in value.items()} | {text: text}
    if isinstance(value, list):
        return [tainted(inner, text) for inner in value]
    return value + text if isinstance(value, str) else value


def with_text(events: list[Event], text: str) -> list[Event]:
    """The run with the text wherever someone else's words can be."""
    for event in events:
        event.node = event.node and event.node + text
        event.fields = {n: v if n == "outcome" else tainted(v, text) for n, v in event.fields.items()}
    return events


def test_a_campaign_shows_verdicts_evidence_and_cost(tmp_path: Path) -> None:
    text = page(tmp_path, [small(3), small(8, "hang")], campaign())
    assert "4 of 15 parameters are unsafe" in text
    assert text.count("zebra replay zebra1.") == 5 + 2
    assert '<a href="#run-1">its timeline</a>' in text
    assert 'id="run-1"' in text
    assert "to 4MiB: all peer first, then superpeer; to 256KiB: all superpeer first, then peer" in text
    assert "unsafe (accepted)" in text
    for number in ("268", "742", "1,910", "31.4 bits", "owl.delegated"):
        assert number in text
    assert text.index(">unsafe</span>") < text.index(">invalid</span>") < text.index(">undecided</span>")


def test_a_session_lists_failures_first_and_folds_what_passed(tmp_path: Path) -> None:
    text = page(tmp_path, [small(1, "pass"), small(2), small(3, "inconclusive")])
    assert "2 of 3 runs did not pass." in text
    assert text.index('id="run-2"') < text.index('id="run-3"') < text.index('id="run-1"')
    assert text.count('<details class="card run"') == 1
    assert "? inconclusive" in text


def test_invariants_that_no_run_exercised_are_named(tmp_path: Path) -> None:
    first, second = small(1, "pass"), small(2, "pass")
    second[-1].fields["exercised"] = ["owl.sla"]
    text = page(tmp_path, [first, second])
    missing = text.partition("What no run exercised")[2].partition("<h2")[0]
    assert '<span class="mono">owl.leases_expire</span>' in missing
    assert '<span class="mono">owl.sla</span>' not in missing


class Tags(HTMLParser):
    """The elements of a page with the names of their attributes, and the texts of its scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements, self.scripts, self.addresses = list[tuple[str, ...]](), list[str](), list[str]()
        self.open = list[str]()
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, *(name for name, _ in attrs)))
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "action", "data", "srcset")]
        if tag == "script":
            self.scripts.append("")
        self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        self.open = self.open[: max((i for i, name in enumerate(self.open) if name == tag), default=len(self.open))]

    def handle_data(self, data: str) -> None:
        if self.open[-1:] == ["script"]:
            self.scripts[-1] += data


def test_the_page_loads_nothing(tmp_path: Path) -> None:
    text = page(tmp_path, [small(3), large(2000)], campaign())
    tags = Tags(text)
    assert not re.search(r"https?://|@import|url\((?!#)", text)
    assert tags.addresses and all(address.startswith("#") for address in tags.addresses)
    assert not {tag for tag, *_ in tags.elements} & {"img", "link", "iframe", "object", "embed", "base", "form"}
    assert not any(name.startswith("on") for _, *names in tags.elements for name in names)


def test_only_the_scripts_own_text_may_run(tmp_path: Path) -> None:
    text = page(tmp_path, [small(3), small(4)])
    *data, script = Tags(text).scripts
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'\"" in text
    assert len(data) == 2
    for events in data:
        assert json.loads(events)["complete"] is True


NASTY = [
    "<script>alert(1)</script>",
    "\"'><img onerror=x>",
    "</title></svg>",
    "{{ 7 * 7 }}",
    "</script><b>",
    "<!--<script>",
]
PIECES = [
    "<",
    ">",
    '"',
    "'",
    "&",
    "&lt;",
    "</",
    "script",
    "-->",
    "<!--",
    "]]>",
    "\\u003c",
    "}}",
    "{%",
    "a",
    "\n",
    "\u2028",
]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.sampled_from(NASTY) | st.lists(st.sampled_from(PIECES), max_size=8).map("".join) | st.text(max_size=12))
def test_no_text_of_an_event_becomes_an_element_or_an_attribute(tmp_path: Path, text: str) -> None:
    shown, plain = Tags(page(tmp_path, [with_text(small(3, events=60), text)])), plain_tags()
    assert set(shown.elements) == set(plain.elements)
    assert shown.scripts[-1] == plain.scripts[-1]
    assert len(shown.scripts) == 2
    assert json.loads(shown.scripts[0])["events"]


@cache
def plain_tags() -> Tags:
    with TemporaryDirectory() as directory:
        return Tags(page(Path(directory), [with_text(small(3, events=60), "ab")]))


def test_the_structure_is_drawn_for_a_target_that_offers_it_and_trouble_with_it_is_said(tmp_path: Path) -> None:
    run = FakeRun({"tracker": 1, "peer": 3})
    for number, (parent, child) in enumerate((("peer-1", "peer-2"), ("peer-2", "peer-3"), ("peer-3", "peer-1")), 1):
        edge = {"edge": f"e{number}", "chunk": "c1", "parent": parent, "src": parent, "child": child}
        run.at(number, "tracker-1", "edge.open", **edge)
    events = run.history(3.5, "fail", "owl.no_cycle: a cycle", (1,))
    shown = page(tmp_path, [events])
    assert shown.count('<g class="link wrong">') == 3
    assert "Structure: c1 at 3.5 s (named by the evidence): 3 links" in shown
    for event in events:
        event.fields.pop("src", None)
    assert "The structure of owl cannot be drawn: KeyError" in page(tmp_path, [events])


def test_faults_without_effect_and_parameters_without_a_verdict_are_in_one_section(tmp_path: Path) -> None:
    run = small(1, "inconclusive")
    for event in run:
        if event.kind == "fault.heal":
            event.fields["took_effect"] = event["id"] != 2
    missing = page(tmp_path, [run], campaign()).partition("What no run exercised")[2].partition("<h2")[0]
    for text in (
        "network.partition",
        "1 of 1 time",
        "owl.debug.sample_rate",
        "owl.transfer.idle_timeout",
        "owl.evicted",
    ):
        assert text in missing
    assert "host.crash" not in missing


def test_control_characters_are_written_out(tmp_path: Path) -> None:
    text = page(tmp_path, [with_text(small(3), "\x00\x1b[31m\u202e")])
    assert not re.search("[\x00-\x08\x0b-\x1f\u202e]", text)
    assert "\\x1b[31m" in text


def test_ten_minutes_on_60_nodes_stay_small(tmp_path: Path) -> None:
    text = page(tmp_path, [large()])
    assert len(text.encode()) < 3_000_000
    assert text.count("<rect") < SHAPES_PER_RUN + 100
    assert "Summed up in grey" in text


def test_many_runs_share_the_marks_and_the_rest_is_only_listed(tmp_path: Path) -> None:
    text = page(tmp_path, [small(seed, "pass", 50) for seed in range(30)] + [small(99)])
    assert text.count('class="card run"') == 24
    assert 'id="run-31"' in text
    assert len(text.encode()) < 1_000_000


def test_a_run_that_was_cut_off_and_an_empty_report_can_be_shown(tmp_path: Path) -> None:
    assert "the run was cut off before its end" in page(tmp_path, [small(3)[:400]])
    assert "Nothing was run" in page(tmp_path, [])
    assert "infrastructure" in page(tmp_path, [small(3)[:1]])


def whole(events: list[Event], budget: int = 4000) -> Timeline:
    story = Story(events)
    return Timeline(story, story.nodes, 0.0, story.end_s, budget)


def test_lanes_show_faults_stops_and_the_violation_at_their_times() -> None:
    timeline = whole(small(3))

    def x(t: float) -> Any:
        return pytest.approx(132 + 1020 * t / 34.2, abs=0.5)

    peer_3, peer_6 = timeline.lanes["peer-3"], timeline.lanes["peer-6"]
    up = [s for s in timeline.shapes if s.css == "up" and s.y == peer_3 + 2]
    assert sorted(s.x for s in up) == [x(0.01), x(17.4)]
    assert sorted(s.x + s.width for s in up) == [x(8), x(34.2)]
    assert [(s.x, s.x + s.width) for s in timeline.shapes if s.css == "paused"] == [(x(22), x(26))]
    assert [label.x for label in timeline.labels if label.css == "crash"] == [x(8)]
    bands = [s for s in timeline.shapes if s.css == "band"]
    assert [s.x for s in bands] == [x(8), x(12), x(12), x(12), x(25)]  # peer-1 and peer-2 share one
    assert bands[0].y == peer_3
    assert bands[-1].x + bands[-1].width == x(34.2)
    assert "not healed" in bands[-1].title
    assert [s.x + 1 for s in timeline.shapes if s.css == "violation"] == [x(34.2)]
    assert sum(s.css == "ring" for s in timeline.shapes) == 4
    assert peer_6 > peer_3


def test_rare_kinds_stay_visible_one_by_one_when_frequent_ones_are_summed_up() -> None:
    events = large(6000)
    timeline = whole(events, 1500)
    assert len(timeline.shapes) <= 1500
    failed = sum(event.kind == "op.fail" for event in events)
    ticks = [s for s in timeline.shapes if s.css == "tick kx"]
    assert 0.8 * failed <= len(ticks) <= failed
    assert any(s.css.startswith("density") for s in timeline.shapes)


def test_every_event_has_a_tick_when_there_is_room() -> None:
    timeline = whole(small(3))
    assert not timeline.notes
    assert not any(s.css.startswith("density") for s in timeline.shapes)


def test_of_very_many_nodes_those_concerned_are_shown() -> None:
    run = FakeRun({"peer": 300}, test="t")
    run.traffic(10, 500)
    run.outage("peer-299", 3, 6)
    timeline = whole(run.history(10, "pass"))
    assert len(timeline.lanes) == LANES_MAX
    assert "peer-299" in timeline.lanes
    assert "220 more nodes are not shown" in timeline.notes[0]


def test_a_close_up_spans_the_evidence() -> None:
    story = Story(small(3))
    start, end = story.close_up() or (0.0, 0.0)
    assert start < min(event.t for event in story.evidence) <= 34.2 <= end
    assert story.close_up() is not None
    assert {event.node for event in story.evidence} <= set(story.witnesses())
    assert Story(small(1, "pass")).close_up() is None


def luminance(colour: str) -> float:
    """Relative luminance. Source: WCAG 2.2, definitions."""
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_text_has_enough_contrast_in_both_schemes(tmp_path: Path) -> None:
    style = page(tmp_path, []).partition("<style>")[2].partition("</style>")[0]
    light, dark = (dict(re.findall(r"--(\w[\w-]*): (#\w{6})", part)) for part in style.split("@media screen")[:2])
    names = ("red", "amber", "violet", "green", "grey")
    pairs = [(ink, ground) for ink in ("ink", "quiet") for ground in ("page", "card", "soft")]
    pairs += [(name, ground) for name in names for ground in (f"{name}-soft", "card", "page")] + [
        ("fault-ink", "fault")
    ]
    for scheme in (light, light | dark):
        for ink, ground in pairs:
            darker, lighter = sorted((luminance(scheme[ink]), luminance(scheme[ground])))
            assert (lighter + 0.05) / (darker + 0.05) >= 4.5, (ink, ground)
