"""The public surface, the layers, and what is shipped."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import zebra

ROOT = Path(__file__).parents[2]
FOLDERS = ("faults", "targets", "plugins", "reports")


def test_every_public_name_resolves_and_nothing_else_is_promised() -> None:
    declared = {
        alias.asname
        for node in ast.walk(ast.parse(Path(zebra.__file__).read_text()))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("zebra.")
        for alias in node.names
    }
    assert declared == set(zebra.__all__)
    for name in zebra.__all__:
        assert getattr(zebra, name) is not None
    with pytest.raises(AttributeError):
        _ = zebra.nothing_of_the_kind


def test_functions_stay_callable_after_their_modules_are_imported() -> None:
    import zebra.invariant
    import zebra.run

    assert callable(zebra.run) and callable(zebra.invariant)


LAYERS = (
    ("errors", "units", "waiter", "sites"),
    ("events", "topology", "blob", "registry", "proxy"),
    ("params", "invariant", "structure"),
    ("workload", "node"),
    ("rpc", "programs", "substrate"),
    ("injection",),
    ("substrate/process", "substrate/netns", "substrate/docker", "target", "cluster", "output", "errorlog"),
    ("spec", "outcome", "run", "doctor"),
    ("campaign", "report", "testing", "determinism", "agent"),
    ("plugin", "session", "campaign_session", "trial_protocol", "agent_session", "options"),
    ("cli",),
)


def _imports(path: Path) -> set[str]:
    """The first part below `zebra` of everything that a file imports when it is imported."""
    tree = ast.parse(path.read_text())
    skipped = [n for n in ast.walk(tree) if isinstance(n, ast.If) and ast.unparse(n.test) == "TYPE_CHECKING"]
    hidden = {id(inner) for node in skipped for inner in ast.walk(node)}
    found = set()
    for node in ast.walk(tree):
        if id(node) in hidden:
            continue
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("zebra"):
            found |= (
                {node.module.split(".")[1]} if "." in node.module else {f"zebra:{alias.name}" for alias in node.names}
            )
        elif isinstance(node, ast.Import):
            found |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("zebra.")}
    return found


def test_arrows_in_the_engine_point_one_way() -> None:
    rank = {name: level for level, names in enumerate(LAYERS) for name in names}
    wrong = []
    for path in sorted((ROOT / "zebra").rglob("*.py")):
        parts = path.relative_to(ROOT / "zebra").with_suffix("").parts
        if parts[0] in (*FOLDERS, "__init__"):
            continue
        part = "/".join(parts[:2]) if "/".join(parts[:2]) in rank else parts[0]
        assert part in rank, f"{path}: add it to LAYERS and to docs/architecture.md"
        for other in _imports(path):
            if other in FOLDERS or other.startswith("zebra:") or rank.get(other, 99) > rank[part]:
                wrong.append(f"{'/'.join(parts)} imports {other}")
    assert not wrong, "\n".join(wrong)


def test_only_pytests_side_of_the_engine_knows_pytest() -> None:
    for path in sorted((ROOT / "zebra").rglob("*.py")):
        parts = path.relative_to(ROOT / "zebra").parts
        if parts[0] not in (*FOLDERS, "plugin.py", "session.py", "campaign_session.py", "trial_protocol.py",
                            "agent_session.py", "cli.py"):  # fmt: skip
            assert "import pytest" not in path.read_text(), path


@pytest.mark.parametrize("folder", FOLDERS)
def test_the_four_folders_have_one_door(folder: str) -> None:
    assert (ROOT / "zebra" / folder).is_symlink()
    script = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import {folder}"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert result.returncode == 1 and f"import zebra.{folder} instead" in result.stderr


def test_wheel_and_sdist_hold_the_tree_and_nothing_generic(tmp_path: Path) -> None:
    copy = tmp_path / "tree"
    subprocess.run(["git", "-C", str(ROOT), "ls-files", "-z"], check=True, capture_output=True)
    names = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files"], check=True, capture_output=True, text=True
    ).stdout.splitlines()
    for name in names:
        source, target = ROOT / name, copy / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_symlink():
            target.symlink_to(source.readlink())
        elif source.exists():
            target.write_bytes(source.read_bytes())
    subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(tmp_path / "dist"), str(copy)],
        check=True,
        capture_output=True,
    )
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    (sdist,) = (tmp_path / "dist").glob("*.tar.gz")
    with zipfile.ZipFile(wheel) as archive:
        shipped = {name for name in archive.namelist() if not name.startswith("pytest_zebra-")}
    assert {name.split("/")[0] for name in shipped} == {"zebra"}
    wanted = {name for name in names if name.startswith("zebra/") and name.endswith(".py")}
    wanted |= {f"zebra/{name}" for name in names if name.startswith(FOLDERS) and name.endswith((".py", ".j2", ".txt"))}
    assert wanted <= shipped, sorted(wanted - shipped)
    assert "zebra/py.typed" in shipped
    with tarfile.open(sdist) as archive:
        held = {name.partition("/")[2] for name in archive.getnames()}
    assert {"pyproject.toml", "README.md", "LICENSE", "zebra/run.py"} <= held


def test_roles_never_ask_the_real_clock_or_the_module_random() -> None:
    forbidden = re.compile(
        r"datetime\.(?:utc)?now|^(?:import|from) (?:time|random)\b(?! import Random)|(?<!def )(?<![\w.])open\(",
        re.MULTILINE,
    )
    for path in sorted(path for name in ("owl", "lad") for path in (ROOT / "targets" / name).rglob("*.py")):
        if not path.name.startswith("test_"):
            found = forbidden.search(path.read_text())
            assert found is None, f"{path}: {found[0]}"
