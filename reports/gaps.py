"""What no run exercised: the section that keeps a green page honest."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from zebra.campaign.result import CampaignResult
from zebra.report import Run
from zebra.reports.story import faults
from zebra.reports.wording import count
from zebra.target import Target, find_target


@dataclass(frozen=True, slots=True)
class Gap:
    """Names of one sort, each with a note ("" for none), and what their absence means."""

    title: str
    about: str
    names: list[tuple[str, str]]


def known_target(name: str) -> Target | None:
    """The target of a stored run, or None: one of a test's own cannot be found by name, another may be gone by now."""
    try:
        return find_target(name)
    except Exception:  # importing it runs code that is not ours, and a report is written all the same
        return None


class Coverage:
    """What the stored runs exercised; `see` takes them one by one."""

    def __init__(self) -> None:
        self.unknown, self.exercised = dict[str, None](), set[str]()
        self.injected, self.idle = Counter[str](), Counter[str]()
        self.invoked, self.succeeded = Counter[str](), Counter[str]()
        self.kinds, self.targets, self.runs = set[str](), dict[str, None](), 0

    def see(self, run: Run) -> None:
        end = run.events[-1]
        self.runs += 1
        self.targets[str(run.events[0].get("target", ""))] = None
        self.unknown.update(dict.fromkeys(map(str, end.get("unknown") or [])))
        self.exercised.update(map(str, end.get("exercised") or []))
        for fault in faults(run.events):
            self.injected[fault.name] += 1
            self.idle[fault.name] += not fault.took_effect
        for event in run.events:
            self.kinds.add(event.kind)
            if event.kind == "op.invoke":
                self.invoked[str(event.get("f", "op"))] += 1
            elif event.kind == "op.ok":
                self.succeeded[str(event.get("f", "op"))] += 1

    def gaps(self, campaign: CampaignResult | None) -> list[Gap]:
        """All that is missing, the gravest first."""
        where = "in the stored runs, which are the evidence only" if campaign is not None else "in any stored run"
        found = [
            Gap(
                "Invariants that judged nothing",
                f"No event that they wait for came {where}: they are unknown, not held.",
                [(name, "") for name in self.unknown if name not in self.exercised],
            ),
            Gap(
                "Faults without effect",
                "What was injected hit nothing, so the run shows nothing about it.",
                [(name, f"{n:,} of {count(self.injected[name], 'time')}") for name, n in self.idle.items() if n],
            ),
            Gap(
                "Operations that never succeeded",
                f"None of these ended well {where}.",
                [(f, f"{n:,} tried") for f, n in self.invoked.items() if not self.succeeded[f]],
            ),
            Gap(
                "Never happened",
                "What depends on these events was not tested, whatever the verdicts say."
                if campaign is not None
                else "A whole campaign has to see these events; these runs did not.",
                [(kind, "") for kind in (self._rare() if campaign is None else campaign.never)],
            ),
        ]
        if campaign is not None:
            open_ones = [p for p in campaign.parameters if p.verdict in ("untested", "undecided")]
            noted = [(p.name, f"{p.verdict}{': ' if p.note else ''}{p.note}") for p in open_ones]
            found.append(Gap("Parameters without a verdict", "Nothing is known of nodes that disagree on them.", noted))
            left_out = [(test, "") for test in campaign.left_out]
            found.append(Gap("Tests left out", "They do not pass on their own, so no trial ran them.", left_out))
            skipped = [(test, "") for test in campaign.skipped]
            found.append(Gap("Tests skipped", "They skip themselves here, so no trial ran them.", skipped))
            if campaign.unexplained:
                lost = [(count(campaign.unexplained, "failure"), "")]
                found.append(Gap("Failures without a culprit", "Pools failed, and none of their halves did.", lost))
        return [gap for gap in found if gap.names]

    def _rare(self) -> list[str]:
        """The `sometimes` of the targets that no run had."""
        missing = dict[str, None]()
        for name in self.targets:
            target = known_target(name)
            if target is not None:
                missing.update(dict.fromkeys(kind for kind in target.sometimes if kind not in self.kinds))
        return list(missing)

    @property
    def summary(self) -> str:
        """What was exercised, in one sentence."""
        hit = sum(self.injected.values()) - sum(self.idle.values())
        texts = (
            count(len(self.exercised), "invariant") + " judged something",
            f"{hit:,} of {count(sum(self.injected.values()), 'fault')} took effect",
            f"{sum(self.succeeded.values()):,} of {count(sum(self.invoked.values()), 'operation')} succeeded",
        )
        return f"In {count(self.runs, 'stored run')}: {', '.join(texts)}."
