"""The tables in LAD's README say what its code says."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

import pytest

import zebra.targets.lad
from zebra.invariant import describe
from zebra.targets.lad import TARGET

README = (Path(str(zebra.targets.lad.__file__)).parent / "README.md").read_text()


def one_line(factory: Any) -> str:
    """The first sentence of an invariant's docstring."""
    text = " ".join(inspect.cleandoc(factory.__doc__).split())
    return text.partition(". ")[0].rstrip(".").replace("`", "")


def parameters() -> list[str]:
    rows = ["| parameter | default | others | what |", "|---|---|---|---|"]
    unsafe = set((TARGET.accepted.read_text() if TARGET.accepted else "").split("\n"))
    for name, parameter in TARGET.space.items():
        others = ", ".join(parameter.show(value) for value in parameter.alternatives())
        others = "timer" if parameter.param.timer else others
        mark = "**" if name in unsafe else ""
        rows.append(
            f"| {mark}`{name}`{mark} | {parameter.show(parameter.default)} | {others} | {parameter.param.doc} |"
        )
    return rows


def invariants() -> list[str]:
    rows = ["| name | what |", "|---|---|"]
    return [*rows, *(f"| `{describe(factory)[0]}` | {one_line(factory)} |" for factory in TARGET.invariants)]


@pytest.mark.parametrize("table", [parameters, invariants], ids=lambda table: table.__name__)
def test_table_is_that_of_the_code(table: Any) -> None:
    expected = "\n".join(table())
    assert expected in README, f"README.md should hold:\n{expected}"


def test_every_planted_bug_and_safe_form_is_named() -> None:
    named = set(re.findall(r"`((?:bug|safe)\.\w+)`", README))
    assert named == set(TARGET.variants)


def test_every_event_that_an_invariant_reads_is_named() -> None:
    kinds = {kind for factory in TARGET.invariants for kind in describe(factory)[1]}
    own = {kind for kind in kinds if not kind.startswith(("node.", "fault.")) and kind not in ("run", "clock")}
    assert sorted(own - set(re.findall(r"`([a-z.]+)`", README))) == []
