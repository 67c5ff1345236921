"""The page that a session leaves: what it says, what it never holds, and how large it gets."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from zebra.campaign.result import Baselines, CampaignResult, Evidence, ParameterResult, Trials
from zebra.events import Event
from zebra.report import Report
from zebra.reports.html import html
from zebra.reports.story import Story
from zebra.reports.timeline import LANES_MAX, Timeline
from zebra.topology import Topology

TOKEN = "zebra1.3gABpHRlc3TZL3RhcmdldHMvb3dsL3Rlc3Rfb3dsLnB5OjpmYW5vdXSmdGFyZ2V0o293bKlzdWJzdHJhdGWjc2lt{}.5f0e91ac"

Entry = tuple[float, str, str, dict[str, Any]]


class FakeRun:
    """Writes a plausible history of owl: peers fetch chunks over edges, hosts crash and racks part, something breaks."""

    def __init__(self, counts: dict[str, int], seed: int = 0, **spec: Any) -> None:
        self.random, self.events, self.seed = random.Random(seed), list[Entry](), seed
        self.spec = {"test": "targets/owl/test_owl.py::test_object_reaches_every_peer", "target": "owl"} | spec
        self.topology = Topology(counts=counts, regions=2, dcs=2)
        self.places = self.topology.places()
        self.peers = [place.node for place in self.places if place.role not in ("tracker", "store")]
        for place in self.places:
            self.at(self.random.random() * 0.02, place.node, "node.start", incarnation=1, config={"lease": {"ttl": 15}})

    def at(self, t: float, node: str, kind: str, **fields: Any) -> None:
        self.events.append((t, node, kind, fields))

    def fault(self, number: int, name: str, start: float, end: float | None, on: Sequence[str], **settings: Any) -> None:
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

    def history(self, seconds: float, outcome: str, message: str = "", evidence: Sequence[int] = (), **end: Any) -> list[Event]:
        """The events in order; `evidence` counts back from the violation, over the events on nodes."""
        ordered = list(self._alive(sorted((e for e in self.events if e[0] <= seconds), key=lambda entry: entry[0])))
        first = {"schema": 1, "substrate": "sim", "seed": self.seed, "variant": "", "timeout_s": 600, "schedule": []}
        places = [{name: getattr(place, name) for name in place.__struct_fields__} for place in self.places]
        first |= {"topology": {"counts": self.topology.counts}, "places": places, "assignment": {}} | self.spec
        events = [Event(0, 0.0, "", "run", first)]
        events += [Event(seq, *rest) for seq, rest in enumerate(ordered, 1)]
        if outcome == "fail":
            on_nodes = [event.seq for event in events if event.node]
            named = sorted(on_nodes[-back] for back in evidence)
            invariant, _, text = message.partition(": ")
            fields = {"invariant": invariant, "message": text, "events": named}
            events.append(Event(len(events), seconds, "", "violation", fields))
        fields = {"outcome": outcome, "message": message, "replay": TOKEN.format(self.seed) if outcome != "pass" else ""}
        fields |= {"unknown": [], "exercised": ["owl.no_cycles", "owl.single_source"], "steps": len(events)} | end
        return [*events, Event(len(events), seconds, "", "run.end", fields)]


def small(seed: int = 0, outcome: str = "fail", **spec: Any) -> list[Event]:
    """12 nodes of 3 roles for 40 s."""
    run = FakeRun({"tracker": 2, "store": 1, "peer": 9}, seed, **spec)
    run.traffic(40, 900)
    run.fault(1, "host.crash", 8, 17, ["peer-3"])
    run.outage("peer-3", 8, 17.4)
    run.fault(2, "network.partition", 12, 21, ["tracker-1", "peer-1", "peer-2", "peer-5"], both_ways=True)
    run.fault(3, "disk.slow", 25, None, ["peer-7"], share=0.05)
    run.outage("peer-6", 22, 26, "pause")
    run.outage("tracker-2", 28, 31, "stop")
    message = "owl.no_false_blame: peer-4 closed edge e412 for checksum, but nothing had harmed its source peer-7"
    message = message if outcome == "fail" else "" if outcome == "pass" else "fault disk.slow had no effect on peer-7"
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


def campaign() -> CampaignResult:
    def unsafe(name: str, a: str, b: str, seed: int, direction: str, violation: str, **rest: Any) -> ParameterResult:
        evidence = Evidence(test="targets/owl/test_owl.py::test_object_reaches_every_peer", outcome="fail",
                            violation=violation, replay=TOKEN.format(seed))  # fmt: skip
        return ParameterResult(name=name, verdict="unsafe", roles=["peer", "superpeer"], values=[a, b], trials=24,
                               direction=direction, evidence=evidence, **rest)  # fmt: skip

    safe = {"owl.chunk.id_scheme": 14, "owl.lease.ttl": 9, "owl.advert.ttl": 9, "owl.proto.version": 12,
            "owl.selection.policy": 18, "owl.cache.capacity": 9, "owl.fetch.parallel": 9, "owl.tracker.pick": 6}  # fmt: skip
    return CampaignResult(
        target="owl", substrate="sim", seed=0, bound_bits=31.4, error_rate=0.01, never=["owl.delegated", "owl.evicted"],
        trials=Trials(total=268, prerun=9, pooled=118, control=84, confirm=45, requires=12, cached=31),
        baselines=Baselines(zebraconf=742, one_by_one=1910),
        parameters=[
            *(ParameterResult(name=name, verdict="safe", roles=["peer"], values=["a", "b"], trials=trials,
                              note="9 tests, 4 pools, 3 seeds each") for name, trials in safe.items()),
            unsafe("owl.checksum.algorithm", "crc32c", "sha256", 3, "both",
                   "owl.no_false_blame: peer-4 closed edge e412 for checksum, but nothing had harmed its source peer-7"),
            unsafe("owl.transfer.frame_max", "4MiB", "256KiB", 4, "superpeer>peer",
                   "owl.no_false_blame: peer-2 closed edge e77 for reset: frame of 4194304 bytes, limit 262144"),
            unsafe("owl.chunk.size", "4MiB", "8MiB", 5, "both", "owl.integrity: chunk 7 has 4194304 bytes, expected 8388608",
                   requires=["owl.chunk.id_scheme=index"]),
            unsafe("owl.transfer.encryption", "off", "psk", 6, "both", "owl.no_false_blame: edge e9 closed for checksum",
                   accepted=True, note="accepted in zebra-accept.txt"),
            ParameterResult(name="owl.external.limit", verdict="invalid", roles=["store"], values=["8", "0"], trials=3,
                            note="0 fails on all nodes alike", evidence=Evidence(test="targets/owl/test_owl.py::test_retry",
                            outcome="hang", violation="the run made no progress within 30s", replay=TOKEN.format(8))),
            ParameterResult(name="owl.transfer.idle_timeout", verdict="undecided", roles=["peer"], values=["1s", "20s"],
                            trials=60, note="failed on 4 of 20 seeds, its control on 1 of 20: budget spent"),
            ParameterResult(name="owl.debug.sample_rate", verdict="untested", values=["0", "1"], note="read by no node"),
        ],
    )  # fmt: skip


def report(directory: Path, runs: Sequence[list[Event]], result: CampaignResult | None = None) -> Report:
    with open(directory / "history.jsonl", "wb") as file:
        for events in runs:
            file.writelines(event.to_json() + b"\n" for event in events)
    return Report(directory=directory, campaign=result)
