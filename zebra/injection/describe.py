"""The catalogue of faults as a page: `python -m zebra.injection.describe > docs/faults.md` writes it anew.

All of it comes from the code: names, levels, settings with units and defaults, first lines of docstrings, and on which
substrates each works, from what it asks of its capability.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Iterator, Mapping
from random import Random
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from zebra.injection.fault import catalogue, find
from zebra.injection.selection import Selection
from zebra.registry import load, members
from zebra.topology import Place
from zebra.units import Unit, show

HEAD = """# The catalogue of faults

This page is generated: `python -m zebra.injection.describe > docs/faults.md`. `zebra list faults` prints the names, and
[creating-a-fault.md](creating-a-fault.md) shows how to write one.

A fault is injected with `async with cluster.fault("disk.full", "one(store)", capacity_bytes="1MiB"):` or by a schedule.
Times are written like `250ms`, sizes like `8MiB`, rates like `10Mbit/s`, shares like `0.1` or `10%`. A setting without
a default must be given. The level says what is hit: `host` faults hit the selected nodes' hosts and all that runs
there, `application` faults the selected nodes alone, `network` faults the links that touch them.

A fault that never acted makes its run inconclusive. One that cannot work is refused in one line that says why: on a
substrate that is not in its row, on a machine without what it needs, and, for faults of disks, at nodes that run a
server which is not ours.

Faults of clocks reach such a server by [libfaketime](https://github.com/wolfcw/libfaketime) (Debian's package of that
name) if it has loaded the library when it started: only `ZEBRA_FAKETIME=1` has it do so (or the library's path in place
of the 1), for each look at the clock then takes some microseconds more: Valkey hardly notices, PostgreSQL answers small
queries at about half the rate. What a role starts with `zebra.programs.Program`, or with `node.environment`, is
reached; a statically linked program is refused, and a Python program must not be started so, as its `time.sleep` would
fail. Monotonic clocks, the times of files and the events of zebra stay true. A drifting clock moves in steps of 10 ms.
Such a fault has acted when a program asked for the time while it was wrong.

`application` faults act at sites (`at`). Each type of request that a role serves by `zebra.rpc` is one, by the name of
its class; `*` is all of them. A line in the code makes another one:

```python
await zebra.failpoint("store.before_commit")  # application.exception and application.delay act here
if zebra.buggify("store.flush_late"):  # true now and then under application.buggify, never outside zebra
    await asyncio.sleep(1.0)
```

A configuration that is pushed (`await cluster.configure(node, values, "reload")`) passes the site `reload`.
"""
_KINDS = {"s": "time", "B": "size", "B/s": "rate", "1": "share", "count": "number"}
_RATES = ((1e9, "GB/s"), (1e6, "MB/s"), (1e3, "kB/s"))
_SAMPLES = {"s": 1.0, "B": 1 << 20, "B/s": 1e6, "1": 0.5, "count": 1}
_GROUPS = (("server-1", "server-2"), ("server-3", "server-4"))
_PLACES = tuple(Place(node=f"server-{n}", role="server", host=f"h{n}", rack="", dc="", region="") for n in range(1, 6))


class _Asked:
    """Stands for a capability, and notes what is asked of it: the arguments that say something."""

    def __init__(self) -> None:
        self.arguments: set[str] = set()

    async def add(self, _: Any, **arguments: Any) -> Any:
        self.arguments |= {name for name, value in arguments.items() if value is not None and value is not False}


def describe() -> str:
    """The page, in Markdown."""
    faults = {name: cls for name, cls in catalogue().items() if cls.__module__.startswith("zebra.")}
    families: dict[str, list[str]] = {}
    for name in faults:
        families.setdefault(name.partition(".")[0], []).append(name)
    substrates = {name: load("substrates", name).SUBSTRATE for name in members("substrates")}
    parts = [HEAD]
    for family, names in families.items():
        parts.append(f"## {family}\n")
        parts.append("| fault | level | settings | what it does | substrates |\n|---|---|---|---|---|")
        parts += [_row(name, faults[name], substrates) for name in names]
        parts.append("")
    reasons = sorted({(n, what, why) for n, each in substrates.items() for what, why in _refused(each).items()})
    if reasons:
        parts.append("## What is refused, and why\n")
        parts += [f"- {name}, {what}: {why}." for name, what, why in reasons]
    return "\n".join(parts).rstrip() + "\n"


def _row(name: str, cls: Any, substrates: Mapping[str, Any]) -> str:
    about = " ".join(cls.__doc__.partition("Source:")[0].split())
    works = [each for each, substrate in substrates.items() if not refusals(name, substrate)]
    return f"| `{name}` | {cls.zebra_level} | {_settings(cls)} | {about} | {', '.join(works)} |"


def _settings(cls: Any) -> str:
    hints = get_type_hints(cls, include_extras=True)
    shown = []
    for field in dataclasses.fields(cls):
        hint = hints[field.name]
        unit = _unit(hint)
        if unit is not None:
            kind = _KINDS[unit.name]
        elif get_origin(hint) is Literal:
            kind = " or ".join(f"`{each}`" for each in get_args(hint))
        else:
            kinds = {"list": "list of steps", "bool": "`true` or `false`"}
            kind = kinds.get((get_origin(hint) or hint).__name__, "text")
        if field.default is dataclasses.MISSING:
            shown.append(f"`{field.name}` ({kind})")
        else:
            shown.append(f"`{field.name}={_value(field.default, unit)}` ({kind})")
    return ", ".join(shown)


def _value(value: Any, unit: Unit | None) -> str:
    if unit is not None and unit.name == "B/s":
        size, name = next(((size, name) for size, name in _RATES if value >= size), (1.0, "B/s"))
        return f"{value / size:g}{name}"
    return f"{value:g}" if unit is not None and unit.name == "1" else show(value, unit.name if unit else "")


def _unit(hint: Any) -> Unit | None:
    if get_origin(hint) is not Annotated:
        return None
    return next((extra for extra in get_args(hint)[1:] if isinstance(extra, Unit)), None)


def refusals(name: str, substrate: Any) -> list[str]:
    """Why a fault does not work on a substrate; [] if it does."""
    refused = _refused(substrate)
    found = []
    for capability, arguments in _needs(name):
        if capability not in substrate.capabilities:
            found.append(f"it does not offer {capability}")
        found += [refused[f"{capability}.{each}"] for each in sorted(arguments) if f"{capability}.{each}" in refused]
    return found


def _refused(substrate: Any) -> dict[str, str]:
    return dict(getattr(substrate, "refused", {}))


def _needs(name: str) -> Iterator[tuple[str, set[str]]]:
    """The capabilities that a fault acts through, and the arguments that it gives them."""
    cls: Any = find(name)
    made = cls(**_sample(cls))
    on = Selection(_GROUPS, _PLACES)
    if hasattr(made, "expand"):
        for step in made.expand(on, Random(0)).steps:
            yield from _needs(step.fault)
        return
    asked = _Asked()
    asyncio.run(made.inject(on, asked))
    yield cls.zebra_needs, asked.arguments


def _sample(cls: Any) -> dict[str, Any]:
    """Some valid settings of a fault."""
    hints = get_type_hints(cls, include_extras=True)
    wanted = [field.name for field in dataclasses.fields(cls) if field.default is dataclasses.MISSING]
    return {name: _sample_of(hints[name]) for name in wanted}


def _sample_of(hint: Any) -> Any:
    unit = _unit(hint)
    if unit is not None:
        return _SAMPLES[unit.name]
    return [{"fault": "noop"}] if get_origin(hint) is list else "text"


if __name__ == "__main__":
    print(describe(), end="")
