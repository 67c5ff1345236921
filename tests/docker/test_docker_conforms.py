"""Containers keep the contract of all substrates."""

from __future__ import annotations

from typing import Any

import pytest

from tests import conformance
from tests.docker import engines

pytestmark = engines.needs_engine


@pytest.mark.parametrize("case", conformance.CASES, ids=lambda case: case.__name__)
def test_containers_conform(case: Any) -> None:
    conformance.check(case, "docker")
