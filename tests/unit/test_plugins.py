"""The general invariants: each accepts one history and refuses another."""

from typing import Any

import pytest

from zebra import plugins
from zebra.events import Event
from zebra.invariant import Violation, registered
from zebra.testing import check_invariant, event, history


def refused(factory: Any, events: list[Event]) -> Violation:
    """What an invariant finds in a history that it must not accept."""
    found = check_invariant(factory, events)
    assert found is not None
    return found


def test_each_is_registered_with_its_defaults_and_a_line_for_the_list() -> None:
    general = {name: factory for name, factory in registered().items() if name.startswith("general.")}
    assert set(general) == {
        f"general.{name}" for name in ("at_most_one_holder", "availability", "budget", "no_cycles", "noop", "sla")
    }
    assert all(factory.__doc__ and "partial" not in factory.__doc__ for factory in general.values())


def test_the_noop_always_holds_and_is_always_exercised() -> None:
    assert check_invariant(plugins.Noop, history(event("run"), event("x"))) is None


# -- no_cycles ---------------------------------------------------------------------------------------------------


def edge(child: Any, parent: Any, kind: Any = "edge.open", **more: Any) -> Any:
    return event(kind, node=child, child=child, parent=parent, **more)


def test_edges_without_a_cycle_are_accepted() -> None:
    tree = [edge("a", "root"), edge("b", "root"), edge("c", "a"), edge("c", "b")]
    assert check_invariant(plugins.no_cycles("test.tree"), history(*tree)) is None


def test_a_cycle_is_refused_with_the_edges_that_form_it() -> None:
    found = refused(
        plugins.no_cycles("test.tree"), history(edge("a", "b"), edge("x", "y"), edge("b", "c"), edge("c", "a"))
    )
    assert found.message == "a cycle: c -> a -> b -> c"
    assert found.seqs() == [0, 2, 3]


def test_an_edge_to_oneself_is_a_cycle() -> None:
    assert refused(plugins.no_cycles("test.tree"), history(edge("a", "a"))).seqs() == [0]


def test_a_closed_edge_forms_no_cycle_but_one_opened_twice_and_closed_once_does() -> None:
    opened, closed, back = edge("a", "b"), edge("a", "b", "edge.close"), edge("b", "a")
    tree = plugins.no_cycles("test.tree")
    assert check_invariant(tree, history(opened, closed, closed, back)) is None
    assert check_invariant(tree, history(opened, opened, closed, back)) is not None


def test_a_node_that_is_gone_has_no_edges_either_way() -> None:
    crash = event("node.crash", node="b")
    tree = plugins.no_cycles("test.tree")
    assert check_invariant(tree, history(edge("a", "b"), crash, edge("b", "a"))) is None
    assert check_invariant(tree, history(edge("b", "a"), crash, edge("a", "b"))) is None


def test_cycles_are_looked_for_per_key() -> None:
    per_chunk = plugins.no_cycles("test.chunks", opened="get", closed="got", child="node", parent="source", per="chunk")
    a, b = event("get", node="a", source="b", chunk=1), event("get", node="b", source="a", chunk=2)
    assert check_invariant(per_chunk, history(a, b)) is None
    found = refused(per_chunk, history(a, b, event("get", node="b", source="a", chunk=1)))
    assert found.message == "a cycle for chunk 1: b -> a -> b"


def test_a_long_chain_is_checked_as_it_grows() -> None:
    chain = [edge(f"n{i}", f"n{i + 1}") for i in range(2000)]
    assert check_invariant(plugins.no_cycles("test.tree"), history(*chain)) is None
    assert check_invariant(plugins.no_cycles("test.tree"), history(*chain, edge("n2000", "n0"))) is not None


# -- at_most_one_holder ------------------------------------------------------------------------------------------


def lock(kind: Any, node: Any, name: Any = "l") -> Any:
    return event(f"lock.{kind}", node=node, lock=name)


def test_a_lock_may_go_from_hand_to_hand_and_be_taken_twice_by_its_holder() -> None:
    ok = [
        lock("acquired", "a"),
        lock("acquired", "a"),
        lock("released", "a"),
        lock("acquired", "b"),
        lock("acquired", "a", "other"),
    ]
    assert check_invariant(plugins.at_most_one_holder("test.lock"), history(*ok)) is None


def test_two_holders_at_a_time_are_refused() -> None:
    bad = [lock("acquired", "a"), lock("released", "c"), lock("acquired", "b")]
    found = refused(plugins.at_most_one_holder("test.lock"), history(*bad))
    assert found.message == "b acquired l while a held it"
    assert found.seqs() == [0, 2]


def test_who_crashed_holds_nothing() -> None:
    crash = event("node.crash", node="a")
    assert (
        check_invariant(
            plugins.at_most_one_holder("test.lock"), history(lock("acquired", "a"), crash, lock("acquired", "b"))
        )
        is None
    )


# -- within_budget -----------------------------------------------------------------------------------------------


def test_as_many_may_be_down_as_the_budget_says() -> None:
    def down(task: int) -> Event:
        return event("task.down", task=task)

    def up(task: int) -> Event:
        return event("task.up", task=task)

    budget = plugins.within_budget("test.budget", budget=2)
    assert check_invariant(budget, history(down(1), down(1), down(2), up(1), down(3))) is None
    found = refused(budget, history(down(1), down(2), down(3)))
    assert found.message == "3 down, budget 2: 1, 2, 3"
    assert found.seqs() == [0, 1, 2]


def test_a_budget_can_be_for_nodes() -> None:
    budget = plugins.within_budget(
        "test.nodes", budget=1, down=("node.crash", "node.stop"), up=("node.ready",), what="node"
    )
    crash = [event("node.crash", node="a"), event("node.stop", node="b")]
    assert check_invariant(budget, history(crash[0], event("node.ready", node="a"), crash[1])) is None
    assert check_invariant(budget, history(*crash)) is not None


# -- availability ------------------------------------------------------------------------------------------------

PLACES = [{"node": f"s-{n}", "role": "store"} for n in (1, 2, 3)] + [{"node": "client-1", "role": "client"}]
START = [event("run", t=0.0, places=PLACES), *[event("node.ready", node=p["node"], t=0.0) for p in PLACES]]


def test_a_majority_that_is_up_at_any_time_is_accepted() -> None:
    majority = plugins.availability("test.majority", share=0.5, role="store")
    ok = [event("node.crash", node="s-1"), event("node.ready", node="s-1"), event("node.pause", node="s-2")]
    assert check_invariant(majority, history(*START, *ok)) is None


def test_a_minority_is_refused_at_the_event_that_left_it() -> None:
    majority = plugins.availability("test.majority", share=0.5, role="store")
    bad = [event("node.crash", node="client-1"), event("node.crash", node="s-1"), event("node.stop", node="s-2")]
    found = refused(majority, history(*START, *bad))
    assert found.message == "1 up, 2 are needed"
    assert found.seqs() == [7]


@pytest.mark.parametrize(("back_s", "held"), [(2.5, True), (3.5, False), (None, False)])
def test_a_dip_may_last_so_long_and_no_longer(back_s: Any, held: Any) -> None:
    dips = plugins.availability("test.dips", at_least=3, for_s=2.0, role="store")
    back = [] if back_s is None else [event("node.ready", node="s-1", t=back_s)]
    events = history(*START, event("node.crash", node="s-1", t=1.0), *back, event("x", t=9.0))
    assert (check_invariant(dips, events) is None) == held


def test_what_never_came_up_is_told_at_the_end() -> None:
    found = refused(plugins.availability("test.five", at_least=5), history(*START))
    assert "never as many up as the 5" in found.message


def test_other_things_than_nodes_can_be_counted() -> None:
    replicas = plugins.availability(
        "test.replicas", share=0.75, total=4, up=("replica.in",), down=("replica.out",), what="replica"
    )
    up = [event("replica.in", replica=n) for n in range(4)]
    assert check_invariant(replicas, history(*up, event("replica.out", replica=0))) is None
    assert (
        check_invariant(replicas, history(*up, event("replica.out", replica=0), event("replica.out", replica=1)))
        is not None
    )


# -- sla ---------------------------------------------------------------------------------------------------------


def operations(*ends: Any, f: Any = "read") -> Any:
    """An operation each second that ends as said: ("ok", seconds), or None for one that never ends."""
    made = []
    for number, end in enumerate(ends):
        made.append(event("op.invoke", t=float(number), client="c", op=number, f=f))
        if end is not None:
            made.append(event(f"op.{end[0]}", t=number + end[1], client="c", op=number, f=f))
    return [*made, event("x", t=len(ends) + 1.0)]


FAST, SLOW, LOST = ("ok", 0.1), ("ok", 0.9), ("unknown", 0.1)


def test_a_promise_that_is_kept_is_accepted() -> None:
    promise = plugins.sla("test.sla", within_s=0.5, share=0.75, at_least=4)
    assert check_invariant(promise, history(*operations(FAST, SLOW, FAST, FAST))) is None


@pytest.mark.parametrize("bad", [SLOW, LOST, ("fail", 0.1), None])
def test_a_promise_that_is_broken_is_refused_at_the_end(bad: Any) -> None:
    promise = plugins.sla("test.sla", within_s=0.5, share=0.75, at_least=4)
    found = refused(promise, history(*operations(FAST, bad, FAST, bad)))
    assert found.message.startswith("2 of 4 ok within 0.5 s of all operations")


def test_few_operations_are_not_judged_and_others_do_not_count() -> None:
    assert check_invariant(plugins.sla("test.sla", at_least=3), history(*operations(LOST, LOST))) is None
    assert check_invariant(plugins.sla("test.sla", of="write", at_least=1), history(*operations(LOST))) is None


def test_a_window_finds_a_bad_spell_in_a_good_run() -> None:
    ends = [FAST] * 20 + [LOST] * 3 + [FAST] * 77
    whole = plugins.sla("test.sla", within_s=0.5, share=0.9, at_least=5)
    windowed = plugins.sla("test.window", within_s=0.5, share=0.9, window_s=10.0, at_least=5)
    assert check_invariant(whole, history(*operations(*ends))) is None
    found = refused(windowed, history(*operations(*ends)))
    assert found.message.startswith("8 of 10 ok within 0.5 s of those in the last 10 s")
    assert found.t == pytest.approx(21.1)
