"""The superpeer: a peer in a process of its own, with a large cache, that fetches what its tracker tells it to."""

from __future__ import annotations

from typing import Any

from zebra.rpc import Caller
from zebra.targets.owl.chunks import find_piece
from zebra.targets.owl.messages import Get, Prefetch
from zebra.targets.owl.peer import Peer


class Superpeer(Peer):
    """Never an end consumer: it answers no Get."""

    cache_factor = 16

    def handlers(self) -> tuple[dict[type, Any], dict[type, Any]]:
        calls, casts = super().handlers()
        del calls[Get]
        return calls, {**casts, Prefetch: self.prefetch}

    def prefetch(self, cast: Prefetch, caller: Caller) -> None:
        """Fetch a chunk for those who come later."""
        piece = find_piece(cast.chunk, cast.manifest, self.node.config.chunk)
        if piece is not None and piece.chunk not in self.cache:
            self.begin(piece, cast.manifest)
