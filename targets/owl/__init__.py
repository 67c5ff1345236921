"""Owl: distribution of hot content among peers, with decentralised data and centralised control (see README.md)."""

from __future__ import annotations

from pathlib import Path

from zebra.target import Target
from zebra.targets.owl.client import OwlClient
from zebra.targets.owl.config import OwlConfig
from zebra.targets.owl.invariants import INVARIANTS
from zebra.targets.owl.peer import Peer
from zebra.targets.owl.selectors import one_more_fetch, roots, sources
from zebra.targets.owl.store import Store
from zebra.targets.owl.superpeer import Superpeer
from zebra.targets.owl.tracker import Tracker
from zebra.targets.owl.view import OpenEdges
from zebra.topology import Topology

TARGET = Target(
    name="owl",
    config=OwlConfig,
    roles={"tracker": Tracker, "superpeer": Superpeer, "store": Store, "peer": Peer},
    client=OwlClient,
    topology=Topology(counts={"tracker": 2, "superpeer": 2, "store": 2, "peer": 4}, regions=2, per_host={"peer": 2}),
    invariants=INVARIANTS,
    selectors={"roots": roots, "sources": sources},
    progress=one_more_fetch,
    settle_s=30.0,
    structure=OpenEdges,
    realtime={
        "owl.lease.ttl": {"*": 4.0},
        "owl.advert.ttl": {"*": 2.0},
        "owl.advert.every": {"*": 0.25},
        "owl.transfer.idle_timeout": {"*": 3.0},
        "owl.rpc.timeout": {"*": 1.5},
    },  # rpc.timeout is longer, as a busy machine answers late; three of them have to fit into two leases
    sometimes=("owl.borrowed", "owl.failover", "edge.adopt", "owl.restart", "owl.evict"),
    variants=(
        "bug.descendant",
        "bug.no_d2",
        "bug.no_d1_d2",
        "bug.cache_before_verify",
        "bug.resume_from_zero",
        "bug.forget_lent",
        "bug.two_edges",
        "bug.serve_ahead",
        "bug.ignore_evict",
        "bug.no_external_limit",
        "bug.no_length_check",
        "bug.get_hangs",
        "bug.slow_repair",
        "bug.no_reregister",
        "bug.lazy",
        "bug.lend_nothing",
        "bug.hasty",
        "safe.digest_in_manifest",
        "safe.name_algorithm",
        "safe.offer_encryption",
        "safe.limit_in_fetch",
        "safe.keepalive_in_fetch",
        "safe.lent_never_borrows",
    ),
    accepted=Path(__file__).with_name("accepted.txt"),
)
