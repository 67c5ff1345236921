"""Faults of the application on one node: who is struck, what is counted, and wrong answers of the right form."""

from __future__ import annotations

import asyncio
from random import Random
from typing import Any, Literal

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import zebra
from zebra.blob import Blob
from zebra.errors import Injected
from zebra.sites import NO_ANSWER, find_by
from zebra.substrate import Effect
from zebra.substrate.application import NodeSites, altered, error_class

DEFAULTS: dict[str, Any] = {
    "at": "*", "probability": 1.0, "error": "", "delay_s": 0.0, "align_s": 0.0, "drop": False, "repeat": False,
    "wrong": False, "stale": False, "leak": 0.0, "variant": "", "buggify": 0.0,
}  # fmt: skip


def sites(*changes: dict[str, Any], seed: int = 0) -> tuple[NodeSites, list[Effect]]:
    effects = [Effect(id=n, capability="application", arguments=DEFAULTS | c) for n, c in enumerate(changes, 1)]
    return NodeSites("node-1", seed, lambda: effects), effects


class Inner(msgspec.Struct, frozen=True):
    count: int
    names: tuple[str, ...] = ()


class Reply(msgspec.Struct, frozen=True):
    inner: Inner
    ratio: float
    ok: bool
    mode: Literal["a", "b"] = "a"
    extra: dict[str, bytes] = {}
    nothing: str | None = None


def request(**serve: Any) -> tuple[Any, list[Effect], list[str]]:
    """What comes of one request under one effect, and how often the handler was called."""
    made, effects = sites(serve)
    calls: list[str] = []

    async def handler(ask: str, caller: str) -> Inner:
        calls.append(ask)
        return Inner(len(calls))

    result = made.around("Ask", handler)("what", "me")
    return asyncio.run(result), effects, calls


def test_without_an_effect_that_names_the_site_the_handler_itself_is_used() -> None:
    made, effects = sites({"at": "Other", "drop": True}, {"leak": 1.0}, {"variant": "bug.x"}, {"buggify": 1.0})

    def handler() -> None: ...

    assert made.around("Ask", handler) is handler
    assert [effect.hits for effect in effects] == [0, 0, 0, 0]


def test_a_star_is_every_request_and_neither_a_failpoint_nor_a_push() -> None:
    made, effects = sites({"error": "OSError"})
    asyncio.run(made.passage("store.commit"))
    asyncio.run(made.push(lambda config: config, Inner(1)))
    assert effects[0].hits == 0
    with pytest.raises(OSError, match="injected at Ask"):
        asyncio.run(made.around("Ask", lambda ask, caller: None)("", ""))
    assert effects[0].hits == 1


def test_what_is_dropped_repeated_or_wrong() -> None:
    answer, effects, calls = request(drop=True)
    assert (answer, calls, effects[0].hits) == (NO_ANSWER, ["what"], 1)
    answer, effects, calls = request(repeat=True)
    assert (answer, calls, effects[0].hits) == (Inner(1), ["what", "what"], 1)
    answer, effects, calls = request(wrong=True)
    assert (answer.count in (0, 2), calls, effects[0].hits) == (True, ["what"], 1)


def test_the_first_answer_to_an_equal_request_stays_also_where_requests_hold_lists() -> None:
    made, effects = sites({"stale": True})
    numbers = iter(range(9))

    def ask(*request: Any) -> Any:
        handler = made.around("Ask", lambda asked, caller: Inner(next(numbers)))
        return asyncio.run(handler(list(request), "me")).count

    assert [ask("a"), ask("b"), ask("a"), ask("b"), ask("a", "b")] == [0, 1, 0, 1, 4]
    assert effects[0].hits == 2


def test_a_share_of_the_passages_is_struck_and_only_those_are_counted() -> None:
    made, effects = sites({"at": "a.b", "error": "Injected", "probability": 0.5})

    async def passages() -> list[bool]:
        found = []
        for _ in range(200):
            try:
                await made.passage("a.b")
                found.append(False)
            except Injected:
                found.append(True)
        return found

    assert 60 < sum(asyncio.run(passages())) == effects[0].hits < 140


def test_an_answer_that_holds_nothing_to_change_is_no_hit() -> None:
    made, effects = sites({"wrong": True})
    assert asyncio.run(made.around("Ask", lambda ask, caller: None)("", "")) is None
    assert effects[0].hits == 0


def test_a_stream_of_answers_can_be_wrong_late_or_missing() -> None:
    async def handler(ask: str, caller: str) -> Any:
        for number in (5, 6):
            yield Inner(number)

    async def items(**effect: Any) -> list[int]:
        made, _ = sites(effect)
        found: list[int] = []
        try:
            async with asyncio.timeout(0.05):
                async for item in await made.around("Ask", handler)("", ""):
                    found.append(item.count)
        except TimeoutError:
            pass
        return found

    assert asyncio.run(items(repeat=True)) == [5, 6]
    assert asyncio.run(items(drop=True)) == []
    changed = asyncio.run(items(wrong=True))
    assert changed[0] in (4, 6) and changed[1] in (5, 7)


def test_a_push_may_be_lost_doubled_stale_or_fail() -> None:
    def pushed(**effect: Any) -> tuple[list[int], int]:
        made, effects = sites({"at": "reload", **effect})
        made.configured(Inner(1))
        got: list[int] = []
        asyncio.run(made.push(lambda config: got.append(config.count), Inner(2)))
        return got, effects[0].hits

    assert pushed(drop=True) == ([], 1)
    assert pushed(repeat=True) == ([2, 2], 1)
    assert pushed(stale=True) == ([1], 1)
    got, hits = pushed(wrong=True)
    assert got[0] in (1, 3) and hits == 1
    with pytest.raises(ValueError, match="injected at reload"):
        pushed(error="ValueError")


def test_a_version_is_only_what_is_named() -> None:
    made, effects = sites({"variant": "bug.x"})
    assert made.variant("bug.x") and not made.variant("bug.y")
    assert effects[0].hits == 1


def test_buggify_is_false_outside_and_at_nobodys_node() -> None:
    assert not any(zebra.buggify("some.site") for _ in range(100))
    asyncio.run(zebra.failpoint("some.site"))
    made, _ = sites({"buggify": 1.0})
    find_by(lambda: made)
    try:
        assert any(zebra.buggify("some.site") for _ in range(100))
        assert not zebra.buggify("some.site", probability=0.0)
    finally:
        find_by(None)
    assert not any(zebra.buggify("some.site") for _ in range(100))


@given(st.integers(), st.floats(0, 1))
@settings(max_examples=60, deadline=None)
def test_the_seed_chooses_which_sites_are_buggy_alike_on_all_nodes(seed: int, share: float) -> None:
    found = []
    for node in ("a", "b"):
        effects = [Effect(id=1, capability="application", arguments=DEFAULTS | {"buggify": share})]
        made = NodeSites(node, seed, lambda effects=effects: effects)  # type: ignore[misc]
        found.append([made.buggify(f"site.{number}", 1.0) for number in range(20)])
        assert effects[0].hits == sum(found[-1])
        assert effects[0].seen == (20 if share else 0)
    assert found[0] == found[1]


@pytest.mark.parametrize("name", ["Injected", "OSError", "TimeoutError", "KeyError"])
def test_exceptions_are_found_by_name(name: str) -> None:
    kind = error_class(name)
    assert kind is not None and kind.__name__ == name


@pytest.mark.parametrize(
    "name",
    ["", "int", "SystemExit", "KeyboardInterrupt", "open", "NoSuchError", "UnicodeDecodeError", "ExceptionGroup"],
)
def test_what_is_no_ordinary_exception_is_none(name: str) -> None:
    assert error_class(name) is None


LEAVES = st.one_of(
    st.booleans(), st.integers(), st.floats(-1e9, 1e9), st.text(min_size=1), st.binary(min_size=1),
    st.binary(min_size=1).map(Blob.of),
)  # fmt: skip
VALUES = st.recursive(LEAVES, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner))


def leaves(value: Any) -> list[Any]:
    if isinstance(value, list):
        return [leaf for item in value for leaf in leaves(item)]
    return [leaf for item in value.values() for leaf in leaves(item)] if isinstance(value, dict) else [value]


@given(VALUES, st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_exactly_one_value_is_changed_and_keeps_its_type(value: Any, random: Random) -> None:
    changed = altered(value, random)
    before, after = leaves(value), leaves(changed)
    assert [type(leaf) for leaf in before] == [type(leaf) for leaf in after]
    assert sum(a != b for a, b in zip(before, after, strict=True)) == (1 if before else 0)


@given(st.integers(0, 2**40), st.floats(0, 1), st.booleans(), st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_a_wrong_struct_is_valid_and_closed_fields_stay(count: int, ratio: float, ok: bool, random: Random) -> None:
    reply = Reply(inner=Inner(count, ("x", "yz")), ratio=ratio, ok=ok, extra={"k": b"v"})
    changed = altered(reply, random)
    assert changed != reply
    assert changed.mode == "a" and changed.nothing is None
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(changed), type=Reply) == changed
