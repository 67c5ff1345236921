"""Where nodes are."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zebra.errors import ConfigError
from zebra.topology import Topology


def test_nodes_are_spread_over_regions_then_datacenters_then_racks() -> None:
    places = Topology(counts={"peer": 8}, regions=2, dcs=2, racks=2).places()
    assert [place.region for place in places[:4]] == ["r1", "r2", "r1", "r2"]
    assert len({place.dc for place in places}) == 4
    assert len({place.rack for place in places}) == 8
    assert [place.node for place in places] == [f"peer-{n}" for n in range(1, 9)]


def test_nodes_of_a_role_share_a_host_only_when_asked() -> None:
    alone = Topology(counts={"peer": 4}).places()
    assert len({place.host for place in alone}) == 4
    shared = Topology(counts={"peer": 4}, per_host={"peer": 2}).places()
    assert [place.host for place in shared] == ["r1-peer-host1", "r1-peer-host1", "r1-peer-host2", "r1-peer-host2"]


def test_a_role_may_run_on_the_hosts_of_another() -> None:
    places = Topology(counts={"proxy": 4, "app": 8}, regions=2, per_host={"app": 2}, beside={"app": "proxy"}).places()
    hosts = {place.node: (place.host, place.rack) for place in places if place.role == "proxy"}
    apps = [(place.host, place.rack) for place in places if place.role == "app"]
    assert sorted(apps) == sorted([*hosts.values()] * 2)


def test_latency_grows_with_distance() -> None:
    topology = Topology(counts={"peer": 32}, regions=2, dcs=2, racks=2, per_host={"peer": 2})
    first, *others = topology.places()
    found = {
        (o.host == first.host, o.rack == first.rack, o.dc == first.dc, o.region == first.region): topology.latency_s(
            first, o
        )
        for o in others
    }
    ordered = [found[key] for key in sorted(found, reverse=True)]
    assert len(ordered) == 5
    assert ordered == sorted(ordered)


def test_latency_is_the_same_both_ways() -> None:
    topology = Topology(counts={"peer": 9}, regions=3, dcs=2)
    places = topology.places()
    assert all(topology.latency_s(a, b) == topology.latency_s(b, a) for a in places for b in places)


def test_a_topology_is_read_from_data_with_times_and_rates_as_text() -> None:
    topology = Topology.parse(
        {"counts": {"peer": 3}, "regions": 2, "latency_wan_s": "80ms", "nic_rate": "1Gbit/s"}, "topology"
    )
    assert topology == Topology(counts={"peer": 3}, regions=2, latency_wan_s=0.08, nic_rate=125e6)
    assert topology.with_counts({"tracker": 1}).counts == {"peer": 3, "tracker": 1}


@pytest.mark.parametrize(
    "bad",
    [
        {"regionz": 1},
        {"regions": 0},
        {"racks": "two"},
        {"counts": {"peer": -1}},
        {"counts": {"peer": 10**9}},
        {"counts": ["peer"]},
        {"per_host": {"peer": 0}},
        {"beside": {"peer": 1}},
        {"nic_rate": 0},
        {"jitter": -1},
        {"oversubscription": 0.5},
        {"jitter": float("nan")},
        {"latency_wan_s": "-1s"},
        {1: 2},
        ["counts"],
        "counts",
        None,
    ],
)
def test_bad_data_is_a_config_error_that_says_where(bad: Any) -> None:
    with pytest.raises(ConfigError, match="topology"):
        Topology.parse(bad, "topology")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(json_values | st.dictionaries(st.sampled_from(Topology.__struct_fields__), json_values, max_size=3))
def test_whatever_is_given_only_a_config_error_is_raised(data: Any) -> None:
    try:
        Topology.parse(data, "topology")
    except ConfigError:
        pass
