"""What effects do to a node's disk and wall clock, alike on all substrates. Source: ../shared/design.md section 7."""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence
from random import Random

from zebra.blob import Blob
from zebra.substrate import Effect


class DiskEffects:
    """The effects on one node's disk, `effects()`; `random` decides where a share is meant."""

    def __init__(self, effects: Callable[[], Sequence[Effect]], random: Callable[[], Random]) -> None:
        self._effects, self._random = effects, random

    def rate(self, own: float) -> float:
        """The disk's own rate in bytes per second, or the lowest that an effect sets; a lower one is hit."""
        lowest = own
        for effect in self._effects():
            rate = effect.arguments["rate"]
            if rate and rate < own:
                effect.hits += 1
                lowest = min(lowest, rate)
        return lowest

    def check_room(self, name: str, size: Callable[[], int]) -> None:
        """Raises OSError(ENOSPC) when `size()` bytes of files are more than an effect allows."""
        limits = [e for e in self._effects() if e.arguments["capacity_bytes"] is not None]
        size_bytes = size() if limits else 0
        full = [effect for effect in limits if effect.arguments["capacity_bytes"] < size_bytes]
        for effect in full:
            effect.hits += 1
        if full:
            raise OSError(errno.ENOSPC, "no space left on device", name)

    def check_change(self, name: str) -> None:
        """Before a write, an append or the removal of a file. Raises OSError(EROFS) or OSError(EIO)."""
        for effect in self._effects():
            if effect.arguments["read_only"]:
                effect.hits += 1
                raise OSError(errno.EROFS, "read-only file system", name)
        self.check("write_error", name)

    def check(self, what: str, name: str) -> None:
        """Raises OSError(EIO) for the share `what`, `read_error` or `write_error`, of the operations."""
        if self._strikes(what):
            raise OSError(errno.EIO, "input/output error", name)

    def read(self, content: Blob) -> Blob:
        """What a read gives: the content, perhaps with one bit wrong."""
        if len(content) and self._strikes("flip"):
            return content.flip(self._random().randrange(len(content)))
        return content

    def _strikes(self, what: str) -> bool:
        for effect in self._effects():
            share = effect.arguments[what]
            if share and (share >= 1 or self._random().random() < share):
                effect.hits += 1
                return True
        return False


def wall_s(effects: Sequence[Effect], true_s: float, now_s: float) -> float:
    """What a wall clock shows when it is `true_s`, and a hit for each effect that makes it wrong; see `shown`."""
    shown_s, wrong = shown(effects, true_s, now_s)
    for effect in wrong:
        effect.hits += 1
    return shown_s


def shown(effects: Sequence[Effect], true_s: float, now_s: float) -> tuple[float, list[Effect]]:
    """What a wall clock shows when it is `true_s`, and which effects make it wrong at this moment.

    `now_s` is monotonic, `since_s` and `wall_s` when an effect began. A frozen clock stands where the first freeze
    found it; offsets and drifts add to it.
    """
    shown_s, wrong = true_s, list[Effect]()
    frozen = next((effect for effect in effects if effect.arguments["freeze"]), None)
    if frozen is not None:
        shown_s = frozen.arguments["wall_s"]
        wrong.append(frozen)
    for effect in effects:
        arguments, since_s = effect.arguments, now_s - effect.arguments["since_s"]
        by_s = arguments["drift"] * since_s
        if arguments["offset_s"] and not (arguments["every_s"] and int(since_s / arguments["every_s"]) % 2):
            by_s += arguments["offset_s"]
        if by_s:
            wrong.append(effect)
            shown_s += by_s
    return shown_s, wrong
