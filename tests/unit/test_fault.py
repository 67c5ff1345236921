"""The contract of faults, and their settings."""

from typing import Any

import pytest

from zebra.errors import ConfigError, PluginError
from zebra.injection.fault import catalogue, fault, find, make, settings_of
from zebra.injection.schedule import Schedule
from zebra.substrate import Links
from zebra.units import Bytes, Probability, Seconds


@fault("test.sound", level="network", needs=Links)
class Sound:
    """A fault that keeps the contract."""

    probability: Probability
    after_s: Seconds = 0.5
    size: Bytes | None = None

    async def inject(self, on: Any, links: Any) -> None:
        pass


def _with(**more: Any) -> Any:
    return type("Made", (), {"__doc__": "It is documented.", "__module__": __name__, **more})


async def _inject(self: Any, on: Any, links: Any) -> None:
    pass


def _expand(self: Any, on: Any, random: Any) -> Schedule:
    return Schedule()


@pytest.mark.parametrize(
    ("cls", "needs", "what"),
    [
        (_with(), Links, "needs either `async def inject"),
        (_with(inject=_inject, expand=_expand), Links, "needs either"),
        (_with(inject=lambda self, on, links: None), Links, "needs either"),
        (_with(inject=_inject), None, "needs= must be one of Links, Processes, Clocks, Disks"),
        (_with(inject=_inject), int, "needs= must be one of"),
        (_with(inject=_inject, __doc__=None), Links, "has no docstring"),
        (_with(expand=lambda self, on: Schedule()), None, r"expand takes \(self, on, random\)"),
    ],
)
def test_a_class_that_breaks_the_contract_is_refused_by_name(cls: Any, needs: Any, what: Any) -> None:
    with pytest.raises(PluginError, match=what) as raised:
        fault("test.broken", level="network", needs=needs)(cls)
    assert raised.value.member == "test.broken"


def test_a_name_is_taken_only_once() -> None:
    find("host.crash")
    with pytest.raises(PluginError, match=r"there is one already, zebra\.faults\.host\.Crash"):
        fault("host.crash", level="host", needs=Links)(_with(inject=_inject))


def test_settings_are_parsed_when_a_fault_is_made_and_frozen() -> None:
    made = make("test.sound", {"probability": "25%", "after_s": "2min", "size": "8KiB"})
    assert settings_of(made) == {"probability": 0.25, "after_s": 120.0, "size": 8192}
    assert made.zebra_needs == "links"
    with pytest.raises(AttributeError):
        made.probability = 1.0


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        ({}, r"test\.sound: the setting 'probability' is missing"),
        ({"probability": 2}, r"test\.sound: probability: 2 is out of range, expected at least 0 and at most 1"),
        ({"probability": "often"}, r"test\.sound: probability: 'often' is not a quantity"),
        ({"probability": True}, r"test\.sound: probability"),
        ({"probability": None}, r"test\.sound: probability"),
        ({"probability": 1, "size": "1.5B"}, r"test\.sound: size: '1\.5B' is not a whole number"),
        ({"probability": 1, "delay": 1}, r"test\.sound: unknown setting 'delay', it has after_s, probability, size"),
    ],
)
def test_a_bad_setting_is_one_clear_config_error(settings: Any, what: Any) -> None:
    with pytest.raises(ConfigError, match=what) as raised:
        make("test.sound", settings)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("network.latency", {"delay": 0}),
        ("network.partition", {"direction": "up"}),
        ("network.partition", {"how": 1}),
        ("network.bandwidth", {"rate": 0}),
        ("network.flapping", {"times": 0}),
        ("clock.offset", {"by": 0}),
        ("disk.full", {"capacity_bytes": -1}),
        ("host.restart", {"planned": "perhaps"}),
        ("host.slow", {"cpu": 1}),
        ("host.slow", {"cpu": 0}),
        ("host.unfair", {"stall_s": 0}),
        ("host.unfair", {"stall_s": 2, "every_s": 1}),
        ("host.unfair", {"stall_s": 6, "every_s": 60}),
        ("host.memory", {"spare_bytes": 0}),
        ("host.file_limit", {"spare": -1}),
        ("host.process_limit", {"spare": 0.5}),
        ("host.zombie", {"pause_s": 0}),
        ("disk.error", {"of": "some"}),
        ("clock.drift", {"rate": 0}),
        ("clock.drift", {"rate": -1}),
        ("clock.jump", {"by": 1, "every_s": 0}),
        ("application.exception", {"error": "Nonsense"}),
        ("application.exception", {"error": "int"}),
        ("application.delay", {"delay": 0}),
        ("application.thundering_herd", {"every_s": 0}),
        ("application.leak", {"rate": 0}),
    ],
)
def test_the_catalogue_refuses_settings_that_make_no_sense(name: Any, settings: Any) -> None:
    with pytest.raises(ConfigError, match=name):
        make(name, settings)


@pytest.mark.parametrize("name", ["", "network", "network.nothing", "nothing.at_all", "hosst.crash", "a\x00b"])
def test_an_unknown_fault_is_a_config_error(name: Any) -> None:
    with pytest.raises(ConfigError, match="unknown"):
        make(name, {})


def test_every_fault_of_the_catalogue_has_units_a_level_and_a_line_for_the_list() -> None:
    made: dict[str, Any] = {name: cls for name, cls in catalogue().items() if cls.__module__.startswith("zebra.")}
    assert len(made) > 50, "those that tests add aside"
    for name, cls in made.items():
        assert cls.__doc__.strip().splitlines()[0].endswith("."), name
        assert cls.zebra_level in ("application", "host", "network", "cluster"), name
        for setting, hint in cls.__annotations__.items():
            quantities = ("Seconds", "Probability", "Rate", "Bytes", "Count", "Spare", "Offset", "Drift")
            assert hint in (*quantities, "bool", "str", "list[dict[str, Any]]") or hint.startswith("Literal"), setting
