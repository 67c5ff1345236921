"""The smallest invariant: it is content with everything."""

from zebra import Event, invariant
from zebra.testing import check_invariant, event, history


@invariant("example.noop", on="lock.acquired")
class Noop:
    """Nothing is demanded."""

    def check(self, event: Event) -> None:
        return None


if __name__ == "__main__":
    assert check_invariant(Noop, history(event("lock.acquired", node="a"))) is None
    print("holds")
