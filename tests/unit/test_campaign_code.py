"""Digests of code: what changes them, and what does not."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from zebra import Param, Target
from zebra.campaign import code
from zebra.params.parameter import Parameter
from zebra.target import find_target

FILES = {
    "zc_app/__init__.py": "",
    "zc_app/config.py": """
import msgspec
class Inner(msgspec.Struct, frozen=True):
    size: int = 3
class Config(msgspec.Struct, frozen=True):
    inner: Inner = Inner()
    def doubled(self):
        return self.inner.size * 2
""",
    "zc_app/roles.py": """
from . import wire
from .config import Config
class Server:
    def __init__(self, node):
        self.node = node
    async def run(self):
        import zc_late
        wire.send()
""",
    "zc_app/wire.py": "def send():\n    return 1\n",
    "zc_app/unused.py": "X = 1\n",
    "zc_late.py": "Y = 1\n",
    "zc_test.py": "import zc_app.roles\nasync def test_x(cluster):\n    pass\n",
    "zc_conftest.py": "Z = 1\n",
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for name in [name for name in sys.modules if name.startswith("zc_")]:
        del sys.modules[name]


def digest(folder: Path) -> str:
    """Of the test in the files as they are now."""
    for cache in (code._dumped, code._parsed):
        cache.cache_clear()
    for name in ("zc_app.config", "zc_app.roles", "zc_app.unused", "zc_late", "zc_test", "zc_conftest"):
        importlib.import_module(name)
    modules = sys.modules
    target = Target(name="zc", config=modules["zc_app.config"].Config, roles={"server": modules["zc_app.roles"].Server})
    return code.of_test([modules["zc_test"], modules["zc_conftest"]], target)


@pytest.mark.parametrize(
    ("name", "old", "new", "changed"),
    [
        ("zc_test.py", "pass", "assert True", True),
        ("zc_conftest.py", "Z = 1", "Z = 2", True),
        ("zc_app/roles.py", "self.node = node", "self.node = node; self.x = 1", True),
        ("zc_app/wire.py", "return 1", "return 2", True),
        ("zc_late.py", "Y = 1", "Y = 2", True),
        ("zc_app/__init__.py", "", "A = 1", True),
        ("zc_app/config.py", "size * 2", "size * 3", True),
        ("zc_app/config.py", "size: int = 3", "size: int = 4", False),
        ("zc_app/unused.py", "X = 1", "X = 2", False),
        ("zc_app/wire.py", "return 1", "return 1  # one", False),
    ],
)
def test_what_changes_the_digest_of_a_test(name: str, old: str, new: str, changed: bool, folder: Path) -> None:
    before = digest(folder)
    assert digest(folder) == before
    text = (folder / name).read_text()
    assert old in text
    (folder / name).write_text(text.replace(old, new, 1))
    assert (digest(folder) != before) is changed


def test_the_code_of_a_shipped_target_is_followed_and_that_of_libraries_is_not() -> None:
    owl = find_target("owl")
    names = code.reached(code.target_modules(owl))
    assert {"zebra.targets.owl.peer", "zebra.targets.owl.messages", "zebra.targets.owl.forest"} <= names.keys()
    assert not [name for name in names if not name.startswith("zebra.targets")]
    assert ("zebra.targets.owl.config", "OwlConfig") in code.declarations(owl.config)


def parameter(default: int = 1, name: str = "p", **more: object) -> Parameter:
    return Parameter(name=name, type=int, default=default, path=("p",), param=Param(**more))  # type: ignore[arg-type]


def test_a_parameters_digest_is_of_its_values_and_not_of_its_documentation() -> None:
    usual = code.of_parameter(parameter())
    assert code.of_parameter(parameter(doc="about it")) == usual
    assert code.of_parameter(parameter(2)) != usual
    assert code.of_parameter(parameter(minimum=-3.0)) != usual
    assert code.of_parameter(parameter(why="no value is known")) != usual
    assert code.of_defaults({"p": parameter(2)}) != code.of_defaults({"p": parameter()})
