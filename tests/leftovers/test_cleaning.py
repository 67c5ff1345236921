"""The ledger's phases, and `zebra clean`, which undoes what a session has left whose warden was killed too."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import zebra
from tests.leftovers import alone, kills, looking, together, victim
from tests.leftovers.looking import zebra_clean
from zebra.errors import ExitCode
from zebra.injection.cleaning import sessions
from zebra.injection.fault import fault
from zebra.injection.ledger import (
    ANNOUNCED,
    OVER,
    Ledger,
    entries,
    members,
    outstanding,
    process_entry,
    session_entry,
)
from zebra.injection.notes import Notes
from zebra.injection.reaping import reap
from zebra.injection.selection import Selection
from zebra.registry import load
from zebra.spec import RunSpec
from zebra.substrate import Links, Pairs
from zebra.substrate.process import SUBSTRATE
from zebra.target import Target
from zebra.testing import EchoClient, EchoConfig, EchoServer
from zebra.topology import Place, Topology

pytestmark = pytest.mark.skipif(bool(SUBSTRATE.unavailable()), reason=SUBSTRATE.unavailable())


class Stubborn(EchoServer):
    """Starts a program that lives on when its node is gone."""

    async def run(self) -> None:
        subprocess.Popen(["sleep", "1000"])
        await super().run()


STUBBORN = Target(
    name="stubborn", config=EchoConfig, roles={"server": Stubborn}, client=EchoClient,
    topology=Topology(counts={"server": 2}),
)  # fmt: skip

PLACE = Place(node="server-1", role="server", host="h1", rack="k1", dc="d1", region="r1")
PHASES = (*ANNOUNCED, "injected", *OVER)


@given(st.lists(st.tuples(st.integers(0, 3), st.sampled_from(("add", "done", *PHASES))), max_size=12), st.data())
def test_a_ledger_cut_anywhere_tells_what_its_whole_lines_say(acts: list[tuple[int, str]], data: st.DataObject) -> None:
    """What is outstanding follows from the lines alone, and the torn last one counts for nothing."""
    with tempfile.TemporaryDirectory() as directory:
        ledger = Ledger(Path(directory) / "ledger")
        known: dict[str, bool] = {}
        states = [dict(known)]
        ends = [0]
        for number, act in acts:
            name = str(number)
            if act == "add":
                ledger.add([{"id": name, "kind": "process"}])
                known[name] = False
            elif act == "done":
                ledger.done([name])
                known.update({name: True} if name in known else {})
            else:
                ledger.phase(name, act)  # type: ignore[arg-type]
                known.update({name: act in OVER} if name in known else {})
            states.append(dict(known))
            ends.append(ledger.path.stat().st_size)
        ledger.close()
        cut = data.draw(st.integers(0, ends[-1]))
        os.truncate(ledger.path, cut)
        whole = max(i for i, end in enumerate(ends) if end <= cut + 1)  # the newline itself does not matter
        said = {entry["id"] for entry in outstanding(ledger.path)}
        assert said == {name for name, over in states[whole].items() if not over}


def test_each_phase_is_in_the_ledger_before_anything_acts(tmp_path: Path) -> None:
    """A capability that looks into the ledger while it acts finds itself announced there."""
    ledger = Ledger(tmp_path / "ledger")
    seen: list[tuple[str, str]] = []

    def look(act: str) -> None:
        seen.append((act, " ".join(f"{entry['kind']}:{entry['phase']}" for entry in entries(ledger.path))))

    notes = Notes(ledger)
    entry = notes.fault("network.loss", {"probability": 0.5}, Selection((("server-1",),), (PLACE,)), False)
    look("planned")
    notes.phase(entry, "injecting")
    effect = notes.effect(entry, "links", (Pairs([(frozenset({"a"}), frozenset({"b"}))]),), {"loss": 0.5})
    look("adding")
    notes.phase(effect, "injected")
    notes.phase(entry, "injected")
    notes.phase(entry, "healing")
    notes.phase(effect, "healing")
    look("removing")
    notes.phase(effect, "healed")
    notes.phase(entry, "healed")
    look("over")
    assert seen == [
        ("planned", "fault:planned"), ("adding", "fault:injecting effect:injecting"),
        ("removing", "fault:healing effect:healing"), ("over", "fault:healed effect:healed"),
    ]  # fmt: skip
    (said,) = (entry for entry in entries(ledger.path) if entry["kind"] == "effect")
    assert said["arguments"] == [[[["a"], ["b"]]]] and said["settings"] == {"loss": 0.5}
    assert outstanding(ledger.path) == []


@contextmanager
def session() -> Iterator[victim.Session]:
    """A session in the midst of injecting, whose nodes start programs that outlive them."""
    with victim.Session(alone.nested, kills.effects(["links"])[:1], "process", 0, STUBBORN) as running:
        running.hears("begin", 2)
        yield running


def test_clean_undoes_what_a_session_without_a_warden_has_left() -> None:
    with session() as killed:
        assert killed.kill("nobody", patience_s=0.1)[0], "what is left is seen"
        mine, directory = killed.directory, killed.directory.parent
        held = [entry for entry in outstanding(mine / "ledger") if entry["kind"] == "process"]
        assert {entry["what"] for entry in held} == {"zygote", "client-1", "server-1", "server-2"}
        said = zebra_clean(directory, "--dry-run")
        assert said.returncode == ExitCode.OK and f"session {killed.pid}, ended" in said.stdout
        assert said.stdout.count("would be undone") >= 3
        groups = {entry["pid"]: entry["start"] for entry in held}
        assert members(groups) and mine.exists(), "a dry run only tells"
        said = zebra_clean(directory)
        assert said.returncode == ExitCode.OK and "nothing left" in said.stdout, said.stdout
        assert not mine.exists()
        assert not looking.wait_until_gone(lambda: members(groups))
        assert str(mine) not in zebra_clean(directory).stdout


def test_a_session_that_runs_is_left_alone() -> None:
    with session() as running:
        said = zebra_clean(running.directory.parent)
        assert said.returncode == ExitCode.OK and "still running, left alone" in said.stdout
        assert running.directory.exists() and os.waitpid(running.pid, os.WNOHANG) == (0, 0)
        assert running.kill("zebra")[0] == []


@fault("leftovers.outside", level="network", needs=Links)
class Outside:
    """Write a file, as a fault would that acts where no capability reaches."""

    path: str
    fails: bool = False

    async def inject(self, on: Selection, links: Links) -> dict[str, str]:
        Path(self.path).touch()
        return {"path": self.path}

    async def probe(self, on: Selection, links: Links) -> bool:
        return Path(self.path).exists()

    async def heal(self, on: Selection, state: dict[str, str]) -> None:
        if self.fails:
            raise OSError("no way back")
        assert on.nodes == ("server-1",)
        Path(state["path"]).unlink()


def book(directory: Path, *more: dict[str, Any], boot: str = "") -> Path:
    """The ledger of a session that has ended, with these entries."""
    home = directory / "zebra-1-abc"
    home.mkdir()
    ledger = Ledger(home / "ledger")
    gone = subprocess.Popen(["true"])
    first = session_entry(gone.pid)
    gone.wait()
    ledger.add([first | ({"boot": boot} if boot else {}), *more])
    ledger.close()
    return home / "ledger"


def outside(path: Path, **more: Any) -> dict[str, Any]:
    settings = {"path": str(path), "fails": False} | more
    return {
        "id": "fault 1", "kind": "fault", "name": "leftovers.outside", "settings": settings, "phase": "injected",
        "groups": [["server-1"]], "places": [vars(PLACE) if hasattr(PLACE, "__dict__") else _fields(PLACE)],
        "state": {"path": str(path)},
    }  # fmt: skip


def _fields(place: Place) -> dict[str, str]:
    return {name: getattr(place, name) for name in ("node", "role", "host", "rack", "dc", "region")}


def test_a_fault_that_acts_outside_of_capabilities_is_healed_from_the_ledger(tmp_path: Path) -> None:
    changed = tmp_path / "changed"
    changed.touch()
    ledger = book(tmp_path, outside(changed))
    assert reap(ledger) == [] and not changed.exists()
    assert outstanding(ledger)[1:] == []
    assert reap(ledger) == [], "again, nothing is to be done"


def test_what_cannot_be_undone_is_named_and_kept(tmp_path: Path) -> None:
    stuck = {"id": "moon 1", "kind": "moon"}
    ledger = book(tmp_path, outside(tmp_path / "changed", fails=True), stuck)
    left = reap(ledger)
    assert [(entry["kind"], entry["trouble"]) for entry in left] == [
        ("fault", "OSError: no way back"), ("moon", "this zebra does not know moon"),
    ]  # fmt: skip
    said = zebra_clean(tmp_path)
    assert said.returncode == ExitCode.VIOLATION, said.stdout
    assert "moon moon 1: STILL THERE: this zebra does not know moon" in said.stdout
    assert ledger.exists(), "for the next try"


def test_after_a_boot_numbers_of_processes_mean_others(tmp_path: Path) -> None:
    other = subprocess.Popen(["sleep", "1000"], start_new_session=True)
    try:
        ledger = book(tmp_path, process_entry(other.pid, "server-1"), boot="another")
        assert reap(ledger) == [] and other.poll() is None
    finally:
        other.kill()
        other.wait()


def test_directories_of_others_are_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    (tmp_path / "zebra-7-notours").mkdir()
    (tmp_path / "zebra-8-link").symlink_to(tmp_path)
    (tmp_path / f"zebra-{os.getpid()}-young").mkdir()
    (tmp_path / f"zebra-{os.getpid()}-young" / "ledger").touch()  # a session that is just beginning
    ledger = book(tmp_path)
    ours = {
        found.directory: found.lives for found in sessions() if found.directory and found.directory.parent == tmp_path
    }
    assert ours == {ledger.parent: False, tmp_path / f"zebra-{os.getpid()}-young": True}


def test_the_samples_cover_all_that_capabilities_offer() -> None:
    """An effect that is added to a capability cannot be forgotten in the kill matrix."""
    import inspect

    from zebra.substrate import CAPABILITIES

    assert set(kills.SAMPLES) == set(CAPABILITIES)
    for name, protocol in CAPABILITIES.items():
        offered = set(list(inspect.signature(protocol.add).parameters)[2:])  # type: ignore[attr-defined]
        assert {key for sample in kills.SAMPLES[name] for key in sample} == offered, name


@pytest.mark.parametrize("way", ["zebra", "warden"])
@pytest.mark.parametrize("substrate", ["process", "netns", "docker"])
def test_kills_at_random_moments_leave_nothing(substrate: str, way: str) -> None:
    """Twenty kills of every kind of effect; `make leftovers` does more."""
    rows = killed(substrate, "--kills", "20", "--way", way)
    assert len(rows) >= 38, "hardly an effect is refused"
    assert all(row["inject"] + row["heal"] == row["kills"] >= 20 for row in rows)
    assert all(row["inject"] and row["heal"] for row in rows if together.BACK_BY_ITSELF not in row["case"])


@pytest.mark.parametrize("substrate", ["process", "netns", "docker"])
def test_every_fault_of_the_catalogue_is_undone_when_its_session_is_killed(substrate: str) -> None:
    rows = killed(substrate, "--faults", "--way", "zebra")
    offered = {sample.name for sample in kills.faults()}
    assert {row["case"] for row in rows} <= offered and len(rows) >= len(offered) - 6, "hardly a fault is refused"
    assert all(row["on"] == row["kills"] == 1 for row in rows)


def killed(substrate: str, *options: str) -> list[dict[str, Any]]:
    """What the command says that kills sessions; each kill left nothing."""
    reason = load("substrates", substrate).SUBSTRATE.unavailable()
    if reason:
        pytest.skip(f"{substrate}: {reason}")
    command = [sys.executable, "-m", "tests.leftovers", "--substrate", substrate, "--json", *options]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True)
    assert done.stdout, done.stderr
    rows: list[dict[str, Any]] = json.loads(done.stdout)
    assert [row for row in rows if row["clean"] != row["kills"]] == []
    assert done.returncode == 0
    return rows


@pytest.mark.parametrize("fails", [False, True])
def test_a_failed_heal_is_reported_and_does_not_cost_the_verdict(fails: bool, tmp_path: Path) -> None:
    async def scenario(cluster: Any) -> None:
        outside = cluster.fault("leftovers.outside", "server-1", path=str(tmp_path / "changed"), fails=fails)
        async with cluster.fault("network.latency", "server-1", delay="1ms"), outside:
            await cluster.client.say("server-1", "hello")

    outcome = zebra.run(scenario, RunSpec(test="heal", target=""), target=victim.TARGET)
    assert outcome.result == "pass", outcome.explain()
    assert (tmp_path / "changed").exists() == fails
    wanted = ("leftovers.outside, its own heal: OSError: no way back",) if fails else ()
    assert outcome.unhealed == wanted
    assert ("not undone" in outcome.explain()) == fails
    healed = {event["fault"]: "unhealed" in event.fields for event in outcome.history.of("fault.heal")}
    assert healed == {"network.latency": False, "leftovers.outside": fails}
