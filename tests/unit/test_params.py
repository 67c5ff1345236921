"""Parameters, spaces, assignments, and configurations that note what is read."""

from typing import Annotated, Any, Literal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zebra.errors import ConfigError, PluginError
from zebra.params import Assignment, Space, assignment, configs, validate
from zebra.params.parameter import Param
from zebra.params.recording import recording
from zebra.topology import Topology


class Lease(msgspec.Struct, frozen=True, kw_only=True):
    ttl: Annotated[float, Param("5s", unit="s", minimum=0.1, maximum=60)] = 1.0
    mode: Literal["strict", "lax"] = "strict"


class Config(msgspec.Struct, frozen=True, kw_only=True):
    lease: Lease = Lease()
    chunk: Annotated[int, Param(unit="B", minimum=1)] = 4096
    verify: bool = True
    name: Annotated[str, Param("b", pattern="[a-z]+")] = "a"
    tries: int = 3


SPACE = Space("app", Config)
PLACES = Topology(counts={"peer": 4, "tracker": 1}).places()


def test_a_space_names_every_field_by_its_dotted_path() -> None:
    assert list(SPACE) == ["app.lease.ttl", "app.lease.mode", "app.chunk", "app.verify", "app.name", "app.tries"]
    assert SPACE.get_value(Config(), "app.lease.ttl") == 1.0


def test_everything_leaves_timers_out_and_a_name_takes_them_in() -> None:
    class Timed(msgspec.Struct, frozen=True, kw_only=True):
        every: Annotated[float, Param(unit="s", timer=True)] = 1.0
        ttl: Annotated[float, Param(unit="s")] = 5.0

    space = Space("app", Timed)
    assert space.matching() == space.matching("*") == space.matching("app.t*") == ["app.ttl"]
    assert space.matching("app.every") == ["app.every"]
    assert space["app.every"].alternatives() == (2.0, 0.5)


def test_an_unknown_parameter_is_answered_with_the_nearest_name() -> None:
    with pytest.raises(ConfigError, match=r"did you mean app\.lease\.ttl"):
        SPACE["app.lease.tll"]
    assert "nothing" not in SPACE


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("app.lease.ttl", "500ms", 0.5),
        ("app.chunk", "8KiB", 8192),
        ("app.verify", "off", False),
        ("app.verify", True, True),
        ("app.lease.mode", "lax", "lax"),
        ("app.name", "xyz", "xyz"),
        ("app.tries", 5, 5),
    ],
)
def test_values_are_read_by_the_parameters_type(name: Any, text: Any, value: Any) -> None:
    assert SPACE[name].parse(text) == value
    assert type(SPACE[name].parse(text)) is SPACE[name].type


@pytest.mark.parametrize(
    ("name", "bad"),
    [
        ("app.lease.ttl", "90s"),
        ("app.lease.ttl", "long"),
        ("app.chunk", 0),
        ("app.verify", 1),
        ("app.lease.mode", "loose"),
        ("app.name", "X"),
        ("app.tries", 2.5),
        ("app.tries", [1]),
        ("app.tries", 10**400),
    ],
)
def test_a_bad_value_is_a_config_error_with_the_parameters_name(name: Any, bad: Any) -> None:
    with pytest.raises(ConfigError, match=name):
        SPACE[name].parse(bad)


def test_alternatives_are_the_candidates_or_follow_from_the_type() -> None:
    assert SPACE["app.lease.ttl"].alternatives() == (5.0,)
    assert SPACE["app.lease.mode"].alternatives() == ("lax",)
    assert SPACE["app.verify"].alternatives() == (False,)
    assert set(SPACE["app.chunk"].alternatives()) == {2048, 8192}
    assert SPACE["app.lease.ttl"].alternatives(observed=5.0) == (1.0,)


@given(st.sampled_from(sorted(SPACE)), st.floats(1, 60) | st.integers(1, 10**9))
def test_a_shown_value_is_read_back(name: Any, number: Any) -> None:
    parameter = SPACE[name]
    if parameter.type in (int, float) and number <= parameter.param.maximum:
        value = parameter.type(number)
        assert parameter.parse(parameter.show(value)) == value


def test_a_field_of_another_type_is_refused_by_name() -> None:
    class Bad(msgspec.Struct, frozen=True):
        many: tuple[int, ...] = ()

    with pytest.raises(PluginError, match=r"app\.many") as raised:
        Space("app", Bad)
    assert raised.value.member == "app.many"


# -- assignments -------------------------------------------------------------------------------------------------


def test_the_more_exact_share_of_an_assignment_wins() -> None:
    made: Assignment = {"app.tries": {"*": 1, "peer": 2, "peer:odd": 3, "peer-1": 4}}
    found = {
        node: SPACE.get_value(config, "app.tries")
        for node, config in configs(validate(made, SPACE, PLACES), SPACE, PLACES).items()
    }
    assert found == {"peer-1": 4, "peer-2": 2, "peer-3": 3, "peer-4": 2, "tracker-1": 1}


def test_nodes_with_equal_configurations_share_one_object() -> None:
    made = configs({"app.tries": {"peer": 5}}, SPACE, PLACES)
    assert made["peer-1"] is made["peer-4"]
    assert made["peer-1"] is not made["tracker-1"]


def test_a_plain_value_is_for_every_node() -> None:
    assert assignment.parse({"app.tries": 5}) == {"app.tries": {"*": 5}}
    assert assignment.is_mixed({"peer": 5})
    assert not assignment.is_mixed({"*": 5})


@pytest.mark.parametrize(
    "bad", [{"app.tries": {"Peer": 5}}, {"app.tries": {"*": [1]}}, {"app.tries": {"*": None}}, "x", [1], None]
)
def test_an_assignment_that_is_none_is_a_config_error(bad: Any) -> None:
    with pytest.raises(ConfigError, match="assignment"):
        assignment.parse(bad)


@pytest.mark.parametrize(
    "bad",
    [{"app.nothing": {"*": 1}}, {"app.tries": {"store": 1}}, {"app.tries": {"peer-9": 1}}, {"app.tries": {"*": "x"}}],
)
def test_an_assignment_is_checked_against_space_and_cluster(bad: Any) -> None:
    with pytest.raises(ConfigError):
        validate(bad, SPACE, PLACES)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
names = st.sampled_from([*SPACE, "app.nothing", ""])
who = st.sampled_from(["*", "peer", "peer:odd", "peer-1", "peer-9", "x"]) | st.text(max_size=5)


@given(json_values | st.dictionaries(names, st.dictionaries(who, json_values, max_size=2) | json_values, max_size=3))
def test_whatever_is_given_only_a_config_error_is_raised(data: Any) -> None:
    try:
        made: Assignment = assignment.parse(data)
        configs(validate(made, SPACE, PLACES), SPACE, PLACES)
    except ConfigError:
        pass


# -- recording ---------------------------------------------------------------------------------------------------


def test_a_recording_configuration_notes_what_is_read_and_is_of_the_same_type() -> None:
    seen: list[tuple[str, object]] = []
    sites: list[str] = []

    def note(name: str, value: object, site: str) -> None:
        seen.append((name, value))
        sites.append(site.rpartition("/")[2].partition(":")[0])

    config = recording(Config(), "app", note)
    assert isinstance(config, Config)
    assert not seen
    assert config.lease.ttl == 1.0
    assert config.chunk == 4096
    assert seen == [("app.lease.ttl", 1.0), ("app.chunk", 4096)]
    assert sites == ["test_params.py", "test_params.py"]
