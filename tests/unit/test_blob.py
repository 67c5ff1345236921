"""Blobs of bytes and blobs of ranges answer alike, whatever was done to them."""

import hashlib
import json
import subprocess
import sys
import zlib
from collections.abc import Callable
from itertools import combinations
from typing import NamedTuple

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zebra.blob import RATIOS, SHORT, Blob, Range
from zebra.errors import ConfigError

PETABYTE = 10**15
ALGORITHMS = ("crc32", "crc32c", "sha256")
KEYS = ("", "a", "b")


def rope(seed: int = 1, length: int = 100) -> Blob:
    return Blob.random(seed, length, materialise=False)


def real(seed: int = 1, length: int = 100) -> Blob:
    return Blob.random(seed, length, materialise=True)


Make = Callable[[], Blob]


# The same program on both forms


class Step(NamedTuple):
    """One operation on earlier results: `i` and `j` choose two of them, `a` and `b` positions in the first."""

    name: str
    i: int
    j: int
    a: int
    b: int
    key: str
    codec: str
    literal: bytes


class Pair(NamedTuple):
    """One result in both forms. `sized`: no codec had a part in it, so lengths and positions mean the same in both."""

    real: Blob
    rope: Blob
    sized: bool


LENGTHS = (0, 1, 2, SHORT - 1, SHORT, SHORT + 1, 100, 3000)
OPERATIONS = (
    *("literal", "random", "slice", "slice", "join", "join", "flip", "encrypt", "encrypt", "decrypt", "rejoin"),
    *("unpacked", "compress", "decompress", "beyond", "recoded"),
)
STEPS = st.builds(
    Step,
    name=st.sampled_from(OPERATIONS),
    i=st.integers(0, 9),
    j=st.integers(0, 9),
    a=st.integers(0, 20) | st.integers(0, 3000),
    b=st.integers(0, 20) | st.integers(0, 3000),
    key=st.sampled_from(KEYS),
    codec=st.sampled_from(sorted(RATIOS)),
    literal=st.binary(max_size=20),
)


def perform(step: Step, blob: Blob, other: Blob, sized: bool, materialise: bool) -> Blob:
    """One step on one form."""
    size = len(blob)
    low, high = sorted((step.a % (size + 1), step.b % (size + 1)))
    match step.name:
        case "literal":
            return Blob.of(step.literal)
        case "random":
            return Blob.random(step.i % 3, LENGTHS[step.j % len(LENGTHS)], materialise=materialise)
        case "slice" if sized:
            return blob.slice(low, high)
        case "join":
            return blob + other
        case "flip" if sized:
            return blob.flip(min(low, size - 1))
        case "flip":
            return blob.flip(size - 1 if step.a % 2 else 0)
        case "beyond":
            return blob.slice(size, size + 1) if step.a % 2 else blob.flip(size)
        case "encrypt":
            return blob.encrypt(step.key)
        case "decrypt":
            return blob.decrypt(step.key)
        case "unpacked":
            return blob.compress(step.codec).decompress(step.codec)
        case "compress":
            return blob.compress(step.codec)
        case "decompress":
            return blob.decompress(step.codec)
        case "recoded":
            return Blob.from_data(blob.to_data())
    return Blob.join([blob.slice(0, low), blob.slice(low, high), blob.slice(high, size)])


def writes_out(blob: Blob) -> bool:
    """Whether a codec gets ranges of it as bytes: these are not recognised later, as the module's docstring says."""
    spelt_out = not any(isinstance(piece, Range) for piece in blob.settled())
    return spelt_out and any(isinstance(piece, Range) for piece in blob.pieces)


def run(steps: list[Step]) -> list[Pair]:
    """All results of a program, after comparing the errors of its steps."""
    text = Blob.of(b"a literal")
    pairs = [Pair(real(), rope(), True), Pair(text, text, True), Pair(text + real(2, 40), text + rope(2, 40), True)]
    for step in steps:
        left, right = pairs[step.i % len(pairs)], pairs[step.j % len(pairs)]
        if step.name in ("compress", "unpacked") and writes_out(left.rope):
            continue
        results: list[Blob | str] = []
        for materialise, blob, other in ((True, left.real, right.real), (False, left.rope, right.rope)):
            try:
                results.append(perform(step, blob, other, left.sized, materialise))
            except (IndexError, ValueError) as error:
                results.append(type(error).__name__)
        a, b = results
        if isinstance(a, str) or isinstance(b, str):
            assert a == b, step
            continue
        sized = step.name not in ("compress", "decompress") and left.sized and (right.sized or step.name != "join")
        pairs.append(Pair(a, b, sized or step.name in ("literal", "random")))
    return pairs


@settings(max_examples=300, deadline=None)
@given(st.lists(STEPS, min_size=3, max_size=14))
def test_both_forms_of_every_program_answer_every_equality_alike(steps: list[Step]) -> None:
    pairs = run(steps)
    checksums = [[(p.real.checksum(name), p.rope.checksum(name)) for name in ALGORITHMS] for p in pairs]
    for pair in pairs:
        if pair.sized:
            assert len(pair.real) == len(pair.rope)
            assert bytes(pair.real) == bytes(pair.rope)
    for (p, sums_p), (q, sums_q) in combinations(zip(pairs, checksums, strict=True), 2):
        same = p.real == q.real
        assert (p.rope == q.rope) == same
        assert (p.rope.description == q.rope.description) == same
        assert not same or (hash(p.real), hash(p.rope)) == (hash(q.real), hash(q.rope))
        for (real_p, rope_p), (real_q, rope_q) in zip(sums_p, sums_q, strict=True):
            assert (real_p == real_q) == (rope_p == rope_q) == same


# Content


def test_generated_content_never_changes_for_tokens_replay_it() -> None:
    assert bytes(real(7, 4)).hex() == bytes(rope(7, 4)).hex() == "e2cbc433"
    assert hashlib.sha256(bytes(real(2**64 - 1, 5000).encrypt("k"))).hexdigest()[:16] == "8e635b14eae91d6b"


def test_slicing_commutes_with_generation() -> None:
    assert bytes(rope(3, 5000).slice(1000, 4000)) == bytes(real(3, 5000))[1000:4000] == bytes(real(3, 4000))[1000:]


def test_a_petabyte_costs_no_more_than_its_description() -> None:
    blob = rope(1, PETABYTE).encrypt("key").compress("lzma")
    middle = len(blob) // 3
    assert len(blob) == PETABYTE * 4 // 10
    damaged = blob.slice(0, middle) + blob.slice(middle, len(blob)).flip(9)
    assert damaged != blob
    assert damaged.flip(middle + 9).decompress("lzma").decrypt("key") == rope(1, PETABYTE)


def test_adjacent_slices_become_one_piece_again() -> None:
    blob = rope(1, 6400).encrypt("key").slice(13, 6300)
    cuts = range(0, len(blob), 100)
    joined = Blob.join([blob.slice(cut, min(cut + 100, len(blob))) for cut in cuts])
    assert joined.pieces == blob.pieces
    assert len(joined.pieces) == 1


def test_neighbours_in_a_wrong_order_or_of_another_seed_stay_apart() -> None:
    blob = rope(1, 200)
    swapped = blob.slice(100, 200) + blob.slice(0, 100)
    assert swapped != blob
    assert blob.slice(0, 100) + rope(2, 200).slice(100, 200) != blob


def test_literal_bytes_and_ranges_join_in_one_blob() -> None:
    blob = Blob.of(b"head") + rope(1, 50) + Blob.of(b"") + Blob.of(b"ta") + Blob.of(b"il")
    assert blob.pieces == (b"head", Range(1, 0, 50), b"tail")
    assert bytes(blob) == b"head" + bytes(real(1, 50)) + b"tail"
    assert blob.slice(2, 6) == Blob.of(b"ad" + bytes(real(1, 2)))


def test_short_ranges_equal_the_bytes_that_they_stand_for_and_long_ones_do_not() -> None:
    assert rope(1, SHORT - 1) == real(1, SHORT - 1)
    assert rope(1, SHORT) != real(1, SHORT)


def test_ranges_that_agree_by_chance_are_equal_in_content() -> None:
    twin = next(seed for seed in range(2, 10_000) if bytes(real(seed, 61))[60:] == bytes(real(1, 61))[60:])
    other = rope(twin, 61).slice(60, 61)
    assert rope(1).slice(0, 60) + other == rope(1).slice(0, 61)
    assert rope(1).slice(0, 60) + other + rope(1).slice(61, 100) == rope(1)
    assert rope(1).slice(58, 60) + other + rope(1).slice(61, 100) == rope(1).slice(58, 100)
    assert (other + rope(1).slice(61, 100)).checksum("crc32") == rope(1).slice(60, 100).checksum("crc32")


def test_bytes_written_out_are_recognised_beside_the_range_that_they_continue() -> None:
    blob = rope(1, 5000)
    written = Blob.of(bytes(blob.slice(500, 4000)))
    assert blob.slice(0, 500) + written + blob.slice(4000, 5000) == blob
    assert written + blob.slice(4000, 5000) == blob.slice(500, 5000)
    assert Blob.of(b"head" + bytes(written)) + blob.slice(4000, 5000) == Blob.of(b"head") + blob.slice(500, 5000)
    assert blob.slice(0, 500) + written.flip(3000) != blob.slice(0, 4000)


# Encryption


@pytest.mark.parametrize("make", [real, rope])
class TestEncryption:
    def test_only_the_right_key_gives_the_plain_text_back(self, make: Make) -> None:
        blob = make()
        assert blob.encrypt("a").decrypt("a") == blob
        assert len({blob, blob.encrypt("a"), blob.encrypt("b"), blob.encrypt("a").decrypt("b"), blob.decrypt("c")}) == 5

    def test_slices_of_cipher_text_join_to_the_whole(self, make: Make) -> None:
        cipher = make().encrypt("a")
        assert (cipher.slice(0, 33) + cipher.slice(33, 100)).decrypt("a") == make()

    def test_a_slice_decrypts_only_at_its_own_position(self, make: Make) -> None:
        cipher = make().encrypt("a")
        assert cipher.slice(0, 50).decrypt("a") == make().slice(0, 50)
        assert cipher.slice(50, 100).decrypt("a") != make().slice(50, 100)

    def test_chunks_encrypted_one_by_one_are_not_the_whole_encrypted(self, make: Make) -> None:
        first, second = make().slice(0, 50), make().slice(50, 100)
        assert first.encrypt("a") + second.encrypt("a") != make().encrypt("a")
        assert first.encrypt("a").decrypt("a") + second.encrypt("a").decrypt("a") == make()

    def test_two_keys_come_off_in_any_order(self, make: Make) -> None:
        twice = make().encrypt("a").encrypt("b")
        assert twice == make().encrypt("b").encrypt("a")
        assert twice.decrypt("a") == make().encrypt("b")

    def test_one_key_at_two_positions_does_not_cancel_out(self, make: Make) -> None:
        shifted = make().encrypt("a").slice(10, 100).encrypt("a")
        assert shifted != make().slice(10, 100)
        assert shifted.decrypt("a") == make().encrypt("a").slice(10, 100)

    def test_a_flip_of_the_cipher_text_is_a_flip_of_the_plain_text(self, make: Make) -> None:
        assert make().encrypt("a").flip(42).decrypt("a") == make().flip(42) != make()
        assert make().flip(42).encrypt("a").flip(42).decrypt("a").flip(7).flip(7) == make()

    def test_the_keystream_runs_on_over_literal_bytes_and_ranges(self, make: Make) -> None:
        cipher = (make() + Blob.of(b"literal") + make()).encrypt("a")
        assert bytes(cipher) == bytes((real() + Blob.of(b"literal") + real()).encrypt("a"))
        assert cipher.slice(100, 107) != Blob.of(b"literal").encrypt("a")


# Codecs


@pytest.mark.parametrize("codec", ["zlib", "lzma"])
@pytest.mark.parametrize("make", [real, rope])
class TestCodec:
    def test_what_is_compressed_comes_back(self, make: Make, codec: str) -> None:
        packed = make().compress(codec)
        assert packed != make()
        assert packed.decompress(codec) == make()
        assert packed.flip(3).flip(3).encrypt("a").decrypt("a").decompress(codec) == make()

    def test_slices_of_a_compressed_form_join_to_the_whole(self, make: Make, codec: str) -> None:
        packed = make().compress(codec)
        joined = packed.slice(0, 9) + packed.slice(9, 30) + packed.slice(30, len(packed))
        assert joined == packed
        assert joined.decompress(codec) == make()

    def test_what_is_not_a_whole_compressed_form_raises_value_error(self, make: Make, codec: str) -> None:
        packed = make().compress(codec)
        inverted = packed
        for at in range(len(packed)):
            inverted = inverted.flip(at)
        damaged = (
            inverted,
            packed.slice(0, 20),
            packed.slice(1, len(packed)),
            packed.flip(0),
            packed + make(),
            packed + packed,
        )
        other = make().compress("lzma" if codec == "zlib" else "zlib")
        for blob in (make(), Blob.of(b""), packed.encrypt("a"), other, *damaged):
            with pytest.raises(ValueError, match=f"not a .*{codec} form"):
                blob.decompress(codec)

    def test_equal_content_has_equal_compressed_forms(self, make: Make, codec: str) -> None:
        assert (make().slice(0, 30) + make().slice(30, 100)).compress(codec) == make().compress(codec)
        assert (make().slice(0, 9) + Blob.of(bytes(make().slice(9, 12))) + make().slice(12, 100)).compress(codec) == (
            make().compress(codec)
        )


def test_a_range_has_the_compressed_length_that_its_codec_declares() -> None:
    lengths = {codec: len(rope(1, 1000).compress(codec)) for codec in RATIOS}
    assert lengths == {"none": 1000, "zlib": 500, "lzma": 400}


def test_short_ranges_are_compressed_like_the_bytes_that_they_stand_for() -> None:
    assert rope(1, SHORT - 1).compress("zlib") == real(1, SHORT - 1).compress("zlib")


def test_literal_bytes_are_compressed_for_real_in_a_rope_too() -> None:
    assert zlib.decompress(bytes(Blob.of(b"zebra" * 100).compress("zlib"))) == b"zebra" * 100


def test_a_simulated_compressed_form_refuses_to_be_written_out() -> None:
    with pytest.raises(ValueError, match="decompress it first: zlib"):
        bytes(rope().compress("zlib") + Blob.of(b"tail"))


# Checksums


def test_checksums_of_bytes_are_those_of_the_algorithms() -> None:
    blob = Blob.of(b"123456789")
    assert blob.checksum("crc32") == "cbf43926"
    assert blob.checksum("crc32c") == "e3069283"
    assert blob.checksum("sha256") == hashlib.sha256(b"123456789").hexdigest()


@pytest.mark.parametrize("size", [0, 1, 3, 4, 765, 766, 767, 768, 1531, 1532, 1533, 5000, 20_001])
def test_long_data_is_folded_to_the_same_crc32c(size: int) -> None:
    data = bytes(real(5, size))
    register = 0xFFFFFFFF
    for byte in data:
        register ^= byte
        for _ in range(8):
            register = register >> 1 ^ (0x82F63B78 if register & 1 else 0)
    assert Blob.of(data).checksum("crc32c") == f"{register ^ 0xFFFFFFFF:08x}"


def test_a_rope_has_the_checksum_of_its_description() -> None:
    blob = rope(7).encrypt("it's").slice(10, 90) + Blob.of(b"\x0a\x0b")
    assert blob.description == """seed 7[10:90] ^ "it's"@10 + hex 0a0b"""
    assert blob.checksum("sha256") == hashlib.sha256(blob.description.encode()).hexdigest()
    assert "seed 7[10:90]" in repr(blob)
    flipped = rope(7, SHORT)
    for at in range(SHORT):
        flipped = flipped.flip(at)
    assert flipped.description == "seed 7[0:16] ^ 1"


def test_equal_blobs_have_equal_hashes_in_every_process() -> None:
    code = "from zebra.blob import Blob; print(hash(Blob.random(1, 100, materialise=False).encrypt('a')))"
    command = [sys.executable, "-c", code]
    first, second = (subprocess.check_output(command, env={"PYTHONHASHSEED": seed}) for seed in "12")
    assert first == second


# Errors


@pytest.mark.parametrize("blob", [rope(), real()])
def test_names_that_nobody_knows_are_refused_with_those_that_exist(blob: Blob) -> None:
    with pytest.raises(ConfigError, match="'zip' is unknown, expected one of none, zlib, lzma"):
        blob.compress("zip")
    with pytest.raises(ConfigError, match="'zip' is unknown"):
        blob.decompress("zip")
    with pytest.raises(ConfigError, match="'adler' is unknown, expected one of crc32, crc32c, sha256, blake2b, md5"):
        blob.checksum("adler")


@pytest.mark.parametrize(("start", "stop"), [(-1, 5), (5, 4), (0, 101), (101, 101)])
def test_a_slice_beyond_the_blob_is_an_error_and_is_not_cut_short(start: int, stop: int) -> None:
    for blob in (rope(), real()):
        with pytest.raises(IndexError, match=f"slice {start}:{stop} of a blob of 100 bytes"):
            blob.slice(start, stop)


@pytest.mark.parametrize(("seed", "length"), [(-1, 5), (2**64, 5), (0, -1), (0, 2**62 + 1)])
def test_seeds_and_lengths_out_of_range_are_refused(seed: int, length: int) -> None:
    with pytest.raises(ConfigError):
        rope(seed, length)


def test_a_blob_is_no_other_thing() -> None:
    assert Blob.of(b"a") != b"a"


# Plain data


@settings(max_examples=100, deadline=None)
@given(st.lists(STEPS, max_size=10))
def test_plain_data_gives_the_same_blob_back(steps: list[Step]) -> None:
    for pair in run(steps):
        for blob in (pair.real, pair.rope):
            data = blob.to_data()
            packed = msgspec.msgpack.decode(msgspec.msgpack.encode(data))
            text = json.loads(msgspec.json.encode(data))
            for form in (data, packed, text):
                assert Blob.from_data(form).pieces == blob.pieces


def test_plain_data_is_small_and_readable() -> None:
    blob = rope(7).encrypt("key") + Blob.of(b"end")
    assert blob.to_data() == ((7, 0, 100, (("key", 0),), False), b"end")
    assert rope(7).compress("zlib").to_data() == ((("zlib", ((7, 0, 100, (), False),)), 0, 50, (), False),)


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.binary(max_size=5)
GARBAGE = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner))
NUMBERS = st.integers(-1, 40) | st.sampled_from([2**62, 2**62 + 1, 2**63, 2**64, -(2**62), -(2**62) - 1]) | SCALARS
STREAMS = st.lists(st.tuples(st.text(max_size=2), NUMBERS), max_size=2)
SIMPLE = st.lists(st.tuples(NUMBERS, NUMBERS, NUMBERS, STREAMS, st.booleans()) | SCALARS, max_size=3)
NESTED = st.lists(st.tuples(st.tuples(st.sampled_from(["zlib", "none", "x"]), SIMPLE), NUMBERS, NUMBERS), max_size=2)


@settings(max_examples=200, deadline=None)
@given(GARBAGE | SIMPLE | NESTED)
def test_garbage_is_refused_as_such_or_is_a_whole_blob(data: object) -> None:
    try:
        blob = Blob.from_data(data)
    except ConfigError:
        return
    again = Blob.from_data(msgspec.msgpack.decode(msgspec.msgpack.encode(blob.to_data())))
    assert again == blob
    assert blob.encrypt("a").slice(0, len(blob)).decrypt("a").description == again.description


def test_data_nested_beyond_reason_is_refused() -> None:
    data: object = []
    for _ in range(5000):
        data = [[["zlib", data], 0, 1]]
    with pytest.raises(ConfigError):
        Blob.from_data(data)


@pytest.mark.parametrize(
    "data",
    [
        [[7, 5, 5]],
        [[7, 0, 2**62 + 1]],
        [[7, 0, 2**62], [7, 0, 2**62]],
        [[7, 0, 9, [["b", 0], ["a", 0]]]],
        [[7, 0, 9, [["a", 0], ["a", 0]]]],
        [[7, 0, 9, [["a", 2**62 + 1]]]],
        [[["zlib", [[7, 0, 100]]], 0, 51]],
        [[["none", [[7, 0, 100]]], 0, 50]],
        [[["zlib", [b"literal"]], 0, 1]],
        [[True, 0, 9]],
        [None],
        [[7]],
        "YQ==",
    ],
)
def test_data_that_no_operation_makes_is_refused(data: object) -> None:
    with pytest.raises(ConfigError, match="not the data of a blob"):
        Blob.from_data(data)
