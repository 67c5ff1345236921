"""The fault that does nothing: where to begin when writing one."""

from __future__ import annotations

from zebra.injection.fault import fault
from zebra.injection.selection import Selection
from zebra.substrate import Links


@fault("noop", level="network", needs=Links)
class Noop:
    """Do nothing to the selected nodes; a control that shows what a test does without a fault.

    A fault without effect makes a run inconclusive. This one promises none, so its `probe` says that it kept its word.
    """

    async def inject(self, on: Selection, links: Links) -> None:
        pass

    async def probe(self, on: Selection, links: Links) -> bool:
        return True
