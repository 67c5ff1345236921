"""Invariants: the contract, what is exercised, and the helpers."""

from functools import partial
from typing import Any

import pytest

import zebra
from zebra import Event
from zebra.errors import ConfigError, PluginError
from zebra.invariant import EVIDENCE, Checks, Violation, check_history, describe, find, invariant, registered
from zebra.testing import check_invariant, event, history


def refused(factory: Any, events: list[Event]) -> Violation:
    """What an invariant finds in a history that it must not accept."""
    found = check_invariant(factory, events)
    assert found is not None
    return found


@invariant("test.few", on="x")
class Few:
    """No more than `most` events x."""

    def __init__(self, most: int = 1) -> None:
        self.most, self.count = most, 0

    def check(self, event: Event) -> str | None:
        self.count += 1
        return f"{self.count} of them" if self.count > self.most else None


X = event("x")


# -- the contract ------------------------------------------------------------------------------------------------


def test_a_class_without_check_is_refused_by_name() -> None:
    with pytest.raises(PluginError, match=r"test\.bad.*check\(self, event\)") as raised:
        invariant("test.bad", on="x")(type("Bad", (), {}))
    assert raised.value.member == "test.bad"


@pytest.mark.parametrize("on", ["", (), ("x", "")])
def test_an_invariant_that_listens_to_nothing_is_refused(on: Any) -> None:
    with pytest.raises(PluginError, match="names no event kind"):
        invariant("test.deaf", on=on)(Few)


def test_something_undecorated_is_refused() -> None:
    with pytest.raises(PluginError, match="decorate it"):
        describe(int)


def _made(name: Any, check: Any, **more: Any) -> Any:
    return invariant(name, on="x")(type("Made", (), {"check": check, **more}))


@pytest.mark.parametrize(
    ("check", "more", "what"),
    [
        (lambda self, event: 1 / 0, {}, "raised ZeroDivisionError"),
        (lambda self, event: True, {}, "returned bool"),
        (lambda self, event: None, {"end": lambda self, now_s: 1 / 0}, "at its end"),
        (lambda self, event: None, {"__init__": lambda self: 1 / 0}, "cannot be made"),
    ],
)
def test_an_invariant_that_breaks_its_contract_is_named(check: Any, more: Any, what: Any) -> None:
    with pytest.raises(PluginError, match=what) as raised:
        check_invariant(_made("test.guilty", check, **more), history(X))
    assert raised.value.member == "test.guilty"


def test_a_factory_that_makes_no_invariant_is_named() -> None:
    with pytest.raises(PluginError, match="without a method check"):
        check_invariant(invariant("test.empty", on="x")(lambda: object()), history(X))


def test_an_unknown_name_is_a_config_error_that_lists_the_known() -> None:
    with pytest.raises(ConfigError, match=r"test\.few"):
        find("test.nothing")
    assert find("test.few") is Few
    assert "test.few" in registered()


def test_a_name_of_an_installed_family_is_found_without_importing_it_first() -> None:
    assert describe(find("general.no_cycles"))[1][0] == "edge.open"


# -- checking ----------------------------------------------------------------------------------------------------


def test_every_run_gets_a_new_instance() -> None:
    assert check_invariant(Few, history(X)) is None
    assert check_invariant(Few, history(X)) is None


def test_a_partial_sets_what_an_invariant_takes() -> None:
    assert check_invariant(partial(Few, most=3), history(X, X, X)) is None
    assert check_invariant(partial(Few, most=2), history(X, X, X)) is not None


def test_a_plain_string_is_shown_with_the_last_events_of_its_kinds() -> None:
    found = check_history(history(*[event("x"), event("y")] * 10), [partial(Few, most=9)])
    assert found is not None
    assert (found.invariant, found.message, found.t) == ("test.few", "10 of them", 19.0)
    assert found.seqs() == [10, 12, 14, 16, 18]
    assert len(found.events) == EVIDENCE


def test_checking_stops_at_the_event_that_broke_it() -> None:
    assert refused(Few, history(X, X, X)).seqs() == [0, 1]


def test_a_kind_that_ends_in_a_dot_stands_for_the_whole_family() -> None:
    heard = []
    record = _made("test.family", lambda self, event: heard.append(event.kind))
    record.zebra_on = ("op.",)
    check_invariant(record, history(event("op.ok"), event("opera"), event("op.fail"), event("x")))
    assert heard == ["op.ok", "op.fail"]


def test_clock_events_come_once_a_second_and_are_no_evidence() -> None:
    ticks = []

    @invariant("test.clock", on=("clock", "x"))
    class Clock:
        def check(self, event: Any) -> Any:
            ticks.append((event.kind, event.t))
            return "late" if event.t >= 3 else None

    found = refused(Clock, history(event("x", t=0.5), event("y", t=4.0)))
    assert ticks == [("x", 0.5), ("clock", 1.0), ("clock", 2.0), ("clock", 3.0)]
    assert found.seqs() == [0]


def test_an_invariant_is_unknown_until_one_of_its_events_came() -> None:
    def exercised(on: Any, *events: Any) -> Any:
        seen = Checks([invariant("test.on", on=on)(type("Never", (), {"check": lambda self, event: None}))])
        for each in history(*events):
            seen.feed(each)
        return seen.exercised()[0]

    run, clock = event("run"), event("clock")
    assert exercised("x", run, event("y")) == []
    assert exercised("x", run, X) == ["test.on"]
    assert exercised(("x", "clock", "run"), run, clock) == []
    assert exercised(("x", "clock", "run"), run, clock, X) == ["test.on"]
    assert exercised("run", run) == ["test.on"]


def test_the_first_violation_is_kept_and_announced_once() -> None:
    announced: list[Violation] = []
    checks = Checks([Few, partial(Few, most=0)], announced.append)
    for each in history(X, X):
        checks.feed(each)
    assert [found.message for found in announced] == ["1 of them"]
    assert checks.violation is announced[0]


# -- helpers: each has a history that it accepts and one that it refuses ---------------------------------------------


def test_always_refuses_the_first_event_that_does_not_satisfy_it() -> None:
    even = zebra.always("test.even", "x", lambda event: event["n"] % 2 == 0)
    assert check_invariant(even, history(event("x", n=2), event("y", n=3))) is None
    assert refused(even, history(event("x", n=2), event("x", n=3))).seqs() == [0, 1]


def test_never_refuses_what_happens() -> None:
    quiet = zebra.never("test.quiet", "x")
    assert check_invariant(quiet, history(event("y"))) is None
    assert check_invariant(quiet, history(X)) is not None
    picky = zebra.never("test.picky", "x", lambda event: event["n"] > 3)
    assert check_invariant(picky, history(event("x", n=3))) is None


def test_eventually_wants_its_event_in_time() -> None:
    soon = zebra.eventually("test.soon", "x", within=5.0)
    run = event("run", t=0.0)
    assert check_invariant(soon, history(run, event("x", t=4.0), event("y", t=9.0))) is None
    assert check_invariant(soon, history(run, event("x", t=6.0))) is not None
    assert "no x within 5 s" in refused(soon, history(run, event("y", t=9.0))).message


def test_what_is_still_in_time_when_the_run_ends_is_no_violation() -> None:
    soon = zebra.eventually("test.soon", "x", within=5.0)
    assert check_invariant(soon, history(event("run", t=0.0), event("y", t=4.0))) is None


def test_leads_to_pairs_events_by_their_key() -> None:
    answered = zebra.leads_to("test.answered", "ask", "answer", within=2.0, key=lambda event: event["id"])
    asks = [event("ask", t=0.0, id=1), event("ask", t=1.0, id=2)]
    both = [*asks, event("answer", t=1.5, id=2), event("answer", t=2.0, id=1), event("end", t=9.0)]
    assert check_invariant(answered, history(*both)) is None
    found = refused(answered, history(*asks, event("answer", t=1.5, id=1), event("end", t=9.0)))
    assert found.seqs() == [1]
    assert found.t == 4.0  # at the first clock event after 3.0


def test_an_answer_that_comes_too_late_is_no_answer() -> None:
    answered = zebra.leads_to("test.answered", "ask", "answer", within=2.0)
    assert check_invariant(answered, history(event("ask", t=0.1), event("answer", t=2.2))) is not None


def test_leads_to_can_demand_that_a_beat_goes_on() -> None:
    beats = zebra.leads_to("test.beats", "beat", "beat", within=2.0)
    assert check_invariant(beats, history(*[event("beat", t=float(t)) for t in range(9)])) is None
    assert check_invariant(beats, history(event("beat", t=1.0), event("beat", t=2.0), event("x", t=8.0))) is not None


def test_at_most_one_names_both() -> None:
    leader = zebra.at_most_one("test.leader", "leader", per=lambda event: event["term"])
    a, b = event("leader", node="a", term=1), event("leader", node="b", term=1)
    assert check_invariant(leader, history(a, a, event("leader", node="b", term=2))) is None
    found = refused(leader, history(a, event("x"), b))
    assert found.message == "1: both a and b"
    assert found.seqs() == [0, 2]
