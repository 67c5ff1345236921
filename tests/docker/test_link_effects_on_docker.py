"""Effects of links and names between containers: those that the proxy and the nodes' loops bring there."""

from __future__ import annotations

from typing import Any

import pytest

from tests import link_effects
from tests.docker import engines

pytestmark = engines.needs_engine

CASES = [
    link_effects.corruption_turns_over_one_bit_of_a_stream_and_the_rest_arrives,
    link_effects.a_data_limit_cuts_a_connection_off_in_the_midst_of_a_message,
    link_effects.a_limit_of_connections_refuses_those_beyond_it_until_one_has_closed,
    link_effects.a_stale_name_leads_to_where_nobody_is,
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_an_effect_shows_and_is_healed(case: Any) -> None:
    link_effects.check(case, "docker", peers=3, timeout_s=180)
