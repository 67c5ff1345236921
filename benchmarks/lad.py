"""What the LAD paper claims, run anew: how many subscribers, how large, how fast, beside the ZooKeeper fan-out.

    python benchmarks/lad.py [--quick] [--only NAME ...] [--json]

Every number comes from a simulated run of `zebra.targets.lad`, with its invariants on; none from a formula. `--quick`
runs the same at a scale that a test can afford, with slower network cards where that keeps the proportions.
Source of the claims and of what counts as reproduced: ../shared/targets/lad.md section 6.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any

import zebra
from zebra import Event, Outcome, RunSpec, Target, Topology, invariant
from zebra.blob import Blob
from zebra.cluster import Cluster
from zebra.node import Node
from zebra.rpc import Rpc
from zebra.rpc.connection import Connection
from zebra.targets.lad import TARGET, fanout
from zebra.targets.lad.client import LadClient
from zebra.targets.lad.store import Store
from zebra.targets.lad.store_client import StoreClient
from zebra.targets.lad.store_invariants import STORE_INVARIANTS
from zebra.targets.lad.store_messages import WIRE, Follow, Forward, Put, Write
from zebra.units import size_bytes

NIC = 1.25e9
HOT = "/app/hot/config"
RANGE = "4MiB"
"""Bytes of content in one message where many or large values are sent: the default, 1 MiB, costs us more time."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One claim: what the source says, what the run gave, whether that reproduces it, and why not."""

    name: str
    claim: str
    source: str
    result: str
    reproduced: bool | None
    why: str = ""
    numbers: dict[str, float]
    wall_s: float = 0.0
    cpu_s: float = 0.0
    rss_bytes: int = 0


# -- what is measured --------------------------------------------------------------------------------------------------


@invariant(
    "bench.tally", on=("commit", "content.ready", "watch.read", "watch.follow", "sub", "store.read", "change.state")
)
class Tally:
    """Holds always; keeps when versions were committed and arrived. Of a run, the last one made is `Tally.now`."""

    now: Tally

    def __init__(self) -> None:
        Tally.now = self
        self.committed: dict[tuple[str, int], float] = {}
        self.arrived: dict[tuple[str, int], list[tuple[float, str]]] = defaultdict(list)
        self.followers: set[tuple[str, str]] = set()
        self.reads: Counter[tuple[str, int]] = Counter()
        self.states: list[tuple[float, str, str]] = []

    def check(self, event: Event) -> None:
        kind = event.kind
        if kind in ("content.ready", "watch.read"):
            self.arrived[event["path"], event["version"]].append((event.t, event.node))
        elif kind == "commit":
            self.committed.setdefault((event["path"], event["version"]), event.t)
        elif kind == "store.read":
            self.reads[event["path"], event["version"]] += 1
        elif kind == "change.state":
            self.states.append((event.t, event["change"], event["state"]))
        else:
            self.followers.add(
                (event.node if kind == "watch.follow" else event["proxy"], event.get("shard") or event["path"])
            )

    def delays(self, path: str, version: int, but: frozenset[str] = frozenset()) -> list[float]:
        """How long after its commit a version arrived, sorted."""
        began_s = self.committed[path, version]
        return sorted(t - began_s for t, node in self.arrived[path, version] if node not in but)


class Traffic:
    """What nodes sent to each other while `counting`: bytes of content (frames with blobs), and of control.

    `messages` are those of control.
    """

    def __init__(self) -> None:
        self.control: Counter[tuple[str, str]] = Counter()
        self.content: Counter[tuple[str, str]] = Counter()
        self.messages: Counter[tuple[str, str]] = Counter()

    def add(self, source: str, target: str, data: bytes, blobs: list[Blob]) -> None:
        self.messages[source, target] += not blobs
        (self.content if blobs else self.control)[source, target] += len(data) + sum(map(len, blobs))

    def of(self, counter: Counter[tuple[str, str]], end: int) -> Counter[str]:
        """Sums per node that sends (end 0) or receives (end 1)."""
        sums: Counter[str] = Counter()
        for link, count in counter.items():
            sums[link[end]] += count
        return sums


@contextmanager
def counting() -> Iterator[Traffic]:
    """Count what all nodes send by RPC, casts included."""
    traffic, send, cast = Traffic(), Connection.send, Rpc.cast

    def counted_send(self: Connection, *frame: Any) -> None:
        if self.open:
            data, blobs = self.rpc.wire.pack(*frame)
            traffic.add(self.rpc.node.name, self.caller.name, data, blobs)
        send(self, *frame)

    def counted_cast(self: Rpc, to: str, message: Any) -> None:
        data, _ = self.wire.pack(7, 0, message, 0.0, self.node.name, self.node.incarnation)
        traffic.add(self.node.name, to, data, [])
        cast(self, to, message)

    Connection.send, Rpc.cast = counted_send, counted_cast  # type: ignore[method-assign]
    try:
        yield traffic
    finally:
        Connection.send, Rpc.cast = send, cast  # type: ignore[method-assign]


# -- runs ----------------------------------------------------------------------------------------------------------


class BaselineClient:
    """Writes through the store's leader or an observer, and tells watchers what to follow."""

    def __init__(self, node: Node[Any]) -> None:
        self.node, self.number = node, 0

    async def run(self) -> None:
        self.store, self.rpc = StoreClient(self.node), Rpc(self.node, WIRE)
        await self.node.ready()
        await asyncio.Event().wait()

    async def write(self, path: str, size: int, through: str = "") -> float:
        """Write a new value; how many seconds that took."""
        self.number += 1
        began_s, put = asyncio.get_running_loop().time(), Put(path=path, data=self.node.blob(self.number, size))
        if through:
            await self.rpc.call(through, Forward(write=Write(id=f"w{self.number}", ops=(put,))), 1e4)
        else:
            await self.store.multi([put])
        return asyncio.get_running_loop().time() - began_s

    async def follow(self, path: str) -> None:
        await asyncio.gather(*(self.rpc.call(name, Follow(path=path), 1e4) for name in self.node.peers("watcher")))


class Client(LadClient):
    """LAD's client, and a clock for writes."""

    async def timed_put(self, path: str, size: int) -> float:
        began_s = asyncio.get_running_loop().time()
        await self.put(path, size)
        return asyncio.get_running_loop().time() - began_s


LAD: Target = replace(TARGET, client=Client, progress=None)
BASELINE = Target(name="fanout", config=TARGET.config, invariants=STORE_INVARIANTS, client=BaselineClient,
                  roles={"store": Store, "observer": fanout.Observer, "watcher": fanout.Watcher})  # fmt: skip


def simulate(target: Target, scenario: Any, counts: dict[str, int], *, nic: float = NIC, seed: int = 0,
             **parameters: Any) -> tuple[Tally, Outcome]:  # fmt: skip
    """Run a scenario, which must pass, in one datacenter with 40 hosts in a rack."""
    none = dict.fromkeys(target.roles, 0)
    topology = Topology(counts={**none, "store": 3, **counts}, racks=max(2, max(counts.values()) // 40), nic_rate=nic,
                        per_host={"app": 2} if "app" in counts else {},
                        beside={"app": "proxy"} if "app" in counts else {})  # fmt: skip
    assignment = {name.replace("__", "."): {"*": value} for name, value in parameters.items()}
    spec = RunSpec(target=target.name, topology=topology, seed=seed, assignment=assignment, timeout_s=1e6)
    serve_rate, fanout.SERVE_RATE = fanout.SERVE_RATE, nic
    try:
        outcome = zebra.run(scenario, spec, target=target, invariants=[Tally])
    finally:
        fanout.SERVE_RATE = serve_rate
    outcome.raise_failure()
    return Tally.now, outcome


async def join(cluster: Cluster, *paths: str) -> None:
    """All proxies follow some paths, in waves of 1,000, and have places in the trees."""
    proxies, shards = cluster.nodes("proxy"), {"/".join(path.split("/")[:3]) for path in paths}
    for at in range(0, len(proxies), 1000):
        for path in paths:
            await cluster.client.want(path, proxies[at : at + 1000])
    await cluster.until(lambda: len(Tally.now.followers) == len(proxies) * len(shards), "600s")
    await asyncio.sleep(2.0)


async def everywhere(cluster: Cluster, path: str, version: int, count: int) -> None:
    """Wait until so many nodes have a version."""
    arrived = Tally.now.arrived[path, version]
    await cluster.until(lambda: len(arrived) >= count, "600s")


def one_update(proxies: int, size: int, *, nic: float = NIC, **parameters: Any) -> list[float]:
    """Seconds from commit to the arrival of one update, at each proxy of one distributor."""

    async def scenario(cluster: Cluster) -> None:
        await join(cluster, HOT)
        await cluster.client.put(HOT, size)
        await everywhere(cluster, HOT, 1, proxies)

    tally, _ = simulate(LAD, scenario, {"distributor": 1, "proxy": proxies}, nic=nic, **parameters)
    return tally.delays(HOT, 1)


def one_fan_out(watchers: int, size: int, *, nic: float = NIC) -> list[float]:
    """The same for the watchers of one observer."""

    async def scenario(cluster: Cluster) -> None:
        await cluster.client.follow(HOT)
        await cluster.client.write(HOT, size)
        await everywhere(cluster, HOT, 1, watchers)

    return simulate(BASELINE, scenario, {"observer": 1, "watcher": watchers}, nic=nic)[0].delays(HOT, 1)


def share(delays: list[float], part: float) -> float:
    """The time by which a part of all have arrived."""
    return delays[min(int(len(delays) * part), len(delays) - 1)]


def within(limit_s: float, size: int, counts: list[int], nic: float) -> dict[int, float]:
    """The p99 of the fan-out to rising counts of watchers, up to the first that is beyond the limit."""
    found: dict[int, float] = {}
    for count in counts:
        found[count] = share(one_fan_out(count, size, nic=nic), 0.99)
        if found[count] > limit_s:
            break
    return found


# -- the claims ----------------------------------------------------------------------------------------------------


def subscribers(quick: bool) -> Row:
    proxies, nic = (500, NIC / 50) if quick else (40_000, NIC)
    size, unit = 5_000_000, 50 if quick else 1
    counts = [count // unit for count in (1000, 2000, 2500, 2600, 3000)]
    base = within(10.0, size, counts, nic)
    most = max([count for count, p99 in base.items() if p99 <= 10.0], default=0)
    before_s = cpu_s()
    delays = one_update(proxies, size, nic=nic, lad__content__range="1MiB" if quick else RANGE)
    spent_s = cpu_s() - before_s
    p99 = share(delays, 0.99)
    ratio = proxies / most
    curve = ", ".join(f"{count}: {each:.2f} s" for count, each in base.items())
    return Row(
        name="subscribers",
        claim="subscribers per distributor at 5 MB, against clients per ZooKeeper observer",
        source="40,000 against 2,500 (16 times)",
        result=f"LAD {proxies}: p99 {p99:.2f} s, max {delays[-1]:.2f} s; fan-out p99 at {curve}; ratio {ratio:.1f}",
        reproduced=ratio >= 10 and p99 < 5.0 and max(base.values()) > 10.0,
        numbers={"lad": proxies, "lad_p99_s": p99, "lad_cpu_s": spent_s, "baseline": most, "ratio": ratio},
    )


def update_size(quick: bool) -> Row:
    proxies, counts = (200, [50, 120, 140]) if quick else (10_000, [50, 100, 120, 130, 140])
    size = size_bytes("100MB")
    delays = one_update(proxies, size, lad__content__range=RANGE)
    base = within(10.0, size, counts, NIC)
    most = max([count for count, p99 in base.items() if p99 <= 10.0], default=0)
    p99 = share(delays, 0.99)
    return Row(
        name="update_size",
        claim=f"one update of 100 MB, cut through in ranges of {RANGE}",
        source="100 MB (5 MB in ZooKeeper), in less than 5 s",
        result=f"LAD {proxies} proxies: p99 {p99:.2f} s, max {delays[-1]:.2f} s; fan-out: {most} clients within 10 s",
        reproduced=p99 < 5.0 and most < proxies,
        numbers={"lad": proxies, "lad_p99_s": p99, "lad_max_s": delays[-1], "baseline": most},
    )


def latency(quick: bool) -> Row:
    proxies, commits = (100, 20) if quick else (1000, 60)
    paths = [f"/app/s{shard}/c{number}" for shard in range(4) for number in range(3)]
    failed: set[str] = set()

    async def scenario(cluster: Cluster) -> None:
        random = cluster.role("client-1").node.random
        await join(cluster, *paths)
        failed.update(random.sample(cluster.nodes("proxy"), proxies // 100))
        left = sorted(failed)
        for number in range(commits):
            size = int(10 ** random.uniform(3, 6))
            await cluster.client.put(paths[number % len(paths)], size)
            if left and number % max(1, commits // len(failed)) == 0:
                await cluster.inject("host.crash", left.pop())
            await asyncio.sleep(random.random())
        while left:
            await cluster.inject("host.crash", left.pop())
        await asyncio.sleep(30.0)

    tally, _ = simulate(LAD, scenario, {"distributor": 2, "proxy": proxies})
    delays, missing = list[float](), 0
    versions = {path: max(v for p, v in tally.committed if p == path) for path in paths}
    for path, newest in versions.items():
        for version in range(1, newest + 1):
            delays += tally.delays(path, version, frozenset(failed))
        missing += proxies - len(failed) - len(tally.delays(path, newest, frozenset(failed)))
    delays.sort()
    p99 = share(delays, 0.99)
    ok = p99 < 5.0 and delays[-1] < 10.0 and not missing
    return Row(
        name="latency",
        claim="1 KB to 1 MB commits while 1 % of the hosts fail; over the healthy ones",
        source="less than 5 s (p99), and all below 10 s",
        result=f"{proxies} proxies, {commits} commits: p50 {share(delays, 0.5):.2f} s, p99 {p99:.2f} s, "
        f"max {delays[-1]:.2f} s, {missing} missing",
        reproduced=ok,
        why="" if ok else "what is under a host that loses its power waits for the end of a lease (10 s)",
        numbers={"p99_s": p99, "max_s": delays[-1], "missing": missing},
    )


def more_files(quick: bool) -> Row:
    proxies, files = (20, 50) if quick else (200, 1000)

    def metadata(others: int) -> float:
        """Bytes, content aside, that a proxy receives while 10 changes of its own and many others are made."""

        async def scenario(cluster: Cluster) -> None:
            await join(cluster, HOT)
            with counting() as found:
                for round_ in range(10):
                    await cluster.client.put(HOT, 1000)
                    await cluster.client.burst([f"/other/s{n % 50}/f{n}" for n in range(round_, others, 10)], 1)
                await everywhere(cluster, HOT, 10, proxies)
                await asyncio.sleep(max(0.0, 30.0 - cluster.now))
            received = found.of(found.control, 1)
            sums.append(sum(received[name] for name in cluster.nodes("proxy")) / proxies)

        sums: list[float] = []
        simulate(LAD, scenario, {"distributor": 1, "proxy": proxies})
        return sums[0]

    few, many = metadata(files), metadata(10 * files)
    change = many / few - 1
    return Row(
        name="more_files",
        claim=f"ten times as many files in other shards ({files} and {10 * files})",
        source="a proxy's metadata bytes change by less than 5 %",
        result=f"{few:.0f} and {many:.0f} bytes received per proxy: {change:+.1%}",
        reproduced=abs(change) < 0.05,
        numbers={"few_bytes": few, "many_bytes": many, "change": change},
    )


def herd(quick: bool) -> Row:
    count = 100 if quick else 2000
    size = 10_000

    async def lad(cluster: Cluster) -> None:
        await join(cluster, HOT)
        for version in (1, 2):
            await cluster.client.put(HOT, size)
            await everywhere(cluster, HOT, version, count)

    async def base(cluster: Cluster) -> None:
        await cluster.client.follow(HOT)
        for version in (1, 2):
            await cluster.client.write(HOT, size)
            await everywhere(cluster, HOT, version, count)

    tally, _ = simulate(LAD, lad, {"distributor": 2, "proxy": count})
    ours = tally.reads[HOT, 2]
    tally, _ = simulate(BASELINE, base, {"observer": 2, "watcher": count})
    theirs = tally.reads[HOT, 2]
    return Row(
        name="herd",
        claim=f"reads of the store per update of one path that {count} clients follow",
        source="as many as clients in ZooKeeper, as many as distributors (2) in LAD",
        result=f"fan-out {theirs}, LAD {ours}",
        reproduced=ours == 2 and theirs == count,
        numbers={"lad": ours, "baseline": theirs},
    )


def write_stall(quick: bool) -> Row:
    count, size = (200, 10_000_000) if quick else (2500, 1_000_000)
    hot = [f"/app/hot/c{number}" for number in range(3)]
    took: dict[str, float] = {}

    async def base(cluster: Cluster) -> None:
        for path in hot:
            await cluster.client.follow(path)
        for path in hot:
            await cluster.client.write(path, size)
        await everywhere(cluster, hot[0], 1, 1)
        took["baseline"] = await cluster.client.write("/cold", 100, through="observer-1")
        for path in hot:
            await everywhere(cluster, path, 1, count)

    async def lad(cluster: Cluster) -> None:
        await join(cluster, *hot)
        for path in hot:
            await cluster.client.put(path, size)
        await everywhere(cluster, hot[0], 1, 1)
        took["lad"] = await cluster.client.timed_put("/cold", 100)
        for path in hot:
            await everywhere(cluster, path, 1, count)

    simulate(BASELINE, base, {"observer": 1, "watcher": count})
    simulate(LAD, lad, {"distributor": 1, "proxy": count})
    return Row(
        name="write_stall",
        claim=f"a cold write behind 3 hot ones of {size // 1000} KB that {count} clients each read",
        source="> 1 s in ZooKeeper, whose one pipeline serves reads and writes in order; < 0.1 s in LAD's store",
        result=f"fan-out {took['baseline']:.2f} s, LAD {took['lad'] * 1000:.1f} ms",
        reproduced=took["baseline"] > 1.0 and took["lad"] < 0.1,
        numbers={"baseline_s": took["baseline"], "lad_s": took["lad"]},
    )


def planes(quick: bool) -> list[Row]:
    """Two claims from the same runs: what a distributor sends, and what any node sends."""
    proxies = 100 if quick else 1000
    sizes = [1_000, 1_000_000, 20_000_000]
    control, messages, content, worst = dict[int, float](), dict[int, float](), dict[int, int](), dict[int, float]()

    def measure(size: int) -> None:
        async def scenario(cluster: Cluster) -> None:
            await join(cluster, HOT)
            with counting() as found:
                await cluster.client.put(HOT, size)
                await everywhere(cluster, HOT, 1, proxies)
                await asyncio.sleep(12.0)
            control[size] = found.of(found.control, 0)["distributor-1"] / proxies
            messages[size] = found.of(found.messages, 0)["distributor-1"] / proxies
            out = found.of(found.content, 0)
            content[size] = out["distributor-1"]
            nodes = ("distributor-1", *cluster.nodes("proxy"))
            worst[size] = max(out[name] for name in nodes) / (10 * size)

        simulate(LAD, scenario, {"distributor": 1, "proxy": proxies})

    for size in sizes:
        measure(size)
    spread = max(control.values()) - min(control.values())
    texts = [f"{size / 1e6:g} MB: {control[size]:.0f} B in {messages[size]:.2f} messages" for size in sizes]
    return [
        Row(
            name="planes",
            claim=f"control bytes per subscriber that a distributor of {proxies} sends in 12 s with one update",
            source="independent of the size of content",
            result="; ".join(texts),
            reproduced=spread <= 0.05 * min(control.values()),
            numbers={f"control_{size}": value for size, value in control.items()},
        ),
        Row(
            name="links",
            claim="content that any node sends per update, as a share of fan-out (10) times its size",
            source="at most 1.1 (L4)",
            result=", ".join(f"{size / 1e6:g} MB: {value:.2f}" for size, value in worst.items()),
            reproduced=max(worst.values()) <= 1.1,
            numbers={f"share_{size}": value for size, value in worst.items()},
        ),
    ]


def stages(quick: bool) -> Row:
    proxies = 24 if quick else 200

    async def scenario(cluster: Cluster) -> None:
        await cluster.client.use(HOT)
        await cluster.client.commit(HOT, mode="on", payload=100_000)
        await everywhere(cluster, HOT, 1, proxies)
        await asyncio.sleep(1.0)
        await cluster.client.commit(HOT, mode="auto", payload=100_000, staged=True)
        await everywhere(cluster, HOT, 2, proxies)

    counts = {"author": 1, "distributor": 2, "proxy": proxies, "app": 2 * proxies}
    tally, _ = simulate(LAD, scenario, counts, lad__apply__mode="live")
    parts = []
    numbers = dict[str, float]()
    for number, change in enumerate(dict.fromkeys(change for _, change, _ in tally.states), 1):
        when = [(t, state) for t, each, state in tally.states if each == change]
        began_s = when[0][0]
        steps = [(state, t - began_s) for t, state in when[1:]]
        arrived = max(t for t, _ in tally.arrived[HOT, number]) - began_s
        parts.append(" ".join(f"{state} {t:.2f}" for state, t in steps) + f" at all hosts {arrived:.2f} s")
        numbers[f"change_{number}_s"] = arrived
    return Row(
        name="stages",
        claim="commit to the last host, stage by stage (seconds since the commit), at once and with canary and stages",
        source="about 14.5 s in the older pipeline of 2015 (recalled, not checked)",
        result="; ".join(parts),
        reproduced=None,
        numbers=numbers,
    )


CLAIMS: dict[str, Callable[[bool], Row | list[Row]]] = {
    "subscribers": subscribers,
    "update_size": update_size,
    "latency": latency,
    "more_files": more_files,
    "herd": herd,
    "write_stall": write_stall,
    "planes": planes,
    "stages": stages,
}


def cpu_s() -> float:
    """Seconds of CPU that this process has used."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def measure(names: list[str], quick: bool) -> Iterator[Row]:
    """The rows of some claims, with the time and the greatest memory that they took here."""
    for name in names:
        began_s, before_s = time.perf_counter(), cpu_s()
        made = CLAIMS[name](quick)
        wall_s, spent_s = time.perf_counter() - began_s, cpu_s() - before_s
        rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        for row in made if isinstance(made, list) else [made]:
            yield replace(row, wall_s=round(wall_s, 1), cpu_s=round(spent_s, 1), rss_bytes=rss)


def show(row: Row) -> str:
    verdict = {True: "reproduced", False: "NOT reproduced", None: "reported only"}[row.reproduced]
    why = f" ({row.why})" if row.why else ""
    cost = f"{row.wall_s:.0f} s here, {row.cpu_s:.0f} s of CPU, at most {row.rss_bytes / 2**30:.2f} GiB"
    return (
        f"{row.name}: {row.claim}\n  source:  {row.source}\n  result:  {row.result}\n"
        f"  verdict: {verdict}{why}   [{cost}]"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a scale that a test can afford")
    parser.add_argument("--only", nargs="+", choices=list(CLAIMS), default=list(CLAIMS), help="some claims only")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    rows = []
    for row in measure(options.only, options.quick):
        rows.append(row)
        print(show(row), file=sys.stderr if options.json else sys.stdout, flush=True)
    if options.json:
        print(json.dumps({"quick": options.quick, "rows": [asdict(row) for row in rows]}, indent=2))


if __name__ == "__main__":
    main()
