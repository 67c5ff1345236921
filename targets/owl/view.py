"""What a report draws of Owl at a violation: the open edges of a chunk, exactly as its invariants count them."""

from __future__ import annotations

from collections.abc import Iterator

from zebra.events import Event
from zebra.structure import Link
from zebra.targets.owl.models import Edges


class OpenEdges:
    """A link per open edge, from the peer or store that sends to the peer that fetches; a group is a chunk."""

    def __init__(self) -> None:
        self.edges = Edges()

    def see(self, event: Event) -> None:
        self.edges.see(event)

    def links(self) -> Iterator[Link]:
        for edge, event in self.edges.open.items():
            yield Link(group=event["chunk"], parent=event["src"], child=event["child"], name=edge)
