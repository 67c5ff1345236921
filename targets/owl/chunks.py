"""How objects are cut into chunks, and how those are named."""

from __future__ import annotations

from zebra.targets.owl.config import ChunkConfig
from zebra.targets.owl.messages import Manifest, Piece


def cut(manifest: Manifest, config: ChunkConfig) -> tuple[Piece, ...]:
    """The chunks of an object, as a peer of this configuration cuts it."""
    if manifest.pieces:
        return manifest.pieces
    return tuple(_piece(manifest, index, config) for index in range(-(-manifest.length // config.size)))


def find_piece(chunk: str, manifest: Manifest, config: ChunkConfig) -> Piece | None:
    """The chunk that an id names to a peer of this configuration, or None if it names nothing.

    A range says which bytes it means. A number means whatever the peer would cut there.
    """
    if manifest.pieces:
        return next((piece for piece in manifest.pieces if piece.chunk == chunk), None)
    if "@" in chunk:
        start, _, length = chunk.rpartition("@")[2].partition("+")
        return Piece(chunk=chunk, start=int(start), length=int(length))
    begin = int(chunk.rpartition("#")[2]) * config.size
    return (
        Piece(chunk=chunk, start=begin, length=min(config.size, manifest.length - begin))
        if begin < manifest.length
        else None
    )


def _piece(manifest: Manifest, index: int, config: ChunkConfig) -> Piece:
    start = index * config.size
    length = min(config.size, manifest.length - start)
    chunk = f"{manifest.object}#{index}" if config.id_scheme == "index" else f"{manifest.object}@{start}+{length}"
    return Piece(chunk=chunk, start=start, length=length)
