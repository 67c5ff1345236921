"""Every effect of the catalogue's first part, in simulation."""

from __future__ import annotations

from typing import Any

import pytest

from tests import effects


@pytest.mark.parametrize("case", effects.CASES, ids=lambda case: case.__name__)
def test_an_effect_shows_and_is_healed(case: Any) -> None:
    effects.check(case, "sim")
