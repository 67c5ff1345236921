"""Objects of any size: bytes on real substrates, a description of bytes in simulation.

A `Blob` is a rope of pieces. A piece is literal bytes, or a `Range` that says where its bytes would come from. On real
substrates every blob is one literal piece. A simulated 100 MB object is one range: it costs a simulated network
100 MB of time and this machine about a microsecond per operation.

Both forms answer every equality alike, whether of blobs or of checksums, for the same program of operations. Ranges
of different origin do agree on a byte now and then, and so does a literal with the range beside it. Blobs are
therefore compared in their *settled* form, which depends on content alone: each range grown over the neighbouring
bytes that agree with it, what is shorter than `SHORT` bytes spelt out.

Three things differ. The compressed form of a range has a declared length (`RATIOS`), not the codec's, and no bytes:
parts of it are compared by origin. The checksum of a range is that of its description, so its value differs, not its
equality. And generated content that was written out, by `bytes(rope)` or by a codec from fewer than `SHORT` bytes, is
recognised beside a range that it continues, not on its own: `Blob.of(bytes(rope)) != rope` from `SHORT` bytes on.
"""

from __future__ import annotations

import hashlib
import lzma
import zlib
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from itertools import chain, groupby
from operator import itemgetter
from typing import NamedTuple, TypeAlias

import msgspec

from zebra.errors import ConfigError

SHORT = 16  # bytes: two origins agree on so many once in 2**128 times
RATIOS = {"none": 1.0, "zlib": 0.5, "lzma": 0.4}  # length of a range's compressed form, as a share of its own
_BLOCK = 1024  # bytes of generated content per hash: fewer are slower to write out, more are slower to look one up
_LENGTH_MAX = 2**62  # bytes: positions and their differences fit a signed 64-bit integer


class Packed(NamedTuple):
    """The source of ranges that are (parts of) the compressed form of `inner`."""

    codec: str
    inner: Blob

    @property
    def length(self) -> int:
        """Bytes of the whole compressed form, by the codec's declared ratio."""
        return max(1, round(len(self.inner) * RATIOS[self.codec]))


class Range(NamedTuple):
    """The bytes `start` to `stop` of `source`, a seed or a packed blob, with what was XORed to them.

    A stream `(key, shift)` is the keystream of `key`, of which byte `i + shift` falls on byte `i` of the source. So
    neither slicing nor joining changes a stream, and one applied twice in the same alignment cancels out. `streams` is
    sorted and without duplicates. `flipped` inverts the lowest bit of every byte.
    """

    source: int | Packed
    start: int
    stop: int
    streams: tuple[tuple[str, int], ...] = ()
    flipped: bool = False


Piece: TypeAlias = bytes | Range


class Blob:
    """An immutable sequence of bytes, of which ranges are known by their origin only.

    Make one with `of`, `random`, `join` or `from_data`. Lengths and positions are in bytes. `==` compares content, and
    equal blobs have the same hash in every process. `bytes` writes the content out; it raises ValueError if a
    simulated compressed form is in it. Operations cost about a microsecond per range, literals what bytes cost.
    """

    __slots__ = ("_length", "_settled", "pieces")

    def __init__(self, pieces: tuple[Piece, ...]) -> None:
        """A blob of pieces in which none is empty and no two neighbours could be one (as `_merge` makes them)."""
        self.pieces = pieces
        self._length = sum([_size(piece) for piece in pieces])
        self._settled: tuple[Piece, ...] | None = None

    @classmethod
    def of(cls, data: bytes) -> Blob:
        """Literal bytes."""
        return cls((bytes(data),) if data else ())

    @classmethod
    def random(cls, seed: int, length: int, *, materialise: bool) -> Blob:
        """Pseudo-random content, of which byte i depends on the seed and i alone: real bytes, or a range for them.

        Raises ConfigError unless 0 <= seed < 2**64 and 0 <= length <= 2**62.
        """
        whole = Range(seed, 0, length)
        if not length:
            return cls(())
        _validate(whole)
        return cls((_content(whole) if materialise else whole,))

    @classmethod
    def join(cls, parts: Iterable[Blob]) -> Blob:
        """The parts in their order; slices that follow each other become one piece again. Linear in pieces."""
        return cls(_merge(chain.from_iterable([part.pieces for part in parts])))

    def __add__(self, other: Blob) -> Blob:
        match self.pieces, other.pieces:
            case (Range() as a,), (Range() as b,) if a.stop == b.start and a[3:] == b[3:] and a.source == b.source:
                return Blob((Range(a.source, a.start, b.stop, a.streams, a.flipped),))  # the next part of one source
        return Blob.join((self, other))

    def __len__(self) -> int:
        return self._length

    def slice(self, start: int, stop: int) -> Blob:
        """Bytes `start` to `stop`, the latter excluded; raises IndexError unless 0 <= start <= stop <= len."""
        if not 0 <= start <= stop <= self._length:
            raise IndexError(f"slice {start}:{stop} of a blob of {self._length} bytes")
        if stop - start == self._length:
            return self
        if len(self.pieces) == 1 and start < stop:
            return Blob((_part(self.pieces[0], start, stop),))
        return Blob(tuple(_between(self.pieces, start, stop)))

    def flip(self, at: int) -> Blob:
        """The same with the lowest bit of byte `at` inverted; raises IndexError outside the blob."""
        if not 0 <= at < self._length:
            raise IndexError(f"flip of byte {at} of a blob of {self._length} bytes")
        (byte,) = _between(self.pieces, at, at + 1)
        flipped = bytes([byte[0] ^ 1]) if isinstance(byte, bytes) else byte._replace(flipped=not byte.flipped)
        before, after = _between(self.pieces, 0, at), _between(self.pieces, at + 1, self._length)
        return Blob(_merge(chain(before, [flipped], after)))

    def encrypt(self, key: str) -> Blob:
        """Every byte XORed with the keystream of `key`, which begins at byte 0 of this blob.

        Being an XOR, it is undone by itself, and a flip of the cipher text flips the same bit of the plain text. It
        models what encryption does to equality and protects nothing.
        """
        pieces: list[Piece] = []
        for at, piece in _placed(self.pieces):
            if isinstance(piece, bytes):
                pieces.append(_xor(piece, _noise(f"key {key}", at, at + len(piece))))
            else:
                streams = {*piece.streams} ^ {(key, at - piece.start)}
                pieces.append(Range(piece.source, piece.start, piece.stop, tuple(sorted(streams)), piece.flipped))
        return Blob(_merge(pieces))

    def decrypt(self, key: str) -> Blob:
        """What was encrypted with `key`; of any other blob, content that equals nothing else."""
        return self.encrypt(key)

    def compress(self, codec: str) -> Blob:
        """The form that `codec` (one of `RATIOS`) gives it: real for bytes, of a declared length if it holds ranges."""
        _check_name("codec", codec, RATIOS)
        if codec == "none":
            return self
        if (content := self._spelt_out()) is not None:
            return Blob.of(zlib.compress(content, 1) if codec == "zlib" else lzma.compress(content, preset=0))
        packed = Packed(codec, self)
        return Blob((Range(packed, 0, packed.length),))

    def decompress(self, codec: str) -> Blob:
        """The blob of which this is the whole compressed form; raises ValueError if it is not, or is damaged."""
        _check_name("codec", codec, RATIOS)
        if codec == "none":
            return self
        if (content := self._spelt_out()) is not None:
            return Blob.of(_decompressed(codec, content))
        match self.pieces:
            case (Range(Packed() as packed, 0, stop, (), False),) if packed.codec == codec and stop == packed.length:
                return packed.inner
        raise ValueError(f"not a whole {codec} form: {self.description}")

    def checksum(self, algorithm: str) -> str:
        """Lowercase hex by crc32, crc32c, md5, blake2b, sha256: of the bytes, of the description if it holds ranges."""
        _check_name("checksum algorithm", algorithm, _CHECKSUMS)
        content = self._spelt_out()
        return _described_checksum(algorithm, self.description) if content is None else _CHECKSUMS[algorithm](content)

    def settled(self) -> tuple[Piece, ...]:
        """The pieces in the one form that depends on content alone; computed once."""
        if self._settled is None:
            simple = len(self.pieces) == 1 and (isinstance(self.pieces[0], bytes) or _is_run(self.pieces[0]))
            self._settled = self.pieces if simple else _settle(self.pieces)
        return self._settled

    @property
    def description(self) -> str:
        """What it holds: `seed 7[0:100] ^ 'key'@0 + hex 0a0b`. Equal blobs, and no others, have equal descriptions."""
        return " + ".join([_describe(piece) for piece in self.settled()]) or "empty"

    def _spelt_out(self) -> bytes | None:
        """The content, if no range is left in the settled form."""
        match self.settled():
            case ():
                return b""
            case (bytes() as content,):
                return content
        return None

    def to_data(self) -> tuple[object, ...]:
        """Plain data for msgpack and msgspec's JSON: bytes, or `(source, start, stop, streams, flipped)`, per piece.

        A source is a seed or `(codec, data of the inner blob)`: `((7, 0, 100, (("key", 0),), False), b"the end")`.
        """
        data: tuple[object, ...] = msgspec.to_builtins(self.pieces, builtin_types=(bytes,), enc_hook=Blob.to_data)
        return data

    @classmethod
    def from_data(cls, data: object) -> Blob:
        """The blob of `to_data`, also after msgpack or JSON (lists, base64); raises ConfigError for anything else."""
        try:
            pieces = msgspec.convert(data, tuple[Piece, ...], dec_hook=lambda _, inner: cls.from_data(inner))
            for piece in pieces:
                _validate(piece)
            if sum(map(_size, pieces)) > _LENGTH_MAX:
                raise ConfigError("too long")
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"not the data of a blob: {error}") from None
        return cls(_merge(pieces))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Blob):
            return NotImplemented
        return self.pieces == other.pieces or (self._length == other._length and self.settled() == other.settled())

    def __hash__(self) -> int:
        return zlib.crc32(self.description.encode())

    def __bytes__(self) -> bytes:
        return b"".join([_content(piece) for piece in self.pieces])

    def __repr__(self) -> str:
        return f"<Blob of {self._length} bytes: {self.description}>"


def _validate(piece: Piece) -> None:
    """Raises ConfigError for a range that no operation makes."""
    if isinstance(piece, bytes):
        return
    limit = _LENGTH_MAX
    if isinstance(piece.source, Packed):
        _check_name("codec", piece.source.codec, ("zlib", "lzma"))
        limit = piece.source.length
        if piece.source.inner._spelt_out() is not None:
            raise ConfigError("the compressed form of literal bytes is literal")
    elif not 0 <= piece.source < 2**64:
        raise ConfigError(f"seed: {piece.source} is not from 0 to 2**64 - 1")
    if not 0 <= piece.start < piece.stop <= limit:
        raise ConfigError(f"bytes {piece.start} to {piece.stop} are not in a source of {limit} bytes")
    if list(piece.streams) != sorted(set(piece.streams)) or any(abs(shift) > _LENGTH_MAX for _, shift in piece.streams):
        raise ConfigError(f"streams are sorted, unique and near, not {piece.streams}")


def _check_name(what: str, name: str, names: Iterable[str]) -> None:
    if name not in names:
        raise ConfigError(f"{what} {name!r} is unknown, expected one of {', '.join(names)}")


def _size(piece: Piece) -> int:
    return len(piece) if isinstance(piece, bytes) else piece.stop - piece.start


def _placed(pieces: Iterable[Piece]) -> Iterator[tuple[int, Piece]]:
    """Each piece that is not empty, after its position in the blob."""
    at = 0
    for piece in pieces:
        if size := _size(piece):
            yield at, piece
            at += size


def _part(piece: Piece, first: int, last: int) -> Piece:
    if isinstance(piece, bytes):
        return piece[first:last]
    return Range(piece.source, piece.start + first, piece.start + last, piece.streams, piece.flipped)


def _between(pieces: Iterable[Piece], start: int, stop: int) -> Iterator[Piece]:
    """What falls between two positions of the blob that the pieces make."""
    for at, piece in _placed(pieces):
        first, last = max(start - at, 0), min(stop - at, _size(piece))
        if first < last:
            yield _part(piece, first, last)


def _merge(pieces: Iterable[Piece]) -> tuple[Piece, ...]:
    """The same content in as few pieces as their origin allows."""
    merged: list[Piece] = []
    for _, group in groupby(_placed(pieces), key=_origin):
        run = [piece for _, piece in group]
        first, last = run[0], run[-1]
        if len(run) == 1:
            merged.append(first)
        elif isinstance(first, Range) and isinstance(last, Range):
            merged.append(Range(first.source, first.start, last.stop, first.streams, first.flipped))
        else:
            merged.append(b"".join([piece for piece in run if isinstance(piece, bytes)]))
    return tuple(merged)


def _origin(placed: tuple[int, Piece]) -> tuple[object, ...]:
    """What neighbours that make one piece share: where in the blob their source begins, and what was XORed to it."""
    at, piece = placed
    return () if isinstance(piece, bytes) else (at - piece.start, piece.source, piece.streams, piece.flipped)


def _settle(pieces: tuple[Piece, ...]) -> tuple[Piece, ...]:
    """The form that depends on content alone.

    A run is the longest stretch of the blob that agrees with one range. Content decides which runs of SHORT bytes and
    more there are, whatever pieces it was made of: two of different origin overlap by a few bytes at most (the left
    one keeps them), so none holds another. What lies outside of runs is spelt out.
    """
    found: set[tuple[int, int, Range]] = set()
    for index, (at, piece) in enumerate(_placed(pieces)):
        if isinstance(piece, Range):
            before, after = _reach(pieces, index, -1), _reach(pieces, index, +1)
            run = Range(piece.source, piece.start - before, piece.stop + after, piece.streams, piece.flipped)
            if _is_run(run):
                found.add((at - before, at + _size(piece) + after, run))
    runs = sorted(found, key=itemgetter(0, 1))
    starts, stops = [start for start, _, _ in runs], [0, *(stop for _, stop, _ in runs)]
    settled: list[tuple[int, Piece]] = []
    for done, (start, stop, run) in zip(stops, runs, strict=False):
        settled.append((max(start, done), _part(run, max(done - start, 0), stop - start)))
    for at, piece in _placed(pieces):  # no run lies within one piece, so what is outside of runs is in one part
        index = bisect_right(starts, at)
        first, last = max(at, stops[index]), min([at + _size(piece), *starts[index : index + 1]])
        if first < last:
            settled.append((first, _content(_part(piece, first - at, last - at))))
    return _merge([piece for _, piece in sorted(settled, key=itemgetter(0))])


def _is_run(piece: Range) -> bool:
    """Whether it is too long to be spelt out, or has no bytes to spell."""
    return piece.stop - piece.start >= SHORT or isinstance(piece.source, Packed)


def _reach(pieces: tuple[Piece, ...], index: int, step: int) -> int:
    """How many bytes before (step -1) or after (step 1) the range at `index` agree with it."""
    ours, reach = pieces[index], 0
    if not isinstance(ours, Range) or isinstance(ours.source, Packed):
        return 0
    for theirs in (pieces[i] for i in range(index + step, len(pieces) if step > 0 else -1, step)):
        size = _size(theirs)
        start = ours.stop + reach if step > 0 else ours.start - reach - size
        grown = Range(ours.source, start, start + size, ours.streams, ours.flipped)
        agreed = size if theirs == grown else _agreement(grown, theirs, step)
        reach += agreed
        if agreed < size:
            break
    return reach


def _agreement(ours: Range, theirs: Piece, step: int) -> int:
    """How many bytes agree at the beginning (step 1) or the end (step -1) of two pieces of the same size."""
    if isinstance(theirs, Range) and isinstance(theirs.source, Packed):
        return 0
    size = _size(theirs)
    for at in range(0, size, 64):  # a few bytes at a time, for hardly ever do they agree on the first
        end = min(at + 64, size)
        part = (at, end) if step > 0 else (size - end, size - at)
        a, b = _content(_part(ours, *part))[::step], _content(_part(theirs, *part))[::step]
        if difference := int.from_bytes(a, "little") ^ int.from_bytes(b, "little"):
            return at + ((difference & -difference).bit_length() - 1) // 8
    return size


def _content(piece: Piece) -> bytes:
    """The bytes of a piece; raises ValueError for a simulated compressed form."""
    if isinstance(piece, bytes):
        return piece
    if isinstance(piece.source, Packed):
        raise ValueError(f"a simulated {piece.source.codec} form has no bytes, decompress it first: {_describe(piece)}")
    data = _noise(f"seed {piece.source}", piece.start, piece.stop)
    for key, shift in piece.streams:
        data = _xor(data, _noise(f"key {key}", piece.start + shift, piece.stop + shift))
    return _xor(data, b"\1" * len(data)) if piece.flipped else data


def _noise(label: str, start: int, stop: int) -> bytes:
    """Bytes `start` to `stop` of a random sequence without beginning or end that the label names."""
    first, last = start // _BLOCK, -(-stop // _BLOCK)
    data = b"".join([_block(label, number) for number in range(first, last)])
    return data[start - first * _BLOCK : stop - first * _BLOCK]


@lru_cache(maxsize=256)
def _block(label: str, number: int) -> bytes:
    return hashlib.shake_128(f"zebra {label} {number}".encode("utf-8", "surrogatepass")).digest(_BLOCK)


def _xor(a: bytes, b: bytes) -> bytes:
    return (int.from_bytes(a, "little") ^ int.from_bytes(b, "little")).to_bytes(len(a), "little")


def _describe(piece: Piece) -> str:
    if isinstance(piece, bytes):
        long = len(piece) > 2 * SHORT
        return f"{len(piece)} bytes of sha256 {hashlib.sha256(piece).hexdigest()}" if long else f"hex {piece.hex()}"
    source, start, stop, streams, flipped = piece
    what = f"{source.codec}({source.inner.description})" if isinstance(source, Packed) else f"seed {source}"
    keys = "".join([f" ^ {key!r}@{start + shift}" for key, shift in streams])
    return f"{what}[{start}:{stop}]{keys}{' ^ 1' if flipped else ''}"


def _decompressed(codec: str, data: bytes) -> bytes:
    decoder = zlib.decompressobj() if codec == "zlib" else lzma.LZMADecompressor(lzma.FORMAT_XZ)
    try:
        content = decoder.decompress(data)
    except (zlib.error, lzma.LZMAError) as error:
        raise ValueError(f"not a {codec} form: {error}") from None
    if not decoder.eof or decoder.unused_data:
        raise ValueError(f"not a whole {codec} form: {'more bytes follow' if decoder.eof else 'it ends too early'}")
    return content


def _crc32c(data: bytes) -> int:
    """CRC-32C (Castagnoli). Source: RFC 3720, section 12.1.

    Long data is folded first, which is some fifteen times as fast. The checksum is a remainder by a polynomial P, and
    the first bit is the highest power. P divides x^6128 + x^2783 + x^358 + 1, and hence its squares, which are the same
    with all powers doubled: so a stretch of high powers may be replaced by three copies lower down.
    """
    register, size = 0xFFFFFFFF, 8 * len(data)
    if size > 6128:
        bits, register = int.from_bytes(data, "little") ^ register, 0
        for scale in (1 << n for n in reversed(range((size // 6128).bit_length()))):
            while size > 6128 * scale:
                width = min((6128 - 2783) * scale, size - 6128 * scale)
                high = bits & (1 << width) - 1
                bits >>= width
                for power in (2783, 358, 0):
                    bits ^= high << (6128 - power) * scale - width
                size -= width
        data = bits.to_bytes(size // 8, "little")
    for byte in data:
        register = _TABLE[(register ^ byte) & 255] ^ register >> 8
    return register ^ 0xFFFFFFFF


@lru_cache(maxsize=1024)  # thousands of nodes ask it of one chunk
def _described_checksum(algorithm: str, description: str) -> str:
    return _CHECKSUMS[algorithm](description.encode())


_TABLE = list(range(256))
for _ in range(8):
    _TABLE = [entry >> 1 ^ (0x82F63B78 if entry & 1 else 0) for entry in _TABLE]

_CHECKSUMS: dict[str, Callable[[bytes], str]] = {
    "crc32": lambda data: f"{zlib.crc32(data):08x}",
    "crc32c": lambda data: f"{_crc32c(data):08x}",
    "sha256": lambda data: hashlib.sha256(data).hexdigest(),
    "blake2b": lambda data: hashlib.blake2b(data, digest_size=32).hexdigest(),
    "md5": lambda data: hashlib.md5(data, usedforsecurity=False).hexdigest(),
}
