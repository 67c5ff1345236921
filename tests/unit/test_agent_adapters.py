"""Each adapter: nodes in one process read values of their own, reads are noted, and nothing of it stays."""

from __future__ import annotations

import collections
import configparser
import copy
import dataclasses
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from zebra import agent
from zebra.agent.adapter import Adapter, Mark, find_adapter, target_of
from zebra.agent.adapters.configparser import ConfigParser
from zebra.agent.adapters.dataclass import Dataclass
from zebra.agent.adapters.environ import Environ
from zebra.agent.adapters.mapping import Mapping
from zebra.agent.agent import Agent
from zebra.agent.defaults import as_text
from zebra.errors import ConfigError, PluginError
from zebra.params import Assignment, Param
from zebra.spec import RunSpec

HERE = Path(__file__).name


@contextmanager
def running(adapter: Adapter, assignment: Assignment | None = None) -> Iterator[Agent]:
    found = Agent(adapter)
    found.start()
    try:
        with found.run(RunSpec(target=adapter.name, assignment=assignment or {}), record=True):
            yield found
    finally:
        found.stop()


class Dict(dict[str, Any]):
    """Settings that are a dict."""


class User(collections.UserDict[str, Any]):
    """Settings that hold a dict."""


@dataclasses.dataclass
class Db:
    pool: int = 4


@dataclasses.dataclass
class Plain:
    port: int = 80
    mode: str = "fast"
    db: Db = dataclasses.field(default_factory=Db)


@dataclasses.dataclass(frozen=True)
class Frozen:
    port: int = 80
    mode: str = "fast"


@dataclasses.dataclass(slots=True)
class Slotted:
    port: int = 80
    mode: str = "fast"


def parser() -> configparser.ConfigParser:
    made = configparser.ConfigParser()
    made.read_dict({"server": {"port": "80", "mode": "fast"}})
    return made


FLAT = {"port": 80, "mode": "fast"}
ENUM = {"mode": ("fast", "safe")}
Case = tuple[Adapter, Callable[[], Any], Callable[[Any], int], Callable[[Any, int], None], str]


def item(conf: Any) -> int:
    return int(conf["port"])


def set_item(conf: Any, port: int) -> None:
    conf["port"] = port


def attribute(conf: Any) -> int:
    return int(conf.port)


def set_attribute(conf: Any, port: int) -> None:
    object.__setattr__(conf, "port", port)


def set_option(conf: configparser.ConfigParser, port: int) -> None:
    conf.set("server", "port", str(port))


CASES: dict[str, Case] = {
    "dict": (Mapping("app", Dict, FLAT, choices=ENUM), lambda: Dict(FLAT), item, set_item, "app.port"),
    "userdict": (Mapping("app", User, FLAT, choices=ENUM), lambda: User(FLAT), item, set_item, "app.port"),
    "dataclass": (Dataclass("app", Plain, choices=ENUM), Plain, attribute, set_attribute, "app.port"),
    "frozen": (Dataclass("app", Frozen, choices=ENUM), Frozen, attribute, set_attribute, "app.port"),
    "slots": (Dataclass("app", Slotted, choices=ENUM), Slotted, attribute, set_attribute, "app.port"),
    "configparser": (
        ConfigParser("app", {"server.port": 80, "server.mode": "fast"}), parser,
        lambda conf: int(conf.getint("server", "port")), set_option, "app.server.port",
    ),
}  # fmt: skip


def pydantic_case() -> Case:
    pytest.importorskip("pydantic_settings")
    from pydantic_settings import BaseSettings

    from zebra.agent.adapters.pydantic_settings import PydanticSettings

    class Settings(BaseSettings):
        port: int = 80
        mode: str = "fast"

    def assign(conf: Any, port: int) -> None:
        conf.port = port

    return PydanticSettings("app", Settings, choices=ENUM), Settings, attribute, assign, "app.port"


@pytest.fixture(params=[*CASES, "pydantic"])
def case(request: pytest.FixtureRequest) -> Case:
    return pydantic_case() if request.param == "pydantic" else CASES[request.param]


# -- adapters of configuration objects ---------------------------------------------------------------------------


def test_each_node_reads_its_own_value_from_what_it_was_given(case: Case) -> None:
    adapter, make, read, _, name = case
    with running(adapter, {name: {"*": 80, "server-2": 81}}) as found:
        shared, own = make(), []
        for _ in range(2):
            with agent.node("server") as me:
                own.append(me.receive(shared))
        assert [read(conf) for conf in own] == [80, 81]  # whoever reads them
        assert read(shared) == 80
        with agent.node("client"):
            assert read(shared) == 80
        assert all(found.objects.owner(conf).is_node for conf in own)
    assert {(r.role, r.node, r.value) for r in found.reads if r.parameter == name} >= {
        ("server", "server-1", 80), ("server", "server-2", 81), ("client", "client-1", 80)}  # fmt: skip
    assert {r.site.rpartition(":")[0].rpartition("/")[2] for r in found.reads} == {HERE}
    assert [read(conf) for conf in own] == [80, 80]  # nothing of it stays


def test_what_a_node_writes_is_seen_through_the_shared_original(case: Case) -> None:
    adapter, make, read, write, _ = case
    with running(adapter):
        shared = make()
        with agent.node("server") as me:
            first = me.receive(shared)
            assert me.receive(first) is first
        with agent.node("server") as me:
            second = me.receive(shared)
        write(first, 4711)
        assert (read(shared), read(first), read(second)) == (4711, 4711, 80)
        write(shared, 90)
        assert (read(shared), read(first), read(second)) == (90, 4711, 80)


def test_copies_follow_the_original(case: Case) -> None:
    adapter, make, _, _, _ = case
    with running(adapter) as found:
        with agent.node("server"):
            mine = make()
            assert found.objects.owner(mine).name == "server-1"
        for made in (copy.copy(mine), copy.deepcopy(mine)):
            assert found.objects.owner(made).name == "server-1"
        assert found.objects.owner(make()) is found.external
    assert not found.reads  # copying is no reading


def test_stopping_puts_back_the_class_as_it_was(case: Case) -> None:
    adapter, make, _, _, _ = case
    kinds = type(make()).__mro__[:2]
    before = [dict(vars(kind)) for kind in kinds]
    with running(adapter):
        assert [dict(vars(kind)) for kind in kinds] != before
    assert [dict(vars(kind)) for kind in kinds] == before


def test_the_space_follows_from_the_defaults(case: Case) -> None:
    space = case[0].space()
    assert space[case[4]].default == 80 and space[case[4]].alternatives() == (160, 40)
    mode = case[4].replace("port", "mode")
    assert space[mode].alternatives() == (("safe",) if space[mode].choices else ())


def test_marked_classes_are_nodes_and_get_copies_of_their_own() -> None:
    class Server:
        def __init__(self, settings: Plain) -> None:
            self.settings = settings
            settings.port += 1

    class Sub(Server):
        def __init__(self, settings: Plain) -> None:
            super().__init__(settings)
            self.helper = Server(self.settings)

    marks = (Mark(Server, "server"), Mark(Sub, "sub"))
    assignment: Assignment = {"app.mode": {"*": "fast", "server": "safe"}}
    with running(Dataclass("app", Plain, choices=ENUM, roles=marks), assignment) as found:
        shared = Plain()
        server, sub = Server(shared), Sub(shared)
        assert [server.settings.mode, sub.settings.mode, shared.mode] == ["safe", "fast", "fast"]
        assert sub.helper.settings is sub.settings  # a node's own object stays as it is
        assert list(found.nodes) == ["server-1", "sub-1", "server-2"]
    assert "__init__" in vars(Server) and Server(Plain()).settings.port == 81


def test_nested_settings_have_dotted_names_and_the_owner_of_the_whole() -> None:
    with running(Dataclass("app", Plain, choices=ENUM), {"app.db.pool": {"*": 4, "server": 8}}) as found:
        shared = Plain()
        with agent.node("server") as me:
            own = me.receive(shared)
        assert (own.db.pool, shared.db.pool, own.db is shared.db) == (8, 4, False)
    assert ("server-1", "app.db.pool", 8) in {(read.node, read.parameter, read.value) for read in found.reads}


def test_a_class_that_is_nested_twice_is_refused() -> None:
    @dataclasses.dataclass
    class Twice:
        a: Db = dataclasses.field(default_factory=Db)
        b: Db = dataclasses.field(default_factory=Db)

    with pytest.raises(ConfigError, match="Db is nested twice"):
        Dataclass("app", Twice)


def test_mappings_answer_get_items_and_values_alike() -> None:
    with running(Mapping("app", Dict, FLAT), {"app.port": {"*": 80, "server": 81}}), agent.node("server"):
        conf = Dict(FLAT)
        assert (conf["port"], conf.get("port"), dict(conf.items())["port"], *conf.values()) == (81, 81, 81, 81, "fast")
        assert conf.get("gone", 5) == 5
        with pytest.raises(KeyError):
            conf["gone"]


def test_parsers_answer_sections_and_items_alike() -> None:
    adapter = ConfigParser("app", {"server.port": 80, "server.tls": False})
    with running(adapter, {"app.server.tls": {"*": True}}), agent.node("server"):
        conf = parser()
        conf.set("server", "tls", "no")
        assert conf.getboolean("server", "tls") is conf["server"].getboolean("tls") is True
        assert dict(conf.items("server"))["tls"] == dict(conf["server"])["tls"] == "true"


# -- os.environ --------------------------------------------------------------------------------------------------


def test_environment_variables_per_node_and_in_their_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("APP_SIZE", "1")
    with running(Environ("app", {"APP_SIZE": 1, "APP_GONE": 2}), {"app.APP_SIZE": {"*": 1, "worker:even": 3}}) as found:
        names = []
        for _ in range(2):
            with agent.node("worker"):
                names.append((os.environ["APP_SIZE"], os.getenv("APP_SIZE"), os.getenv("APP_GONE", "none")))
    assert names == [("1", "1", "none"), ("3", "3", "none")]
    assert {(r.node, r.value, r.site.partition(":")[0].rpartition("/")[2]) for r in found.reads} == {
        ("worker-1", 1, HERE), ("worker-2", 3, HERE),
        ("worker-1", 2, HERE), ("worker-2", 2, HERE)}  # a variable that is not set has the default  # fmt: skip


# -- who is not known --------------------------------------------------------------------------------------------

os.environ["ZEBRA_TEST_EARLY"] = "1"


def test_reads_before_any_node_are_uncertain_and_later_ones_of_the_test_are_not() -> None:
    with running(Environ("app", {"ZEBRA_TEST_EARLY": 1, "HOME": "/"})) as found:
        early = os.environ["ZEBRA_TEST_EARLY"]
        with agent.node("worker"):
            pass
        os.environ["HOME"]
    assert early == "1"
    assert list(found.uncertain_at) == ["app.ZEBRA_TEST_EARLY"]
    assert found.uncertain_at["app.ZEBRA_TEST_EARLY"].rpartition("/")[2].startswith(f"{HERE}:")
    assert [(read.role, read.node, read.parameter) for read in found.reads] == [("", "test", "app.HOME")]


def test_reads_of_a_module_that_a_node_imports_are_uncertain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "zebra_test_late.py").write_text("import os\nSIZE = os.environ['ZEBRA_TEST_EARLY']\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with running(Environ("app", {"ZEBRA_TEST_EARLY": 1})) as found, agent.node("worker"):
        import zebra_test_late  # type: ignore[import-not-found]
    assert zebra_test_late.SIZE == "1"
    assert found.uncertain_at["app.ZEBRA_TEST_EARLY"].endswith("zebra_test_late.py:2") and not found.reads


# -- adapters as such --------------------------------------------------------------------------------------------


def test_defaults_of_other_types_are_text_that_stands_for_what_it_says() -> None:
    adapter = Mapping("app", Dict, {"proxy": None, "hosts": ["a"]}, params={"proxy": Param("direct", "3")})
    space = adapter.space()
    assert (space["app.proxy"].default, space["app.hosts"].default) == ("null", "[a]")
    assert space["app.proxy"].alternatives() == ("direct", "3") and not space["app.hosts"].alternatives()
    with running(adapter, {"app.proxy": {"*": "3"}}), agent.node("server"):
        assert Dict(proxy=None)["proxy"] == 3
    assert adapter.value(space["app.proxy"], None) == "null" == as_text(None)


def test_adapters_are_found_by_name_or_place_and_others_refused() -> None:
    with pytest.raises(ConfigError, match="agent 'dusk' is unknown, did you mean dask"):
        find_adapter("dusk")
    with pytest.raises(ConfigError, match="cannot import no_such_module"):
        find_adapter("no_such_module:ADAPTER")
    with pytest.raises(PluginError, match="it has no name, space, install"):
        find_adapter("zebra.agent.adapters.files:conf")


def test_a_target_is_made_of_an_adapter() -> None:
    target = target_of("app_settings:ADAPTER", Environ("app", FLAT))
    assert (target.name, target.agent, list(target.space)) == ("app", "app_settings:ADAPTER", ["app.port", "app.mode"])
