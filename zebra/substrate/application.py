"""What faults of the application do inside a node, alike on all substrates; see `zebra.substrate.Application`."""

from __future__ import annotations

import asyncio
import builtins
import enum
import inspect
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing
from functools import cache
from random import Random
from types import AsyncGeneratorType
from typing import Any, Literal, get_args, get_origin, get_type_hints

import msgspec

from zebra.blob import Blob
from zebra.errors import Injected
from zebra.sites import NO_ANSWER
from zebra.substrate import Effect

RELOAD = "reload"
"""The site that every configuration passes that is pushed to a node."""


class NodeSites:
    """`zebra.sites.Sites`. `effects` are those of the capability on this node now, `seed` the run's."""

    def __init__(self, node: str, seed: int, effects: Callable[[], Sequence[Effect]]) -> None:
        self._node, self._seed, self._effects = node, seed, effects
        self._random: Random | None = None
        self._answers: dict[tuple[int, Any], Any] = {}
        self._config: Any = None

    def active(self) -> bool:
        return bool(self._effects())

    def configured(self, config: Any) -> None:
        """The configuration that the node has, before any is pushed to it."""
        self._config = config

    # -- sites -----------------------------------------------------------------------------------------------

    def buggify(self, site: str, probability: float) -> bool:
        for effect in self._effects():
            share = effect.arguments["buggify"]
            if share:
                effect.seen += 1
                chosen = Random(f"{self._seed}/buggify/{site}").random() < share
                if chosen and self._draw() < probability:
                    effect.hits += 1
                    return True
        return False

    def variant(self, name: str) -> bool:
        for effect in self._effects():
            if effect.arguments["variant"] == name:
                effect.hits += 1
                return True
        return False

    async def passage(self, site: str) -> None:
        await self._before(self._struck(site), site)

    def around(self, site: str, handler: Callable[..., Any]) -> Callable[..., Any]:
        struck = self._struck(site)
        if not struck:
            return handler
        return lambda request, caller: self._serve(struck, site, handler, request, caller)

    async def push(self, reload: Callable[[Any], Any], config: Any) -> Any:
        """Give a role its new configuration, or what becomes of that on the way."""
        struck = self._struck(RELOAD)
        await self._before(struck, RELOAD)
        if _hit(struck, "drop"):
            return None
        for effect in _of(struck, "wrong"):
            config, was = altered(config, self._draws()), config
            effect.hits += config != was
        before, self._config = self._config, config
        for effect in _of(struck, "stale"):
            effect.hits += before != config
            config = self._config = before
        result = await _value(reload(config))
        if _hit(struck, "repeat"):
            await _value(reload(config))
        return result

    # -- what happens at them --------------------------------------------------------------------------------

    def _struck(self, site: str) -> list[Effect]:
        """The effects that strike at this passage."""
        found = [effect for effect in self._effects() if _names(effect.arguments, site)]
        return [e for e in found if e.arguments["probability"] >= 1 or self._draw() < e.arguments["probability"]]

    async def _before(self, struck: list[Effect], site: str) -> None:
        for effect in struck:
            arguments = effect.arguments
            wait_s = arguments["delay_s"]
            if arguments["align_s"]:
                wait_s = arguments["align_s"] - asyncio.get_running_loop().time() % arguments["align_s"]
            if wait_s:
                effect.hits += 1
                await asyncio.sleep(wait_s)
            if arguments["error"]:
                effect.hits += 1
                raise (error_class(arguments["error"]) or Injected)(f"injected at {site}")

    async def _serve(self, struck: list[Effect], site: str, handler: Callable[..., Any], *request: Any) -> Any:
        await self._before(struck, site)
        answer = await _value(handler(*request))
        if _hit(struck, "repeat"):
            again = await _value(handler(*request))
            if inspect.isasyncgen(again):
                async for _ in again:
                    pass
        if inspect.isasyncgen(answer):
            return self._stream(struck, answer)
        for effect in _of(struck, "stale"):
            first = self._answers.setdefault((effect.id, _key(request[0])), answer)
            effect.hits += first != answer
            answer = first
        for effect in _of(struck, "wrong"):
            answer, was = altered(answer, self._draws()), answer
            effect.hits += answer != was
        return NO_ANSWER if _hit(struck, "drop") else answer

    async def _stream(self, struck: list[Effect], items: AsyncGeneratorType[Any, Any]) -> AsyncIterator[Any]:
        """The answers of a stream: none of them, or each perhaps wrong."""
        async with aclosing(items):
            if _hit(struck, "drop"):
                await asyncio.get_running_loop().create_future()
            async for item in items:
                for effect in _of(struck, "wrong"):
                    item, was = altered(item, self._draws()), item
                    effect.hits += item != was
                yield item

    def _draws(self) -> Random:
        """The randomness of the node's faults; made when needed."""
        if self._random is None:
            self._random = Random(f"{self._seed}/{self._node}/application")
        return self._random

    def _draw(self) -> float:
        return self._draws().random()


def _names(arguments: dict[str, Any], site: str) -> bool:
    if arguments["leak"] or arguments["variant"] or arguments["buggify"]:
        return False
    return bool(arguments["at"] == site) or (arguments["at"] == "*" and site != RELOAD and "." not in site)


def _of(struck: list[Effect], what: str) -> list[Effect]:
    return [effect for effect in struck if effect.arguments[what]]


def _hit(struck: list[Effect], what: str) -> bool:
    """Count a hit on the effects of a kind; whether there is any."""
    found = _of(struck, what)
    for effect in found:
        effect.hits += 1
    return bool(found)


def _key(request: Any) -> Any:
    """What is alike for equal requests, also those that hold lists."""
    try:
        hash(request)
    except TypeError:
        return repr(request)
    return request


async def _value(result: Any) -> Any:
    return await result if inspect.isawaitable(result) else result


def error_class(name: str) -> type[Exception] | None:
    """The exception of a name: `Injected`, or one of Python's own that a text is enough for; None if there is none."""
    found = Injected if name == Injected.__name__ else getattr(builtins, name, None)
    if not isinstance(found, type) or not issubclass(found, Exception):
        return None
    try:
        found("text")
    except TypeError:
        return None
    return found


# -- wrong answers ------------------------------------------------------------------------------------------------


def altered(value: Any, random: Random) -> Any:
    """The same with one value in it changed, of the same type; itself if it holds none that can be."""
    leaves: list[tuple[Any, ...]] = []
    _find_leaves(value, (), leaves)
    return _change(value, random.choice(leaves), random) if leaves else value


def _find_leaves(value: Any, path: tuple[Any, ...], leaves: list[tuple[Any, ...]]) -> None:
    if isinstance(value, msgspec.Struct):
        for name in value.__struct_fields__:
            if name not in _closed(type(value)):
                _find_leaves(getattr(value, name), (*path, name), leaves)
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            _find_leaves(item, (*path, index), leaves)
    elif isinstance(value, dict):
        for key, item in value.items():
            _find_leaves(item, (*path, key), leaves)
    elif (isinstance(value, bool | int | float) and not isinstance(value, enum.Enum)) or (
        isinstance(value, str | bytes | Blob) and not isinstance(value, enum.Enum) and len(value)
    ):
        leaves.append(path)


@cache
def _closed(struct: type) -> frozenset[str]:
    """The fields that allow only certain values: another one would be refused, not believed."""
    hints = get_type_hints(struct)
    return frozenset(n for n, hint in hints.items() if Literal in (get_origin(hint), *map(get_origin, get_args(hint))))


def _change(value: Any, path: tuple[Any, ...], random: Random) -> Any:
    if path:
        step, rest = path[0], path[1:]
        if isinstance(value, msgspec.Struct):
            return msgspec.structs.replace(value, **{step: _change(getattr(value, step), rest, random)})
        if isinstance(value, dict):
            return {**value, step: _change(value[step], rest, random)}
        changed = [_change(item, rest, random) if index == step else item for index, item in enumerate(value)]
        return changed if isinstance(value, list) else tuple(changed)
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + random.choice((-1, 1)) if value > 0 else value + 1
    if isinstance(value, float):
        return value + 1.0
    at = random.randrange(len(value))
    if isinstance(value, Blob):
        return value.flip(at)
    if isinstance(value, bytes):
        return value[:at] + bytes([value[at] ^ 1]) + value[at + 1 :]
    return value[:at] + ("y" if value[at] == "x" else "x") + value[at + 1 :]
