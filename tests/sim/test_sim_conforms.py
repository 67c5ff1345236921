"""The simulation keeps the contract of all substrates."""

from __future__ import annotations

from typing import Any

import pytest

from tests import conformance


@pytest.mark.parametrize("case", conformance.CASES, ids=lambda case: case.__name__)
def test_sim_conforms(case: Any) -> None:
    conformance.check(case, "sim")
