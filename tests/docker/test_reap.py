"""Nothing that a session has made by the engine outlives it; `soak_docker.py` kills sessions many times."""

from __future__ import annotations

import random
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.docker import engines
from tests.docker import soak_docker as soak
from zebra.injection.ledger import Ledger, outstanding
from zebra.substrate.docker.engine import Engine, socket_path
from zebra.substrate.docker.filesystem import empty_layer
from zebra.substrate.docker.reap import reap

pytestmark = engines.needs_engine

TRIES, KILLS = 20, 10


@pytest.fixture
def made(tmp_path: Path) -> Iterator[tuple[Engine, Ledger, str]]:
    """An engine of a session of its own, whose ledger the test reads; whatever it leaves is removed."""
    session = f"zebra-test-{uuid.uuid4().hex[:8]}"
    ledger = Ledger(tmp_path / "ledger")
    engine = Engine(session, "run-1", ledger)
    yield engine, ledger, session
    engine.close()
    ledger.close()
    assert not soak.things(session)


def container(engine: Engine, image: str, what: str = "node") -> str:
    return engine.make_container(what, image, ["none"], environment={}, user="0:0", network_mode="none")


def test_what_entries_name_is_removed_and_what_is_absent_is_gone(made: tuple[Engine, Ledger, str]) -> None:
    engine, ledger, session = made
    image = engine.make_image(empty_layer())
    assert engine.make_network("dc", "10.63.0.0/22", "10.63.0.1") is not None
    for number in range(3):
        container(engine, image, f"node-{number}")
    entries = outstanding(ledger.path)
    assert [entry["kind"] for entry in entries] == ["image", "network", "container", "container", "container"]
    assert len(soak.things(session)) == 5
    assert reap(entries)
    assert soak.things(session) == []
    assert reap(entries)
    assert reap([])


def test_what_lacks_the_label_is_left_alone(made: tuple[Engine, Ledger, str]) -> None:
    _, _, session = made
    with engines.empty_image("zebra-test-foreign:1", "somebody=else") as image:
        name = f"{session}-foreign"
        assert engines.ask("POST", f"/containers/create?name={name}", {"Image": image, "Cmd": ["-"]})[0] == 201
        network = {"Name": name, "IPAM": {"Config": [{"Subnet": "10.63.4.0/22"}]}}
        assert engines.ask("POST", "/networks/create", network)[0] == 201
        named = {"name": name, "engine": socket_path(), "labels": {"zebra.session": session}}
        entries: list[dict[str, Any]] = [
            {"kind": "container", "image": image, **named},
            {"kind": "network", "subnet": "10.63.4.0/22", **named},
            {"kind": "image", **named, "name": image},
        ]
        try:
            assert reap(entries)
            assert reap([{**entry, "labels": {}} for entry in entries])
            assert engines.ask("GET", f"/containers/{name}/json")[0] == 200
            assert engines.ask("GET", f"/networks/{name}")[0] == 200
            assert engines.ask("GET", f"/images/{image}/json")[0] == 200
        finally:
            assert engines.ask("DELETE", f"/containers/{name}?force=true")[0] == 204
            assert engines.ask("DELETE", f"/networks/{name}")[0] == 204


def test_an_engine_that_does_not_answer_has_it_all_left(tmp_path: Path) -> None:
    entry = {"kind": "container", "name": "x", "image": "x", "labels": {"a": "b"}, "engine": str(tmp_path / "none")}
    assert not reap([entry])


def test_what_the_engine_is_still_at_work_on_does_not_appear_after_the_reaper(
    made: tuple[Engine, Ledger, str],
) -> None:
    """Each try asks for a container, a network and an image in threads, and reaps as soon as all is in the ledger."""
    engine, ledger, session = made
    chance = random.Random(0)
    with engines.empty_image("zebra-test-late:1") as image:
        late = 0
        for number in range(TRIES):
            asked = [
                threading.Thread(target=_try, args=(container, engine, image, f"node-{number}")),
                threading.Thread(target=_try, args=(engine.make_network, f"dc-{number}", "10.63.8.0/22", "10.63.8.1")),
                threading.Thread(target=_try, args=(engine.make_image, empty_layer())),
            ]
            before = len(ledger.path.read_bytes())
            for thread in asked:
                thread.start()
            while ledger.path.read_bytes()[before:].count(b'"kind"') < len(asked):
                pass
            threading.Event().wait(chance.random() * 0.03)
            mine = outstanding(ledger.path)
            late += sum(thread.is_alive() for thread in asked)
            assert reap(mine)
            for thread in asked:
                thread.join()
            assert soak.things(session) == []
            for entry in mine:
                engine._made.pop(entry["name"], None)
            ledger.done(entry["id"] for entry in mine)
    assert late, "the engine was never at work on anything when the reaper came"


def _try(what: Any, *arguments: Any) -> None:
    try:
        what(*arguments)
    except Exception:
        pass  # the reaper was there first


def test_sessions_that_are_killed_leave_nothing(tmp_path: Path) -> None:
    chance, had = random.Random(1), 0
    for number in range(KILLS):
        directory = tmp_path / str(number)
        directory.mkdir()
        some, _, left, _ = soak.kill(directory, chance.random() * (0.7 if number % 2 else 2.5))
        had += len(some)
        assert not left
    assert had, "no session had made anything when it was killed"
