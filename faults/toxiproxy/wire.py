"""JSON as Toxiproxy's clients send it, read as leniently as the original reads it.

Keys match in any case, null means absent, what follows the first value is ignored, broken UTF-8 is replaced. Numbers
stay as they were written until it is known what they are for.
"""

from __future__ import annotations

import json
import math
import re
import struct
from typing import Any, NoReturn

from zebra.errors import ZebraError

INT64_MAX = 2**63 - 1
_SURROGATE = re.compile("[\ud800-\udfff]")


class ApiError(ZebraError):
    """An answer that is not a success: `{"error": message, "status": status}`."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Number(str):
    """A number as it was written."""


class Body(dict[str, Any]):
    """A JSON object by its keys in lower case. The getters give None for what is absent; they raise ApiError."""

    where = ""

    def text(self, name: str) -> str | None:
        value = self.get(name)
        if value is None or (isinstance(value, str) and not isinstance(value, Number)):
            return value
        self._wrong(name, "a string")

    def flag(self, name: str) -> bool | None:
        value = self.get(name)
        if value is None or isinstance(value, bool):
            return value
        self._wrong(name, "true or false")

    def whole(self, name: str) -> int | None:
        """A number of 64 bits, written without fraction or exponent."""
        value = self.get(name)
        if value is None:
            return None
        whole = isinstance(value, Number) and len(value) < 30 and value.removeprefix("-").isdecimal()
        if whole and -INT64_MAX - 1 <= int(value) <= INT64_MAX:
            return int(value)
        self._wrong(name, "a whole number of 64 bits")

    def number(self, name: str) -> float | None:
        """A number that is kept with the precision of 32 bits, as the original does."""
        value = self.get(name)
        if value is None:
            return None
        if isinstance(value, Number):
            try:
                return nearest_float32(float(value))
            except OverflowError:
                pass
        self._wrong(name, "a number of 32 bits")

    def body(self, name: str) -> Body | None:
        value = self.get(name)
        if value is None or isinstance(value, Body):
            if value is not None:
                value.where = f"{self.where}{name}."
            return value
        self._wrong(name, "an object")

    def bodies(self, name: str) -> list[Body] | None:
        value = self.get(name)
        return None if value is None else objects(value, f"{self.where}{name}")

    def texts(self, name: str) -> list[str] | None:
        value = self.get(name)
        if value is None:
            return None
        if isinstance(value, list) and all(isinstance(v, str) and not isinstance(v, Number) for v in value):
            return value
        self._wrong(name, "a list of strings")

    def _wrong(self, name: str, wanted: str) -> NoReturn:
        raise bad_body(f"{self.where}{name} must be {wanted}, not {show(self[name])}")


def show(value: Any) -> str:
    """What a person sent, in an error."""
    if isinstance(value, Number):
        return str(value) if len(value) < 40 else f"{value[:37]}..."
    if isinstance(value, Body):
        return "an object"
    if isinstance(value, list):
        return "a list"
    return json.dumps(value if not isinstance(value, str) or len(value) < 40 else f"{value[:37]}...")


def bad_body(message: str) -> ApiError:
    return ApiError(400, f"bad request body: {message}")


def read(body: bytes) -> Any:
    """The first JSON value of a body; raises ApiError."""
    text = body.decode("utf-8", "surrogateescape").lstrip(" \t\r\n")
    if not text:
        raise bad_body("EOF")
    try:
        value, _ = _DECODER.raw_decode(text)
    except json.JSONDecodeError as error:
        if error.pos >= len(text) or error.msg.startswith("Unterminated string"):
            raise bad_body("unexpected EOF") from None
        raise bad_body(f"{error.msg[0].lower()}{error.msg[1:]} at character {error.pos + 1}") from None
    except (ValueError, RecursionError) as error:
        raise bad_body(str(error) if isinstance(error, ValueError) else "it is nested too deep") from None
    return _whole(value)


def an_object(value: Any) -> Body:
    """A value that has to be an object; null is an empty one."""
    if value is None:
        return Body()
    if not isinstance(value, Body):
        raise bad_body(f"it must be an object, not {show(value)}")
    return value


def objects(value: Any, where: str = "it") -> list[Body]:
    """A value that has to be a list of objects; null is an empty one."""
    if value is None:
        return []
    if not isinstance(value, list):
        raise bad_body(f"{where} must be a list, not {show(value)}")
    return [an_object(each) for each in value]


def write(value: Any) -> bytes:
    """JSON without spaces."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


def nearest_float32(value: float) -> float:
    """The number with the fewest digits that 32 bits hold as they hold `value`; raises OverflowError."""
    if not math.isfinite(value):
        raise OverflowError("not finite")
    packed = struct.pack("<f", value)
    (kept,) = struct.unpack("<f", packed)
    return next(short for digits in range(1, 10) if struct.pack("<f", short := float(f"{kept:.{digits}g}")) == packed)


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _object(pairs: list[tuple[str, Any]]) -> Body:
    made = Body()
    for key, value in pairs:
        key = key.lower()
        if value is not None or key not in made:
            made[key] = value
    return made


def _whole(value: Any) -> Any:
    """A value with what is no character in its texts replaced."""
    if isinstance(value, str):
        return type(value)(_SURROGATE.sub("\ufffd", value))
    if isinstance(value, list):
        return [_whole(each) for each in value]
    if isinstance(value, Body):
        made = Body()
        for key, each in value.items():
            made[_whole(key)] = _whole(each)
        return made
    return value


_DECODER = json.JSONDecoder(
    object_pairs_hook=_object, parse_int=Number, parse_float=Number, parse_constant=_no_constant
)
