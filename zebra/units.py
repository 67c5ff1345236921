"""Quantities as people write them: "250ms", "8MiB", "10Gbit/s", 0.1.

Inside zebra times are seconds, sizes are bytes, rates are bytes per second, all plain numbers.
The annotated types below are for settings of faults and fields of configurations: `convert` parses them.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Annotated

from zebra.errors import ConfigError

_TIMES = {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_SIZES = {"B": 1, "kB": 10**3, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12,
          "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}  # fmt: skip
_BITS = {"bit/s": 1 / 8, "kbit/s": 125.0, "Mbit/s": 125e3, "Gbit/s": 125e6}
_HUGE = 1e300
_NUMBER = re.compile(r"\s*([+-]?[0-9]+(?:\.[0-9]*)?(?:[eE][+-]?[0-9]+)?)\s*([A-Za-z/]*|%)\s*", re.ASCII)


@dataclass(frozen=True, slots=True)
class Unit:
    """The unit of a quantity (`s`, `B`, `B/s`, `count`, or `1` for a share), with the range that it may have."""

    name: str
    minimum: float = 0.0
    maximum: float = math.inf
    whole: bool = False

    def parse(self, value: object, what: str) -> float:
        """The value as a number of this unit; raises ConfigError that names `what`."""
        number = value if isinstance(value, int | float) and not isinstance(value, bool) else self._text(value, what)
        if not -_HUGE < number < _HUGE or not self.minimum <= number <= self.maximum:
            top = "" if self.maximum == math.inf else f" and at most {self.maximum:g}"
            limits = f"expected at least {self.minimum:g}{top} ({self.name})"
            raise ConfigError(f"{what}: {_brief(value)} is out of range, {limits}")
        if self.whole and number != int(number):
            raise ConfigError(f"{what}: {value!r} is not a whole number ({self.name})")
        return int(number) if self.whole else number

    def _text(self, value: object, what: str) -> float:
        example = {"s": '"250ms"', "B": '"8MiB"', "B/s": '"100Mbit/s"', "count": "3"}.get(self.name, "0.5")
        match = _NUMBER.fullmatch(value) if isinstance(value, str) else None
        factor = self._factors().get(match[2]) if match else None
        if match is None or factor is None:
            expected = f"expected a number or text like {example}"
            raise ConfigError(f"{what}: {_brief(value)} is not a quantity in {self.name}, {expected}")
        number = (
            float(match[1]) * factor if factor >= 1 else float(match[1]) / round(1 / factor)
        )  # 10us is 1e-05 exactly
        return int(number) if self.name == "B" and number.is_integer() and abs(number) < _HUGE else number

    def _factors(self) -> dict[str, float]:
        if self.name == "s":
            return _TIMES
        if self.name == "B":
            return dict(_SIZES)
        if self.name == "B/s":
            return {f"{size}/s": float(factor) for size, factor in _SIZES.items()} | _BITS
        return {"": 1.0} if self.name == "count" else {"": 1.0, "%": 0.01}


def _brief(value: object) -> str:
    """What was given, short enough for a message (and Python refuses to print numbers of thousands of digits)."""
    try:
        text = repr(value)
    except ValueError:
        return "a number of thousands of digits"
    return text if len(text) <= 80 else f"{text[:77]}..."


SECONDS, BYTES, RATE, SHARE = Unit("s"), Unit("B", whole=True), Unit("B/s", 1.0), Unit("1", 0.0, 1.0)
OFFSET, COUNT = Unit("s", -1e9, 1e9), Unit("count", 1, whole=True)
SPARE, DRIFT = Unit("count", 0, whole=True), Unit("1", -0.5, 10.0)

Seconds = Annotated[float, SECONDS]
Offset = Annotated[float, OFFSET]
Bytes = Annotated[int, BYTES]
Rate = Annotated[float, RATE]
Probability = Annotated[float, SHARE]
Count = Annotated[int, COUNT]
Spare = Annotated[int, SPARE]
Drift = Annotated[float, DRIFT]


def seconds(value: float | str, what: str = "duration") -> float:
    """Seconds from a number or from text like "250ms" (units ns us ms s min h d)."""
    return SECONDS.parse(value, what)


def size_bytes(value: int | str, what: str = "size") -> int:
    """Bytes from a number or from text like "8MiB" (KB and kB are 1,000 bytes, KiB is 1,024)."""
    return int(BYTES.parse(value, what))


def show(value: object, unit: str) -> str:
    """A value as a person would write it, exactly: 8388608 with unit B is "8MiB", 0.25 with unit s is "250ms"."""
    if unit == "B" and isinstance(value, int):
        for name in ("TiB", "GiB", "MiB", "KiB"):
            if value and value % _SIZES[name] == 0:
                return f"{value // _SIZES[name]}{name}"
        return f"{value}B"
    if unit == "s" and isinstance(value, int | float) and abs(value) < _HUGE:
        size, name = next((pair for pair in ((1, "s"), (1e-3, "ms"), (1e-6, "us")) if abs(value) >= pair[0]), (1, "s"))
        text = f"{value / size:g}{name}"
        return text if Unit("s", -math.inf).parse(text, "show") == value else f"{value!r}s"
    return str(value).lower() if isinstance(value, bool) else str(value)
