"""Whole runs in network namespaces: shapes of partitions, programs, other users, what is shared with nobody."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests import catalogue, programs
from tests.cases import at
from zebra import Cluster, Node, RunSpec, Target, Topology, run
from zebra.outcome import Outcome
from zebra.substrate import Pairs
from zebra.substrate.netns import SUBSTRATE

pytestmark = pytest.mark.skipif(bool(SUBSTRATE.unavailable()), reason=SUBSTRATE.unavailable())

PORT = 4000
HEAR_S = 0.5


class Config(msgspec.Struct, frozen=True, kw_only=True):
    pass


class Member:
    """Hears datagrams, and runs a server program when told to."""

    def __init__(self, node: Node[Config]) -> None:
        self.node, self.heard = node, set[str]()

    async def run(self) -> None:
        heard = self.heard

        class Hear(asyncio.DatagramProtocol):
            def datagram_received(self, data: bytes, addr: Any) -> None:
                heard.add(data.decode())

        loop = asyncio.get_running_loop()
        self.out, _ = await loop.create_datagram_endpoint(Hear, local_addr=("0.0.0.0", PORT))
        await self.node.ready()
        await asyncio.Event().wait()

    async def forget(self) -> None:
        self.heard.clear()

    async def speak(self) -> None:
        for peer in self.node.peers("member"):
            self.out.sendto(self.node.name.encode(), (peer, PORT))

    async def whom(self) -> list[str]:
        return sorted(self.heard)

    async def serve(self, port: int) -> str:
        self.program, host = await programs.serve(self.node, port)
        return host

    async def read(self, name: str, port: int, timeout_s: float) -> str:
        return await programs.read(self.node, name, port, timeout_s)

    async def where(self) -> tuple[int, str, list[str]]:
        """The user, the network namespace and the devices in it."""
        lines = Path("/proc/net/dev").read_text().splitlines()[2:]
        return os.getuid(), os.readlink("/proc/self/ns/net"), sorted(line.split(":")[0].strip() for line in lines)

    async def say_locally(self, port: int) -> str:
        server = await asyncio.start_server(_hang_up, "localhost", port)
        try:
            await asyncio.open_connection("localhost", port)
            return "open"
        finally:
            self.local = server

    async def try_(self, name: str, port: int) -> str:
        try:
            _, writer = await asyncio.open_connection(name, port)
            writer.close()
            return "open"
        except OSError as error:
            return type(error).__name__


async def _hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.close()


class Idle:
    def __init__(self, node: Node[Config]) -> None:
        self.node = node


TARGET = Target(name="members", config=Config, roles={"member": Member}, client=Idle,
                topology=Topology(counts={"member": 5}))  # fmt: skip
MEMBERS = [f"member-{number}" for number in range(1, 6)]


def go(scenario: Any) -> Outcome:
    outcome = run(scenario, RunSpec(target="members", substrate="netns", timeout_s=60.0), target=TARGET)
    assert outcome.result == "pass", outcome.explain()
    return outcome


def products(*groups: tuple[str, str]) -> Pairs:
    """Pairs of members given by their numbers: ("12", "345") cuts what 1 and 2 send to 3, 4 and 5."""
    return Pairs([tuple(frozenset(f"member-{n}" for n in side) for side in group) for group in groups])  # type: ignore[misc]


SHAPES = {
    "nothing": products(),
    "majority": products(("12", "345"), ("345", "12")),
    "one way": products(("1", "2345")),
    "bridge": products(("12", "45"), ("45", "12")),  # 3 sees both halves
    "ring": products(("1", "34"), ("2", "45"), ("3", "51"), ("4", "12"), ("5", "23")),  # each sees its neighbours
    "three groups": products(("12", "345"), ("34", "125"), ("5", "1234")),
    "everybody alone": products(("12345", "12345")),
}


def test_partitions_of_every_shape_cut_exactly_their_pairs() -> None:
    async def scenario(cluster: Cluster) -> None:
        links = cluster._running.capabilities["links"]
        for shape, cut in SHAPES.items():
            effect = await links.add(cut, drop=True)
            for what in ("forget", "speak"):
                await asyncio.gather(*(at(cluster, member, what) for member in MEMBERS))
            wanted = {to: [each for each in MEMBERS if each != to and (each, to) not in cut] for to in MEMBERS}
            deadline_s = cluster.now + 10
            while (heard := {to: await at(cluster, to, "whom") for to in MEMBERS}) != wanted:
                assert cluster.now < deadline_s, (shape, heard)
                await asyncio.sleep(0.01)
            pairs = sum((a, b) in cut for a in MEMBERS for b in MEMBERS)
            while effect.hits < pairs:
                assert cluster.now < deadline_s, (shape, effect.hits)
                await asyncio.sleep(0.01)
            assert effect.hits == pairs
            assert {to: await at(cluster, to, "whom") for to in MEMBERS} == wanted, shape
            await links.remove(effect)

    go(scenario)


def test_programs_see_the_true_addresses_of_each_other_under_the_faults_of_their_links() -> None:
    async def scenario(cluster: Cluster) -> None:
        here = await at(cluster, "member-1", "serve", 5000)
        there = await at(cluster, "member-2", "serve", 5000)
        said = await at(cluster, "member-2", "read", "member-1", 5000, 5.0)
        assert said == f"member-1 {here} {there}"
        async with cluster.fault("network.partition", "member-1", how="reject"):
            assert await at(cluster, "member-2", "read", "member-1", 5000, HEAR_S) == ""
        assert await at(cluster, "member-2", "read", "member-1", 5000, 5.0) == said

    go(scenario)


def test_each_node_has_a_namespace_of_its_own_and_what_listens_locally_is_for_it_alone() -> None:
    outside = os.readlink("/proc/self/ns/net")

    async def scenario(cluster: Cluster) -> None:
        seen = [await at(cluster, member, "where") for member in MEMBERS]
        assert len({namespace for _, namespace, _ in seen} | {outside}) == len(MEMBERS) + 1
        assert {user for user, _, _ in seen} == {os.getuid()}
        assert all(devices == ["eth0", "lo"] for _, _, devices in seen)
        assert await at(cluster, "member-1", "say_locally", 80) == "open"
        assert await at(cluster, "member-2", "try_", "member-1", 80) == "ConnectionRefusedError"

    go(scenario)
    assert os.readlink("/proc/self/ns/net") == outside


@catalogue.each_of(
    *catalogue.FAULTS,
    ("host.kill", {}),
    ("host.unfair", {"stall_s": 0.1, "every_s": 0.2}),
    ("disk.error", {}),
    ("disk.read_only", {}),
    ("clock.drift", {"rate": 0.5}),
    ("clock.freeze", {}),
    ("application.delay", {"delay": "20ms"}),
    ("application.drop_reply", {}),
)
def test_faults_of_the_catalogue_take_effect_and_heal(fault: str, settings: dict[str, Any]) -> None:
    catalogue.takes_effect_and_heals("netns", fault, settings)
