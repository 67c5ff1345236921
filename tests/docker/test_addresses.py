"""Addresses of a run on containers: every node has its own, and each leads back to it."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zebra.errors import ConfigError
from zebra.substrate.docker import addresses
from zebra.substrate.docker.addresses import NODES_MAX, OWN_BITS, Subnets, free_numbers
from zebra.substrate.docker.birth import reference, resolve
from zebra.substrate.docker.running import slots_of
from zebra.testing import EchoServer


def cluster(containers: list[int], clients: int) -> Subnets:
    """So many containers in each datacenter, and clients, which have no slot."""
    dcs = [f"dc{dc:02}" for dc, count in enumerate(containers) for _ in range(count)]
    nodes = {f"node-{number}": number for number in range(1, len(dcs) + clients + 1)}
    return Subnets(slots_of(nodes, {f"node-{number}": dc for number, dc in enumerate(dcs, 1)}), 77)


@given(st.lists(st.integers(1, 40), min_size=1, max_size=32), st.integers(0, 3))
def test_no_two_nodes_share_an_address_and_each_leads_back(containers: list[int], clients: int) -> None:
    subnets = cluster(containers, clients)
    nodes = range(1, sum(containers) + clients + 1)
    seen: dict[str, int] = {}
    for node in nodes:
        for address in {subnets.public(node), subnets.hidden(node), subnets.source(node)}:
            assert seen.setdefault(address, node) == node
            assert subnets.node_of(address) == node
            assert subnets.holds(address)
        assert subnets.is_public(subnets.public(node)) and not subnets.is_public(subnets.hidden(node))
    assert not seen.keys() & {subnets.pair(number) for number in range(1000)}
    assert subnets.node_of(subnets.pair(5)) == subnets.node_of("10.78.0.1") == 0


@given(st.lists(st.integers(1, 40), min_size=1, max_size=32))
def test_containers_are_in_their_datacenters_network_and_the_rest_is_this_machines(containers: list[int]) -> None:
    subnets = cluster(containers, 1)
    own = ipaddress.ip_network(f"{subnets.own}/{OWN_BITS}")
    networks = [ipaddress.ip_network(subnets.subnet(dc)[0]) for dc in range(len(containers))]
    whole = [own, *networks]
    assert not any(a.overlaps(b) for a in whole for b in whole if a is not b)
    for node, (dc, _) in subnets.slots.items():
        address = ipaddress.ip_address(subnets.hidden(node))
        assert address in networks[dc]
        assert address not in (networks[dc].network_address, networks[dc].broadcast_address)
        assert str(address) != subnets.subnet(dc)[1]
        assert ipaddress.ip_address(subnets.public(node)) in own
    client = sum(containers) + 1
    assert ipaddress.ip_address(subnets.hidden(client)) in own and subnets.source(client) == subnets.public(client)
    for number in (1, NODES_MAX):
        assert ipaddress.ip_address(Subnets({}, 77).public(number)) in own


def test_too_many_for_the_networks_are_refused() -> None:
    with pytest.raises(ConfigError, match="at most 32 datacenters of 1021 nodes fit"):
        cluster([1] * 33, 0)
    with pytest.raises(ConfigError, match="at most 32 datacenters of 1021 nodes fit"):
        cluster([1022], 0)


def test_a_range_that_this_machine_uses_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    def hexadecimal(address: str) -> str:
        return ipaddress.ip_address(address).packed[::-1].hex()

    def routed(*networks: str) -> list[int]:
        found = [ipaddress.ip_network(network) for network in networks]
        routes = [(hexadecimal(str(n.network_address)), hexadecimal(str(n.netmask))) for n in found]
        monkeypatch.setattr(addresses, "_routes", lambda: routes)
        return list(free_numbers(6))

    assert routed("0.0.0.0/0")[:3] == [70, 71, 72]
    assert len(routed("0.0.0.0/0", "192.168.0.0/16")) == 191
    assert routed("10.71.3.0/24", "10.72.0.0/15")[:2] == [70, 74]
    assert routed("10.0.0.0/8") == []


def test_a_reference_leads_back_to_what_it_names() -> None:
    assert resolve(reference(EchoServer, "a role")) is EchoServer
    with pytest.raises(ConfigError, match=r"a role is .*<lambda>, which no other process can import"):
        reference(lambda node: None, "a role")
    with pytest.raises(ConfigError, match="which no other process can import"):
        reference(42, "a role")
