"""Every effect of the catalogue's first part, on processes."""

from __future__ import annotations

from typing import Any

import pytest

from tests import effects
from zebra.substrate.process import SUBSTRATE

pytestmark = pytest.mark.skipif(bool(SUBSTRATE.unavailable()), reason=SUBSTRATE.unavailable())


@pytest.mark.parametrize("case", [*effects.CASES, *effects.REAL_CASES], ids=lambda case: case.__name__)
def test_an_effect_shows_and_is_healed(case: Any) -> None:
    effects.check(case, "process")
