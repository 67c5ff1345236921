"""Shipped scenarios of targets, unchanged, on containers: a few of each, as containers cost more than processes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.docker import engines
from tests.scenarios import pass_in_a_session
from zebra.targets.valkey.space import unavailable

pytestmark = engines.needs_engine


def test_owl_on_docker(tmp_path: Path) -> None:
    pass_in_a_session(
        "owl", "docker", tmp_path, "test_planned_restart_stalls_nobody", "test_tracker_loss_interrupts_no_download"
    )


def test_lad_on_docker(tmp_path: Path) -> None:
    pass_in_a_session("lad", "docker", tmp_path, "test_commit_reaches_every_app", "test_inner_proxy_is_upgraded")


@pytest.mark.skipif(bool(unavailable()), reason=unavailable() or "there is a server")
def test_valkey_on_docker(tmp_path: Path) -> None:
    names = ("test_replicas_hold_what_the_primary_holds", "test_what_is_confirmed_outlives_restarts")
    pass_in_a_session("valkey", "docker", tmp_path, *names)
