"""The substrate `docker`: one container per node, for as long as a run lasts."""

from __future__ import annotations

from pathlib import Path

from zebra.substrate import Plan
from zebra.substrate.docker.addresses import NODES_MAX, Subnets
from zebra.substrate.docker.engine import default_image, missing, unanswered
from zebra.substrate.docker.running import DockerRunning, contained, slots_of
from zebra.substrate.process import ProcessSubstrate
from zebra.substrate.process.addresses import Addressing
from zebra.substrate.process.board import Board
from zebra.substrate.process.network import Network


class DockerSubstrate(ProcessSubstrate):
    """`zebra.Substrate` on containers of an engine of this machine."""

    name = "docker"
    nodes_max = NODES_MAX
    toxiproxied = False
    running = DockerRunning

    def unavailable(self) -> str:
        image = default_image()
        return super().unavailable() or unanswered() or (missing(image) if image else "")

    def joined(self, plan: Plan) -> tuple[Addressing, Network | None]:
        nodes = {place.node: number for number, place in enumerate(plan.places, 1)}
        return Subnets(slots_of(nodes, {p.node: p.dc for p in plan.places if contained(p.role)})), None

    def board(self, nodes: int, directory: Path) -> Board:
        """In a file, for containers share no memory with the session but what is mounted in them."""
        with open(directory / "board", "w+b") as file:
            file.truncate(Board.size_bytes(nodes))
            return Board(nodes, file.fileno())


SUBSTRATE = DockerSubstrate()
