"""An invariant with a setting, and with evidence of its own choice."""

from functools import partial

from zebra import Event, Violation, invariant
from zebra.testing import check_invariant, event, history


@invariant("example.budget", on=("node.crash", "node.ready"))
class Budget:
    """No more than `budget` nodes are down at once."""

    def __init__(self, budget: int = 1) -> None:
        self.budget = budget
        self.down: dict[str, Event] = {}

    def check(self, event: Event) -> Violation | None:
        if event.kind == "node.ready":
            self.down.pop(event.node, None)
            return None
        self.down[event.node] = event
        if len(self.down) <= self.budget:
            return None
        message = f"{len(self.down)} down, budget {self.budget}: {', '.join(self.down)}"
        return Violation(message, events=tuple(self.down.values()))


if __name__ == "__main__":
    crashes = history(event("node.crash", node="a"), event("x"), event("node.crash", node="b"))
    assert check_invariant(partial(Budget, budget=2), crashes) is None
    found = check_invariant(Budget, crashes)
    assert found is not None
    print(found.message, found.seqs())
