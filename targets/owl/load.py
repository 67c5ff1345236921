"""What a tracker knows of its peers' load: their uploads over all chunks, and the rates that they have shown.

The specification's Heartbeat carries both (../shared/targets/owl.md section 2, `uploads` and `up_rate`); a tracker sees
them anyhow, as edges that open and downloads that end.
"""

from __future__ import annotations

from collections.abc import Sequence

from zebra.targets.owl.policies import Candidate

SLOW = 1 / 8
"""Of the best rate seen: a source that has shown less is used only if there is no other."""


class Load:
    """Uploads and rates (bytes per second) of the sources of one tracker's peers."""

    def __init__(self) -> None:
        self.uploads: dict[str, int] = {}
        self.rates: dict[str, float] = {}
        self.best = 0.0

    def began(self, source: str) -> None:
        self.uploads[source] = self.uploads.get(source, 0) + 1

    def ended(self, source: str) -> None:
        self.uploads[source] -= 1
        if not self.uploads[source]:
            del self.uploads[source]

    def saw(self, source: str, child: str, downloads: int, rate: float) -> None:
        """A download has ended at this rate, one of so many that the child has open: each end shared its card."""
        for peer, at_once in ((source, self.uploads.get(source, 0)), (child, downloads)):
            shown = rate * max(1, at_once)
            self.rates[peer] = max(self.rates.get(peer, 0.0), shown)
            self.best = max(self.best, shown)

    def forget(self, peer: str) -> None:
        """A peer is ours no more."""
        self.rates.pop(peer, None)

    def quick(self, found: Sequence[Candidate]) -> list[Candidate]:
        """Those not known to be slow; all, if all are."""
        quick = [c for c in found if self.rates.get(c.peer, self.best) >= SLOW * self.best]
        return quick or list(found)
