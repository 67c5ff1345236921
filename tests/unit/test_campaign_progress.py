"""Progress: what people are told while a campaign runs."""

from __future__ import annotations

import io

import pytest

from zebra.campaign import progress as module
from zebra.campaign.progress import Progress


class Clock:
    now_s = 1000.0

    def monotonic(self) -> float:
        return self.now_s


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(module, "time", made)
    return made


def test_a_line_says_stage_trials_culprits_suspects_and_time_left(clock: Clock) -> None:
    stream = io.StringIO()
    with Progress("owl", stream=stream) as progress:
        progress("pre-run", 0, 0, [], [])
        stream.truncate(stream.seek(0))
        for number in range(20):
            progress.arrived(number < 10)
        clock.now_s += 20
        progress("pools of test_x", 20, 40, ["owl.a"], ["owl.b", "owl.c", "owl.d", "owl.e", "owl.f"])
    assert stream.getvalue() == (
        "zebra owl: pools of test_x: 20 of about 40 trials, 1 unsafe, suspected owl.b, owl.c, owl.d and 2 more, "
        "20 s gone, about 40 s left\n"
    )


def test_a_stage_is_said_once_and_again_only_when_a_while_has_gone(clock: Clock) -> None:
    stream = io.StringIO()
    with Progress("owl", stream=stream) as progress:
        progress("pre-run", 0, 0, [], [])
        for _ in range(100):
            progress.arrived(False)
        assert stream.getvalue().count("\n") == 1
        clock.now_s += module.EVERY_S
        progress.arrived(False)
        progress.arrived(False)
    assert stream.getvalue().splitlines()[1:] == ["zebra owl: pre-run: 101 trials, 0 unsafe, 30 s gone"]


def test_what_is_expected_is_never_less_than_what_is_done(clock: Clock) -> None:
    stream = io.StringIO()
    with Progress("owl", stream=stream) as progress:
        progress("confirm owl.a", 50, 40, [], [])
    assert ": 50 trials, " in stream.getvalue() and "left" not in stream.getvalue()


def test_a_terminal_gets_one_live_line(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "140")
    stream = Terminal()
    with Progress("owl", stream=stream) as progress:
        progress("pools of test_x", 10, 40, [], ["owl.b"])
        progress.arrived(False)
        progress._live.refresh()
        shown = stream.getvalue()
    assert "owl: pools of test_x" in shown and "11 of about 40 trials" in shown and "suspected owl.b" in shown
    assert "zebra owl:" not in stream.getvalue(), "no plain lines"


def test_quiet_is_quiet() -> None:
    for stream in (io.StringIO(), Terminal()):
        with Progress("owl", quiet=True, stream=stream) as progress:
            progress("pre-run", 1, 1, [], [])
            progress.arrived(False)
        assert stream.getvalue() == ""


@pytest.mark.parametrize(("duration_s", "text"), [(0.4, "0 s"), (59, "59 s"), (185, "3 min 5 s"), (7800, "2 h 10 min")])
def test_durations_are_written_as_people_do(duration_s: float, text: str) -> None:
    assert module._clock(duration_s) == text
