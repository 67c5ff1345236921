"""Whose a configuration object is: the rules one by one, and together on random programs."""

from __future__ import annotations

import gc

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, rule

from zebra.agent.context import Owner
from zebra.agent.ownership import Ownership

TEST, NOBODY = Owner("test", "", {}), Owner("?", "", {})
ONE, TWO = Owner("worker-1", "worker", {}), Owner("worker-2", "worker", {})


class Conf:
    """Any configuration object; all are equal, so that only identity tells them apart."""

    def __eq__(self, other: object) -> bool:
        return True

    def __hash__(self) -> int:
        return 1


def ownership() -> Ownership:
    return Ownership(TEST, NOBODY)


def test_who_creates_an_object_owns_it() -> None:
    objects, confs = ownership(), [Conf() for _ in range(4)]
    for conf, by in zip(confs, (ONE, TEST, NOBODY), strict=False):
        objects.created(conf, by)
    assert [objects.owner(conf) for conf in confs] == [ONE, TEST, NOBODY, NOBODY]


def test_a_copy_belongs_to_whom_the_original_belongs() -> None:
    objects = ownership()
    for by in (ONE, TEST, NOBODY):
        original, copy = Conf(), Conf()
        objects.created(original, by)
        objects.copied(original, copy, TWO)
        assert objects.owner(copy) is by


def test_what_is_handed_to_a_node_is_its_own_and_the_original_is_external() -> None:
    objects, original, first, second = ownership(), Conf(), Conf(), Conf()
    objects.created(original, NOBODY)
    objects.handed(original, first, ONE)
    objects.handed(original, second, TWO)
    assert [objects.owner(conf) for conf in (original, first, second)] == [TEST, ONE, TWO]


def test_external_spreads_over_uncertain_copies_and_originals_and_stops_at_nodes() -> None:
    objects = ownership()
    grandparent, parent, child, sibling, own = (Conf() for _ in range(5))
    objects.created(grandparent, NOBODY)
    objects.copied(grandparent, parent, NOBODY)
    objects.copied(parent, child, NOBODY)
    objects.copied(grandparent, sibling, NOBODY)
    objects.handed(grandparent, own, ONE)
    assert [objects.owner(conf) for conf in (grandparent, parent, child, sibling, own)] == [TEST] * 4 + [ONE]


def test_a_nodes_object_is_read_as_the_node_and_others_as_who_runs() -> None:
    objects, own, shared, unknown = ownership(), Conf(), Conf(), Conf()
    objects.created(own, ONE)
    objects.created(shared, TEST)
    objects.created(unknown, NOBODY)
    assert [objects.reader(own, by) for by in (ONE, TWO, TEST, NOBODY)] == [ONE] * 4
    assert [objects.reader(shared, by) for by in (ONE, TWO, TEST, NOBODY)] == [ONE, TWO, TEST, NOBODY]
    assert [objects.reader(unknown, by) for by in (ONE, TWO, TEST, NOBODY)] == [ONE, TWO, NOBODY, NOBODY]


def test_the_original_shows_what_a_node_wrote_last_and_the_nodes_do_not() -> None:
    objects, original, first, second, inner = ownership(), Conf(), Conf(), Conf(), Conf()
    objects.created(original, TEST)
    objects.handed(original, first, ONE)
    objects.handed(original, second, TWO)
    objects.copied(second, inner, TWO)
    assert objects.written_back(original, "port", 0) == 0
    objects.wrote(first, "port", 4711, ONE)
    assert objects.written_back(original, "port", 0) == 4711
    assert objects.written_back(second, "port", 0) == 0
    objects.wrote(inner, "port", 4712, TWO)
    assert objects.written_back(original, "port", 0) == 4712
    objects.wrote(original, "port", 80, TEST)
    assert objects.written_back(original, "port", 80) == 80
    assert objects.written_back(original, "host", "a") == "a"


def test_objects_are_not_kept_alive_and_their_places_are_not_mistaken() -> None:
    objects = ownership()
    for _ in range(100):
        conf = Conf()
        objects.created(conf, ONE)
        del conf
    gc.collect()
    assert not objects._objects


def test_objects_that_cannot_be_watched_are_kept_so_that_no_other_takes_their_place() -> None:
    class Slots:
        __slots__ = ()

    objects = ownership()
    for _ in range(10):
        objects.created(Slots(), ONE)
    assert objects.owner(Slots()) is NOBODY


class Programs(RuleBasedStateMachine):
    """Random creations, copies and hand-overs, against the rules as properties of the whole."""

    confs = Bundle("confs")
    people = st.sampled_from([ONE, TWO, TEST, NOBODY])

    @initialize()
    def begin(self) -> None:
        self.objects = ownership()
        self.kept: list[Conf] = []
        self.nodes: dict[int, Owner] = {}

    def new(self) -> Conf:
        self.kept.append(Conf())
        return self.kept[-1]

    @rule(target=confs, by=people)
    def create(self, by: Owner) -> Conf:
        conf = self.new()
        self.objects.created(conf, by)
        if by.role:
            self.nodes[id(conf)] = by
        return conf

    @rule(target=confs, original=confs, by=people)
    def copy(self, original: Conf, by: Owner) -> Conf:
        copy, before = self.new(), self.objects.owner(original)
        self.objects.copied(original, copy, by)
        assert self.objects.owner(copy) is before
        if before.role:
            self.nodes[id(copy)] = before
        return copy

    @rule(target=confs, original=confs, node=st.sampled_from([ONE, TWO]))
    def hand(self, original: Conf, node: Owner) -> Conf:
        copy = self.new()
        self.objects.handed(original, copy, node)
        assert self.objects.owner(copy) is node
        if id(original) not in self.nodes:
            assert self.objects.owner(original) is TEST
        self.nodes[id(copy)] = node
        return copy

    def teardown(self) -> None:
        for conf in getattr(self, "kept", ()):
            owner = self.objects.owner(conf)
            assert owner is self.nodes.get(id(conf), owner)  # a node's object stays a node's
            assert owner.role == "" or id(conf) in self.nodes  # and no other becomes one


TestPrograms = Programs.TestCase
TestPrograms.settings = settings(max_examples=60, stateful_step_count=20, deadline=None)
