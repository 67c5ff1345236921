"""What a commit becomes: a typed artefact with its digest, made by the author, opened by apps.

An artefact is `LAD1`, the length of its header (4 bytes), the header, the setting in the header's encoding, and the
payload, which is content that nobody looks into. Source: ../shared/targets/other.md section 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from struct import Struct as Packing
from typing import Literal

import msgspec

from zebra.blob import Blob

MODES: dict[int, tuple[str, ...]] = {1: ("off", "on"), 2: ("off", "on", "auto")}
"""The values of `Setting.mode` by revision of the schema: the second one knows one more."""

_MAGIC, _LENGTH = b"LAD1", Packing(">I")
HEADER_BYTES_MAX = 4096


class Setting(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What apps are told: a mode of their schema, bounds with `low <= high`, the protocol in which peers talk.

    `poison` is a value that every validator accepts and no app can live with.
    """

    mode: str = "off"
    low: int = 0
    high: int = 100
    protocol: int = 1
    poison: bool = False


class Header(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`digest` covers the fields before it, setting and payload; `algorithm` is that of it, with `safe.name_digest`."""

    schema: int
    encoding: Literal["json", "binary"]
    length: int
    digest: str
    algorithm: Literal["", "sha256", "md5"] = ""


class BadArtefact(ValueError):
    """These bytes are not an artefact, or not the one that its digest is of."""


class CompileError(ValueError):
    """The source of a setting is not one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Artefact:
    """An artefact whose digest was right. `body` is the setting as it was encoded."""

    header: Header
    body: bytes
    payload: Blob


def compile_setting(text: bytes) -> Setting:
    """The setting of a source, a JSON object; raises CompileError."""
    try:
        return msgspec.json.decode(text or b"{}", type=Setting)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise CompileError(str(error)) from None


def find_fault(setting: Setting, schema: int) -> str:
    """Why a setting must not go out, by the rules that no type can state; "" if it may."""
    if setting.mode not in MODES[schema]:
        return f"mode {setting.mode!r} is not one of {', '.join(MODES[schema])} (schema {schema})"
    if setting.low > setting.high:
        return f"low is {setting.low}, above high, which is {setting.high}"
    return ""


def pack(setting: Setting, payload: Blob, *, schema: int, encoding: Literal["json", "binary"],
         algorithm: Literal["sha256", "md5"], name_it: bool = False) -> Blob:  # fmt: skip
    """The artefact of a setting; `algorithm` is that of the digest."""
    body = msgspec.json.encode(setting) if encoding == "json" else msgspec.msgpack.encode(setting)
    content = Blob.of(body) + payload
    digest = _covered(schema, encoding, len(body), content).checksum(algorithm)
    header = Header(schema=schema, encoding=encoding, length=len(body), digest=digest,
                    algorithm=algorithm if name_it else "")  # fmt: skip
    head = msgspec.msgpack.encode(header)
    return Blob.of(_MAGIC + _LENGTH.pack(len(head)) + head) + content


def _covered(schema: int, encoding: str, length: int, content: Blob) -> Blob:
    """What the digest is of."""
    return Blob.of(f"{schema} {encoding} {length} ".encode()) + content


def unpack(blob: Blob, algorithm: str) -> Artefact:
    """The artefact in a blob, if its digest by `algorithm` (or the one that it names) is right; raises BadArtefact."""
    start = len(_MAGIC) + _LENGTH.size
    if len(blob) < start or bytes(blob.slice(0, len(_MAGIC))) != _MAGIC:
        raise BadArtefact("does not begin as an artefact does")
    (length,) = _LENGTH.unpack(bytes(blob.slice(len(_MAGIC), start)))
    if length > HEADER_BYTES_MAX or start + length > len(blob):
        raise BadArtefact(f"a header of {length} bytes in {len(blob)}")
    try:
        header = msgspec.msgpack.decode(bytes(blob.slice(start, start + length)), type=Header)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadArtefact(f"header: {error}") from None
    content = blob.slice(start + length, len(blob))
    if header.length > len(content):
        raise BadArtefact(f"a setting of {header.length} bytes in {len(content)}")
    name = header.algorithm or algorithm
    if _covered(header.schema, header.encoding, header.length, content).checksum(name) != header.digest:
        raise BadArtefact(f"its digest is not the {name} of what is in it")
    return Artefact(header=header, body=bytes(content.slice(0, header.length)),
                    payload=content.slice(header.length, len(content)))  # fmt: skip


def read_setting(artefact: Artefact, schema: int) -> Setting:
    """The setting as a reader of a revision of the schema understands it: an unknown mode is the default mode.

    Raises BadArtefact when it cannot be decoded.
    """
    try:
        if artefact.header.encoding == "json":
            setting = msgspec.json.decode(artefact.body, type=Setting)
        else:
            setting = msgspec.msgpack.decode(artefact.body, type=Setting)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadArtefact(f"setting: {error}") from None
    known = setting.mode in MODES[schema]
    return setting if known else msgspec.structs.replace(setting, mode=Setting().mode)
