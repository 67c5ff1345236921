"""Processes keep the contract of all substrates."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

from zebra.substrate.process import SUBSTRATE

pytestmark = pytest.mark.skipif(bool(SUBSTRATE.unavailable()), reason=SUBSTRATE.unavailable())

_spec = importlib.util.spec_from_file_location("zebra_tests_conformance", Path(__file__).parents[1] / "conformance.py")
assert _spec is not None and _spec.loader is not None
conformance: Any = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(conformance)


@pytest.mark.parametrize("case", conformance.CASES, ids=lambda case: case.__name__)
def test_processes_conform(case: Any) -> None:
    conformance.check(case, "process")
