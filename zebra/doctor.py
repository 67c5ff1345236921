"""What each substrate can do on this machine, and why not the rest: the matrix that `zebra doctor` prints."""

from __future__ import annotations

import inspect
from typing import Any

from zebra.registry import load, members
from zebra.substrate import CAPABILITIES


def examine() -> list[dict[str, Any]]:
    """Every substrate, as tried out just now.

    `capabilities` and `arguments` (of their `add`, such as `links.rate`) say "yes" or why not.
    """
    rows = []
    for name in members("substrates"):
        substrate = load("substrates", name).SUBSTRATE
        reason = substrate.unavailable()
        refused = dict(getattr(substrate, "refused", {}))
        cells = {c: reason or ("yes" if c in substrate.capabilities else "not offered") for c in CAPABILITIES}
        arguments = {
            f"{capability}.{argument}": refused.get(f"{capability}.{argument}", "yes") if cell == "yes" else cell
            for capability, cell in cells.items()
            for argument in arguments_of(capability)
        }
        remarks = list(getattr(substrate, "remarks", ())) if not reason else []
        rows.append({"name": name, "available": not reason, "reason": reason, "capabilities": cells,
                     "arguments": arguments, "remarks": remarks})  # fmt: skip
    return rows


def arguments_of(capability: str) -> list[str]:
    """What effects of a capability can be asked for."""
    parameters = inspect.signature(CAPABILITIES[capability].add).parameters.values()  # type: ignore[attr-defined]
    return [each.name for each in parameters if each.kind is each.KEYWORD_ONLY]


def table(rows: list[dict[str, Any]]) -> str:
    """The matrix as text: a line per capability, and one per argument that some substrate lacks; reasons below it."""
    from tabulate import tabulate

    reasons: list[str] = []

    def cell(text: str) -> str:
        if text == "yes":
            return "yes"
        if text not in reasons:
            reasons.append(text)
        return f"- [{reasons.index(text) + 1}]"

    lines: list[list[str]] = []
    for capability in CAPABILITIES:
        lines.append([capability, *(cell(row["capabilities"][capability]) for row in rows)])
        for argument in arguments_of(capability):
            key = f"{capability}.{argument}"
            if any(row["arguments"][key] != row["capabilities"][capability] for row in rows):
                lines.append([key, *(cell(row["arguments"][key]) for row in rows)])
    text = tabulate(lines, headers=["", *(row["name"] for row in rows)], tablefmt="simple")
    notes = [f"[{number}] {reason}" for number, reason in enumerate(reasons, 1)]
    remarks = [f"{row['name']}: {remark}" for row in rows for remark in row["remarks"]]
    return "\n".join([text, *notes, *remarks])
