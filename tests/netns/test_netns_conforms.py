"""Network namespaces keep the contract of all substrates."""

from __future__ import annotations

from typing import Any

import pytest

from tests import conformance
from zebra.substrate.netns import SUBSTRATE

pytestmark = pytest.mark.skipif(bool(SUBSTRATE.unavailable()), reason=SUBSTRATE.unavailable())


@pytest.mark.parametrize("case", conformance.CASES, ids=lambda case: case.__name__)
def test_namespaces_conform(case: Any) -> None:
    conformance.check(case, "netns")
