"""Every effect of links and names, on processes."""

from __future__ import annotations

from typing import Any

import pytest

from tests import link_effects
from zebra.substrate.process import SUBSTRATE

pytestmark = pytest.mark.skipif(bool(SUBSTRATE.unavailable()), reason=SUBSTRATE.unavailable())


@pytest.mark.parametrize("case", [*link_effects.CASES, *link_effects.REAL_CASES], ids=lambda case: case.__name__)
def test_an_effect_shows_and_is_healed(case: Any) -> None:
    link_effects.check(case, "process")
