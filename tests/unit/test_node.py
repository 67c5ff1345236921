"""What a node knows of the others."""

from random import Random
from typing import Any

import pytest

from zebra.errors import ConfigError
from zebra.node import Node, Places
from zebra.targets.owl import TARGET
from zebra.topology import Topology

PLACES = Topology(counts={"proxy": 2, "app": 4}, per_host={"app": 2}, beside={"app": "proxy"}).places()


def node(name: str) -> Node[Any]:
    places = Places({place.node: place for place in PLACES})
    unused: Any = None
    return Node(place=places[name], config=None, incarnation=1, random=Random(0), clock=unused, disk=unused,
                emit=unused, ready=unused, places=places, variants=frozenset(), is_up=unused)  # fmt: skip


def test_a_node_finds_those_on_its_host() -> None:
    assert node("app-3").beside("proxy") == ("proxy-2",)
    assert node("app-3").beside("app") == ("app-4",)
    assert node("proxy-1").beside("app") == ("app-1", "app-2")
    assert node("app-1").peers("proxy") == ("proxy-1", "proxy-2")


def test_a_target_refuses_to_put_nodes_beside_a_role_that_it_lacks() -> None:
    with pytest.raises(ConfigError, match="role 'proxi' is unknown"):
        TARGET.full_topology(Topology(beside={"peer": "proxi"}))
