"""The matrix of `zebra doctor`: no cell is empty without a reason."""

from __future__ import annotations

from typing import Any

from zebra.doctor import arguments_of, examine, table
from zebra.substrate import CAPABILITIES


def row(name: str, *, reason: str = "", refused: dict[str, str] | None = None, remarks: tuple[str, ...] = ()) -> Any:
    arguments = {
        f"{c}.{a}": reason or (refused or {}).get(f"{c}.{a}", "yes") for c in CAPABILITIES for a in arguments_of(c)
    }
    return {"name": name, "available": not reason, "reason": reason, "remarks": list(remarks), "arguments": arguments,
            "capabilities": dict.fromkeys(CAPABILITIES, reason or "yes")}  # fmt: skip


def test_every_cell_of_every_substrate_says_yes_or_why_not() -> None:
    rows = examine()
    assert {"sim", "process", "netns"} <= {each["name"] for each in rows}
    for each in rows:
        assert set(each["capabilities"]) == set(CAPABILITIES)
        assert set(each["arguments"]) == {f"{c}.{a}" for c in CAPABILITIES for a in arguments_of(c)}
        assert all([*each["capabilities"].values(), *each["arguments"].values()])
        if not each["available"]:
            assert set(each["arguments"].values()) == {each["reason"]}


def test_reasons_stand_below_the_table_once_each() -> None:
    text = table([row("whole"), row("none", reason="no kernel"), row("part", refused={"links.rate": "no bucket"})])
    lines = text.splitlines()
    assert [line.split() for line in lines if line.startswith("links")] == [
        ["links", "yes", "-", "[1]", "yes"],
        ["links.rate", "yes", "-", "[1]", "-", "[2]"],
    ]
    assert lines[-2:] == ["[1] no kernel", "[2] no bucket"]
    assert text.count("no kernel") == 1


def test_remarks_name_their_substrate() -> None:
    assert table([row("one", remarks=("by magic",))]).splitlines()[-1] == "one: by magic"
