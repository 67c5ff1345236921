"""Whole-system tests of the notes server; `zebra campaign test_notes.py` decides its parameters with them."""

import asyncio
import sys
from pathlib import Path

import pytest

from zebra import Cluster

sys.path.insert(0, str(Path(__file__).parent))
from notes import TARGET


async def put(cluster: Cluster, key: str) -> None:
    """Write a note as long as the leader allows: a test follows each node's own configuration."""
    length = cluster.config_of("leader-1").max_length
    assert await cluster.client.ask("leader-1", f"put {key} {'x' * length}") == "ok"


async def all_alike(cluster: Cluster, within_s: float = 3.0) -> None:
    """Compare the servers' data with each other, not what they answer to writes."""
    for _ in range(int(within_s / 0.05)):
        held = {server: await cluster.client.ask(server, "all") for server in cluster.up() if server != "client-1"}
        if len(set(held.values())) == 1:
            return
        await asyncio.sleep(0.05)
    raise AssertionError("; ".join(f"{server} holds {notes[:40]}…" for server, notes in held.items()))


@pytest.mark.zebra(TARGET)
async def test_followers_hold_what_the_leader_holds(cluster: Cluster) -> None:
    await put(cluster, "streamed")
    await all_alike(cluster)
    await cluster.configure("follower-2", {})  # the same values: a planned restart, and a full copy
    await all_alike(cluster)


@pytest.mark.zebra(TARGET)
async def test_a_follower_that_was_cut_off_catches_up(cluster: Cluster) -> None:
    await put(cluster, "seen")
    await all_alike(cluster)  # everyone has its connection
    async with cluster.fault("network.partition", ["follower-1"], ["leader-1"]):
        await put(cluster, "unseen")
    await all_alike(cluster)


@pytest.mark.zebra(TARGET)
async def test_a_follower_that_crashed_comes_back(cluster: Cluster) -> None:
    await put(cluster, "seen")
    await all_alike(cluster)
    async with cluster.fault("host.crash", "one(follower)"):
        await put(cluster, "missed")
    await all_alike(cluster)
