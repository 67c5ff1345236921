"""`zebra clean` finds by label what a container engine holds of sessions whose ledger is lost."""

from __future__ import annotations

import shutil
import socket
import tempfile
import threading
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.docker import engines
from tests.leftovers import alone, kills, looking, victim
from tests.leftovers.looking import zebra_clean
from zebra.errors import ExitCode
from zebra.injection.ledger import owner
from zebra.substrate.docker.engine import LABEL_OWNER, LABEL_RUN, LABEL_SESSION
from zebra.substrate.docker.reap import lost

pytestmark = [engines.needs_engine, pytest.mark.docker]


def gone() -> str:
    """The label of an owner that is gone: somebody else has its number now."""
    user, pid, start, *rest = owner().split("/")
    return "/".join((user, pid, str(int(start) + 1), *rest))


@contextmanager
def network(labels: dict[str, str], subnet: str) -> Iterator[str]:
    """A network with labels; its name."""
    name = f"zebra-test-{uuid.uuid4().hex[:8]}"
    wanted = {"Name": name, "Labels": labels, "IPAM": {"Config": [{"Subnet": subnet}]}}
    assert engines.ask("POST", "/networks/create", wanted)[0] == 201
    try:
        yield name
    finally:
        engines.ask("DELETE", f"/networks/{name}")


def session_name() -> str:
    return f"zebra-1-{uuid.uuid4().hex[:8]}"


def test_what_a_session_has_left_whose_ledger_is_lost_is_found_by_its_labels() -> None:
    samples = kills.effects(["processes"])[:1]
    with victim.Session(alone.nested, samples, "docker", 0) as killed, tempfile.TemporaryDirectory() as elsewhere:
        killed.hears("begin")
        name = killed.directory.name
        held = set(looking.held(name))
        assert {thing.split("/")[0].split()[0] for thing in held} == {"containers", "networks", "images"}
        assert name not in lost(()), "it lives"
        killed.kill("nobody", patience_s=0.1)
        assert name in lost(()) and name not in lost([name]), "nor is one that has a ledger"
        shutil.rmtree(killed.directory)
        said = zebra_clean(Path(elsewhere), "--dry-run")
        assert said.returncode == ExitCode.OK and f"session {killed.pid}, ended, its ledger lost" in said.stdout
        assert said.stdout.count("would be undone") >= 4 and set(looking.held(name)) == held
        said = zebra_clean(Path(elsewhere))
        (mine,) = (part for part in said.stdout.split("session ") if part.startswith(f"{killed.pid},"))
        assert "STILL THERE" not in mine, said.stdout
        assert looking.held(name) == []


def test_what_lacks_our_labels_or_has_an_owner_who_may_live_is_left_alone(tmp_path: Path) -> None:
    complete = {LABEL_SESSION: session_name(), LABEL_RUN: "run-1", LABEL_OWNER: gone()}
    others = [{**complete, LABEL_SESSION: session_name(), **change} for change in (
        {LABEL_SESSION: "somebody's"}, {LABEL_OWNER: owner()}, {LABEL_OWNER: ""}, {LABEL_OWNER: "7"},
        {LABEL_OWNER: gone().replace("/", "7/", 1)},
    )]  # fmt: skip
    others += [{name: value for name, value in complete.items() if name != missing} for missing in complete]
    with ExitStack() as stack:
        ours = stack.enter_context(network(complete, "10.62.0.0/24"))
        names = [stack.enter_context(network(each, f"10.62.{n}.0/24")) for n, each in enumerate(others, 1)]
        zebra_clean(tmp_path)
        assert engines.ask("GET", f"/networks/{ours}")[0] == 404
        assert [engines.ask("GET", f"/networks/{name}")[0] for name in names] == [200] * len(others)


def test_no_engine_holds_nothing_and_one_that_does_not_answer_is_named(tmp_path: Path) -> None:
    path = tmp_path / "engine.sock"
    for host in (f"unix://{path}", "tcp://somewhere:1"):
        said = zebra_clean(tmp_path, DOCKER_HOST=host)
        assert said.returncode == ExitCode.OK and "no look" not in said.stdout, said.stderr
    with socket.socket(socket.AF_UNIX) as engine:
        engine.bind(str(path))
        engine.listen()
        hangs_up = threading.Thread(target=lambda: engine.accept()[0].close(), daemon=True)
        hangs_up.start()
        said = zebra_clean(tmp_path, DOCKER_HOST=f"unix://{path}")
        hangs_up.join()
    assert said.returncode == ExitCode.OK and "no look at what a container engine holds" in said.stdout, said.stderr
