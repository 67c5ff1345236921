"""An invariant that remembers: no term has two leaders."""

from zebra import Event, invariant
from zebra.testing import check_invariant, event, history


@invariant("example.one_leader", on="leader.elected")
class OneLeader:
    """At most one node is elected in any one term.

    Source: Ongaro and Ousterhout 2014 (Raft), section 5.2.
    """

    def __init__(self) -> None:
        self.leaders: dict[int, str] = {}

    def check(self, event: Event) -> str | None:
        first = self.leaders.setdefault(event["term"], event.node)
        if first != event.node:
            return f"term {event['term']}: {first} and {event.node} were both elected"
        return None


def elected(node: str, term: int) -> Event:
    return event("leader.elected", node=node, term=term)


if __name__ == "__main__":
    assert check_invariant(OneLeader, history(elected("a", 1), elected("b", 2), elected("a", 3))) is None
    found = check_invariant(OneLeader, history(elected("a", 1), elected("b", 1)))
    assert found is not None
    print(found.message, found.seqs())
