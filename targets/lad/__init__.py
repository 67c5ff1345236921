"""LAD: location-aware distribution of configuration from one store to every host (see README.md)."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from zebra.structure import Links
from zebra.target import Target
from zebra.targets.lad.agreement import AGREEMENT
from zebra.targets.lad.app import App
from zebra.targets.lad.author import Author
from zebra.targets.lad.client import LadClient
from zebra.targets.lad.config import LadConfig
from zebra.targets.lad.distributor import Distributor
from zebra.targets.lad.fanout import Observer, Watcher
from zebra.targets.lad.invariants import INVARIANTS
from zebra.targets.lad.liveness import LIVENESS
from zebra.targets.lad.proxy import Proxy
from zebra.targets.lad.selectors import leader, one_more_commit, parents, tops
from zebra.targets.lad.store import Store
from zebra.targets.lad.store_invariants import INVARIANTS as STORE_INVARIANTS
from zebra.targets.lad.store_invariants import VARIANTS as STORE_VARIANTS
from zebra.topology import Topology

VARIANTS = (
    "bug.ignore_epoch",
    "bug.no_verify",
    "bug.notify_early",
    "bug.torn_cache",
    "bug.split_batch",
    "bug.open_gate",
    "bug.no_jitter",
    "bug.any_parent",
    "bug.no_replace",
    "bug.faithful",
    "bug.hasty_lease",
    "bug.half_update",
    "bug.silent_relay",
    "bug.late_interest",
    "bug.stale_cache",
    "bug.fetch_all",
    "bug.drop_early",
    "bug.keeps_protocol",
    "bug.misread_mode",
    "bug.other_digest",
    "safe.depth_in_subscribe",
    "safe.mode_in_ack",
    "safe.lease_in_ack",
    "safe.last_good_first",
    "safe.protocol_at_restart",
)

TARGET = Target(
    name="lad",
    config=LadConfig,
    roles={
        "store": Store,
        "author": Author,
        "distributor": Distributor,
        "proxy": Proxy,
        "app": App,
        "observer": Observer,
        "watcher": Watcher,
    },
    client=LadClient,
    topology=Topology(
        counts={"store": 3, "author": 1, "distributor": 4, "proxy": 24, "app": 48, "observer": 0, "watcher": 0},
        regions=2,
        racks=3,
        per_host={"app": 2},
        beside={"app": "proxy"},
    ),
    invariants=(*INVARIANTS, *LIVENESS, *AGREEMENT, *STORE_INVARIANTS),
    selectors={"parents": parents, "tops": tops, "leader": leader},
    progress=one_more_commit,
    structure=partial(Links, "tree.add", "tree.del", group="shard", epoch="epoch"),
    settle_s=90.0,
    realtime={
        "lad.lease.ttl": {"*": 3.0},
        "lad.poll.interval": {"*": 0.2},
        "lad.store.tick": {"*": 0.2},
        "lad.backoff.longest": {"*": 1.0},
        "lad.canary.duration": {"*": 0.3},
        "lad.limit.propagation": {"*": 3.0},
    },
    sometimes=("parent.lost", "lease.lost", "content.asked", "tree.del", "stage.see"),
    accepted=Path(__file__).with_name("accepted.txt"),
    variants=tuple(dict.fromkeys((*VARIANTS, *STORE_VARIANTS))),
)
