"""Faults of the catalogue that `check_fault` can show on every substrate with real processes."""

from __future__ import annotations

from typing import Any

import pytest

from zebra.testing import check_fault

Fault = tuple[str, dict[str, Any]]
FAULTS: list[Fault] = [
    ("network.latency", {"delay": "30ms"}),
    ("network.partition", {"how": "reject"}),
    ("network.loss", {"probability": 0.2}),
    ("network.bandwidth", {"rate": "20kB/s"}),
    ("network.duplicate", {"probability": 1.0}),
    ("network.reorder", {"probability": 1.0}),
    ("network.reset", {}),
    ("network.flapping", {"down_s": 0.3, "times": 1}),
    ("clock.offset", {"by": "100s"}),
    ("disk.slow", {"rate": 2000}),
    ("disk.full", {}),
    ("host.stop", {}),
    ("host.restart", {"down_s": 0.1}),
]


def each_of(*faults: Fault) -> pytest.MarkDecorator:
    """A test runs with each of these faults."""
    ids = [f"{name}-" for name, _ in faults]
    return pytest.mark.parametrize(("fault", "settings"), faults, ids=ids)


def takes_effect_and_heals(substrate: str, fault: str, settings: dict[str, Any]) -> None:
    checked = check_fault(fault, "server-1", spec={"substrate": substrate}, **settings)
    assert checked.on.result == "pass", checked.on.explain()
    assert checked.took_effect
