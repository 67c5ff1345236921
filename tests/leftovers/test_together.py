"""How kills of sessions with many faults at once are counted."""

from __future__ import annotations

from pathlib import Path

from tests.leftovers import kills, together
from zebra.injection.fault import make
from zebra.injection.ledger import Ledger
from zebra.injection.notes import Notes
from zebra.injection.selection import Selection
from zebra.topology import Place

PLACE = Place(node="server-1", role="server", host="h1", rack="k1", dc="d1", region="r1")


def test_a_kill_counts_by_what_zebra_wrote_last_and_not_by_what_its_reaper_did(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger")
    ledger.add([{"id": "7.1", "kind": "process", "pid": 7, "start": 1, "what": "zygote"}])
    notes = Notes(ledger)

    def fault(which: int) -> str:
        return notes.fault("kills.links", {"which": which, "turns": 5}, Selection((("server-1",),), (PLACE,)), False)

    planned, injecting, injected, healing, healed, again = map(fault, range(6))
    for entry in (injecting, injected, healing, healed, again):
        notes.phase(entry, "injecting")
    for entry in (injected, healing, healed, again):
        notes.phase(entry, "injected")
    for entry in (healing, healed, again):
        notes.phase(entry, "healing")
    for entry in (healed, again):
        notes.phase(entry, "healed")
    fault(5)
    with open(ledger.path, "ab") as file:
        file.write(b'\n{"id": "fault 9", "ki')
    ledger.done(["7.1"])
    for entry in (planned, injecting, injected, healing):
        notes.phase(entry, "healed")
    ledger.close()
    said = together.moments(ledger.path.read_bytes())
    expected = (together.INJECT, together.INJECT, together.ON, together.HEAL, "", together.INJECT)
    assert [said[together._key("kills.links", {"which": which}, ["server-1"])] for which in range(6)] == [*expected]


def test_what_takes_a_node_down_has_it_for_itself() -> None:
    samples = kills.effects(kills.SAMPLES)
    nodes = together.nodes_of(samples)
    alone = [node for sample in samples if sample.nodes for node in nodes[sample]]
    shared = {node for sample in samples if not sample.nodes for node in nodes[sample]}
    assert len(alone) == len(set(alone)) >= 6 and len(shared) == 1 and not shared & set(alone)
    assert all(("down" in sample.name or "variant" in sample.name) == bool(sample.nodes) for sample in samples)


def test_the_catalogue_is_whole_and_its_settings_are_good() -> None:
    samples = kills.faults()
    assert len(samples) >= 54 and all(make(sample.fault, sample.settings) for sample in samples)
    assert {sample.name for sample in samples if sample.nodes == 2} >= {"cluster.drain", "host.zombie"}
    assert {sample.name for sample in samples if sample.nodes == 1} >= {"host.crash", "application.bad_version"}
