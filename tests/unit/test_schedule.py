"""Schedules: drawn, stored, read back; and whatever else is thrown at the parsers of outside data."""

import base64
import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zebra.errors import ConfigError
from zebra.injection.schedule import Configure, Inject, Roll, Schedule, groups
from zebra.spec import RunSpec, decode_token

seconds = st.floats(0, 1e6)
selections = st.sampled_from(["peer-1", "one(peer)", "minority(store)", "dc(r1-dc1)", "*", "roots"])
faults = st.sampled_from([
    ("host.crash", {}),
    ("host.restart", {"down_s": 1.5, "planned": True}),
    ("network.partition", {"direction": "in"}),
    ("network.latency", {"delay": 0.05, "jitter": 0.01}),
    ("network.bandwidth", {"rate": "10Mbit/s"}),
    ("disk.full", {"capacity_bytes": 0}),
    ("clock.offset", {"by": -3.5}),
    ("noop", {}),
])  # fmt: skip
injects = st.builds(
    lambda fault, on, at_s, for_s: Inject(fault=fault[0], settings=fault[1], on=on, at_s=at_s, for_s=for_s),
    faults,
    st.lists(st.lists(selections, min_size=1, max_size=3).map(tuple), min_size=1, max_size=3).map(tuple),
    seconds,
    st.none() | seconds,
)
configures = st.builds(
    Configure,
    node=st.sampled_from(["peer-1", "store-2"]),
    values=st.dictionaries(
        st.sampled_from(["app.ttl", "app.name"]), st.booleans() | st.integers(0, 99) | st.text(max_size=5)
    ),
    at_s=seconds,
    how=st.sampled_from(["restart", "reload"]),
)
rolls = st.builds(
    Roll,
    nodes=st.lists(st.sampled_from(["peer", "store-2"]), max_size=3).map(tuple),
    values=st.dictionaries(st.just("app.ttl"), st.integers(0, 99)),
    at_s=seconds,
    every_s=seconds,
    how=st.sampled_from(["restart", "reload"]),
)
schedules = st.lists(injects | configures | rolls, max_size=5).map(lambda steps: Schedule(tuple(steps)))


@given(schedules)
def test_a_schedule_is_read_back_from_its_data_and_from_json(schedule: Any) -> None:
    assert Schedule.parse(schedule.to_data()) == schedule
    assert Schedule.parse(json.loads(json.dumps(schedule.to_data()))) == schedule
    assert Schedule.parse(schedule) == schedule


@given(schedules)
def test_a_schedule_is_read_back_from_a_token(schedule: Any) -> None:
    spec = RunSpec(target="x", schedule=schedule, seed=7)
    assert decode_token(spec.token()) == (spec, True)


@given(schedules, schedules, st.integers(0, 1000))
def test_schedules_add_up_and_move_in_time(a: Any, b: Any, delay_s: Any) -> None:
    assert (a + b).steps == a.steps + b.steps
    assert bool(a + b) == bool(a) or bool(b)
    assert [step.at_s for step in a.after(delay_s).steps] == [step.at_s + delay_s for step in a.steps]


def test_steps_are_written_as_people_write_them() -> None:
    made = Schedule.parse([
        {"fault": "host.crash", "on": "peer-3", "at": "2s", "for": "500ms"},
        {"fault": "network.partition", "on": [["peer-1"], ["peer-2", "peer-3"]]},
        {"node": "peer-1", "values": {"app.ttl": 3}, "at": "1min", "how": "reload"},
    ])  # fmt: skip
    assert made == Schedule((
        Inject(fault="host.crash", on=(("peer-3",),), at_s=2.0, for_s=0.5),
        Inject(fault="network.partition", on=(("peer-1",), ("peer-2", "peer-3"))),
        Configure(node="peer-1", values={"app.ttl": 3}, at_s=60.0, how="reload"),
    ))  # fmt: skip


@pytest.mark.parametrize(
    ("on", "made"),
    [
        ("peer-3", (("peer-3",),)),
        (["peer-3", "one(store)"], (("peer-3", "one(store)"),)),
        ([["peer-1"], ["peer-2"]], (("peer-1",), ("peer-2",))),
        (["peer-1", ["peer-2"]], (("peer-1",), ("peer-2",))),
    ],
)
def test_groups_are_read_from_one_name_a_list_or_a_list_of_lists(on: Any, made: Any) -> None:
    assert groups(on, "step") == made


@pytest.mark.parametrize(
    ("step", "what"),
    [
        ({}, "step 1"),
        ("host.crash", "is not a mapping"),
        ({"fault": "host.crash"}, "`on` is empty"),
        ({"fault": "host.crash", "on": 3}, "`on` is 3"),
        ({"fault": "host.crash", "on": [[]]}, "`on` holds"),
        ({"fault": "host.crash", "on": {"peer-1": 1}}, "`on` is"),
        ({"fault": "host.crash", "on": "two(peer)"}, "two is unknown"),
        ({"fault": "host.crush", "on": "peer-1"}, "known are host.crash"),
        ({"fault": ["host.crash"], "on": "peer-1"}, "step 1"),
        ({"fault": "host.crash", "on": "peer-1", "at": "soon"}, "at_s: 'soon'"),
        ({"fault": "host.crash", "on": "peer-1", "at": -1}, "at_s: -1"),
        ({"fault": "host.crash", "on": "peer-1", "until": 3}, "unknown field 'until'"),
        ({"fault": "network.loss", "on": "peer-1", "settings": {"probability": 2}}, "probability: 2"),
        ({"fault": "network.loss", "on": "peer-1", "settings": [1]}, "step 1"),
        ({"node": "peer-1", "values": {"app.ttl": [1]}}, "step 1"),
        ({"node": "peer-1", "values": {}, "how": "gently"}, "how"),
    ],
)
def test_a_bad_step_is_one_config_error_that_says_which_and_why(step: Any, what: Any) -> None:
    with pytest.raises(ConfigError, match="schedule: step 1") as raised:
        Schedule.parse([step])
    assert what in str(raised.value)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
nearly = st.dictionaries(
    st.sampled_from(["fault", "on", "at", "at_s", "for", "for_s", "settings", "node", "values", "how", "type"]),
    json_values | st.sampled_from(["host.crash", "network.loss", "peer-1", "1s", "restart", "inject"]),
)


@given(json_values | st.lists(nearly | json_values, max_size=3))
def test_whatever_is_given_as_a_schedule_only_a_config_error_is_raised(data: Any) -> None:
    try:
        assert isinstance(Schedule.parse(data), Schedule)
    except ConfigError:
        pass


# -- tokens ------------------------------------------------------------------------------------------------------

TOKEN = RunSpec(target="x", test="tests/test_x.py::test", seed=3, assignment={"x.ttl": {"*": 2.5}}).token()


@given(st.text() | st.text().map("zebra1.".__add__) | st.from_regex(r"zebra1\.[A-Za-z0-9_-]{0,80}", fullmatch=True))
def test_text_that_is_no_token_is_a_config_error(text: Any) -> None:
    try:
        assert decode_token(text)
    except ConfigError:
        pass


@given(st.integers(0, len(TOKEN) - 1), st.characters())
def test_a_token_with_one_wrong_character_is_refused_or_still_a_spec(at: Any, character: Any) -> None:
    try:
        assert isinstance(decode_token(TOKEN[:at] + character + TOKEN[at + 1 :])[0], RunSpec)
    except ConfigError:
        pass


@given(json_values)
def test_a_token_that_holds_something_else_is_a_config_error(data: Any) -> None:
    try:
        body = base64.urlsafe_b64encode(msgspec.msgpack.encode(data)).rstrip(b"=").decode()
    except (OverflowError, UnicodeEncodeError):
        return
    try:
        assert decode_token(f"zebra1.{body}00000000")
    except ConfigError:
        pass


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "does not begin with"),
        ("zebra2.abc", "version zebra2 is unknown"),
        (TOKEN[:-20], "damaged or cut short"),
        (TOKEN[:30], "damaged or cut short"),
        ("zebra1.", "damaged or cut short"),
    ],
)
def test_a_damaged_token_is_told_apart(text: Any, what: Any) -> None:
    with pytest.raises(ConfigError, match=what):
        decode_token(text)


def test_a_token_of_other_code_is_known_as_such() -> None:
    spec, same = decode_token(TOKEN[:-8] + "00000000")
    assert spec.seed == 3
    assert not same
