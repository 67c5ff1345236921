"""The composite invariant."""

from __future__ import annotations

from zebra import never
from zebra.plugins.composite import composite
from zebra.testing import check_invariant, event, history


def test_a_composite_holds_when_its_parts_do_and_names_the_part_that_does_not() -> None:
    both = composite("test.both", never("test.no_a", "a"), never("test.no_b", "b"))
    assert check_invariant(both, history(event("c"))) is None
    found = check_invariant(both, history(event("c"), event("b")))
    assert found is not None and found.invariant == "test.no_b"
